"""Answers beside the truth, the worst first; examples with lists of different lengths as one batch."""

import base64
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.example_gen.executor import to_example
from components.input import parse_raw
from components.picture_labels import BOXES, IMAGE
from components.report.answers import COMPARED_SIDE_PX, MAX_COMPARED, _compared
from components.report.pictures import _stacked
from components.task import Feature
from pipeline.tasks.object_detection import TASK
from pipeline.tasks.semantic_segmentation import TASK as SEGMENTATION

CAT, DOG = (2.0, 2.0, 20.0, 20.0), (25.0, 5.0, 55.0, 35.0)
# How many of two objects the model below finds in each picture.
NUM_FOUND = [2, 1, 0, 2, 1] + [2] * 11


def png(array):
  encoded = io.BytesIO()
  Image.fromarray(np.asarray(array, np.uint8)).save(encoded, "PNG")
  return encoded.getvalue()


def write(folder, rows):
  split = folder / "Split-test"
  split.mkdir()
  with tf.io.TFRecordWriter(str(split / "data-00000-of-00001.gz"), "GZIP") as writer:
    for row in rows:
      writer.write(to_example(row).SerializeToString())
  return str(folder)


def detect(examples):
  """A signature: of each picture it finds as many objects as its grey value says."""
  raw = parse_raw(examples, {**IMAGE, **BOXES})
  numbers = [int(tf.io.decode_png(image, 1)[0, 0, 0]) for image in raw["image"]]
  batch = len(numbers)
  return {
    "boxes": tf.constant([[CAT, DOG, (0, 0, 0, 0)]] * batch, tf.float32),
    "scores": tf.constant([[0.9, 0.8, 0.0]] * batch),
    "class_ids": tf.constant([[0, 1, 0]] * batch, tf.int64),
    "labels": tf.constant([["cat", "dog", ""]] * batch),
    "num_detections": tf.constant(numbers, tf.int64),
    "class_names": tf.constant([["cat", "dog"]] * batch),
  }


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
  rows = [
    {
      "image": png(np.full((40, 60, 3), number)),
      "boxes": [*CAT, *DOG],
      "classes": ["cat", "dog"],
      "is_crowd": [0, 0],
      "areas": [324.0, 900.0],
    }
    for number in NUM_FOUND
  ]
  return _compared(TASK, lambda examples: detect(examples), write(tmp_path_factory.mktemp("examples"), rows))


def picture_of(uri):
  kind, _, data = uri.partition(";base64,")
  assert kind in ("data:image/png", "data:image/jpeg")
  with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
    return np.asarray(picture.convert("RGB")).astype(int)


def test_the_worst_answers_come_first_and_all_are_counted(answers):
  assert answers.num_scored == len(NUM_FOUND) and len(answers.compared) == MAX_COMPARED
  scores = [row["score"] for row in answers.compared]
  assert scores == pytest.approx([0, 2 / 3, 2 / 3] + [1] * (MAX_COMPARED - 3))
  assert [row["note"] for row in answers.compared[:3]] == [
    "0 of 2 found; missed: 1 cat, 1 dog",
    "1 of 2 found; missed: 1 dog",
    "1 of 2 found; missed: 1 dog",
  ]
  assert answers.compared[3]["note"] == "2 of 2 found"
  assert not (answers.mistakes or answers.surprising or answers.predictions)


def test_truth_and_answer_are_pictures_of_one_size(answers):
  for row in answers.compared:
    truth, found = picture_of(row["truth"]), picture_of(row["raw"])
    assert truth.shape == found.shape and max(truth.shape) <= COMPARED_SIDE_PX
  first = answers.compared[0]
  assert np.abs(picture_of(first["truth"]) - picture_of(first["raw"])).max() > 50
  # Where nothing was found nothing is drawn.
  plain = picture_of(first["raw"])
  assert plain.max() <= 3


def test_masks_are_compared_in_the_pictures_own_sizes(tmp_path):
  sizes = [(30, 40), (44, 20), (30, 30)]
  masks = [np.zeros(size, int) for size in sizes]
  masks[1][:22] = 1
  rows = [
    {"image": png(np.full((*size, 3), 200)), "mask": png(mask)}
    for size, mask in zip(sizes, masks, strict=True)
  ]

  def segment(examples):
    """All background, filled up to the largest picture."""
    batch = len(examples)
    return {
      "class_ids": tf.zeros([batch, 44, 40], tf.uint8),
      "height": tf.constant([size[0] for size in sizes], tf.int64),
      "width": tf.constant([size[1] for size in sizes], tf.int64),
      "class_names": tf.constant([["background", "cat"]] * batch),
    }

  found = _compared(SEGMENTATION, lambda examples: segment(examples), write(tmp_path, rows)).compared
  assert [row["score"] for row in found] == pytest.approx([0.25, 1, 1])
  assert found[0]["note"] == "mean IoU 0.25: background 0.50, cat 0.00"
  shapes = [picture_of(row["truth"]).shape for row in found]
  assert shapes == [picture_of(row["raw"]).shape for row in found]
  assert shapes[0][0] > shapes[0][1] and shapes[1][0] < shapes[1][1]


def test_lists_are_filled_up_to_the_longest():
  words = [np.array([b"a"], object), np.array([], object), np.array([b"b", b"cc"], object)]
  found = _stacked(words, Feature("bytes", (None,)))
  assert found.tolist() == [[b"a", b""], [b"", b""], [b"b", b"cc"]]
  assert tf.constant(found, tf.string).shape == (3, 2)
  numbers = [np.float32([1, 2, 3, 4]), np.float32([])]
  np.testing.assert_array_equal(_stacked(numbers, Feature("float32", (None,))), [[1, 2, 3, 4], [0, 0, 0, 0]])
  empty = _stacked([np.array([], object)] * 2, Feature("bytes", (None,)))
  assert empty.shape == (2, 0) and tf.constant(empty, tf.string).shape == (2, 0)
  np.testing.assert_array_equal(_stacked([np.int64(3), np.int64(4)], Feature("int64")), [3, 4])
