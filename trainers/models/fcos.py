"""FCOS: a fully convolutional one-stage detector without anchors (Tian et al. 2019, arXiv:1904.01355)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from trainers.models.pyramid import build_features, feature_pyramid

# Columns of the model's output after the class logits: four distances and the centerness.
NUM_DISTANCES = 4
_PRIOR_PROBABILITY = 0.01


def build_fcos(
  input_shape: tuple[int, int, int],
  num_classes: int,
  normalize: Callable[[Any], Any],
  *,
  architecture: str = "resnet",
  widths: Sequence[int] = (48, 96, 192),
  blocks_per_stage: int = 2,
  weights: str | None = None,
  strides: Sequence[int] = (8, 16, 32),
  pyramid_width: int = 64,
  head_convolutions: int = 2,
) -> keras.Model:
  """A backbone, a feature pyramid, and a head that all levels share but for the batch normalization.

  Args:
    input_shape: rows, columns and channels of the pictures.
    num_classes: number of classes.
    normalize: layer applied to the raw pixels first, so that the model takes pixels in [0, 255].
    architecture: "resnet" or a name in keras.applications.
    widths: channels of the residual network's stages.
    blocks_per_stage: its blocks in each stage.
    weights: file of a keras.applications network's own weights.
    strides: of the pyramid's levels in pixels, each twice the one before.
    pyramid_width: channels of the pyramid and of the head.
    head_convolutions: 3x3 convolutions before each of the two predictions.

  Returns:
    A model from float32 [batch, rows, columns, channels] to float32 [batch, locations, num_classes + 5]: for each of
    `locations(...)` the classes' logits; raw distances to the left, upper, right and lower side of the box, which
    softplus turns into multiples of the level's stride; the logit of the centerness.

  Raises:
    ValueError: the backbone does not fit, or lacks the finest stride.
  """
  # --- Backbone and pyramid ---
  inputs = keras.Input(input_shape, name="pixels")
  features = build_features(architecture, inputs, normalize, widths, blocks_per_stage, weights)
  levels = feature_pyramid(features, strides, pyramid_width)

  # --- Head ---
  class_tower = _Tower("class_tower", pyramid_width, head_convolutions)
  box_tower = _Tower("box_tower", pyramid_width, head_convolutions)
  prior = keras.initializers.Constant(-math.log((1 - _PRIOR_PROBABILITY) / _PRIOR_PROBABILITY))
  small = keras.initializers.RandomNormal(stddev=0.01)
  options = {"kernel_size": 3, "padding": "same", "kernel_initializer": small, "dtype": "float32"}
  classify = layers.Conv2D(num_classes, bias_initializer=prior, name="class_logits", **options)
  # Softplus of 2 is 2.1: boxes begin about as large as the location's share of the picture.
  two = keras.initializers.Constant(2.0)
  measure = layers.Conv2D(NUM_DISTANCES, bias_initializer=two, name="distances", **options)
  centre = layers.Conv2D(1, name="centerness", **options)
  outputs = []
  for stride, level in zip(strides, levels, strict=True):
    box_features = box_tower(level, stride)
    maps = [classify(class_tower(level, stride)), measure(box_features), centre(box_features)]
    joined = layers.Concatenate(name=f"head_{stride}")(maps)
    rows, columns, channels = joined.shape[1:]
    # Only the batch is open: see `trainers.models.pyramid.resized_like`.
    outputs.append(keras.ops.reshape(joined, (-1, rows * columns, channels)))
  output = layers.Concatenate(axis=1, name="locations")(outputs) if len(outputs) > 1 else outputs[0]
  return keras.Model(inputs, output, name="fcos")


class _Tower:
  """3x3 convolutions that all levels share; each level has statistics of its own."""

  def __init__(self, name: str, width: int, count: int):
    self._name = name
    self._convolutions = [
      layers.Conv2D(
        width, 3, padding="same", use_bias=False, kernel_initializer="he_normal", name=f"{name}{number}"
      )
      for number in range(1, count + 1)
    ]

  def __call__(self, x: Any, stride: int) -> Any:
    for number, convolution in enumerate(self._convolutions, 1):
      x = convolution(x)
      x = layers.BatchNormalization(momentum=0.9, name=f"{self._name}{number}_norm_{stride}")(x)
      x = layers.ReLU(name=f"{self._name}{number}_relu_{stride}")(x)
    return x


def locations(height: int, width: int, strides: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
  """Where the model's predictions are made.

  Args:
    height: rows of the pictures.
    width: columns of the pictures.
    strides: of the levels, in pixels.

  Returns:
    float32 [locations, 2], x and y in pixels, the middle of each cell; float32 [locations], the stride of each.
  """
  points, scales = [], []
  for stride in strides:
    rows, columns = math.ceil(height / stride), math.ceil(width / stride)
    y, x = np.mgrid[:rows, :columns].astype(np.float32)
    points.append(np.stack([x.ravel(), y.ravel()], axis=-1) * stride + stride / 2)
    scales.append(np.full(rows * columns, stride, np.float32))
  return np.concatenate(points).astype(np.float32), np.concatenate(scales)


def decode_boxes(raw_distances: Any, points: Any, scales: Any) -> Any:
  """Boxes that the raw distances mean.

  Args:
    raw_distances: float32 [..., locations, 4].
    points: float32 [locations, 2] of `locations`.
    scales: float32 [locations] of `locations`.

  Returns:
    float32 [..., locations, 4]: x_min, y_min, x_max, y_max in pixels; may stick out of the picture.
  """
  distances = keras.ops.softplus(raw_distances) * scales[:, None]
  return keras.ops.concatenate([points - distances[..., :2], points + distances[..., 2:]], axis=-1)
