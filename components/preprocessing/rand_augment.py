"""RandAugment: a few operations, drawn at random for each picture, all of one strength."""

from __future__ import annotations

import keras
import tensorflow as tf

from components.preprocessing.image_augmentation import (
  KERAS_FILL_MODES,
  SeedSequence,
  Step,
  from_layer,
  make_recolour,
)


def make_rand_augment(magnitude: float, num_ops: int, fill: str) -> Step:
  """The 14 operations of the paper; each picture gets `num_ops` of them, drawn anew, with replacement.

  keras.layers.RandAugment is not used: it draws the operations for the whole batch together, computes each of
  them on every picture (380 ms for 128 of 32x32x3), equalizes over the batch, and brightens one way only. Its
  parts are used, each on the pictures that drew it.

  Args:
    magnitude: in [0, 1]; strengths are drawn up to this share of the paper's largest.
    num_ops: operations a picture.
    fill: see `AugmentationConfig.fill`.

  Returns:
    (images, seeds) -> images.

  Source: Cubuk et al. 2019, arXiv:1909.13719
  """
  operations = _operations(magnitude, KERAS_FILL_MODES[fill])

  def step(images: tf.Tensor, seeds: SeedSequence) -> tf.Tensor:
    seed = seeds.next()

    def one_round(index: tf.Tensor, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
      own_seeds = SeedSequence(tf.random.experimental.stateless_fold_in(seed, index))
      return index + 1, _apply_one_each(operations, images, own_seeds)

    # A loop in the graph: its operations take seconds to build, so they are built once and not once a round.
    return tf.while_loop(lambda index, _: index < num_ops, one_round, (0, images))[1]

  return step


def _apply_one_each(operations: list[Step], images: tf.Tensor, seeds: SeedSequence) -> tf.Tensor:
  """Draws an operation for each image and applies it to all images that drew it together."""
  num_images = tf.shape(images)[0]
  drawn = tf.random.stateless_uniform([num_images], seeds.next(), 0, len(operations), tf.int32)
  positions = tf.dynamic_partition(tf.range(num_images), drawn, len(operations))
  groups = tf.dynamic_partition(images, drawn, len(operations))
  changed = [_apply(operation, group, seeds) for operation, group in zip(operations, groups, strict=True)]
  return tf.ensure_shape(tf.dynamic_stitch(positions, changed), images.shape)


def _apply(operation: Step, images: tf.Tensor, seeds: SeedSequence) -> tf.Tensor:
  """One operation on the images that drew it. Not every operation takes an empty batch."""
  # Drawn before the condition: inside, a graph would draw where eager execution does not.
  own_seeds = SeedSequence(seeds.next())
  return tf.cond(tf.shape(images)[0] > 0, lambda: operation(images, own_seeds), lambda: images)


def _operations(magnitude: float, fill_mode: str) -> list[Step]:
  """At magnitude 1: rotation 30 degrees, shear 0.3, translation 0.45 of the side, posterization to 4 bits."""
  layers = keras.layers
  geometry = {"fill_mode": fill_mode, "dtype": "float32"}
  enhance = 0.9 * magnitude
  bits = 8 - round(4 * magnitude)
  return [
    lambda images, seeds: images,
    from_layer(layers.AutoContrast(dtype="float32")),
    lambda images, seeds: equalize(images),
    from_layer(layers.RandomRotation(30 / 360 * magnitude, **geometry)),
    _make_solarize(magnitude),
    make_recolour(saturation=enhance, hue=0.0),
    from_layer(layers.RandomPosterization((bits, bits), dtype="float32")),
    from_layer(layers.RandomContrast((enhance, enhance), dtype="float32")),
    # Keras adds where the paper multiplies: half as much is as bright at the middle of the range.
    from_layer(layers.RandomBrightness(enhance / 2, dtype="float32")),
    # 0.5 leaves a picture as it is.
    from_layer(layers.RandomSharpness((0.5 - enhance / 2, 0.5 + enhance / 2), dtype="float32")),
    from_layer(layers.RandomShear(x_factor=0.3 * magnitude, y_factor=0.0, **geometry)),
    from_layer(layers.RandomShear(x_factor=0.0, y_factor=0.3 * magnitude, **geometry)),
    from_layer(layers.RandomTranslation(0.0, 0.45 * magnitude, **geometry)),
    from_layer(layers.RandomTranslation(0.45 * magnitude, 0.0, **geometry)),
  ]


def _make_solarize(magnitude: float) -> Step:
  """Inverts pixels above a threshold, which sinks from 255 to 255 * (1 - magnitude)."""
  layer = keras.layers.Solarization(dtype="float32")

  def step(images: tf.Tensor, seeds: SeedSequence) -> tf.Tensor:
    shape = [tf.shape(images)[0], 1, 1, 1]
    thresholds = tf.random.stateless_uniform(shape, seeds.next(), 255 * (1 - magnitude), 255)
    return layer.transform_images(images, {"thresholds": thresholds, "additions": tf.zeros(shape)})

  return step


def equalize(images: tf.Tensor) -> tf.Tensor:
  """Spreads the values of each channel of each image evenly over [0, 255].

  keras.layers.Equalization takes one histogram over the whole batch.

  Args:
    images: float32 [batch, height, width, channels] in [0, 255], all but the batch static.

  Returns:
    float32, the same shape, whole numbers; a channel of one value is left as it is.
  """
  height, width, channels = images.shape[1:]
  planes = tf.reshape(tf.transpose(images, [0, 3, 1, 2]), [-1, height * width])
  values = tf.cast(planes, tf.int32)
  counts = tf.cumsum(tf.math.bincount(values, minlength=256, maxlength=256, axis=-1), axis=-1)
  # The lowest value that occurs goes to 0, the highest to 255.
  lowest = tf.gather(counts, tf.reduce_min(values, axis=-1, keepdims=True), batch_dims=1)
  above = tf.gather(counts, values, batch_dims=1) - lowest
  spread = height * width - lowest
  equalized = tf.round(255 * tf.cast(above, tf.float32) / tf.cast(tf.maximum(spread, 1), tf.float32))
  planes = tf.where(spread == 0, planes, equalized)
  return tf.transpose(tf.reshape(planes, [-1, channels, height, width]), [0, 2, 3, 1])
