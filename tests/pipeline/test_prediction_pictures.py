"""Questions about folders of pictures to a real server: boxes, masks, and the files that are saved of them."""

import io
import json
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline import cli
from pipeline.prediction import ServingError, SummaryFile, list_inputs, predict_inputs
from pipeline.tasks import TASKS
from serving.export import export_saved_model
from serving.options import ServerOptions
from serving.server import ModelServer

DETECTION, SEGMENTATION = TASKS["object_detection"], TASKS["semantic_segmentation"]


def decoded_sizes(image):
  def size(data):
    return tf.shape(tf.io.decode_image(data, 1, expand_animations=False), tf.int64)[:2]

  return tf.map_fn(size, image, fn_output_signature=tf.TensorSpec([2], tf.int64))


def detect(image):
  """A cat in the left half of each picture, and, not as certain, a dog in the right half."""
  sizes = tf.cast(decoded_sizes(image), tf.float32)
  rows, columns = sizes[:, 0], sizes[:, 1]
  zero, count = tf.zeros_like(rows), tf.shape(image)[:1]
  boxes = [[zero, zero, columns / 2, rows], [columns / 2, zero, columns, rows], [zero] * 4]

  def same(values):
    return tf.tile(tf.constant(values)[None], tf.concat([count, [1]], 0))

  return {
    "boxes": tf.stack([tf.stack(box, axis=-1) for box in boxes], axis=1),
    "scores": same([0.75, 0.5, 0.0]),
    "labels": same(["cat", "dog", ""]),
    "class_ids": tf.cast(same([0, 1, 0]), tf.int64),
    "num_detections": tf.fill(count, tf.constant(2, tf.int64)),
    "class_names": same(["cat", "dog"]),
  }


def segment(image):
  """Rows of class 1 from the middle of each picture on; two columns of padding."""
  sizes = decoded_sizes(image)
  rows = tf.range(tf.reduce_max(sizes[:, 0]))[None, :, None]
  columns = tf.range(tf.reduce_max(sizes[:, 1]) + 2)[None, None]
  is_class = (rows >= sizes[:, :1, None] // 2) & (rows < sizes[:, :1, None]) & (columns < sizes[:, 1:, None])
  return {
    "class_ids": tf.cast(is_class, tf.uint8),
    "height": sizes[:, 0],
    "width": sizes[:, 1],
    "class_names": tf.tile(tf.constant([["background", "sky"]]), [tf.shape(image)[0], 1]),
  }


@pytest.fixture(scope="module")
def server(tmp_path_factory):
  folder = tmp_path_factory.mktemp("served")
  spec = {"image": tf.TensorSpec([None], tf.string)}
  for task, function in ((DETECTION, detect), (SEGMENTATION, segment)):
    export_saved_model(str(folder / task.name / "1"), [], {"serving_default": (function, spec)})
  server = ModelServer(
    ServerOptions(port=0), {task.name: str(folder / task.name) for task in (DETECTION, SEGMENTATION)}
  )
  server.start()
  assert server.wait_until_available(240)
  yield server
  server.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """Pictures of several sizes, one in a folder below, and a text, in no order."""
  folder = tmp_path_factory.mktemp("pictures")
  (folder / "below").mkdir()
  for name, size in (("2.png", (30, 20)), ("10.png", (12, 16)), ("below/3.png", (8, 6))):
    Image.new("RGB", size, "white").save(folder / name)
  (folder / "text.jpg").write_text("no picture")
  return folder


NAMES = ["10.png", "2.png", "below/3.png", "text.jpg"]


def ask(server, task, inputs, **settings):
  arguments = {"server": server.address, "model_name": task.name, "timeout_s": 20, **settings}
  return list(predict_inputs(task, [str(path) for path in inputs], **arguments))


def test_a_folder_stands_for_the_files_below_it(folder, tmp_path):
  paths = [str(folder / name) for name in NAMES]
  assert list_inputs(DETECTION, [str(folder)]) == paths
  assert list_inputs(DETECTION, ["missing.png", str(folder), paths[0]]) == ["missing.png", *paths, paths[0]]
  (tmp_path / "empty").mkdir()
  with pytest.raises(ServingError, match="empty: the folder holds no file$"):
    list_inputs(DETECTION, [str(tmp_path / "empty")])
  # A text is a text, even if a folder is called so.
  assert list_inputs(TASKS["language_model"], [str(folder)]) == [str(folder)]


def test_boxes_are_in_pixels_of_each_picture(server, folder):
  answers = ask(server, DETECTION, [folder])
  assert [answer["input"] for answer in answers] == [str(folder / name) for name in NAMES]
  assert [set(answer) for answer in answers] == [{"input", "outputs"}] * 3 + [{"input", "error"}]
  assert [answer["outputs"]["boxes"] for answer in answers[:3]] == [
    [[0, 0, width / 2, height], [width / 2, 0, width, height]]
    for width, height in ((12, 16), (30, 20), (8, 6))
  ]
  for answer in answers[:3]:
    assert answer["outputs"]["labels"] == ["cat", "dog"] and answer["outputs"]["scores"] == [0.75, 0.5]
    assert answer["outputs"]["classes"] == ["cat", "dog"]


def test_masks_are_saved_beside_the_pictures_that_show_them(server, folder, tmp_path):
  answers = ask(server, SEGMENTATION, [folder], save_dir=str(tmp_path))
  stems = ["0000_10", "0001_2", "0002_3"]
  assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
    f"{stem}{suffix}.png" for stem in stems for suffix in ("", "_mask")
  )
  for answer, stem, (width, height) in zip(answers, stems, ((12, 16), (30, 20), (8, 6)), strict=False):
    outputs = answer["outputs"]
    assert (outputs["width"], outputs["height"]) == (width, height)
    assert outputs["shares"] == {"background": 0.5, "sky": 0.5}
    assert answer["saved"] == str(tmp_path / f"{stem}.png")
    assert outputs["mask"] == str(tmp_path / f"{stem}_mask.png")
    with Image.open(outputs["mask"]) as mask:
      ids = np.asarray(mask)
    expected = np.zeros((height, width), np.uint8)
    expected[height // 2 :] = 1
    np.testing.assert_array_equal(ids, expected)
    with Image.open(answer["saved"]) as overlay:
      shown = np.asarray(overlay.convert("RGB"))
    assert shown.shape[0] > height and (shown != 255).any()
  assert set(answers[3]) == {"input", "error"}


def test_nothing_is_saved_unless_it_is_asked_for(server, folder):
  (answer,) = ask(server, SEGMENTATION, [folder / "2.png"])
  assert set(answer) == {"input", "outputs"} and "mask" not in answer["outputs"]


def call(monkeypatch, capfd, *arguments):
  """(exit status, standard output, standard error) of the console script's own function."""
  monkeypatch.setattr(sys, "argv", ["deepline", *map(str, arguments)])
  with pytest.raises(SystemExit) as caught:
    cli.main()
  found = capfd.readouterr()
  return caught.value.code, found.out, found.err


def test_all_answers_are_one_file_of_coco_results(server, folder, tmp_path, monkeypatch, capfd):
  save = tmp_path / "new"
  arguments = ["predict", "object_detection", folder, "--server", server.address, "--save", save, "--json"]
  status, out, err = call(monkeypatch, capfd, *arguments)
  # One of the inputs is no picture.
  assert status == 1
  answers = [json.loads(line) for line in out.splitlines()]
  assert [answer["input"] for answer in answers] == [str(folder / name) for name in NAMES]
  assert err.splitlines()[-1] == f"wrote {save / 'coco_results.json'}"
  assert sorted(path.name for path in save.iterdir()) == [
    "0000_10.png",
    "0001_2.png",
    "0002_3.png",
    "coco_results.json",
  ]
  rows = json.loads((save / "coco_results.json").read_bytes())
  assert [(row["image_id"], row["category_id"], row["score"]) for row in rows] == [
    (number, class_id, score) for number in (10, 2, 3) for class_id, score in ((1, 0.75), (2, 0.5))
  ]
  assert rows[3]["bbox"] == [15, 0, 15, 20] and rows[3]["file_name"] == "2.png"


def test_answers_for_people_are_a_line_each(server, folder, monkeypatch, capfd):
  path = folder / "2.png"
  where = ["--server", server.address]
  status, out, _ = call(monkeypatch, capfd, "predict", "object_detection", path, *where)
  assert (status, out) == (0, f"{path}: 1 cat, 1 dog\n")
  status, out, _ = call(monkeypatch, capfd, "predict", "semantic_segmentation", path, *where)
  assert (status, out) == (0, f"{path}: 30x20: background 50.0%, sky 50.0%\n")


def test_a_summary_needs_a_folder_and_a_task_that_has_one(tmp_path):
  answer = {"input": "7.png", "outputs": {"boxes": [], "labels": [], "scores": [], "classes": ["cat"]}}
  for task, save_dir in ((DETECTION, None), (SEGMENTATION, str(tmp_path))):
    summary = SummaryFile(task, save_dir)
    summary.add(answer)
    assert summary.write() is None
  summary = SummaryFile(DETECTION, str(tmp_path))
  summary.add({"input": "8.png", "error": "no picture"})
  summary.add(answer)
  assert summary.write() == str(tmp_path / "coco_results.json")
  assert json.load(io.BytesIO((tmp_path / "coco_results.json").read_bytes())) == []
