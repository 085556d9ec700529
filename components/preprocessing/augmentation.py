"""Augmentation of training pictures: what is on and how strong, and the function that does it.

The command line reads this module for the configuration: TensorFlow and Keras are imported inside functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from components.config import Fraction, Positive, Section


class AugmentationConfig(Section):
  """Random changes to training pictures, drawn anew for each picture. Everything is off by default."""

  horizontal_flip: bool = False
  # Largest shift each way, as a share of the side; at least one pixel.
  shift_fraction: Fraction = 0.0
  # Pixels added on each side before a random crop back to the old size: a shift by up to as many pixels.
  crop_padding_px: Annotated[int, Field(ge=0)] = 0
  # Largest turn each way.
  rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
  # What shifts, crops and rotations put where there was no picture: its mirror image, its edge, or black.
  fill: Literal["reflect", "edge", "zeros"] = "reflect"
  # Largest change up or down, as a share of the range [0, 255].
  brightness: Fraction = 0.0
  # Largest change up or down of the distance from the picture's mean, as a share of it.
  contrast: Fraction = 0.0
  # Largest change up or down of the distance from grey, as a share of it. Colour pictures only.
  saturation: Fraction = 0.0
  # Largest turn of the colour wheel each way; 0.5 is half a turn. Colour pictures only.
  hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
  # Side of the erased square, as a share of the picture's shorter side.
  cutout_fraction: Fraction = 0.0
  # Pictures and targets are mixed in pairs with a weight from Beta(alpha, alpha).
  mixup_alpha: Annotated[float, Field(ge=0, le=10)] = 0.0
  # 1 is the largest magnitude of the paper (30 of 30).
  rand_augment_magnitude: Fraction = 0.0
  rand_augment_num_ops: Positive = 2
  # Augmented copies of each training example, written before training; 0: augmented during training only.
  # Copies are augmented again during training, like any other example.
  copies: Annotated[int, Field(ge=0, le=100)] = 0

  @pydantic.model_validator(mode="after")
  def _copies_differ(self):
    if self.copies and not self.changes_images:
      raise ValueError(
        f"copies is {self.copies}, but copies would equal their originals: switch on an augmentation (mixup "
        "does not count, it needs two pictures) or set copies to 0"
      )
    return self

  @property
  def changes_images(self) -> bool:
    """Whether anything is on that changes a picture by itself (mixup takes two)."""
    other = {"fill", "mixup_alpha", "rand_augment_num_ops", "copies"}
    return any(self.model_dump(exclude=other).values())


def make_augment(config: AugmentationConfig) -> Callable[[Any, Any, Any], tuple[Any, Any]] | None:
  """The augmentation of training batches.

  Args:
    config: what is on.

  Returns:
    None if nothing is on; otherwise a function of
      images: float32 [batch, height, width, channels] in [0, 255], all but the batch static;
      targets: float32 [batch, classes], or None if mixup is off;
      seed: int32 [2];
    that returns images and targets of the same shapes and depends on its arguments alone.
  """
  if not config.changes_images and not config.mixup_alpha:
    return None
  from components.preprocessing.image_augmentation import SeedSequence, image_steps, make_mixup

  steps = image_steps(config)
  mixup = make_mixup(config.mixup_alpha) if config.mixup_alpha else None

  def augment(images: Any, targets: Any, seed: Any) -> tuple[Any, Any]:
    seeds = SeedSequence(seed)
    shape = images.shape
    for step in steps:
      images = step(images, seeds)
    if mixup:
      images, targets = mixup(images, targets, seeds)
    images.set_shape(shape)
    return images, targets

  return augment


def make_example_augment(config: AugmentationConfig) -> Callable[[Any, Any], Any] | None:
  """The augmentation of single pictures, each with a seed of its own, whatever batch it comes in. No mixup.

  Args:
    config: what is on.

  Returns:
    None if nothing is on; otherwise a function of
      images: uint8 [batch, height, width, channels], all but the batch static;
      seeds: int32 [batch, 2];
    that returns uint8 images of the same shape.
  """
  augment = make_augment(config.model_copy(update={"mixup_alpha": 0.0}))
  if augment is None:
    return None
  import tensorflow as tf

  def augment_one(image_and_seed: tuple[Any, Any]) -> Any:
    image, seed = image_and_seed
    augmented, _ = augment(tf.cast(image[tf.newaxis], tf.float32), None, seed)
    return tf.cast(tf.clip_by_value(tf.round(augmented[0]), 0, 255), tf.uint8)

  def augment_each(images: Any, seeds: Any) -> Any:
    signature = tf.TensorSpec(images.shape[1:], tf.uint8)
    return tf.map_fn(augment_one, (images, seeds), fn_output_signature=signature)

  return augment_each
