"""The single augmentations of pictures, as functions of a batch and a sequence of seeds.

Images are float32 [batch, height, width, channels] in [0, 255], all but the batch static, going in and coming
out. Keras's layers do the work where they are fast enough; beside each function that is written out stands
what Keras's layer takes for 128 pictures of 32x32x3 on one core.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from components.preprocessing.augmentation import AugmentationConfig

# (images, seeds) -> images
Step = Callable[[tf.Tensor, "SeedSequence"], tf.Tensor]

# Luminance of red, green and blue (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)
# RGB to YIQ, in which a turn of the hue is a turn of I and Q.
_RGB_TO_YIQ = (LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))

# Names of the fillings in Keras's layers.
KERAS_FILL_MODES = {"reflect": "reflect", "edge": "nearest", "zeros": "constant"}


class SeedSequence(keras.random.SeedGenerator):
  """Seeds that follow from a seed tensor alone. Keras's own generator counts in a variable.

  Args:
    seed: int32 [2].
  """

  def __init__(self, seed: tf.Tensor):
    # The parent's constructor makes the variable, which is what must not be: hence no super().__init__().
    self._seed = seed
    self._count = 0

  def next(self, ordered: bool = True) -> tf.Tensor:
    """int32 [2], another one at each call."""
    self._count += 1
    return tf.random.experimental.stateless_fold_in(self._seed, self._count)


def image_steps(config: AugmentationConfig) -> list[Step]:
  """What the configuration switches on, in the order in which it is applied; mixup apart."""
  from components.preprocessing.rand_augment import make_rand_augment

  steps: list[Step] = []
  if config.horizontal_flip or config.shift_fraction or config.crop_padding_px:
    steps.append(
      make_move(config.horizontal_flip, config.shift_fraction, config.crop_padding_px, config.fill)
    )
  if config.rotation_degrees:
    fill = KERAS_FILL_MODES[config.fill]
    layer = keras.layers.RandomRotation(config.rotation_degrees / 360, fill_mode=fill, dtype="float32")
    steps.append(from_layer(layer))
  if config.brightness:
    steps.append(from_layer(keras.layers.RandomBrightness(config.brightness, dtype="float32")))
  if config.contrast:
    # A single number would only ever raise the contrast.
    factor = (config.contrast, config.contrast)
    steps.append(from_layer(keras.layers.RandomContrast(factor, dtype="float32")))
  if config.saturation or config.hue:
    steps.append(make_recolour(config.saturation, config.hue))
  if config.rand_augment_magnitude:
    steps.append(make_rand_augment(config.rand_augment_magnitude, config.rand_augment_num_ops, config.fill))
  if config.cutout_fraction:
    steps.append(make_cutout(config.cutout_fraction))
  return steps


def from_layer(layer: Any) -> Step:
  """One of Keras's augmentation layers, with our seeds in the place of its own."""

  def step(images: tf.Tensor, seeds: SeedSequence) -> tf.Tensor:
    return layer.transform_images(images, layer.get_random_transformation(images, seed=seeds))

  return step


def make_move(horizontal_flip: bool, shift_fraction: float, crop_padding_px: int, fill: str) -> Step:
  """Flip with probability one half, shift and padded crop by whole pixels: one lookup of pixels for all.

  Keras's RandomFlip takes 6.4 ms, RandomTranslation 14 ms, RandomCrop cuts the whole batch alike; this 2 ms.
  """

  def source_positions(length: int, num_images: Any, seeds: SeedSequence) -> tf.Tensor:
    """int32 [batch, length]: where each row or column comes from, before filling."""
    positions = tf.tile(tf.range(length)[tf.newaxis], [num_images, 1])
    shift_px = max(1, round(shift_fraction * length)) if shift_fraction else 0
    for limit_px in (shift_px, crop_padding_px):
      if limit_px:
        positions += _uniform_int([num_images, 1], -limit_px, limit_px, seeds)
    return positions

  def step(images: tf.Tensor, seeds: SeedSequence) -> tf.Tensor:
    num_images = tf.shape(images)[0]
    height, width, channels = images.shape[1:]
    rows = source_positions(height, num_images, seeds)
    columns = source_positions(width, num_images, seeds)
    if horizontal_flip:
      flips = _uniform_int([num_images, 1], 0, 1, seeds)
      columns = tf.where(flips == 1, width - 1 - columns, columns)
    row_index, column_index = _fill_positions(rows, height, fill), _fill_positions(columns, width, fill)
    first = tf.range(num_images)[:, tf.newaxis] * height
    index = (first + row_index)[:, :, tf.newaxis] * width + column_index[:, tf.newaxis, :]
    moved = tf.gather(tf.reshape(images, [-1, channels]), index)
    if fill == "zeros" and (shift_fraction or crop_padding_px):
      inside = _is_inside(rows, height)[:, :, tf.newaxis] & _is_inside(columns, width)[:, tf.newaxis, :]
      moved *= tf.cast(inside, tf.float32)[..., tf.newaxis]
    return moved

  return step


def _uniform_int(shape: list[Any], low: int, high: int, seeds: SeedSequence) -> tf.Tensor:
  """int32, each of low..high (both included) equally likely."""
  return tf.random.stateless_uniform(shape, seeds.next(), low, high + 1, tf.int32)


def _is_inside(positions: tf.Tensor, length: int) -> tf.Tensor:
  return (positions >= 0) & (positions < length)


def _fill_positions(positions: tf.Tensor, length: int, fill: str) -> tf.Tensor:
  """Positions beyond the picture brought back into it: mirrored (c b a | a b c | c b a) or to the edge."""
  if fill == "reflect":
    positions = tf.math.floormod(positions, 2 * length)
    return tf.minimum(positions, 2 * length - 1 - positions)
  return tf.clip_by_value(positions, 0, length - 1)


def make_recolour(saturation: float, hue: float) -> Step:
  """Saturation and hue of colour pictures, as one 3x3 matrix each; grey pictures stay as they are.

  Saturation moves a colour from or towards the grey of the same luminance by a factor in 1 ± saturation; hue
  turns it by up to ±hue of a full turn in the YIQ space. Keras's layers work in HSV: 16 and 17 ms; this 3 ms.
  """
  to_yiq = tf.constant(_RGB_TO_YIQ)
  from_yiq = tf.linalg.inv(to_yiq)

  def step(images: tf.Tensor, seeds: SeedSequence) -> tf.Tensor:
    if images.shape[-1] != 3:
      return images
    num_images = tf.shape(images)[0]
    height, width = images.shape[1:3]
    factor = tf.random.stateless_uniform([num_images], seeds.next(), 1 - saturation, 1 + saturation)
    angle = tf.random.stateless_uniform([num_images], seeds.next(), -hue, hue) * (2 * math.pi)
    cos, sin = factor * tf.cos(angle), factor * tf.sin(angle)
    zero, one = tf.zeros_like(cos), tf.ones_like(cos)
    turn = tf.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], axis=-1)
    # A dot product on the right for the reason given in normalization.py.
    matrix = tf.tensordot(from_yiq @ tf.reshape(turn, [-1, 3, 3]), to_yiq, 1)
    pixels = tf.matmul(tf.reshape(images, [-1, height * width, 3]), matrix, transpose_b=True)
    return tf.clip_by_value(tf.reshape(pixels, [-1, height, width, 3]), 0, 255)

  return step


def make_cutout(fraction: float) -> Step:
  """Puts the picture's own mean colour into a square with its centre anywhere, so that it may stick out.

  Keras's RandomErasing keeps rectangles of random sides inside the picture: 16 ms; this 2 ms.

  Source: DeVries and Taylor 2017, arXiv:1708.04552
  """

  def covered(length: int, side_px: int, num_images: Any, seeds: SeedSequence) -> tf.Tensor:
    """bool [batch, length]: the rows or columns of the square."""
    start = _uniform_int([num_images, 1], 0, length - 1, seeds) - side_px // 2
    positions = tf.range(length)[tf.newaxis]
    return (positions >= start) & (positions < start + side_px)

  def step(images: tf.Tensor, seeds: SeedSequence) -> tf.Tensor:
    num_images = tf.shape(images)[0]
    height, width, channels = images.shape[1:]
    side_px = max(1, round(fraction * min(height, width)))
    rows = covered(height, side_px, num_images, seeds)
    columns = covered(width, side_px, num_images, seeds)
    # Whole rows of values: broadcasting over a last axis of three channels takes three times as long.
    is_erased = rows[:, :, tf.newaxis] & tf.repeat(columns, channels, axis=1)[:, tf.newaxis, :]
    mean = tf.tile(tf.reduce_mean(images, axis=[1, 2])[:, tf.newaxis], [1, 1, width])
    erased = tf.where(is_erased, mean, tf.reshape(images, [-1, height, width * channels]))
    return tf.reshape(erased, [-1, height, width, channels])

  return step


def make_mixup(alpha: float) -> Callable[[tf.Tensor, tf.Tensor, SeedSequence], tuple[tf.Tensor, tf.Tensor]]:
  """Each example becomes weight * itself + (1 - weight) * another one of the batch; its targets likewise.

  Source: Zhang et al. 2018, arXiv:1710.09412
  """
  layer = keras.layers.MixUp(alpha, dtype="float32")

  def mixup(images: tf.Tensor, targets: tf.Tensor, seeds: SeedSequence) -> tuple[tf.Tensor, tf.Tensor]:
    transformation = layer.get_random_transformation(images, seed=seeds)
    weight = transformation["mix_weight"]
    # Beta is drawn as a / (a + b) of two gamma values, which for a small alpha are both zero now and then.
    transformation["mix_weight"] = tf.where(tf.math.is_finite(weight), weight, tf.ones_like(weight))
    return layer.transform_images(images, transformation), layer.transform_labels(targets, transformation)

  return mixup
