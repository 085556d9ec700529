"""Where pictures come to when they are scaled, and that masks come to the same place."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.preprocessing import image as ops

RNG = np.random.default_rng(8)
VOID_ID = 255
# Rows and columns of the picture, then of the model's.
SIZES = [
  ((40, 60), (20, 30)),
  ((60, 40), (31, 47)),
  ((101, 67), (64, 96)),
  ((33, 91), (75, 50)),
  ((24, 24), (61, 48)),
  ((200, 64), (64, 64)),
]
SCALINGS = ["stretch", "pad", "crop"]


def encode(pixels):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "PNG")
  return file.getvalue()


def placed(size, target, scaling):
  """a, b, c, d of one picture."""
  return ops.placement(tf.constant([size], tf.int64), *target, scaling).numpy()[0].astype(float)


def decoded_masks(encoded, target, scaling, void_id=VOID_ID):
  return ops.decode_and_scale_masks(tf.constant(encoded), *target, scaling, void_id).numpy()


def around(marked):
  """x_min, y_min, x_max, y_max of what is marked."""
  rows, columns = np.nonzero(marked)
  return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def marked_box(size):
  """A box in the middle part, which every scaling shows."""
  rows, columns = size
  return np.array([columns * 2 // 5, rows * 2 // 5, columns * 3 // 5 + 1, rows * 3 // 5 + 1])


def test_placement_by_hand():
  # Half as large; 40 x 20 in a frame of 20 x 20 is 20 x 10, then 5 px from the left, or cut off by 10 px on both sides.
  np.testing.assert_allclose(placed((40, 60), (20, 30), "stretch"), [0.5, 0, 0.5, 0])
  np.testing.assert_allclose(placed((40, 20), (20, 20), "stretch"), [1, 0, 0.5, 0])
  np.testing.assert_allclose(placed((40, 20), (20, 20), "pad"), [0.5, 5, 0.5, 0])
  np.testing.assert_allclose(placed((40, 20), (20, 20), "crop"), [1, 0, 1, -10])
  # An odd pixel more is behind.
  np.testing.assert_allclose(placed((10, 5), (10, 10), "pad"), [1, 2, 1, 0])
  np.testing.assert_allclose(placed((10, 15), (10, 10), "crop"), [1, -2, 1, 0])


def test_placement_of_a_batch_has_a_row_for_each_picture():
  sizes = tf.constant([size for size, _ in SIZES], tf.int64)
  for scaling in SCALINGS:
    found = ops.placement(sizes, 31, 47, scaling)
    assert found.dtype == tf.float32
    expected = [placed(size, (31, 47), scaling) for size, _ in SIZES]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
  assert ops.placement(sizes[:0], 31, 47, "pad").shape == (0, 4)


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("size, target", SIZES)
def test_a_marked_box_comes_to_where_placement_says_in_picture_and_mask(size, target, scaling):
  box = x_min, y_min, x_max, y_max = marked_box(size)
  pixels = np.full((*size, 3), 20, np.uint8)
  pixels[y_min:y_max, x_min:x_max] = 220
  mask = np.zeros(size, np.uint8)
  mask[y_min:y_max, x_min:x_max] = 3
  a, b, c, d = placed(size, target, scaling)
  expected = box * [a, c, a, c] + [b, d, b, d]
  picture = ops.decode_and_scale(tf.constant([encode(pixels)]), *target, 3, scaling).numpy()[0, ..., 0]
  found = decoded_masks([encode(mask)], target, scaling)[0]
  assert picture.shape == found.shape == target
  assert found.dtype == np.uint8 and set(np.unique(found)) <= {0, 3, VOID_ID}
  np.testing.assert_allclose(around(picture > 120), expected, atol=1)
  np.testing.assert_allclose(around(found == 3), expected, atol=1)
  # Only at the rim, where two are mixed, can they differ.
  rim = 2 * (np.ptp(expected[::2]) + np.ptp(expected[1::2])) + 4
  assert np.count_nonzero((picture > 120) != (found == 3)) <= rim / 2


@pytest.mark.parametrize("size, target", SIZES)
def test_padding_is_black_in_the_picture_and_void_in_the_mask(size, target):
  a, b, c, d = placed(size, target, "pad")
  left, upper, right, lower = b, d, a * size[1] + b, c * size[0] + d
  assert [left, upper, right, lower] == pytest.approx(np.round([left, upper, right, lower]), abs=1e-3)
  inside = np.zeros(target, bool)
  inside[round(upper) : round(lower), round(left) : round(right)] = True
  white, zeros = np.full((*size, 3), 255, np.uint8), np.zeros(size, np.uint8)
  picture = ops.decode_and_scale(tf.constant([encode(white)]), *target, 3, "pad").numpy()[0, ..., 0]
  np.testing.assert_array_equal(picture, np.where(inside, 255, 0))
  for void_id in (VOID_ID, 9):
    mask = decoded_masks([encode(zeros)], target, "pad", void_id)[0]
    # Class 0 stays class 0.
    np.testing.assert_array_equal(mask, np.where(inside, 0, void_id))


@pytest.mark.parametrize("size, target", SIZES)
@pytest.mark.parametrize("scaling", ["stretch", "crop"])
def test_without_padding_the_picture_covers_the_frame(size, target, scaling):
  a, b, c, d = placed(size, target, scaling)
  assert b <= 0 and d <= 0 and a * size[1] + b >= target[1] - 1e-3 and c * size[0] + d >= target[0] - 1e-3
  assert not np.any(decoded_masks([encode(np.zeros(size, np.uint8))], target, scaling) == VOID_ID)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_masks_of_the_models_own_size_are_left_alone(scaling):
  masks = RNG.integers(0, 256, (3, 13, 17), dtype=np.uint8)
  encoded = [encode(mask) for mask in masks]
  for batch in (encoded, [[one] for one in encoded]):
    np.testing.assert_array_equal(decoded_masks(batch, (13, 17), scaling), masks)
  np.testing.assert_allclose(placed((13, 17), (13, 17), scaling), [1, 0, 1, 0])


def test_enlarged_masks_repeat_ids_and_shrunk_ones_take_none_in_between():
  mask = RNG.choice(np.array([0, 100, 254], np.uint8), (5, 6))
  large = mask.repeat(3, axis=0).repeat(3, axis=1)
  np.testing.assert_array_equal(decoded_masks([encode(mask)], (15, 18), "stretch")[0], large)
  np.testing.assert_array_equal(decoded_masks([encode(large)], (5, 6), "stretch")[0], mask)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_an_empty_string_is_void(scaling):
  mask = np.full((5, 6), 4, np.uint8)
  found = decoded_masks([b"", encode(mask)], (5, 6), scaling)
  assert np.all(found[0] == VOID_ID) and np.all(found[1] == 4)


def test_sizes_are_those_of_the_files():
  sizes = [(8, 5), (30, 41), (7, 9)]
  encoded = tf.constant([encode(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes])
  pixels, found = ops.decode_with_sizes(encoded, 7, 9, 3, "pad")
  assert found.dtype == tf.int64
  np.testing.assert_array_equal(found, sizes)
  np.testing.assert_array_equal(pixels, ops.decode_and_scale(encoded, 7, 9, 3, "pad"))


def test_static_shapes_in_a_graph():
  @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
  def graph(encoded):
    pixels, sizes = ops.decode_with_sizes(encoded, 8, 6, 3, "pad")
    return (
      pixels,
      sizes,
      ops.placement(sizes, 8, 6, "pad"),
      ops.decode_and_scale_masks(encoded, 8, 6, "pad", 255),
    )

  shapes = [shape.as_list() for shape in graph.get_concrete_function().output_shapes]
  assert shapes == [[None, 8, 6, 3], [None, 2], [None, 4], [None, 8, 6]]
  assert [len(part) for part in graph(tf.constant([], tf.string))] == [0, 0, 0, 0]
