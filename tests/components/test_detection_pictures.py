"""How far boxes are from the truth; pictures of them; COCO's results as COCO's own tool reads them."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from components.detection_pictures import coco_results, compare_boxes, draw_answer, draw_truth

NAMES = np.array([b"cat", b"dog"], object)
CAT, DOG = (0, 0, 10, 10), (20, 20, 40, 40)


def png(width_px=60, height_px=50):
  encoded = io.BytesIO()
  Image.new("RGB", (width_px, height_px), "white").save(encoded, "PNG")
  return encoded.getvalue()


def truth(*objects, padding=2):
  """Features of an example with objects (class, box, is_crowd), filled up as a batch is."""
  return {
    "image": png(),
    "boxes": np.array([box for _, box, _ in objects] + [(0, 0, 0, 0)] * padding, np.float32).ravel(),
    "classes": np.array([name.encode() for name, _, _ in objects] + [b""] * padding, object),
    "is_crowd": np.array([crowd for _, _, crowd in objects] + [0] * padding),
  }


def answer(*found, padding=3):
  """Outputs of an example with detections (class id, box, score), filled up to the largest number of detections."""
  return {
    "boxes": np.array([box for _, box, _ in found] + [(0, 0, 0, 0)] * padding, np.float32),
    "scores": np.array([score for *_, score in found] + [0.0] * padding, np.float32),
    "class_ids": np.array([class_id for class_id, *_ in found] + [0] * padding),
    "num_detections": np.int64(len(found)),
    "class_names": NAMES,
  }


BOTH = truth(("cat", CAT, 0), ("dog", DOG, 0))
CASES = {
  "all right": (BOTH, answer((0, CAT, 0.9), (1, DOG, 0.8)), 1.0, "2 of 2 found"),
  "one is missed": (BOTH, answer((0, CAT, 0.9)), 2 / 3, "1 of 2 found; missed: 1 dog"),
  "of another class": (
    BOTH,
    answer((0, CAT, 0.9), (0, DOG, 0.8)),
    0.5,
    "1 of 2 found; missed: 1 dog; wrong: 1 cat",
  ),
  # The overlap is 40 / 100, then 60 / 100.
  "too far off": (
    truth(("cat", CAT, 0)),
    answer((0, (0, 0, 10, 4), 0.9)),
    0.0,
    "0 of 1 found; missed: 1 cat; wrong: 1 cat",
  ),
  "near enough": (truth(("cat", CAT, 0)), answer((0, (0, 0, 10, 6), 0.9)), 1.0, "1 of 1 found"),
  "found twice": (
    truth(("cat", CAT, 0)),
    answer((0, CAT, 0.9), (0, CAT, 0.8)),
    2 / 3,
    "1 of 1 found; wrong: 1 cat",
  ),
  "not certain enough to be shown": (
    truth(("cat", CAT, 0)),
    answer((0, CAT, 0.39)),
    0.0,
    "0 of 1 found; missed: 1 cat",
  ),
  "a crowd that nothing found": (
    truth(("dog", DOG, 1), ("cat", CAT, 0)),
    answer((0, CAT, 0.9)),
    1.0,
    "1 of 1 found",
  ),
  "a crowd, found twice": (
    truth(("dog", DOG, 1), ("cat", CAT, 0)),
    answer((1, (20, 20, 30, 30), 0.9), (1, (25, 25, 35, 35), 0.9)),
    0.0,
    "0 of 1 found; missed: 1 cat",
  ),
  "only a crowd": (truth(("dog", DOG, 1)), answer((1, DOG, 0.9)), 1.0, "0 of 0 found"),
  "a class that the model does not know": (
    truth(("emu", CAT, 0)),
    answer(),
    0.0,
    "0 of 1 found; missed: 1 emu",
  ),
  "nothing there and nothing found": (truth(), answer(), 1.0, "0 of 0 found"),
  "nothing there": (
    truth(),
    answer((1, DOG, 0.9), (1, CAT, 0.8), (0, CAT, 0.7)),
    0.0,
    "0 of 0 found; wrong: 2 dog, 1 cat",
  ),
  "without padding": (truth(padding=0), answer(padding=0), 1.0, "0 of 0 found"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_answer_is_compared_with_the_truth(case):
  features, output, score, note = CASES[case]
  found = compare_boxes(features, output)
  assert found[0] == pytest.approx(score) and found[1] == note


def pixels(data):
  assert data.startswith(b"\x89PNG")
  with Image.open(io.BytesIO(data)) as picture:
    return np.asarray(picture.convert("RGB"))


DECODED = {
  "boxes": [list(map(float, CAT)), list(map(float, DOG))],
  "labels": ["cat", "dog"],
  "scores": [0.4, 0.39],
  "classes": ["cat", "dog"],
}


def test_boxes_that_are_certain_enough_are_drawn():
  plain = pixels(draw_answer(png(), {**DECODED, "scores": [0.1, 0.1]}))
  assert (plain == 255).all()
  drawn = pixels(draw_answer(png(), DECODED))
  factor = drawn.shape[0] // 50
  assert drawn.shape == plain.shape
  changed = np.argwhere((drawn != 255).any(axis=-1)) / factor
  # The cat's box and its tag, at the upper left; the dog's box is not drawn: its lower right corner is untouched.
  assert changed.min() == 0 and (drawn[30 * factor :, 30 * factor :] == 255).all()


def test_true_boxes_are_drawn_where_they_are_known():
  plain = pixels(draw_truth({"image": png()}))
  assert (plain == 255).all()
  drawn = pixels(draw_truth(BOTH))
  assert drawn.shape == plain.shape and (drawn[:, 30 * drawn.shape[0] // 50 :] != 255).any()
  empty = pixels(draw_truth(truth()))
  np.testing.assert_array_equal(empty, plain)


def test_truth_and_answer_have_the_same_colours():
  """Of a picture with dogs alone, too."""
  features = {**truth(("dog", DOG, 0)), "class_names": NAMES}
  decoded = {**DECODED, "boxes": [list(map(float, DOG))], "labels": ["dog"], "scores": [0.9]}
  true, found = pixels(draw_truth(features)), pixels(draw_answer(png(), decoded))
  bottom = 40 * true.shape[0] // 50 - 1
  middle = 30 * true.shape[0] // 50
  np.testing.assert_array_equal(true[bottom, middle], found[bottom, middle])
  assert (true[bottom, middle] != 255).any()


def decoded(*labels):
  boxes = [[1.5, 2.0, 11.5, 22.0], [0.0, 0.0, 3.0, 4.0]][: len(labels)]
  return {
    "boxes": boxes,
    "labels": list(labels),
    "scores": [0.75, 0.5][: len(labels)],
    "classes": ["cat", "dog"],
  }


def test_results_are_read_by_pycocotools(tmp_path):
  answers = [
    ("a/000000000139.jpg", decoded("dog", "cat")),
    ("a/7.png", decoded()),
    ("a/9.png", decoded("cat")),
  ]
  path = tmp_path / "coco_results.json"
  path.write_bytes(coco_results(answers))
  true = COCO()
  true.dataset = {
    "info": {},
    "images": [{"id": number} for number in (7, 9, 139)],
    "annotations": [],
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
  }
  true.createIndex()
  found = true.loadRes(str(path))
  rows = found.loadAnns(found.getAnnIds(imgIds=[139]))
  assert [(row["category_id"], row["bbox"], row["score"]) for row in rows] == [
    (2, [1.5, 2.0, 10.0, 20.0], 0.75),
    (1, [0.0, 0.0, 3.0, 4.0], 0.5),
  ]
  assert rows[0]["area"] == 200
  assert found.getAnnIds(imgIds=[7]) == [] and len(found.getAnnIds(imgIds=[9])) == 1


@pytest.mark.parametrize(
  "paths, image_ids",
  [
    (["x/12.jpg", "x/003.jpg"], [12, 3]),
    (["x/cat.jpg", "x/dog.jpg"], [1, 2]),
    # Were 2 the one's number and the other one's place, the two would be one picture.
    (["x/2.jpg", "x/dog.jpg"], [1, 2]),
    (["x/5.jpg", "y/5.jpg"], [1, 2]),
  ],
)
def test_no_two_pictures_have_one_number(paths, image_ids):
  rows = json.loads(coco_results([(path, decoded("cat")) for path in paths]))
  assert [row["image_id"] for row in rows] == image_ids
  assert [row["file_name"] for row in rows] == [path[2:] for path in paths]
  assert {row["category"] for row in rows} == {"cat"}


def test_no_answers_are_an_empty_list():
  assert json.loads(coco_results([])) == []
