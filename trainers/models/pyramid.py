"""Features of a backbone at several scales, and the pyramid that joins them (Lin et al. 2017, arXiv:1612.03144)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
from keras import layers

from trainers.models.applications import backbone_features
from trainers.models.resnet import residual_features


def build_features(
  architecture: str,
  inputs: Any,
  normalize: Callable[[Any], Any],
  widths: Sequence[int],
  blocks_per_stage: int,
  weights: str | None = None,
) -> dict[int, Any]:
  """Features of pictures by their stride in pixels, rectified, the finest first.

  Args:
    architecture: "resnet", or the name of any architecture in keras.applications.
    inputs: symbolic pixels [batch, rows, columns, channels] in [0, 255].
    normalize: layer that is applied to the pixels first.
    widths: channels of the residual network's stages.
    blocks_per_stage: its blocks in each stage.
    weights: file of a keras.applications network's own weights.

  Returns:
    {stride: symbolic features [batch, rows / stride, columns / stride, channels], rounded up}.

  Raises:
    ValueError: one line; see `trainers.models.applications.backbone_features`.
  """
  if architecture != "resnet":
    return backbone_features(architecture, inputs, normalize, weights)
  found = {}
  stages = residual_features(normalize(inputs), widths, blocks_per_stage)
  # Of the stem alone it can be told from the sizes, of small features not: 75 rows at stride 16 are 5, as at 15.
  stem_stride = round(inputs.shape[1] / stages[0].shape[1])
  for number, x in enumerate(stages):
    x = layers.BatchNormalization(momentum=0.9, name=f"features{number}_norm")(x)
    found[stem_stride * 2**number] = layers.ReLU(name=f"features{number}_relu")(x)
  return found


def feature_pyramid(features: Mapping[int, Any], strides: Sequence[int], width: int) -> list[Any]:
  """Every level sees what the coarser ones saw: they are brought to its size and added.

  Args:
    features: {stride: symbolic features}.
    strides: of the levels, each twice the one before; those coarser than all features are made by convolutions.
    width: channels of each level.

  Returns:
    One symbolic tensor [batch, rows / stride, columns / stride, width] a stride, named "pyramid_<stride>".

  Raises:
    ValueError: the finest level has no features.
  """
  if strides[0] not in features:
    known = ", ".join(map(str, features))
    raise ValueError(f"model.strides={list(strides)}: the backbone has features of stride {known} only")
  laterals = {
    stride: layers.Conv2D(width, 1, name=f"lateral_{stride}")(features[stride])
    for stride in strides
    if stride in features
  }
  for finer, stride in zip(strides, strides[1:], strict=False):
    if stride not in laterals:
      down = layers.Conv2D(width, 3, 2, padding="same", name=f"lateral_{stride}")
      laterals[stride] = down(laterals[finer])
  levels = [laterals[strides[-1]]]
  for stride in reversed(strides[:-1]):
    above = resized_like(levels[0], laterals[stride], f"up_{stride}")
    levels.insert(0, layers.Add(name=f"merge_{stride}")([laterals[stride], above]))
  return [
    convolution_block(width, 3, f"pyramid_{stride}")(level)
    for stride, level in zip(strides, levels, strict=True)
  ]


def resized_like(x: Any, reference: Any, name: str, interpolation: str = "nearest") -> Any:
  """Features brought to the rows and columns of others whose stride is smaller by a power of two.

  Args:
    x: symbolic [batch, rows, columns, channels].
    reference: symbolic [batch, more rows, more columns, channels]; x has its sides over the factor, rounded up.
    name: of the layer that cuts off what is too much.
    interpolation: "nearest" or "bilinear".
  """
  rows, columns = reference.shape[1:3]
  # Rounded up to a power of two: 9 rows over 3 are those of stride 4, of which the last are cut off.
  factors = tuple(
    2 ** math.ceil(math.log2(side / own)) for side, own in zip((rows, columns), x.shape[1:3], strict=True)
  )
  if factors != (1, 1):
    # Not keras.layers.UpSampling2D: it reads shapes when it runs, and TFLite's fast kernels take none that are not
    # known before, here and in all that follows.
    size = tuple(own * factor for own, factor in zip(x.shape[1:3], factors, strict=True))
    x = keras.ops.image.resize(x, size, interpolation=interpolation)
  if tuple(x.shape[1:3]) != (rows, columns):
    beyond = ((0, x.shape[1] - rows), (0, x.shape[2] - columns))
    x = layers.Cropping2D(beyond, name=name)(x)
  return x


def convolution_block(
  width: int, kernel_size: int, name: str, dilation: int = 1, separable: bool = False
) -> Callable[[Any], Any]:
  """Convolution, batch normalization, ReLU; separable: a depthwise convolution and one of 1x1."""
  options = {"padding": "same", "use_bias": False, "dilation_rate": dilation}
  if separable:
    parts = [
      layers.DepthwiseConv2D(
        kernel_size, name=f"{name}_depthwise", depthwise_initializer="he_normal", **options
      ),
      layers.Conv2D(width, 1, use_bias=False, kernel_initializer="he_normal", name=f"{name}_pointwise"),
    ]
  else:
    parts = [
      layers.Conv2D(width, kernel_size, kernel_initializer="he_normal", name=f"{name}_conv", **options)
    ]
  parts += [layers.BatchNormalization(momentum=0.9, name=f"{name}_norm"), layers.ReLU(name=name)]

  def apply(x: Any) -> Any:
    for part in parts:
      x = part(x)
    return x

  return apply
