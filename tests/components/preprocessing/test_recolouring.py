"""Changes of colour and sharpness: how far each goes, and that pixels stay where they are."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from components.preprocessing.dense_augmentation import DenseAugmentationConfig
from components.preprocessing.image_augmentation import SeedSequence
from components.preprocessing.recolouring import colour_steps

RNG = np.random.default_rng(2)
LUMA = np.array([0.299, 0.587, 0.114])
# Every setting that changes colours, each alone.
SETTINGS = {
  "brightness": 0.4,
  "contrast": 0.4,
  "saturation": 0.5,
  "hue": 0.2,
  "channel_gain": 0.3,
  "gamma": 2.0,
  "channel_shuffle": 1.0,
  "grey": 1.0,
  "blur_px": 2.0,
  "noise": 20.0,
}


def recoloured(images, number=1, **settings):
  found = tf.constant(images, tf.float32)
  seeds = SeedSequence(tf.constant([number, 9]))
  for step in colour_steps(DenseAugmentationConfig(**settings)):
    found = step(found, seeds)
  return found.numpy()


def flat(colour, num_images=200, height=4, width=5):
  """Pictures of one colour."""
  return np.ones((num_images, height, width, 1), np.float32) * np.array(colour, np.float32)


def noise(num_images=24, channels=3, low=0, high=255, height=12, width=15):
  return RNG.uniform(low, high, (num_images, height, width, channels)).astype(np.float32)


@pytest.mark.parametrize("name", SETTINGS)
def test_each_step_follows_from_the_seed_and_keeps_to_the_range(name):
  images = RNG.choice([0.0, 255.0, 100.0], (24, 12, 15, 3)).astype(np.float32)
  assert len(colour_steps(DenseAugmentationConfig(**{name: SETTINGS[name]}))) == 1
  first = recoloured(images, **{name: SETTINGS[name]})
  assert first.shape == images.shape and first.dtype == np.float32
  assert np.all(np.isfinite(first)) and first.min() >= 0 and first.max() <= 255
  np.testing.assert_array_equal(first, recoloured(images, **{name: SETTINGS[name]}))
  changed = np.abs(first - images).max(axis=(1, 2, 3)) > 0.5
  assert changed.mean() > 0.6
  if name != "grey":
    assert np.abs(first - recoloured(images, 2, **{name: SETTINGS[name]})).max() > 1


@pytest.mark.parametrize("name", SETTINGS)
def test_each_picture_is_drawn_anew(name):
  image = noise(1)
  found = recoloured(np.repeat(image, 24, axis=0), **{name: SETTINGS[name]})
  different = {one.tobytes() for one in found}
  # Of the six orders of channels and the one grey.
  assert len(different) >= {"channel_shuffle": 4, "grey": 1}.get(name, 20)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name not in ("blur_px", "noise")])
def test_what_a_pixel_becomes_does_not_depend_on_its_place(name):
  """Turned pictures are changed as their upright ones are, pixel by pixel."""
  images = noise(8)
  turned = images[:, ::-1, ::-1]
  first, second = (recoloured(some, **{name: SETTINGS[name]}) for some in (images, turned))
  np.testing.assert_allclose(first[:, ::-1, ::-1], second, atol=0.05)


@pytest.mark.parametrize("channels", [1, 3])
def test_static_shapes_and_grey_pictures(channels):
  steps = colour_steps(DenseAugmentationConfig(**SETTINGS))

  @tf.function(input_signature=[tf.TensorSpec([None, 6, 7, channels])])
  def graph(images):
    seeds = SeedSequence(tf.constant([1, 2]))
    for step in steps:
      images = step(images, seeds)
      assert images.shape.as_list() == [None, 6, 7, channels] and images.dtype == tf.float32
    return images

  found = graph(noise(5, channels, height=6, width=7))
  assert found.shape == (5, 6, 7, channels) and np.all(np.isfinite(found))


@pytest.mark.parametrize("name", ["saturation", "hue", "channel_shuffle", "grey"])
def test_grey_pictures_have_no_colour_to_change(name):
  images = noise(4, 1)
  np.testing.assert_allclose(recoloured(images, **{name: SETTINGS[name]}), images, atol=1e-3)


def test_brightness_goes_up_and_down_by_its_share_of_the_range():
  shifts = recoloured(flat([120, 120, 120]), brightness=0.25).mean(axis=(1, 2, 3)) - 120
  assert -63.76 <= shifts.min() < -58 and 58 < shifts.max() <= 63.76


def test_contrast_goes_up_and_down_around_the_mean():
  images = np.repeat(noise(1, low=100, high=155), 200, axis=0)
  factors = recoloured(images, contrast=0.5).std(axis=(1, 2, 3)) / images[0].std()
  assert 0.5 - 1e-3 <= factors.min() < 0.56 and 1.44 < factors.max() <= 1.5 + 1e-3


def test_each_channel_has_a_gain_of_its_own_within_the_share():
  found = recoloured(flat([60, 120, 180]), channel_gain=0.3)
  gains = found[:, 0, 0] / [60, 120, 180]
  assert np.all(gains >= 0.7 - 1e-5) and np.all(gains <= 1.3 + 1e-5)
  assert np.all(gains.min(axis=0) < 0.73) and np.all(gains.max(axis=0) > 1.27)
  assert np.abs(np.corrcoef(gains.T) - np.eye(3)).max() < 0.3
  np.testing.assert_allclose(found, np.broadcast_to(found[:, :1, :1], found.shape))
  assert recoloured(flat([250, 250, 250]), channel_gain=0.3).max() == 255


def test_gamma_bends_towards_both_sides_and_keeps_black_and_white():
  images = flat([0, 255, 63.75])
  found = recoloured(images, gamma=2.0)
  np.testing.assert_allclose(found[..., :2], images[..., :2], atol=1e-3)
  exponents = np.log(found[:, 0, 0, 2] / 255) / np.log(0.25)
  assert 0.5 - 1e-4 <= exponents.min() < 0.53 and 1.9 < exponents.max() <= 2 + 1e-4
  # As likely to be darker as to be lighter.
  assert 0.4 < np.mean(exponents > 1) < 0.6


def test_shuffled_channels_are_the_same_values_in_all_orders():
  found = recoloured(flat([10, 20, 30]), channel_shuffle=1.0)
  np.testing.assert_array_equal(found, np.broadcast_to(found[:, :1, :1], found.shape))
  orders = [tuple(colour) for colour in found[:, 0, 0].astype(int).tolist()]
  counts = [orders.count(order) for order in set(orders)]
  assert all(sorted(order) == [10, 20, 30] for order in orders)
  assert len(counts) == 6 and min(counts) >= 15


def test_grey_is_the_luminance():
  images = noise()
  expected = np.repeat((images @ LUMA)[..., None], 3, axis=-1)
  np.testing.assert_allclose(recoloured(images, grey=1.0), expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("name", ["grey", "channel_shuffle"])
def test_the_probability_is_that_of_a_picture(name):
  images = flat([10, 100, 200], 400)
  changed = np.any(recoloured(images, **{name: 0.3}) != images, axis=(1, 2, 3))
  # One order of six is the old one.
  expected = 0.3 * (5 / 6 if name == "channel_shuffle" else 1)
  assert expected - 0.08 < changed.mean() < expected + 0.08
  assert colour_steps(DenseAugmentationConfig(**{name: 0.0})) == []


def test_saturation_and_hue_keep_the_luminance():
  images = flat([100, 130, 120])
  for settings in ({"saturation": 0.5}, {"hue": 0.1}):
    found = recoloured(images, **settings)
    np.testing.assert_allclose(found @ LUMA, images @ LUMA, atol=0.3)
    assert np.ptp(found[:, 0, 0], axis=0).max() > 10


def test_blur_spreads_a_pixel_evenly_up_to_its_width():
  images = np.zeros((100, 21, 21, 2), np.float32)
  images[:, 10, 10] = 255
  found = recoloured(images, blur_px=1.5)
  np.testing.assert_allclose(found.sum(axis=(1, 2)), 255, rtol=1e-4)
  for mirrored in (found[:, ::-1], found[:, :, ::-1], found.transpose(0, 2, 1, 3)):
    np.testing.assert_allclose(found, mirrored, atol=1e-3)
  # Mixed with the most blurred one by a weight in [0, 1): variances are shares of the window's.
  at = np.arange(21) - 10
  variances = (found[..., 0].sum(axis=1) @ at**2) / 255
  window = np.exp(-((np.arange(-4, 5) / 1.5) ** 2) / 2)
  largest = (window @ np.arange(-4, 5) ** 2) / window.sum()
  assert 0 <= variances.min() < 0.1 * largest and 0.9 * largest < variances.max() <= largest + 1e-3


def test_blur_does_not_darken_the_borders():
  np.testing.assert_allclose(recoloured(flat([50, 100, 200]), blur_px=2.0), flat([50, 100, 200]), rtol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (8, 8)])
def test_a_blur_wider_than_the_picture(size):
  images = noise(4, height=size[0], width=size[1])
  found = recoloured(images, blur_px=10.0)
  assert np.all(np.isfinite(found)) and found.min() >= 0 and found.max() <= 255
  np.testing.assert_allclose(found.mean(axis=(1, 2)), images.mean(axis=(1, 2)), atol=12)
  assert np.all(found.std(axis=(1, 2)) <= images.std(axis=(1, 2)) + 1e-3)


def test_noise_has_no_bias_and_at_most_the_strength_given():
  images = flat([120, 130, 140], height=20, width=20)
  change = recoloured(images, noise=20.0) - images
  strengths = change.std(axis=(1, 2, 3))
  assert strengths.min() < 1 and 18 < strengths.max() < 21
  assert abs(change.mean()) < 0.3
  # Drawn for each value on its own.
  assert abs(np.corrcoef(change[..., 0].ravel(), change[..., 1].ravel())[0, 1]) < 0.05
