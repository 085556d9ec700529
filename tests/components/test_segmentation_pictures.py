"""Masks of answers without their padding, as shares, as pictures, and against the truth."""

import io

import numpy as np
import pytest
from PIL import Image

from components.segmentation_pictures import (
  class_names,
  compare_masks,
  draw,
  mask_file,
  own_mask,
  shares,
)

NAMES = np.array([b"background", b"cat", b"dog"], object)
MASK = np.array([[0, 0, 1, 1], [0, 0, 1, 2], [0, 0, 0, 0]], np.uint8)


def png(array):
  encoded = io.BytesIO()
  Image.fromarray(np.asarray(array, np.uint8)).save(encoded, "PNG")
  return encoded.getvalue()


def answer(mask=MASK):
  """Outputs of an example that was in a batch with a picture of more rows and columns."""
  mask = np.asarray(mask, np.uint8)
  return {
    "class_ids": np.pad(mask, ((0, 2), (0, 3))),
    "height": np.int64(mask.shape[0]),
    "width": np.int64(mask.shape[1]),
    "class_names": NAMES,
  }


def pixels(data):
  assert data.startswith(b"\x89PNG")
  with Image.open(io.BytesIO(data)) as picture:
    return np.asarray(picture)


PICTURE = png(np.full((3, 4, 3), 255))


def test_an_answer_without_what_fills_the_batch_up():
  np.testing.assert_array_equal(own_mask(answer()), MASK)
  assert class_names(answer()) == ["background", "cat", "dog"]
  assert shares(answer()) == {"background": 8 / 12, "cat": 3 / 12, "dog": 1 / 12}


def test_a_mask_file_holds_the_class_ids():
  with Image.open(io.BytesIO(mask_file(answer()))) as picture:
    assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (4, 3))
    np.testing.assert_array_equal(np.asarray(picture), MASK)


def test_answer_and_truth_look_the_same_where_they_are_the_same():
  features = {"image": PICTURE, "mask": png(MASK), "class_names": NAMES}
  drawn = pixels(draw(features, answer()))
  np.testing.assert_array_equal(drawn, pixels(draw(features, None)))
  assert (drawn != 255).any()
  # The background is not tinted.
  factor = min(drawn.shape[1] // 4, drawn.shape[0] // 3)
  assert (drawn[2 * factor + factor // 2, : factor // 2] == 255).all()


def test_pictures_without_a_mask_or_without_names():
  plain = pixels(draw({"image": PICTURE}, None))
  assert plain.shape[2] == 3
  unnamed = pixels(draw({"image": PICTURE, "mask": png(MASK)}, None))
  assert (unnamed != 255).any()
  void = np.where(MASK == 2, 255, MASK)
  assert (pixels(draw({"image": PICTURE, "mask": png(void), "class_names": NAMES}, None)) != 255).any()


CASES = {
  "the same": (MASK, MASK, 1.0, "mean IoU 1.00: background 1.00, cat 1.00, dog 1.00"),
  # background 8 of 8; cat 3 of 4; dog 0 of 1.
  "a pixel of another class": (
    MASK,
    np.where(MASK == 2, 1, MASK),
    (1 + 3 / 4 + 0) / 3,
    "mean IoU 0.58: background 1.00, cat 0.75, dog 0.00",
  ),
  # Classes that neither has do not count: background 0 of 12, cat 0 of 12.
  "all wrong": (np.zeros((3, 4)), np.ones((3, 4)), 0.0, "mean IoU 0.00: background 0.00, cat 0.00"),
  # What is of no class counts for nothing: cat 3 of 3.
  "void": (
    np.where(MASK == 2, 255, MASK),
    np.where(MASK == 2, 1, MASK),
    1.0,
    "mean IoU 1.00: background 1.00, cat 1.00",
  ),
  "void of another id than 255": (
    np.where(MASK == 2, 9, MASK),
    MASK,
    1.0,
    "mean IoU 1.00: background 1.00, cat 1.00",
  ),
  "nothing but void": (np.full((3, 4), 255), MASK, 1.0, "no pixel has a class"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_answer_is_compared_with_the_truth(case):
  actual, found, score, note = CASES[case]
  result = compare_masks({"image": PICTURE, "mask": png(actual)}, answer(found))
  assert result[0] == pytest.approx(score) and result[1] == note
