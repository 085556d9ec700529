"""Moves of pictures, masks and boxes: all three go to the same place, by whole pixels exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from components.preprocessing import geometry

RNG = np.random.default_rng(5)
HEIGHT_PX, WIDTH_PX = 30, 40
NO_BOX = [0.0, 0.0, 0.0, 0.0, -1.0]


def one(value):
  """float32 [1]."""
  return tf.constant([value], tf.float32)


def noise(num_images=1, channels=3):
  return RNG.uniform(0, 255, (num_images, HEIGHT_PX, WIDTH_PX, channels)).astype(np.float32)


def moved_images(images, moves):
  return geometry.move_images(tf.constant(images), moves).numpy()


def moved_masks(masks, moves):
  return geometry.move_masks(tf.constant(masks, tf.int32), moves).numpy()


def moved_boxes(boxes, moves, min_visible=0.3, window=None):
  windows = (
    geometry.frame(len(boxes), HEIGHT_PX, WIDTH_PX) if window is None else tf.constant([window], tf.float32)
  )
  return geometry.move_boxes(tf.constant(boxes, tf.float32), moves, windows, min_visible).numpy()


def centred(moves):
  return geometry.around_centre(moves, HEIGHT_PX, WIDTH_PX)


# What comes first is what is done to (x, y) = (12, 7), worked out by hand.
MOVES = {
  "translation": (geometry.translation(one(5.0), one(-3.0)), (17, 4)),
  "scaling": (geometry.scaling(one(2.0), one(3.0)), (24, 21)),
  "flip": (centred(geometry.scaling(one(-1.0), one(1.0))), (28, 7)),
  "turn": (centred(geometry.rotation(one(90.0))), (28, 7)),
  "half turn": (centred(geometry.rotation(one(180.0))), (28, 23)),
  "shear": (geometry.shear(one(45.0)), (19, 7)),
  "shear around the middle": (centred(geometry.shear(one(45.0))), (4, 7)),
  "slight turn": (
    geometry.rotation(one(30.0)),
    (12 * math.sqrt(3) / 2 - 7 / 2, 12 / 2 + 7 * math.sqrt(3) / 2),
  ),
  "affine": (geometry.affine(*(one(float(value)) for value in (1, 0.5, -3, 0.25, 1, 4))), (12.5, 14)),
}


@pytest.mark.parametrize("name", MOVES)
def test_a_place_goes_where_it_is_worked_out_by_hand(name):
  moves, expected = MOVES[name]
  assert moves.shape == (1, 3, 3) and moves.dtype == tf.float32
  found = moves[0].numpy() @ [12, 7, 1]
  np.testing.assert_allclose(found, [*expected, 1], atol=1e-4)


@pytest.mark.parametrize("name", MOVES)
def test_a_marked_square_its_mask_and_its_box_go_to_the_same_place(name):
  moves, _ = MOVES[name]
  x_min, y_min, x_max, y_max = box = (11, 5, 17, 10)
  pixels, mask = np.zeros((1, HEIGHT_PX, WIDTH_PX, 1), np.float32), np.zeros((1, HEIGHT_PX, WIDTH_PX))
  pixels[0, y_min:y_max, x_min:x_max] = 200
  mask[0, y_min:y_max, x_min:x_max] = 7
  new_box = moved_boxes([[[*box, 2]]], moves)[0, 0]
  assert new_box[4] == 2
  marked_pixels = moved_images(pixels, moves)[0, ..., 0] > 100
  marked_mask = moved_masks(mask, moves)[0] == 7
  for marked in (marked_pixels, marked_mask):
    rows, columns = np.nonzero(marked)
    around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose(around, new_box[:4], atol=1.0)
  # Both are read at the middles of pixels; only at the rim can they differ.
  assert np.mean(marked_pixels != marked_mask) < 0.02


def test_rows_are_sheared_in_proportion_to_their_height():
  mask = np.zeros((1, HEIGHT_PX, WIDTH_PX))
  mask[0, :, 3] = 1
  # Two pixels to the right a row: from the middle of a pixel to that of another.
  moves = geometry.shear(one(math.degrees(math.atan(2))))
  rows, columns = np.nonzero(moved_masks(mask, moves)[0] == 1)
  np.testing.assert_array_equal(rows, np.arange(18))
  np.testing.assert_array_equal(columns, 3 + 2 * rows + 1)


def test_a_shift_by_whole_pixels_moves_values_exactly_and_leaves_the_mean_and_void():
  images, masks = noise(2), RNG.integers(0, 5, (2, HEIGHT_PX, WIDTH_PX))
  moves = geometry.translation([3.0, -4.0], [-2.0, 5.0])
  new_images, new_masks = moved_images(images, moves), moved_masks(masks, moves)
  for number, (inside, source) in enumerate(
    [(np.s_[:-2, 3:], np.s_[2:, :-3]), (np.s_[5:, :-4], np.s_[:-5, 4:])]
  ):
    np.testing.assert_allclose(new_images[number][inside], images[number][source], atol=1e-2)
    np.testing.assert_array_equal(new_masks[number][inside], masks[number][source])
    beyond = np.ones((HEIGHT_PX, WIDTH_PX), bool)
    beyond[inside] = False
    mean = np.broadcast_to(images[number].mean(axis=(0, 1)), (beyond.sum(), 3))
    np.testing.assert_allclose(new_images[number][beyond], mean, atol=1e-2)
    assert np.all(new_masks[number][beyond] == geometry.VOID_ID)


@pytest.mark.parametrize(
  "x_factor, y_factor, flipped",
  [
    (-1.0, 1.0, np.s_[:, :, ::-1]),
    (1.0, -1.0, np.s_[:, ::-1]),
    (-1.0, -1.0, np.s_[:, ::-1, ::-1]),
    (1.0, 1.0, np.s_[:]),
  ],
)
def test_mirroring_equals_numpys(x_factor, y_factor, flipped):
  images, masks = noise(), RNG.integers(0, 5, (1, HEIGHT_PX, WIDTH_PX))
  moves = centred(geometry.scaling(one(x_factor), one(y_factor)))
  np.testing.assert_allclose(moved_images(images, moves), images[flipped], atol=1e-2)
  np.testing.assert_array_equal(moved_masks(masks, moves), masks[flipped])


def test_a_quarter_turn_equals_numpys():
  side_px = 20
  image = RNG.uniform(0, 255, (1, side_px, side_px, 1)).astype(np.float32)
  moves = geometry.around_centre(geometry.rotation(one(90.0)), side_px, side_px)
  # Clockwise as it is seen.
  expected = np.rot90(image[0, ..., 0], -1)
  np.testing.assert_allclose(moved_images(image, moves)[0, ..., 0], expected, atol=1e-2)


def test_enlarging_repeats_class_ids():
  mask = RNG.integers(0, 200, (1, HEIGHT_PX, WIDTH_PX))
  expected = mask.repeat(2, axis=1).repeat(2, axis=2)[:, :HEIGHT_PX, :WIDTH_PX]
  np.testing.assert_array_equal(moved_masks(mask, geometry.scaling(one(2.0), one(2.0))), expected)


@pytest.mark.parametrize("name", MOVES)
def test_there_and_back_again(name):
  """Boxes only where they stay boxes; pictures where nothing is interpolated."""
  moves, _ = MOVES[name]
  back = tf.linalg.inv(moves)
  far = [-1e4, -1e4, 1e4, 1e4]
  boxes = np.array([[[3, 4, 20, 11, 1], NO_BOX]], np.float32)
  if name in ("translation", "scaling", "flip", "turn", "half turn"):
    again = moved_boxes(moved_boxes(boxes, moves, window=far), back, window=far)
    np.testing.assert_allclose(again, boxes, atol=1e-3)
  if name in ("translation", "flip", "half turn"):
    images, masks = noise(), RNG.integers(0, 5, (1, HEIGHT_PX, WIDTH_PX))
    seen = moved_masks(moved_masks(masks, moves), back) != geometry.VOID_ID
    assert seen.mean() > 0.7
    np.testing.assert_array_equal(moved_masks(moved_masks(masks, moves), back)[seen], masks[seen])
    np.testing.assert_allclose(moved_images(moved_images(images, moves), back)[seen], images[seen], atol=2e-2)


def test_boxes_are_cut_off_at_the_window_and_taken_out_below_the_least_share():
  boxes = [
    [
      [-10, 0, 10, 10, 0],
      [-10, 0, 5, 10, 1],
      [35, 25, 45, 35, 2],
      [50, 0, 60, 10, 3],
      [2, 2, 2, 9, 4],
      NO_BOX,
    ]
  ]
  stay = tf.eye(3, batch_shape=[1])
  # Left of them: 1/2, 1/3, 1/4, nothing, nothing (of no area), padding.
  half, third = [0, 0, 10, 10, 0], [0, 0, 5, 10, 1]
  quarter = [35, 25, 40, 30, 2]
  for min_visible, expected in [
    (0.2, [half, third, quarter]),
    (0.3, [half, third, NO_BOX]),
    (0.5, [half, NO_BOX, NO_BOX]),
    (0.6, [NO_BOX] * 3),
  ]:
    found = moved_boxes(boxes, stay, min_visible)
    np.testing.assert_allclose(found, [[*expected, NO_BOX, NO_BOX, NO_BOX]])
  windowed = moved_boxes([[[10, 10, 20, 20, 6]]], stay, window=[12, 5, 18, 19])
  np.testing.assert_allclose(windowed, [[[12, 10, 18, 19, 6]]])


def test_a_box_that_is_all_inside_stays_with_a_least_share_of_one():
  boxes = RNG.uniform(1, 9, (1, 50, 2))
  boxes = np.concatenate([boxes, boxes + RNG.uniform(1, 9, (1, 50, 2)), np.ones((1, 50, 1))], axis=-1)
  moves = centred(geometry.scaling(one(-1.0), one(1.0)))
  assert np.all(moved_boxes(boxes, moves, 1.0)[..., 4] == 1)


def test_each_picture_has_a_move_and_a_window_of_its_own():
  boxes = tf.constant([[[4.0, 4.0, 8.0, 8.0, 1.0]]] * 2)
  windows = tf.constant([[0.0, 0.0, 40.0, 30.0], [7.0, 0.0, 40.0, 30.0]])
  found = geometry.move_boxes(boxes, geometry.translation([1.0, 2.0], [0.0, 3.0]), windows, 0.1)
  np.testing.assert_allclose(found, [[[5, 4, 9, 8, 1]], [[7, 7, 10, 11, 1]]])


def test_frame_is_the_whole_picture():
  np.testing.assert_array_equal(geometry.frame(2, 30, 40), [[0, 0, 40, 30]] * 2)


def test_the_largest_boxes_are_kept_and_equals_in_their_order():
  boxes = tf.constant(
    [
      [[0, 0, 1, 1, 0], NO_BOX, [0, 0, 5, 5, 1], [2, 2, 3, 3, 2], [1, 1, 3, 3, 3], [5, 5, 6, 6, 4]],
      [NO_BOX, NO_BOX, NO_BOX, [1, 1, 1, 1, 9], NO_BOX, [0, 0, 2, 2, 8]],
    ],
    tf.float32,
  )
  three = geometry.keep_boxes(boxes, 3)
  np.testing.assert_array_equal(three[..., 4], [[1, 3, 0], [8, 9, -1]])
  np.testing.assert_array_equal(three[0, 1], [1, 1, 3, 3, 3])
  eight = geometry.keep_boxes(boxes, 8)
  np.testing.assert_array_equal(eight[..., 4], [[1, 3, 0, 2, 4, -1, -1, -1], [8, 9, -1, -1, -1, -1, -1, -1]])
  np.testing.assert_array_equal(eight[1, 2:], [NO_BOX] * 6)


def test_static_shapes_in_a_graph():
  @tf.function(
    input_signature=[
      tf.TensorSpec([None, 8, 6, 3]),
      tf.TensorSpec([None, None, 5]),
      tf.TensorSpec([None, 3, 3]),
    ]
  )
  def graph(images, boxes, moves):
    return geometry.move_images(images, moves), geometry.keep_boxes(boxes, 4)

  images, boxes = graph(tf.zeros([0, 8, 6, 3]), tf.zeros([0, 2, 5]), tf.zeros([0, 3, 3]))
  assert images.shape == (0, 8, 6, 3) and boxes.shape == (0, 4, 5)
  assert [shape.as_list() for shape in graph.get_concrete_function().output_shapes] == [
    [None, 8, 6, 3],
    [None, 4, 5],
  ]
