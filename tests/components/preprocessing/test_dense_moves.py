"""Random moves and mosaics: how far they go, and that boxes and masks stay on the pixels they belong to."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from components.preprocessing.dense_augmentation import DenseAugmentationConfig
from components.preprocessing.dense_moves import (
  BoxLabels,
  MaskLabels,
  inside,
  make_mosaic,
  random_moves,
)
from components.preprocessing.image_augmentation import SeedSequence

HEIGHT_PX, WIDTH_PX = 40, 60


def seeds(number=1):
  return SeedSequence(tf.constant([number, 7]))


def moves_of(num_images=300, number=1, **settings):
  images = tf.zeros([num_images, HEIGHT_PX, WIDTH_PX, 1])
  return random_moves(DenseAugmentationConfig(**settings), images, seeds(number)).numpy()


def corners(moves):
  """Where the picture's upper left and lower right corners come to, float64 [batch, 2] each."""
  return moves[:, :2, 2], (moves @ [WIDTH_PX, HEIGHT_PX, 1])[:, :2]


def test_enlarged_pictures_fill_the_frame():
  moves = moves_of(max_scale=3.0)
  low, high = corners(moves)
  assert np.all(low <= 1e-3) and np.all(high >= np.array([WIDTH_PX, HEIGHT_PX]) - 1e-3)
  np.testing.assert_allclose(moves[:, 0, 0], moves[:, 1, 1])
  assert moves[:, 0, 0].min() >= 1 and 2.8 < moves[:, 0, 0].max() <= 3
  # The part that is cut out lies anywhere.
  share = -low / ((moves[:, 0, :1] - 1) * [WIDTH_PX, HEIGHT_PX])
  assert np.all(share.min(axis=0) < 0.05) and np.all(share.max(axis=0) > 0.95)
  assert abs(np.corrcoef(share.T)[0, 1]) < 0.2


def test_shrunk_pictures_stay_in_the_frame():
  low, high = corners(moves_of(min_scale=0.25))
  assert np.all(low >= -1e-3) and np.all(high <= np.array([WIDTH_PX, HEIGHT_PX]) + 1e-3)


def test_half_and_twice_the_size_are_equally_likely():
  scales = moves_of(2000, min_scale=0.25, max_scale=4.0)[:, 0, 0]
  assert abs(np.log2(scales).mean()) < 0.1
  np.testing.assert_allclose(np.quantile(np.log2(scales), [0.25, 0.75]), [-1, 1], atol=0.15)


def test_the_ratio_of_the_sides_changes_by_the_share_given_and_the_area_does_not():
  moves = moves_of(aspect=0.5)
  ratios = moves[:, 0, 0] / moves[:, 1, 1]
  assert 0.5 <= ratios.min() < 0.55 and 1.45 < ratios.max() <= 1.5
  np.testing.assert_allclose(np.linalg.det(moves), 1, rtol=1e-4)


def test_turns_and_shears_are_around_the_middle_and_within_their_limits():
  middle = np.array([WIDTH_PX / 2, HEIGHT_PX / 2, 1])
  turns = moves_of(rotation_degrees=30)
  degrees = np.degrees(np.arctan2(turns[:, 1, 0], turns[:, 0, 0]))
  assert -30 <= degrees.min() < -27 and 27 < degrees.max() <= 30
  np.testing.assert_allclose(np.linalg.det(turns), 1, rtol=1e-4)
  np.testing.assert_allclose(turns @ middle, np.tile(middle, (300, 1)), atol=1e-3)
  shears = moves_of(shear_degrees=20)
  degrees = np.degrees(np.arctan(shears[:, 0, 1]))
  assert -20 <= degrees.min() < -18 and 18 < degrees.max() <= 20
  np.testing.assert_allclose(shears @ middle, np.tile(middle, (300, 1)), atol=1e-3)


def test_flips_are_drawn_for_each_side_and_picture():
  moves = moves_of(400, horizontal_flip=True, vertical_flip=True)
  for across in (-1, 1):
    for down in (-1, 1):
      share = np.mean((moves[:, 0, 0] == across) & (moves[:, 1, 1] == down))
      assert 0.18 < share < 0.32
  only = moves_of(horizontal_flip=True)
  assert set(only[:, 0, 0]) == {-1, 1} and set(only[:, 1, 1]) == {1}


def test_moves_follow_from_the_seed():
  settings = {"min_scale": 0.5, "max_scale": 2.0, "rotation_degrees": 20, "horizontal_flip": True}
  first = moves_of(**settings)
  np.testing.assert_array_equal(first, moves_of(**settings))
  assert np.all(np.abs(first - moves_of(number=2, **settings)).max(axis=(1, 2)) > 1e-4)


def test_inside_tells_pixels_by_their_middles():
  found = inside(tf.constant([[1.0, 0.4, 3.4, 2.0], [0.5, 0.0, 9.0, 0.6]]), 3, 4).numpy()
  np.testing.assert_array_equal(
    found.astype(int),
    [[[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]], [[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]],
  )


# Levels of the four pictures of a batch: far enough apart to tell them even where two of them are mixed.
LEVELS = np.array([40, 90, 140, 190])


def flat_pictures():
  """Pictures of one level each, with masks of their numbers."""
  images = np.ones((4, HEIGHT_PX, WIDTH_PX, 1)) * LEVELS[:, None, None, None]
  masks = np.ones((4, HEIGHT_PX, WIDTH_PX), int) * np.arange(4)[:, None, None]
  return tf.constant(images, tf.float32), tf.constant(masks, tf.int32)


@pytest.mark.parametrize("number", range(5))
def test_each_quarter_of_a_mosaic_shows_another_picture(number):
  images, masks = flat_pictures()
  pieced, new_masks = make_mosaic(1.0, MaskLabels())(images, masks, seeds(number))
  pieced, new_masks = pieced.numpy()[..., 0], new_masks.numpy()
  for picture in range(4):
    # tf.roll by n brings the picture n places before.
    expected = [(picture - part) % 4 for part in range(4)]
    quarters = [pieced[picture, row, column] for row in (0, -1) for column in (0, -1)]
    # A flat picture's mean is its level: what the parts leave free looks like the picture it belongs to.
    np.testing.assert_allclose(quarters, LEVELS[expected], atol=1e-3)
    shown = np.abs(pieced[picture][..., None] - LEVELS).argmin(axis=-1)
    is_known = new_masks[picture] != 255
    np.testing.assert_array_equal(new_masks[picture][is_known], shown[is_known])
    assert is_known.mean() > 0.5
    # One corner at which all four meet, between 0.3 and 0.7 of the sides.
    row = np.count_nonzero(shown[:, 0] == expected[0])
    column = np.count_nonzero(shown[0] == expected[0])
    assert 0.3 * HEIGHT_PX - 1 <= row <= 0.7 * HEIGHT_PX + 1
    assert 0.3 * WIDTH_PX - 1 <= column <= 0.7 * WIDTH_PX + 1
    blocks = np.repeat(np.array(expected).reshape(2, 2), [row, HEIGHT_PX - row], axis=0)
    np.testing.assert_array_equal(shown, np.repeat(blocks, [column, WIDTH_PX - column], axis=1))
    # The parts touch there.
    assert np.all(is_known[row - 1 : row + 1, column - 1 : column + 1])


def boxes_drawn(rng):
  """Pictures with a box each in a level of its own; its mask; boxes with room for more."""
  images = np.zeros((4, HEIGHT_PX, WIDTH_PX, 4), np.float32)
  masks = np.zeros((4, HEIGHT_PX, WIDTH_PX), int)
  boxes = np.tile(np.array([0, 0, 0, 0, -1], np.float32), (4, 6, 1))
  for number in range(4):
    x, y = rng.integers(2, WIDTH_PX - 22), rng.integers(2, HEIGHT_PX - 18)
    width, height = rng.integers(12, 20), rng.integers(10, 16)
    # A channel for each picture, so that what belongs to whom can be seen after a mosaic.
    images[number, y : y + height, x : x + width, number] = 255
    masks[number, y : y + height, x : x + width] = number + 1
    boxes[number, 0] = [x, y, x + width, y + height, number]
  return tf.constant(images), tf.constant(masks, tf.int32), tf.constant(boxes)


@pytest.mark.parametrize("number", range(12))
def test_boxes_and_masks_of_a_mosaic_are_where_the_pixels_are(number):
  images, masks, boxes = boxes_drawn(np.random.default_rng(number))
  pieced, new_boxes = make_mosaic(1.0, BoxLabels(0.001))(images, boxes, seeds(number))
  again, new_masks = make_mosaic(1.0, MaskLabels())(images, masks, seeds(number))
  np.testing.assert_array_equal(pieced, again)
  pieced, new_boxes, new_masks = pieced.numpy(), new_boxes.numpy(), new_masks.numpy()
  assert new_boxes.shape == (4, 6, 5)
  for picture in range(4):
    for channel in range(4):
      shown = pieced[picture, ..., channel] > 127
      found = new_boxes[picture][new_boxes[picture, :, 4] == channel]
      assert len(found) <= 1
      if shown.any():
        rows, columns = np.nonzero(shown)
        around = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(found[0, :4], around, atol=1.01)
      elif len(found):
        assert (found[0, 2:4] - found[0, :2]).min() <= 1
      assert np.mean(shown != (new_masks[picture] == channel + 1)) < 0.03


def test_a_mosaic_has_at_most_as_many_boxes_as_the_targets_have_room_for():
  boxes = np.tile(np.array([[10, 10, 50, 30, 1], [5, 5, 12, 12, 2]], np.float32), (4, 1, 1))
  images = tf.zeros([4, HEIGHT_PX, WIDTH_PX, 3])
  _, found = make_mosaic(1.0, BoxLabels(0.01))(images, tf.constant(boxes), seeds())
  assert found.shape == (4, 2, 5)
  # The larger ones stay.
  assert np.all(found.numpy()[..., 4] == 1)


def test_mosaics_come_as_often_as_asked_and_leave_the_others_alone():
  images = tf.random.stateless_uniform([200, 8, 8, 1], [1, 2], 0, 255)
  masks = tf.random.stateless_uniform([200, 8, 8], [3, 4], 0, 5, tf.int32)
  pieced, new_masks = make_mosaic(0.25, MaskLabels())(images, masks, seeds())
  same = np.all(pieced.numpy() == images.numpy(), axis=(1, 2, 3))
  np.testing.assert_array_equal(same, np.all(new_masks.numpy() == masks.numpy(), axis=(1, 2)))
  assert 0.15 < np.mean(~same) < 0.35
  none, _ = make_mosaic(0.0, MaskLabels())(images, masks, seeds())
  np.testing.assert_array_equal(none, images)
