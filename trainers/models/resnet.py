"""A small residual network for small pictures (He et al. 2016, arXiv:1603.05027: full pre-activation)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers

# The gradient of a strided 1x1 convolution of fewer channels overruns a buffer in oneDNN on CPUs with AVX-512: with a
# batch of one the process aborts (https://github.com/uxlfoundation/oneDNN/issues/6035).
_MIN_STRIDED_CHANNELS = 16


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

  # --- Residual stages ---
  x = residual_features(normalize(inputs), widths, blocks_per_stage)[-1]

  # --- Head ---
  x = layers.BatchNormalization(momentum=0.9, name="head_norm")(x)
  x = layers.ReLU(name="head_relu")(x)
  x = layers.GlobalAveragePooling2D(name="head_pool")(x)
  if dropout:
    x = layers.Dropout(dropout, name="head_dropout")(x)
  # float32 whatever the precision policy: the loss is sensitive to small logits.
  logits = layers.Dense(num_classes, dtype="float32", name="logits")(x)
  return keras.Model(inputs, logits, name="resnet")


def residual_features(x: Any, widths: Sequence[int], blocks_per_stage: int) -> list[Any]:
  """Features of a stem and of each stage, each with half the rows and columns of those before (rounded up).

  They are sums of a pre-activation network: whatever reads them normalizes and rectifies them first.

  Args:
    x: normalized pixels, symbolic [batch, rows, columns, channels].
    widths: channels of each stage.
    blocks_per_stage: residual blocks in each.

  Returns:
    The stem's features and those of each stage. The stem of pictures of 64 pixels and more has a stride of 4, of
    smaller ones 1.
  """
  # --- Stem ---
  is_large = min(x.shape[1:3]) >= 64
  stem_width = max(8, widths[0] // 2)
  x = _convolution(stem_width, 7 if is_large else 3, 2 if is_large else 1, "stem")(x)
  if is_large:
    x = layers.MaxPooling2D(3, 2, padding="same", name="stem_pool")(x)

  # --- Stages ---
  features = [x]
  for stage, width in enumerate(widths):
    for block in range(blocks_per_stage):
      stride = 2 if block == 0 else 1
      x = _block(x, width, stride, f"stage{stage + 1}_block{block + 1}")
    features.append(x)
  return features


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
    shortcut = _projection(y, width, stride, f"{name}_shortcut")
  y = _convolution(width, 3, stride, f"{name}_conv1")(y)
  y = layers.BatchNormalization(momentum=0.9, name=f"{name}_norm2")(y)
  y = layers.ReLU(name=f"{name}_relu2")(y)
  y = _convolution(width, 3, 1, f"{name}_conv2")(y)
  return layers.Add(name=f"{name}_add")([shortcut, y])


def _projection(x: Any, width: int, stride: int, name: str) -> Any:
  """A 1x1 convolution; few channels are thinned out before it."""
  if stride != 1 and x.shape[-1] < _MIN_STRIDED_CHANNELS:
    x, stride = x[:, ::stride, ::stride], 1
  return _convolution(width, 1, stride, name)(x)
