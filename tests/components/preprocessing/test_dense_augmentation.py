"""The whole augmentation: labels stay on their pixels, everything follows from the seed."""

from __future__ import annotations

import numpy as np
import pydantic
import pytest
import tensorflow as tf

from components.preprocessing.dense_augmentation import DenseAugmentationConfig, make_dense_augment
from components.preprocessing.dense_moves import BoxLabels, MaskLabels

HEIGHT_PX, WIDTH_PX = 48, 64
RNG = np.random.default_rng(11)
GEOMETRIC = {
  "horizontal_flip": True,
  "vertical_flip": True,
  "mosaic": 0.5,
  "min_scale": 0.7,
  "max_scale": 1.5,
  "aspect": 0.3,
  "rotation_degrees": 25.0,
  "shear_degrees": 10.0,
  "min_visible": 0.01,
}
COLOURS = {
  "brightness": 0.3,
  "contrast": 0.3,
  "saturation": 0.4,
  "hue": 0.1,
  "channel_gain": 0.2,
  "gamma": 1.5,
  "channel_shuffle": 0.5,
  "grey": 0.3,
  "blur_px": 1.5,
  "noise": 8.0,
}


def augment(images, targets, seed=(3, 4), **settings):
  labels = MaskLabels() if targets.dtype == np.int32 else BoxLabels(settings.get("min_visible", 0.3))
  step = make_dense_augment(DenseAugmentationConfig(**settings), labels)
  found = step(tf.constant(images), tf.constant(targets), tf.constant(seed))
  return tuple(tensor.numpy() for tensor in found)


def drawn(seed, num_images=4):
  """Pictures with a rectangle each in a channel of its own, their masks and their boxes with room for more."""
  rng = np.random.default_rng(seed)
  images = np.zeros((num_images, HEIGHT_PX, WIDTH_PX, num_images), np.float32)
  masks = np.zeros((num_images, HEIGHT_PX, WIDTH_PX), np.int32)
  boxes = np.tile(np.array([0, 0, 0, 0, -1], np.float32), (num_images, 6, 1))
  for number in range(num_images):
    width, height = rng.integers(14, 24), rng.integers(12, 20)
    x, y = rng.integers(0, WIDTH_PX - width), rng.integers(0, HEIGHT_PX - height)
    images[number, y : y + height, x : x + width, number] = 255
    masks[number, y : y + height, x : x + width] = number + 1
    boxes[number, 0] = [x, y, x + width, y + height, number]
  return images, masks, boxes


def around(marked):
  rows, columns = np.nonzero(marked)
  return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.mark.parametrize("seed", range(25))
def test_boxes_and_masks_are_where_the_pixels_are_with_everything_that_moves_on(seed):
  images, masks, boxes = drawn(seed)
  new_images, new_boxes = augment(images, boxes, (seed, 1), **GEOMETRIC)
  again, new_masks = augment(images, masks, (seed, 1), **GEOMETRIC)
  np.testing.assert_array_equal(new_images, again)
  compared = 0
  for picture in range(4):
    for channel in range(4):
      # Pixels of the mean colour, where nothing was, are far below.
      shown = new_images[picture, ..., channel] > 127
      found = new_boxes[picture][new_boxes[picture, :, 4] == channel]
      assert len(found) <= 1
      assert np.mean(shown != (new_masks[picture] == channel + 1)) < 0.03
      if np.count_nonzero(shown) < 20:
        continue
      box, seen = found[0, :4], around(shown)
      # No pixel lies outside; a box that is cut off may have room where a slanted corner was.
      assert np.all(box[:2] <= seen[:2] + 1) and np.all(box[2:] >= seen[2:] - 1)
      if box[:2].min() > 0 and box[2] < WIDTH_PX and box[3] < HEIGHT_PX:
        np.testing.assert_allclose(box, seen, atol=2.0)
        compared += 1
  assert np.all(new_boxes[..., :2] >= 0) and np.all(new_boxes[..., 2:4] <= [WIDTH_PX, HEIGHT_PX])
  assert compared or seed not in (0, 1, 2)


@pytest.mark.parametrize("seed", range(10))
def test_without_turns_boxes_agree_to_a_pixel_where_they_are_cut_off_too(seed):
  images, _, boxes = drawn(seed)
  settings = {**GEOMETRIC, "rotation_degrees": 0.0, "shear_degrees": 0.0, "mosaic": 1.0}
  new_images, new_boxes = augment(images, boxes, (seed, 2), **settings)
  for picture in range(4):
    for channel in range(4):
      shown = new_images[picture, ..., channel] > 127
      if shown.any():
        (found,) = new_boxes[picture][new_boxes[picture, :, 4] == channel]
        np.testing.assert_allclose(found[:4], around(shown), atol=1.01)


def test_mirrored_labels_equal_numpys():
  images = RNG.uniform(0, 255, (16, 9, 12, 3)).astype(np.float32)
  masks = RNG.integers(0, 6, (16, 9, 12)).astype(np.int32)
  boxes = np.tile(np.array([[1, 2, 5, 4, 3], [0, 0, 0, 0, -1]], np.float32), (16, 1, 1))
  settings = {"horizontal_flip": True, "vertical_flip": True}
  new_images, new_masks = augment(images, masks, **settings)
  again, new_boxes = augment(images, boxes, **settings)
  np.testing.assert_array_equal(new_images, again)
  kinds = set()
  for image, mask, new_image, new_mask, new_box in zip(
    images, masks, new_images, new_masks, new_boxes, strict=True
  ):
    possible = {
      "none": (np.s_[:], [1, 2, 5, 4]),
      "across": (np.s_[:, ::-1], [7, 2, 11, 4]),
      "down": (np.s_[::-1], [1, 5, 5, 7]),
      "both": (np.s_[::-1, ::-1], [7, 5, 11, 7]),
    }
    kind = next(name for name, (where, _) in possible.items() if np.array_equal(mask[where], new_mask))
    where, box = possible[kind]
    np.testing.assert_allclose(new_image, image[where], atol=1e-2)
    np.testing.assert_allclose(new_box, [[*box, 3], [0, 0, 0, 0, -1]], atol=1e-4)
    kinds.add(kind)
  assert len(kinds) == 4


def test_everything_follows_from_the_seed_and_each_picture_is_drawn_anew():
  image = RNG.uniform(0, 255, (1, 24, 32, 3)).astype(np.float32)
  images, masks = np.repeat(image, 6, axis=0), np.zeros((6, 24, 32), np.int32)
  settings = {**GEOMETRIC, **COLOURS}
  first, first_masks = augment(images, masks, (1, 2), **settings)
  again, again_masks = augment(images, masks, (1, 2), **settings)
  np.testing.assert_array_equal(first, again)
  np.testing.assert_array_equal(first_masks, again_masks)
  others, _ = augment(images, masks, (1, 3), **settings)
  for number in range(6):
    assert np.abs(first[number] - others[number]).max() > 1
    for other in range(number):
      assert np.abs(first[number] - first[other]).max() > 1


@pytest.mark.parametrize("channels, kind", [(1, "masks"), (3, "boxes")])
def test_shapes_dtypes_and_range_with_everything_on_in_a_graph(channels, kind):
  labels = MaskLabels() if kind == "masks" else BoxLabels(0.3)
  step = make_dense_augment(DenseAugmentationConfig(**GEOMETRIC, **COLOURS), labels)
  if kind == "masks":
    targets, spec = np.ones((5, 16, 24), np.int32), tf.TensorSpec([None, 16, 24], tf.int32)
  else:
    targets = np.tile(np.array([[2, 2, 9, 9, 0]], np.float32), (5, 7, 1))
    spec = tf.TensorSpec([None, 7, 5])
  images = RNG.choice([0.0, 255.0], (5, 16, 24, channels)).astype(np.float32)
  graph = tf.function(
    step, input_signature=[tf.TensorSpec([None, 16, 24, channels]), spec, tf.TensorSpec([2], tf.int32)]
  )
  found, new_targets = graph(images, targets, [5, 6])
  static = [shape.as_list() for shape in graph.get_concrete_function().output_shapes]
  assert static == [[None, 16, 24, channels], spec.shape.as_list()]
  assert found.dtype == tf.float32 and found.shape == images.shape
  assert new_targets.dtype == spec.dtype and new_targets.shape == targets.shape
  assert np.all(np.isfinite(found)) and np.min(found) >= 0 and np.max(found) <= 255
  # The same as step by step.
  np.testing.assert_allclose(found, augment(images, targets, (5, 6), **GEOMETRIC, **COLOURS)[0], atol=0.1)


def test_colours_leave_labels_and_places_alone():
  images, masks, _ = drawn(3)
  same, new_masks = augment(images, masks, **{name: COLOURS[name] for name in ("channel_gain", "gamma")})
  np.testing.assert_array_equal(new_masks, masks)
  assert np.all(same[images == 0] == 0)


def test_a_box_of_which_too_little_is_left_is_no_target():
  shares = (0.01, 0.5, 1.0)
  counts = np.zeros(3)
  for seed in range(8):
    images, _, boxes = drawn(seed)
    for at, share in enumerate(shares):
      _, found = augment(images, boxes, (seed, 5), max_scale=4.0, min_visible=share)
      counts[at] += np.count_nonzero(found[..., 4] >= 0)
  assert counts[0] > counts[1] > counts[2] > 0


def test_nothing_on_is_none():
  assert make_dense_augment(DenseAugmentationConfig(), MaskLabels()) is None
  assert not DenseAugmentationConfig(**COLOURS, mosaic=1.0).moves
  for name, value in GEOMETRIC.items():
    if name not in ("mosaic", "min_visible"):
      assert DenseAugmentationConfig(**{name: value}).moves, name
  for name, value in {**GEOMETRIC, **COLOURS}.items():
    step = make_dense_augment(DenseAugmentationConfig(**{name: value}), MaskLabels())
    assert (step is None) == (name == "min_visible"), name


@pytest.mark.parametrize(
  "settings, message",
  [
    ({"rotation": 3}, "rotation"),
    ({"min_scale": 1.5}, "min_scale"),
    ({"max_scale": 0.5}, "max_scale"),
    # A side of no length.
    ({"aspect": 1.0}, "aspect"),
    ({"gamma": 0.5}, "gamma"),
    ({"rotation_degrees": 90, "min_visible": 0.95}, "takes out nearly all boxes"),
  ],
)
def test_settings_that_make_no_sense(settings, message):
  with pytest.raises(pydantic.ValidationError, match=message):
    DenseAugmentationConfig(**settings)
