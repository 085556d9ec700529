"""Moves of pictures that take their labels along: boxes and masks go where the pixels go.

A move is a matrix, float32 [batch, 3, 3], from places (x, y, 1) in the old picture to places in the new one, in pixels;
the pixel of column 0 covers x from 0 to 1. Everything is TensorFlow ops; sizes are static.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

# Class id of boxes that are only there to fill a tensor, and of pixels that belong to no class.
NO_BOX = -1.0
VOID_ID = 255


def affine(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> tf.Tensor:
  """x' = a x + b y + c, y' = d x + e y + f; each float32 [batch]."""
  a, b, c, d, e, f = (tf.convert_to_tensor(value, tf.float32) for value in (a, b, c, d, e, f))
  zero, one = tf.zeros_like(a), tf.ones_like(a)
  return tf.reshape(tf.stack([a, b, c, d, e, f, zero, zero, one], axis=-1), [-1, 3, 3])


def translation(x_px: Any, y_px: Any) -> tf.Tensor:
  """A shift to the right and down; float32 [batch]."""
  x_px = tf.convert_to_tensor(x_px, tf.float32)
  zero, one = tf.zeros_like(x_px), tf.ones_like(x_px)
  return affine(one, zero, x_px, zero, one, y_px)


def scaling(x_factor: Any, y_factor: Any) -> tf.Tensor:
  """Larger by a factor, from the upper left corner; a negative factor mirrors. float32 [batch]."""
  zero = tf.zeros_like(x_factor)
  return affine(x_factor, zero, zero, zero, y_factor, zero)


def rotation(degrees: Any) -> tf.Tensor:
  """A turn around the upper left corner, clockwise as it is seen; float32 [batch]."""
  radians = degrees * (math.pi / 180)
  cos, sin, zero = tf.cos(radians), tf.sin(radians), tf.zeros_like(radians)
  return affine(cos, -sin, zero, sin, cos, zero)


def shear(degrees: Any) -> tf.Tensor:
  """Rows shifted to the right in proportion to their height; float32 [batch]."""
  zero, one = tf.zeros_like(degrees), tf.ones_like(degrees)
  return affine(one, tf.tan(degrees * (math.pi / 180)), zero, zero, one, zero)


def around_centre(moves: tf.Tensor, height: int, width: int) -> tf.Tensor:
  """Moves with the picture's middle as their fixed point in the place of its upper left corner."""
  half_x = tf.fill([tf.shape(moves)[0]], width / 2)
  half_y = tf.fill([tf.shape(moves)[0]], height / 2)
  return translation(half_x, half_y) @ moves @ translation(-half_x, -half_y)


def _lookup(moves: tf.Tensor) -> tf.Tensor:
  """What ImageProjectiveTransformV3 takes: from new pixel indices to old ones, float32 [batch, 8]."""
  half = tf.fill([tf.shape(moves)[0]], 0.5)
  backward = translation(-half, -half) @ tf.linalg.inv(moves) @ translation(half, half)
  return tf.reshape(backward, [-1, 9])[:, :8]


def move_images(images: tf.Tensor, moves: tf.Tensor) -> tf.Tensor:
  """float32 [batch, height, width, channels], moved; the picture's mean colour where there was nothing."""
  mean = tf.reduce_mean(images, axis=[1, 2], keepdims=True)
  moved = _project(images - mean, moves, "BILINEAR", 0.0) + mean
  return tf.ensure_shape(moved, images.shape)


def move_masks(masks: tf.Tensor, moves: tf.Tensor) -> tf.Tensor:
  """int32 [batch, height, width] of class ids, moved; `VOID_ID` where there was nothing."""
  moved = _project(tf.cast(masks, tf.float32)[..., tf.newaxis], moves, "NEAREST", float(VOID_ID))
  return tf.ensure_shape(tf.cast(moved[..., 0], tf.int32), masks.shape)


def _project(images: tf.Tensor, moves: tf.Tensor, interpolation: str, fill_value: float) -> tf.Tensor:
  return tf.raw_ops.ImageProjectiveTransformV3(
    images=images,
    transforms=_lookup(moves),
    output_shape=images.shape[1:3],
    fill_value=fill_value,
    interpolation=interpolation,
    fill_mode="CONSTANT",
  )


def move_boxes(boxes: tf.Tensor, moves: tf.Tensor, windows: tf.Tensor, min_visible: float) -> tf.Tensor:
  """Boxes around where the old boxes' corners go, cut off at a window.

  Args:
    boxes: float32 [batch, boxes, 5]: x_min, y_min, x_max, y_max in pixels, class id; class -1 is padding.
    moves: float32 [batch, 3, 3].
    windows: float32 [batch, 4]: x_min, y_min, x_max, y_max, what is seen of the new picture.
    min_visible: a box of which a smaller share of the area is left is taken out.

  Returns:
    float32 [batch, boxes, 5]; padding, and what was taken out, is zeros and class -1.
  """
  x_min, y_min, x_max, y_max, class_ids = tf.unstack(boxes, axis=-1)
  x = tf.stack([x_min, x_max, x_max, x_min], axis=-1)
  y = tf.stack([y_min, y_min, y_max, y_max], axis=-1)
  corners = tf.stack([x, y, tf.ones_like(x)], axis=-1)
  # [batch, boxes, 4 corners, 3]
  moved = tf.einsum("bncj,bij->bnci", corners, moves)
  low = tf.reduce_min(moved[..., :2], axis=2)
  high = tf.reduce_max(moved[..., :2], axis=2)
  windows = windows[:, tf.newaxis]
  seen_low = tf.maximum(low, windows[..., :2])
  seen_high = tf.minimum(high, windows[..., 2:])
  seen = tf.reduce_prod(tf.maximum(seen_high - seen_low, 0), axis=-1)
  whole = tf.reduce_prod(high - low, axis=-1)
  stays = (class_ids >= 0) & (seen > 0) & (seen >= min_visible * whole)
  found = tf.concat([seen_low, seen_high, class_ids[..., tf.newaxis]], axis=-1)
  nothing = tf.constant([0.0, 0.0, 0.0, 0.0, NO_BOX])
  return tf.where(stays[..., tf.newaxis], found, nothing)


def frame(num_images: Any, height: int, width: int) -> tf.Tensor:
  """The window that is the whole picture, float32 [batch, 4]."""
  return tf.tile(tf.constant([[0.0, 0.0, width, height]]), [num_images, 1])


def keep_boxes(boxes: tf.Tensor, count: int) -> tf.Tensor:
  """The `count` largest boxes of each picture, float32 [batch, count, 5]; padding comes last.

  Args:
    boxes: float32 [batch, boxes, 5], see `move_boxes`.
    count: how many; fewer boxes are filled up.
  """
  missing = tf.maximum(count - tf.shape(boxes)[1], 0)
  filler = tf.constant([0.0, 0.0, 0.0, 0.0, NO_BOX])
  boxes = tf.concat([boxes, tf.tile(filler[None, None], [tf.shape(boxes)[0], missing, 1])], axis=1)
  area = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
  area = tf.where(boxes[..., 4] >= 0, area, -1.0)
  order = tf.argsort(area, axis=1, direction="DESCENDING", stable=True)[:, :count]
  return tf.ensure_shape(tf.gather(boxes, order, batch_dims=1), [boxes.shape[0], count, 5])
