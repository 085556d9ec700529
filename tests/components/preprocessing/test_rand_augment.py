import numpy as np
import pytest
import tensorflow as tf

from components.preprocessing.image_augmentation import SeedSequence
from components.preprocessing.rand_augment import _operations, equalize, make_rand_augment

RNG = np.random.default_rng(9)


def numpy_equalize(plane):
  """Each value becomes the share of pixels up to it, the lowest value's share taken away, on 0..255."""
  values, counts = np.unique(plane, return_counts=True)
  if len(values) == 1:
    return plane
  shares = (np.cumsum(counts) - counts[0]) / (plane.size - counts[0])
  return np.round(255 * shares)[np.searchsorted(values, plane)]


@pytest.mark.parametrize("channels", [1, 3])
def test_equalize_spreads_each_channel_of_each_image(channels):
  images = RNG.integers(50, 120, (4, 8, 9, channels)).astype(np.float32)
  images[1] = 77
  images[2, ..., 0] = np.where(images[2, ..., 0] > 80, 255, 0)
  expected = np.empty_like(images)
  for index in np.ndindex(4, channels):
    expected[index[0], ..., index[1]] = numpy_equalize(images[index[0], ..., index[1]])
  np.testing.assert_allclose(equalize(tf.constant(images)), expected, atol=1)
  assert np.abs(equalize(tf.constant(images)) - expected).mean() < 0.05


@pytest.mark.parametrize("channels", [1, 3])
def test_every_operation_alone(channels):
  images = tf.constant(RNG.integers(20, 230, (6, 9, 11, channels)).astype(np.float32))
  operations = _operations(0.6, "reflect")
  assert len(operations) == 14
  unchanged = []
  for index, operation in enumerate(operations):
    result = operation(images, SeedSequence(tf.constant([1, 2]))).numpy()
    assert result.shape == images.shape
    assert result.min() >= 0
    assert result.max() <= 255.001
    if np.array_equal(result, images):
      unchanged.append(index)
  # The identity; and colour, which grey images do not have.
  assert unchanged == ([0] if channels == 3 else [0, 5])


def test_magnitude_zero_leaves_all_but_the_two_operations_without_strength():
  images = tf.constant(RNG.integers(20, 230, (6, 9, 11, 3)).astype(np.float32))
  for index, operation in enumerate(_operations(0.0, "reflect")):
    if index not in (1, 2):
      np.testing.assert_allclose(operation(images, SeedSequence(tf.constant([1, 2]))), images, atol=1e-3)


def test_images_draw_different_operations():
  image = RNG.integers(20, 230, (1, 9, 11, 3)).astype(np.float32)
  images = tf.constant(np.tile(image, (64, 1, 1, 1)))
  result = make_rand_augment(0.5, 1, "edge")(images, SeedSequence(tf.constant([3, 3]))).numpy()
  is_same = [np.array_equal(one, image[0]) for one in result]
  # The identity is one of 14.
  assert 1 <= sum(is_same) <= 14
  assert len({one.tobytes() for one in result}) > 40
