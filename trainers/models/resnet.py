"""A small residual network for small pictures (He et al. 2016, arXiv:1603.05027: full pre-activation)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers


def build_resnet(
  input_shape: tuple[int, int, int],
  num_classes: int,
  normalize: Callable[[Any], Any],
  widths: Sequence[int],
  blocks_per_stage: int,
  dropout: float = 0.0,
) -> keras.Model:
  """A pre-activation residual network; each stage halves the rows and columns.

  The stem alone sees every pixel, and with half the channels: on a CPU most of the time would go there otherwise.

  Args:
    input_shape: rows, columns and channels of the pictures.
    num_classes: number of logits.
    normalize: layer applied to the raw pixels first, so that the model takes pixels in [0, 255].
    widths: channels of each stage. Pictures of 64 pixels and more are halved twice before the first stage.
    blocks_per_stage: residual blocks of two 3x3 convolutions in each stage.
    dropout: rate before the last layer.

  Returns:
    A model from float32 [batch, rows, columns, channels] to float32 logits [batch, num_classes].

  Source: He et al. 2016, arXiv:1603.05027.
  """
  # --- Input ---
  inputs = keras.Input(input_shape, name="pixels")
  x = normalize(inputs)

  # --- Stem ---
  is_large = min(input_shape[:2]) >= 64
  stem_width = max(8, widths[0] // 2)
  x = _convolution(stem_width, 7 if is_large else 3, 2 if is_large else 1, "stem")(x)
  if is_large:
    x = layers.MaxPooling2D(3, 2, padding="same", name="stem_pool")(x)

  # --- Residual stages ---
  for stage, width in enumerate(widths):
    for block in range(blocks_per_stage):
      stride = 2 if block == 0 else 1
      x = _block(x, width, stride, f"stage{stage + 1}_block{block + 1}")

  # --- Head ---
  x = layers.BatchNormalization(momentum=0.9, name="head_norm")(x)
  x = layers.ReLU(name="head_relu")(x)
  x = layers.GlobalAveragePooling2D(name="head_pool")(x)
  if dropout:
    x = layers.Dropout(dropout, name="head_dropout")(x)
  # float32 whatever the precision policy: the loss is sensitive to small logits.
  logits = layers.Dense(num_classes, dtype="float32", name="logits")(x)
  return keras.Model(inputs, logits, name="resnet")


def _convolution(width: int, kernel_size: int, stride: int, name: str) -> layers.Layer:
  return layers.Conv2D(
    width,
    kernel_size,
    stride,
    padding="same",
    use_bias=False,
    kernel_initializer="he_normal",
    name=name,
  )


def _block(x: Any, width: int, stride: int, name: str) -> Any:
  """norm, relu, 3x3, norm, relu, 3x3, with the input added; projected where the shape changes."""
  y = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm1")(x)
  y = layers.ReLU(name=f"{name}_relu1")(y)
  shortcut = x
  if stride != 1 or x.shape[-1] != width:
    shortcut = _convolution(width, 1, stride, f"{name}_shortcut")(y)
  y = _convolution(width, 3, stride, f"{name}_conv1")(y)
  y = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm2")(y)
  y = layers.ReLU(name=f"{name}_relu2")(y)
  y = _convolution(width, 3, 1, f"{name}_conv2")(y)
  return layers.Add(name=f"{name}_add")([shortcut, y])
