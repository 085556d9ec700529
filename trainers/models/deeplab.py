"""DeepLabV3+: an atrous pyramid over deep features, sharpened by shallow ones (Chen et al. 2018, arXiv:1802.02611)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import layers

from trainers.models.pyramid import build_features, convolution_block, resized_like

# Channels to which the shallow features are cut down, so that they do not drown the deep ones.
_SHALLOW_WIDTH = 24


def build_deeplab(
  input_shape: tuple[int, int, int],
  num_classes: int,
  normalize: Callable[[Any], Any],
  *,
  architecture: str = "resnet",
  widths: Sequence[int] = (32, 64, 128),
  blocks_per_stage: int = 2,
  weights: str | None = None,
  deep_stride: int = 8,
  rates: Sequence[int] = (2, 4, 6),
  pyramid_width: int = 64,
  dropout: float = 0.0,
) -> keras.Model:
  """A backbone with the atrous pyramid and the decoder of DeepLabV3+.

  Args:
    input_shape: rows, columns and channels of the pictures.
    num_classes: number of classes.
    normalize: layer applied to the raw pixels first, so that the model takes pixels in [0, 255].
    architecture: "resnet" or a name in keras.applications.
    widths: channels of the residual network's stages.
    blocks_per_stage: its blocks in each stage.
    weights: file of a keras.applications network's own weights.
    deep_stride: of the features that the pyramid looks at; the shallow ones are the backbone's coarsest of half of it
      or less, beyond the pixels themselves.
    rates: dilation of the pyramid's 3x3 convolutions.
    pyramid_width: channels of the pyramid and the decoder.
    dropout: rate before the last layer.

  Returns:
    A model from float32 [batch, rows, columns, channels] to float32 logits [batch, rows, columns, num_classes].

  Raises:
    ValueError: the backbone does not fit, or has no features of that stride or none that are finer.
  """
  # --- Backbone ---
  inputs = keras.Input(input_shape, name="pixels")
  features = build_features(architecture, inputs, normalize, widths, blocks_per_stage, weights)
  finer = [stride for stride in features if 1 < stride <= deep_stride // 2] or [
    stride for stride in features if stride < deep_stride
  ]
  if deep_stride not in features or not finer:
    known = ", ".join(map(str, features))
    raise ValueError(f"model.deep_stride={deep_stride}: the backbone has features of stride {known} only")
  deep, shallow = features[deep_stride], features[max(finer)]

  # --- Atrous spatial pyramid ---
  branches = [convolution_block(pyramid_width, 1, "pyramid_1x1")(deep)]
  for rate in rates:
    branches.append(convolution_block(pyramid_width, 3, f"pyramid_rate{rate}", rate, separable=True)(deep))
  whole = layers.GlobalAveragePooling2D(keepdims=True, name="pyramid_pool")(deep)
  whole = convolution_block(pyramid_width, 1, "pyramid_whole")(whole)
  branches.append(keras.ops.image.resize(whole, deep.shape[1:3], interpolation="nearest"))
  x = layers.Concatenate(name="pyramid_join")(branches)
  x = convolution_block(pyramid_width, 1, "pyramid")(x)

  # --- Decoder ---
  shallow = convolution_block(_SHALLOW_WIDTH, 1, "shallow")(shallow)
  x = resized_like(x, shallow, "decoder_resize", "bilinear")
  x = layers.Concatenate(name="decoder_join")([shallow, x])
  for number in (1, 2):
    x = convolution_block(pyramid_width, 3, f"decoder{number}", separable=True)(x)
  if dropout:
    x = layers.SpatialDropout2D(dropout, name="head_dropout")(x)
  # float32 whatever the precision policy: the loss is sensitive to small logits.
  logits = layers.Conv2D(num_classes, 1, dtype="float32", name="logits")(x)
  return keras.Model(inputs, resized_like(logits, inputs, "logits_resize", "bilinear"), name="deeplab")
