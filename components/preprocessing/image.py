"""Pictures as TensorFlow sees them: decoded, brought to one scale, measured, stored as bytes, normalized.

Everything here is TensorFlow ops, so that the Transform stage, training and the served signatures run the
same graph. The normalizations themselves are in normalization.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import tensorflow as tf

from components.preprocessing.normalization import (
  NormalizeImages,
  global_contrast_normalize,
  local_contrast_normalize,
  standardize,
)

__all__ = [
  "MIN_STDDEV",
  "NormalizeImages",
  "Scaling",
  "channel_statistics",
  "decode_and_scale",
  "global_contrast_normalize",
  "local_contrast_normalize",
  "pack_uint8",
  "standardize",
  "unpack_uint8",
]

Scaling = Literal["stretch", "pad", "crop"]

# Rounding to whole pixel values alone has this standard deviation, sqrt(1/12): a channel that varies less has
# nothing that dividing by its standard deviation could bring out, and nothing may be divided by zero.
MIN_STDDEV = math.sqrt(1 / 12)


def decode_and_scale(encoded: Any, height: int, width: int, channels: int, scaling: Scaling) -> tf.Tensor:
  """Decodes pictures and brings them to one scale; one that has the size already keeps every pixel as it is.

  Args:
    encoded: string [batch] or [batch, 1], JPEG, PNG, BMP or GIF (its first frame).
    height: rows of the result, in pixels.
    width: columns of the result, in pixels.
    channels: 1 (grey) or 3 (RGB).
    scaling: "stretch" changes the aspect ratio; "pad" keeps it, fits the picture inside and fills up with
      zeros on both sides; "crop" keeps it, fills the frame and cuts off what sticks out on both sides.

  Returns:
    uint8 [batch, height, width, channels].

  Raises:
    ValueError: if `scaling` is none of the three.
    tf.errors.InvalidArgumentError: when run, if a picture cannot be decoded.
  """
  if scaling not in ("stretch", "pad", "crop"):
    raise ValueError(f'scaling is "{scaling}"; make it "stretch", "pad" or "crop"')

  def decode(picture: tf.Tensor) -> tf.Tensor:
    pixels = tf.io.decode_image(picture, channels=channels, expand_animations=False)
    pixels = tf.ensure_shape(pixels, [None, None, channels])
    has_size = tf.reduce_all(tf.equal(tf.shape(pixels)[:2], [height, width]))
    pixels = tf.cond(has_size, lambda: pixels, lambda: _scale(pixels, height, width, scaling))
    return tf.ensure_shape(pixels, [height, width, channels])

  signature = tf.TensorSpec([height, width, channels], tf.uint8)
  return tf.map_fn(decode, tf.reshape(encoded, [-1]), fn_output_signature=signature)


def _scale(pixels: tf.Tensor, height: int, width: int, scaling: Scaling) -> tf.Tensor:
  """uint8 [rows, columns, channels] -> uint8 [height, width, channels]."""
  if scaling == "stretch":
    return _resize(pixels, height, width)
  shape = tf.cast(tf.shape(pixels), tf.int64)
  rows, columns = shape[0], shape[1]
  # Compares rows/columns with height/width; whole numbers, so that every machine rounds alike.
  is_taller = rows * width > columns * height
  rows_at_width = tf.maximum((2 * rows * width + columns) // (2 * columns), 1)
  columns_at_height = tf.maximum((2 * columns * height + rows) // (2 * rows), 1)
  by_height = is_taller if scaling == "pad" else tf.logical_not(is_taller)
  new_rows = tf.cast(tf.where(by_height, tf.constant(height, tf.int64), rows_at_width), tf.int32)
  new_columns = tf.cast(tf.where(by_height, columns_at_height, tf.constant(width, tf.int64)), tf.int32)
  pixels = _resize(pixels, new_rows, new_columns)
  if scaling == "crop":
    top, left = (new_rows - height) // 2, (new_columns - width) // 2
    return pixels[top : top + height, left : left + width]
  top, left = (height - new_rows) // 2, (width - new_columns) // 2
  bottom, right = height - new_rows - top, width - new_columns - left
  return tf.pad(pixels, [[top, bottom], [left, right], [0, 0]])


def _resize(pixels: tf.Tensor, rows: Any, columns: Any) -> tf.Tensor:
  """Resizes a uint8 picture: by the mean over areas where no side grows, else bilinear with antialiasing."""
  size = tf.stack([rows, columns])
  shape = tf.shape(pixels)[:2]

  def resize(method: str) -> tf.Tensor:
    scaled = tf.image.resize(pixels, size, method, antialias=method == "bilinear")
    return tf.cast(tf.clip_by_value(tf.round(scaled), 0, 255), tf.uint8)

  def resize_changed() -> tf.Tensor:
    return tf.cond(tf.reduce_all(size <= shape), lambda: resize("area"), lambda: resize("bilinear"))

  return tf.cond(tf.reduce_all(tf.equal(size, shape)), lambda: pixels, resize_changed)


def channel_statistics(pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Mean and standard deviation of each channel over the whole training set, inside a `preprocessing_fn`.

  The standard deviation is at least `MIN_STDDEV`.

  Args:
    pixels: uint8 [batch, height, width, channels], the same size throughout.

  Returns:
    float32 [channels] and float32 [channels], the results of a full pass by tf.Transform's analyzers.
  """
  import tensorflow_transform as tft

  # Sums along a row are exact in int32, those over rows in float64; float64 pixels would take twice the room.
  values = tf.cast(pixels, tf.int32)
  num_pixels = pixels.shape[1] * pixels.shape[2]

  def image_mean(quantity: tf.Tensor) -> tf.Tensor:
    rows = tf.cast(tf.reduce_sum(quantity, axis=2), tf.float64)
    return tf.reduce_sum(rows, axis=1) / num_pixels

  # All images have the same number of pixels: the mean of their means is the mean of all pixels.
  mean = tft.mean(image_mean(values), reduce_instance_dims=False)
  mean_of_squares = tft.mean(image_mean(values * values), reduce_instance_dims=False)
  variance = tf.maximum(mean_of_squares - mean * mean, MIN_STDDEV**2)
  return tf.cast(mean, tf.float32), tf.cast(tf.sqrt(variance), tf.float32)


def pack_uint8(images: tf.Tensor) -> tf.Tensor:
  """Raw bytes of each image, so that a tf.Example can hold it.

  Args:
    images: uint8 [batch, ...], all but the batch static.

  Returns:
    string [batch], one byte a value, the last axis running fastest.
  """
  size = math.prod(images.shape[1:])
  # No op turns numbers into raw bytes; a serialized tensor ends in them. One at a time: more run no faster.
  serialized = tf.map_fn(
    tf.io.serialize_tensor, images, fn_output_signature=tf.TensorSpec([], tf.string), parallel_iterations=1
  )
  return tf.strings.substr(serialized, -size, size)


def unpack_uint8(strings: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
  """The images that `pack_uint8` packed.

  Args:
    strings: string [batch] or [batch, 1].
    shape: of one image.

  Returns:
    uint8 [batch, *shape].

  Raises:
    tf.errors.InvalidArgumentError: when run, if a string has another length than `shape` asks for.
  """
  strings = tf.reshape(strings, [-1])
  values = tf.io.decode_raw(strings, tf.uint8)
  images = tf.reshape(values, [tf.shape(strings)[0], *shape])
  return tf.ensure_shape(images, [strings.shape[0], *shape])
