"""Random moves of a batch of pictures and of what is known about their pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import tensorflow as tf

from components.preprocessing import geometry
from components.preprocessing.dense_augmentation import DenseAugmentationConfig
from components.preprocessing.image_augmentation import SeedSequence

# Between which the corner of a mosaic's four parts lies, as a share of the sides, and the scale of each part is drawn.
_MOSAIC_CORNER = (0.3, 0.7)
_MOSAIC_SCALE = (0.5, 1.0)


@dataclasses.dataclass(frozen=True)
class BoxLabels:
  """Targets are boxes, float32 [batch, boxes, 5]: x_min, y_min, x_max, y_max in pixels, class id or -1.

  `min_visible` is the share of a box that has to stay in the picture.
  """

  min_visible: float

  def move(self, images: tf.Tensor, boxes: tf.Tensor, moves: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Pictures and boxes, moved."""
    windows = geometry.frame(tf.shape(images)[0], *images.shape[1:3])
    return geometry.move_images(images, moves), geometry.move_boxes(boxes, moves, windows, self.min_visible)

  def piece(self, parts: list[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]) -> tf.Tensor:
    """The boxes of several pictures in one: (boxes, moves, windows) of each. As many stay as one had room for."""
    moved = [geometry.move_boxes(boxes, moves, windows, self.min_visible) for boxes, moves, windows in parts]
    return geometry.keep_boxes(tf.concat(moved, axis=1), parts[0][0].shape[1])


@dataclasses.dataclass(frozen=True)
class MaskLabels:
  """Targets are class ids, int32 [batch, height, width]."""

  def move(self, images: tf.Tensor, masks: tf.Tensor, moves: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Pictures and masks, moved."""
    return geometry.move_images(images, moves), geometry.move_masks(masks, moves)

  def piece(self, parts: list[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]) -> tf.Tensor:
    """The masks of several pictures in one: (masks, moves, windows) of each."""
    pieced = None
    for masks, moves, windows in parts:
      moved = geometry.move_masks(masks, moves)
      pieced = moved if pieced is None else tf.where(inside(windows, *masks.shape[1:3]), moved, pieced)
    return pieced


def inside(windows: tf.Tensor, height: int, width: int) -> tf.Tensor:
  """bool [batch, height, width]: pixels whose middle lies in the window, float32 [batch, 4]."""
  x, y = tf.range(width, dtype=tf.float32) + 0.5, tf.range(height, dtype=tf.float32) + 0.5
  columns = (x >= windows[:, :1]) & (x < windows[:, 2:3])
  rows = (y >= windows[:, 1:2]) & (y < windows[:, 3:])
  return rows[:, :, tf.newaxis] & columns[:, tf.newaxis]


def random_moves(config: DenseAugmentationConfig, images: tf.Tensor, seeds: SeedSequence) -> tf.Tensor:
  """A move for each picture: mirrored, turned, sheared and scaled around the middle, then put at a random place."""
  count = tf.shape(images)[0]
  height, width = images.shape[1:3]

  def uniform(low: float, high: float) -> tf.Tensor:
    return tf.random.stateless_uniform([count], seeds.next(), low, high)

  def sign(is_on: bool) -> tf.Tensor:
    return tf.where(uniform(0, 1) < 0.5, -1.0, 1.0) if is_on else tf.ones([count])

  # Equally likely to be twice as large and half as large.
  scale = tf.exp(uniform(tf.math.log(config.min_scale), tf.math.log(config.max_scale)))
  stretch = tf.sqrt(uniform(1 - config.aspect, 1 + config.aspect)) if config.aspect else tf.ones([count])
  moves = geometry.scaling(
    sign(config.horizontal_flip) * scale * stretch, sign(config.vertical_flip) * scale / stretch
  )
  if config.shear_degrees:
    moves = geometry.shear(uniform(-config.shear_degrees, config.shear_degrees)) @ moves
  if config.rotation_degrees:
    moves = geometry.rotation(uniform(-config.rotation_degrees, config.rotation_degrees)) @ moves
  moves = geometry.around_centre(moves, height, width)
  # What sticks out, or is left free, on each side.
  x_room = tf.abs(scale * stretch - 1) * (width / 2)
  y_room = tf.abs(scale / stretch - 1) * (height / 2)
  return geometry.translation(x_room * uniform(-1, 1), y_room * uniform(-1, 1)) @ moves


def make_mosaic(
  probability: float, labels: BoxLabels | MaskLabels
) -> Callable[[tf.Tensor, tf.Tensor, SeedSequence], tuple[tf.Tensor, tf.Tensor]]:
  """Pieces pictures together from four of the batch; each part is scaled and touches the common corner.

  Source: Bochkovskiy et al. 2020, arXiv:2004.10934, section 3.3.
  """

  def step(images: tf.Tensor, targets: tf.Tensor, seeds: SeedSequence) -> tuple[tf.Tensor, tf.Tensor]:
    count = tf.shape(images)[0]
    height, width = images.shape[1:3]

    def uniform(low: float, high: float) -> tf.Tensor:
      return tf.random.stateless_uniform([count], seeds.next(), low, high)

    corner_x, corner_y = uniform(*_MOSAIC_CORNER) * width, uniform(*_MOSAIC_CORNER) * height
    zero, right, bottom = tf.zeros([count]), tf.fill([count], float(width)), tf.fill([count], float(height))
    pieced, parts = images, []
    for part in range(4):
      scale = uniform(*_MOSAIC_SCALE)
      is_right, is_lower = part % 2, part // 2
      # The part's own corner that touches the others is the one nearest to them.
      x_shift = corner_x if is_right else corner_x - scale * width
      y_shift = corner_y if is_lower else corner_y - scale * height
      moves = geometry.translation(x_shift, y_shift) @ geometry.scaling(scale, scale)
      window = tf.stack(
        [
          corner_x if is_right else zero,
          corner_y if is_lower else zero,
          right if is_right else corner_x,
          bottom if is_lower else corner_y,
        ],
        axis=-1,
      )
      moved = geometry.move_images(tf.roll(images, part, 0), moves)
      pieced = tf.where(inside(window, height, width)[..., tf.newaxis], moved, pieced)
      parts.append((tf.roll(targets, part, 0), moves, window))
    chosen = uniform(0, 1) < probability
    joined = labels.piece(parts)
    images = tf.where(chosen[:, None, None, None], pieced, images)
    return images, tf.where(chosen[:, None, None], joined, targets)

  return step
