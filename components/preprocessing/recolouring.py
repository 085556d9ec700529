"""Changes of colour and sharpness for pictures whose labels have places: pixels stay where they are."""

from __future__ import annotations

import math

import tensorflow as tf

from components.preprocessing.augmentation import AugmentationConfig
from components.preprocessing.dense_augmentation import DenseAugmentationConfig
from components.preprocessing.image_augmentation import LUMA, SeedSequence, Step, image_steps
from components.preprocessing.normalization import gaussian_weights

_SHARED = ("brightness", "contrast", "saturation", "hue")


def colour_steps(config: DenseAugmentationConfig) -> list[Step]:
  """What the configuration switches on, in the order in which it is applied."""
  steps: list[Step] = []
  if config.channel_shuffle:
    steps.append(_sometimes(config.channel_shuffle, _shuffle_channels))
  if config.channel_gain:
    steps.append(_make_gain(config.channel_gain))
  shared = {name: getattr(config, name) for name in _SHARED}
  steps += [_clipped(step) for step in image_steps(AugmentationConfig(**shared))]
  if config.gamma > 1:
    steps.append(_make_gamma(config.gamma))
  if config.grey:
    steps.append(_sometimes(config.grey, _to_grey))
  if config.blur_px:
    steps.append(_make_blur(config.blur_px))
  if config.noise:
    steps.append(_make_noise(config.noise))
  return steps


def _uniform(images: tf.Tensor, seeds: SeedSequence, low: float, high: float, channels: int = 1) -> tf.Tensor:
  """float32 [batch, 1, 1, channels]."""
  shape = [tf.shape(images)[0], 1, 1, channels]
  return tf.random.stateless_uniform(shape, seeds.next(), low, high)


def _clipped(step: Step) -> Step:
  return lambda images, seeds: tf.clip_by_value(step(images, seeds), 0, 255)


def _sometimes(probability: float, step: Step) -> Step:
  def apply(images: tf.Tensor, seeds: SeedSequence) -> tf.Tensor:
    changed = step(images, seeds)
    return tf.where(_uniform(images, seeds, 0, 1) < probability, changed, images)

  return apply


def _shuffle_channels(images: tf.Tensor, seeds: SeedSequence) -> tf.Tensor:
  order = tf.argsort(_uniform(images, seeds, 0, 1, images.shape[-1])[:, 0, 0], axis=-1)
  # A product with a permutation matrix: gathering along the last axis takes several times as long.
  matrix = tf.one_hot(order, images.shape[-1], axis=1)
  height, width, channels = images.shape[1:]
  pixels = tf.matmul(tf.reshape(images, [-1, height * width, channels]), matrix)
  return tf.reshape(pixels, [-1, height, width, channels])


def _make_gain(strength: float) -> Step:
  def step(images: tf.Tensor, seeds: SeedSequence) -> tf.Tensor:
    gains = _uniform(images, seeds, 1 - strength, 1 + strength, images.shape[-1])
    return tf.clip_by_value(images * gains, 0, 255)

  return step


def _make_gamma(largest: float) -> Step:
  def step(images: tf.Tensor, seeds: SeedSequence) -> tf.Tensor:
    exponents = tf.exp(_uniform(images, seeds, -math.log(largest), math.log(largest)))
    return 255 * tf.pow(tf.clip_by_value(images / 255, 0, 1), exponents)

  return step


def _to_grey(images: tf.Tensor, seeds: SeedSequence) -> tf.Tensor:
  if images.shape[-1] != 3:
    return images
  return tf.repeat(tf.tensordot(images, tf.constant(LUMA), 1)[..., tf.newaxis], 3, axis=-1)


def _make_blur(largest_px: float) -> Step:
  """Each picture is mixed with the most blurred one, by a random weight: one Gaussian for the batch."""

  def step(images: tf.Tensor, seeds: SeedSequence) -> tf.Tensor:
    over_rows = gaussian_weights(images.shape[1], largest_px)
    over_columns = gaussian_weights(images.shape[2], largest_px).T
    planes = tf.transpose(images, [0, 3, 1, 2])
    # A dot product on the right for the reason given in normalization.py.
    blurred = tf.transpose(tf.tensordot(tf.matmul(over_rows, planes), over_columns, 1), [0, 2, 3, 1])
    return images + _uniform(images, seeds, 0, 1) * (blurred - images)

  return step


def _make_noise(largest: float) -> Step:
  def step(images: tf.Tensor, seeds: SeedSequence) -> tf.Tensor:
    strength = _uniform(images, seeds, 0, largest)
    noise = tf.random.stateless_normal(tf.shape(images), seeds.next())
    return tf.clip_by_value(images + strength * noise, 0, 255)

  return step
