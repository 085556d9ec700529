"""U-Net: an encoder, a decoder, and the fine features handed across (Ronneberger et al. 2015, arXiv:1505.04597)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers

from trainers.models.pyramid import convolution_block, resized_like


def build_unet(
  input_shape: tuple[int, int, int],
  num_classes: int,
  normalize: Callable[[Any], Any],
  widths: Sequence[int] = (16, 32, 64, 128),
  dropout: float = 0.0,
) -> keras.Model:
  """Two 3x3 convolutions a level, with batch normalization and padding, which the paper did not have yet.

  Args:
    input_shape: rows, columns and channels of the pictures.
    num_classes: number of classes.
    normalize: layer applied to the raw pixels first, so that the model takes pixels in [0, 255].
    widths: channels of each level, the finest first; each halves the rows and columns.
    dropout: rate before the last layer.

  Returns:
    A model from float32 [batch, rows, columns, channels] to float32 logits [batch, rows, columns, num_classes].
  """
  inputs = keras.Input(input_shape, name="pixels")
  x = normalize(inputs)

  # --- Encoder ---
  skips = []
  for level, width in enumerate(widths):
    if level:
      x = layers.MaxPooling2D(2, padding="same", name=f"down{level}_pool")(x)
    x = _two_convolutions(x, width, f"down{level}")
    skips.append(x)

  # --- Decoder ---
  for level in reversed(range(len(widths) - 1)):
    skip = skips[level]
    x = resized_like(x, skip, f"up{level}_resize")
    x = layers.Concatenate(name=f"up{level}_join")([skip, x])
    x = _two_convolutions(x, widths[level], f"up{level}")

  # --- Head ---
  if dropout:
    x = layers.SpatialDropout2D(dropout, name="head_dropout")(x)
  # float32 whatever the precision policy: the loss is sensitive to small logits.
  logits = layers.Conv2D(num_classes, 1, dtype="float32", name="logits")(x)
  return keras.Model(inputs, logits, name="unet")


def _two_convolutions(x: Any, width: int, name: str) -> Any:
  x = convolution_block(width, 3, f"{name}_first")(x)
  return convolution_block(width, 3, f"{name}_second")(x)
