"""Pictures as TensorFlow sees them: decoded, brought to one scale, measured, stored as bytes, normalized.

Everything here is TensorFlow ops, so that the Transform stage, training and the served signatures run the
same graph. The normalizations themselves are in normalization.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
  "decode_and_scale_masks",
  "decode_with_sizes",
  "global_contrast_normalize",
  "local_contrast_normalize",
  "pack_uint8",
  "pixel_features",
  "placement",
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
  return decode_with_sizes(encoded, height, width, channels, scaling)[0]


def decode_with_sizes(
  encoded: Any, height: int, width: int, channels: int, scaling: Scaling
) -> tuple[tf.Tensor, tf.Tensor]:
  """`decode_and_scale`, and the size that each picture had: int64 [batch, 2], rows and columns."""
  if scaling not in ("stretch", "pad", "crop"):
    raise ValueError(f'scaling is "{scaling}"; make it "stretch", "pad" or "crop"')

  def decode(picture: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    pixels = tf.io.decode_image(picture, channels=channels, expand_animations=False)
    pixels = tf.ensure_shape(pixels, [None, None, channels])
    size = tf.shape(pixels)[:2]
    has_size = tf.reduce_all(tf.equal(size, [height, width]))
    pixels = tf.cond(has_size, lambda: pixels, lambda: _scale(pixels, height, width, scaling))
    return tf.ensure_shape(pixels, [height, width, channels]), tf.cast(size, tf.int64)

  signature = (tf.TensorSpec([height, width, channels], tf.uint8), tf.TensorSpec([2], tf.int64))
  return tf.map_fn(decode, tf.reshape(encoded, [-1]), fn_output_signature=signature)


def decode_and_scale_masks(
  encoded: Any, height: int, width: int, scaling: Scaling, void_id: int
) -> tf.Tensor:
  """Masks at the scale to which `decode_and_scale` brings their pictures; each pixel takes the nearest one's class.

  Args:
    encoded: string [batch] or [batch, 1], 8-bit grey PNG files of class ids.
    height: rows of the result, in pixels.
    width: columns of the result, in pixels.
    scaling: see `decode_and_scale`.
    void_id: what "pad" puts where there is no picture.

  Returns:
    uint8 [batch, height, width].
  """

  def decode(mask: tf.Tensor) -> tf.Tensor:
    # Where there are no labels, in serving, tf.Transform puts an empty string in their place.
    nothing = tf.fill([height, width, 1], tf.constant(void_id, tf.uint8))
    ids = tf.cond(tf.strings.length(mask) > 0, lambda: tf.io.decode_png(mask, channels=1), lambda: nothing)
    # Shifted, so that the zeros of padding can be told from class 0.
    ids = tf.cast(ids, tf.int32) + 1
    scaled = _scale(ids, height, width, scaling, _resize_to_nearest)[..., 0]
    return tf.ensure_shape(tf.cast(tf.where(scaled == 0, void_id, scaled - 1), tf.uint8), [height, width])

  signature = tf.TensorSpec([height, width], tf.uint8)
  return tf.map_fn(decode, tf.reshape(encoded, [-1]), fn_output_signature=signature)


def placement(sizes: tf.Tensor, height: int, width: int, scaling: Scaling) -> tf.Tensor:
  """Where `decode_and_scale` puts pictures.

  Args:
    sizes: int64 [batch, 2], rows and columns of the pictures.
    height, width, scaling: see `decode_and_scale`.

  Returns:
    float32 [batch, 4]: a, b, c, d such that the place (x, y) of a picture, in pixels, comes to (a x + b, c y + d).
  """
  rows, columns = sizes[:, 0], sizes[:, 1]
  new_rows, new_columns = _new_size(rows, columns, height, width, scaling)
  top, left = _offset(new_rows, height), _offset(new_columns, width)
  values = [new_columns / columns, left, new_rows / rows, top]
  return tf.stack([tf.cast(value, tf.float32) for value in values], axis=-1)


def _new_size(
  rows: tf.Tensor, columns: tf.Tensor, height: int, width: int, scaling: Scaling
) -> tuple[tf.Tensor, tf.Tensor]:
  """Rows and columns of the resized picture, int64, before it is padded or cut."""
  rows, columns = tf.cast(rows, tf.int64), tf.cast(columns, tf.int64)
  all_rows, all_columns = (
    tf.fill(tf.shape(rows), tf.constant(height, tf.int64)),
    tf.fill(tf.shape(rows), tf.constant(width, tf.int64)),
  )
  if scaling == "stretch":
    return all_rows, all_columns
  # Compares rows/columns with height/width; whole numbers, so that every machine rounds alike.
  is_taller = rows * width > columns * height
  rows_at_width = tf.maximum((2 * rows * width + columns) // (2 * columns), 1)
  columns_at_height = tf.maximum((2 * columns * height + rows) // (2 * rows), 1)
  by_height = is_taller if scaling == "pad" else tf.logical_not(is_taller)
  return tf.where(by_height, all_rows, rows_at_width), tf.where(by_height, columns_at_height, all_columns)


def _offset(new_side: tf.Tensor, side: int) -> tf.Tensor:
  """Pixels before the picture, negative where it is cut: an odd pixel more is behind it."""
  half = tf.abs(new_side - side) // 2
  return tf.where(new_side > side, -half, half)


def _scale(
  pixels: tf.Tensor, height: int, width: int, scaling: Scaling, resize: Callable[..., tf.Tensor] | None = None
) -> tf.Tensor:
  """[rows, columns, channels] -> [height, width, channels] of the same dtype."""
  shape = tf.shape(pixels)
  new_rows, new_columns = _new_size(shape[0], shape[1], height, width, scaling)
  pixels = (resize or _resize)(pixels, tf.cast(new_rows, tf.int32), tf.cast(new_columns, tf.int32))
  top, left = tf.cast(_offset(new_rows, height), tf.int32), tf.cast(_offset(new_columns, width), tf.int32)
  if scaling == "stretch":
    return pixels
  if scaling == "crop":
    return pixels[-top : height - top, -left : width - left]
  bottom, right = height - tf.shape(pixels)[0] - top, width - tf.shape(pixels)[1] - left
  return tf.pad(pixels, [[top, bottom], [left, right], [0, 0]])


def _resize_to_nearest(pixels: tf.Tensor, rows: Any, columns: Any) -> tf.Tensor:
  return tf.image.resize(pixels, tf.stack([rows, columns]), "nearest")


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


def pixel_features(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
  """What the Transform stage keeps of pictures: their packed pixels, and the channels' statistics as columns.

  Args:
    pixels: uint8 [batch, height, width, channels], the same size throughout.

  Returns:
    pixels string [batch]; channel_mean and channel_stddev float32 [batch, channels], see `channel_statistics`.
  """
  mean, stddev = channel_statistics(pixels)
  rows = tf.ones_like(pixels[:, 0, 0, :], tf.float32)
  return {"pixels": pack_uint8(pixels), "channel_mean": rows * mean, "channel_stddev": rows * stddev}


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
