import subprocess
import sys

import numpy as np
import pydantic
import pytest
import tensorflow as tf

from components.preprocessing.augmentation import (
  AugmentationConfig,
  make_augment,
  make_example_augment,
)

RNG = np.random.default_rng(5)
EACH = [
  {"horizontal_flip": True},
  {"shift_fraction": 0.2},
  {"crop_padding_px": 3, "fill": "zeros"},
  {"rotation_degrees": 20, "fill": "edge"},
  {"brightness": 0.3},
  {"contrast": 0.5},
  {"saturation": 0.5, "hue": 0.1},
  {"cutout_fraction": 0.4},
  {"mixup_alpha": 0.4},
  {"rand_augment_magnitude": 0.5, "rand_augment_num_ops": 1},
]
ALL = {name: value for one in EACH for name, value in one.items()}


def batch(num_images=8, channels=3):
  images = RNG.integers(0, 256, (num_images, 10, 12, channels)).astype(np.float32)
  return tf.constant(images), tf.one_hot(np.arange(num_images) % 4, 4)


@pytest.mark.parametrize("settings", [*EACH, ALL], ids=lambda settings: next(iter(settings)))
def test_result_depends_on_the_seed_alone(settings):
  images, targets = batch()
  augment = make_augment(AugmentationConfig(**settings))
  seed = tf.constant([3, 4])
  eager = augment(images, targets, seed)
  again = make_augment(AugmentationConfig(**settings))(images, targets, seed)
  np.testing.assert_array_equal(eager[0], again[0])
  np.testing.assert_array_equal(eager[1], again[1])
  other, _ = augment(images, targets, tf.constant([3, 5]))
  assert not np.array_equal(eager[0], other)
  assert not np.array_equal(eager[0], images)
  assert tf.reduce_min(eager[0]) >= 0
  assert tf.reduce_max(eager[0]) <= 255.001

  seeds = tf.data.Dataset.from_tensor_slices([[3, 4], [3, 5]])
  mapped = seeds.map(lambda one: augment(images, targets, one))
  assert mapped.element_spec[0] == tf.TensorSpec(images.shape, tf.float32)
  for (in_graph, in_graph_targets), expected in zip(mapped, (eager[0], other), strict=True):
    np.testing.assert_allclose(in_graph, expected, atol=1e-2)
    np.testing.assert_allclose(tf.reduce_sum(in_graph_targets, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("settings", EACH, ids=lambda settings: next(iter(settings)))
def test_each_image_gets_its_own_change(settings):
  one, targets = batch(1)
  images = tf.tile(one, [24, 1, 1, 1])
  if "mixup_alpha" in settings:
    images += tf.reshape(tf.range(24, dtype=tf.float32), [-1, 1, 1, 1])
  augment = make_augment(AugmentationConfig(**settings))
  augmented, _ = augment(images, tf.tile(targets, [24, 1]), tf.constant([1, 2]))
  distinct = {image.numpy().tobytes() for image in augmented}
  assert len(distinct) >= (2 if "horizontal_flip" in settings else 8)


def test_grey_images():
  images, targets = batch(channels=1)
  augmented, _ = make_augment(AugmentationConfig(**ALL))(images, targets, tf.constant([0, 1]))
  assert augmented.shape == images.shape
  assert np.isfinite(augmented).all()
  recolour = make_augment(AugmentationConfig(saturation=0.5, hue=0.2))
  np.testing.assert_array_equal(recolour(images, targets, tf.constant([0, 1]))[0], images)


def test_batch_size_may_be_unknown():
  images, targets = batch()
  augment = make_augment(AugmentationConfig(**ALL))
  graph = tf.function(
    augment,
    input_signature=[
      tf.TensorSpec([None, *images.shape[1:]]),
      tf.TensorSpec([None, 4]),
      tf.TensorSpec([2], tf.int32),
    ],
  )
  expected = augment(images, targets, tf.constant([9, 9]))
  augmented = graph(images, targets, tf.constant([9, 9]))
  np.testing.assert_allclose(augmented[0], expected[0], atol=1e-2)
  assert graph(images[:1], targets[:1], tf.constant([9, 9]))[0].shape == (1, 10, 12, 3)


def test_an_example_is_augmented_alike_in_any_batch():
  images, _ = batch()
  pixels = tf.cast(images, tf.uint8)
  seeds = tf.constant(RNG.integers(-(2**31), 2**31, (8, 2)), tf.int32)
  augment = make_example_augment(AugmentationConfig(**ALL))
  together = augment(pixels, seeds)
  assert together.dtype == tf.uint8
  assert together.shape == pixels.shape
  order = [5, 2, 7]
  np.testing.assert_array_equal(
    augment(tf.gather(pixels, order), tf.gather(seeds, order)), tf.gather(together, order)
  )
  assert not np.array_equal(together, augment(pixels, seeds + 1))
  without_mixup = {name: value for name, value in ALL.items() if name != "mixup_alpha"}
  np.testing.assert_array_equal(
    together, make_example_augment(AugmentationConfig(**without_mixup))(pixels, seeds)
  )


def test_nothing_on_is_none():
  assert make_augment(AugmentationConfig()) is None
  assert make_augment(AugmentationConfig(fill="edge", rand_augment_num_ops=3)) is None
  assert make_example_augment(AugmentationConfig(mixup_alpha=0.2)) is None


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"copies": 2}, "copies is 2"),
    ({"copies": 2, "mixup_alpha": 0.2}, "copies is 2"),
    ({"flip": True}, "flip"),
    ({"hue": 0.6}, "hue"),
    ({"cutout_fraction": -0.1}, "cutout_fraction"),
    ({"fill": "black"}, "fill"),
  ],
)
def test_wrong_settings_are_errors(settings, message):
  with pytest.raises(pydantic.ValidationError, match=message):
    AugmentationConfig(**settings)


def test_configuration_is_read_without_tensorflow():
  code = (
    "import sys, components.preprocessing.augmentation as module; module.AugmentationConfig(hue=0.1);"
    "sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras', 'tensorflow_transform')))"
  )
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
