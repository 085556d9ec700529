"""Augmentation of pictures whose labels have places: what is on and how strong, and the function that does it.

The command line reads this module for the configuration: TensorFlow is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import pydantic
from pydantic import Field

from components.config import Fraction, Section


class DenseAugmentationConfig(Section):
  """Random changes to training pictures, drawn anew for each; boxes and masks move along. Off by default."""

  horizontal_flip: bool = False
  vertical_flip: bool = False
  # Probability that a picture is pieced together from four of its batch (Bochkovskiy et al. 2020, arXiv:2004.10934).
  mosaic: Fraction = 0.0
  # Factors between which a picture's size is drawn. Above 1 a random part is cut out, below 1 the picture is put
  # anywhere in the frame (Ghiasi et al. 2021, arXiv:2012.07177).
  min_scale: Annotated[float, Field(gt=0, le=1)] = 1.0
  max_scale: Annotated[float, Field(ge=1, le=10)] = 1.0
  # Largest change of the ratio of width to height, as a share of it.
  aspect: Annotated[float, Field(ge=0, lt=1)] = 0.0
  rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
  shear_degrees: Annotated[float, Field(ge=0, le=60)] = 0.0
  # A box of which less is left inside the picture is no target.
  min_visible: Annotated[float, Field(gt=0, le=1)] = 0.3
  # As in the augmentation of classified pictures.
  brightness: Fraction = 0.0
  contrast: Fraction = 0.0
  saturation: Fraction = 0.0
  hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
  # Largest change of each colour channel's strength on its own, as a share of it: other light, another staining.
  channel_gain: Fraction = 0.0
  # Largest exponent to which pixels in [0, 1] are raised; its reciprocal is the smallest.
  gamma: Annotated[float, Field(ge=1, le=4)] = 1.0
  # Probability that the colour channels change places, and that colour is taken out.
  channel_shuffle: Fraction = 0.0
  grey: Fraction = 0.0
  # Largest standard deviation of a Gaussian blur, and of noise, in pixels and in levels of [0, 255].
  blur_px: Annotated[float, Field(ge=0, le=10)] = 0.0
  noise: Annotated[float, Field(ge=0, le=64)] = 0.0

  @pydantic.model_validator(mode="after")
  def _leaves_something(self):
    if self.rotation_degrees > 45 and self.min_visible > 0.9:
      raise ValueError("min_visible above 0.9 with turns of more than 45 degrees takes out nearly all boxes")
    return self

  @property
  def moves(self) -> bool:
    """Whether anything is on that moves pixels."""
    return bool(
      self.horizontal_flip
      or self.vertical_flip
      or self.min_scale < 1
      or self.max_scale > 1
      or self.aspect
      or self.rotation_degrees
      or self.shear_degrees
    )


def make_dense_augment(
  config: DenseAugmentationConfig, labels: Any
) -> Callable[[Any, Any, Any], tuple[Any, Any]] | None:
  """The augmentation of training batches.

  Args:
    config: what is on.
    labels: `components.preprocessing.dense_moves.BoxLabels` or `MaskLabels`: how labels move.

  Returns:
    None if nothing is on; otherwise a function of
      images: float32 [batch, height, width, channels] in [0, 255], all but the batch static;
      targets: float32 [batch, boxes, 5] or int32 [batch, height, width];
      seed: int32 [2];
    that returns images and targets of the same shapes and depends on its arguments alone.
  """
  from components.preprocessing.dense_moves import make_mosaic, random_moves
  from components.preprocessing.image_augmentation import SeedSequence
  from components.preprocessing.recolouring import colour_steps

  steps = colour_steps(config)
  mosaic = make_mosaic(config.mosaic, labels) if config.mosaic else None
  if not (steps or mosaic or config.moves):
    return None

  def augment(images: Any, targets: Any, seed: Any) -> tuple[Any, Any]:
    seeds = SeedSequence(seed)
    if mosaic:
      images, targets = mosaic(images, targets, seeds)
    if config.moves:
      moves = random_moves(config, images, seeds)
      images, targets = labels.move(images, targets, moves)
    for step in steps:
      images = step(images, seeds)
    return images, targets

  return augment
