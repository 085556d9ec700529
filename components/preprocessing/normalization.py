"""Normalization of pictures: by the data set's statistics, by global contrast or by local contrast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def standardize(images: tf.Tensor, mean: Sequence[float], stddev: Sequence[float]) -> tf.Tensor:
  """Subtracts each channel's mean and divides by its standard deviation.

  Args:
    images: float32 [batch, height, width, channels].
    mean: one value a channel, in the images' unit.
    stddev: one value a channel, above 0.

  Returns:
    float32 [batch, height, width, channels].
  """
  # Multiplied, not divided: TFLite's int8 kernels have no division.
  reciprocal = np.float32(1) / np.asarray(stddev, np.float32)
  return (images - np.asarray(mean, np.float32)) * reciprocal


def global_contrast_normalize(images: tf.Tensor, scale: float, bias: float, epsilon: float) -> tf.Tensor:
  """Global contrast normalization: mean 0 and, where there is contrast, standard deviation `scale`.

  X' = s (X - mean(X)) / max(epsilon, sqrt(lambda + mean((X - mean(X))^2))), the means over all rows, columns
  and channels of one image.

  Args:
    images: float32 [batch, height, width, channels].
    scale: s, the standard deviation aimed at.
    bias: lambda, added to the variance so that images of little contrast are not blown up to noise.
    epsilon: the smallest divisor, above 0.

  Returns:
    float32 [batch, height, width, channels].

  Source: Goodfellow, Bengio and Courville, Deep Learning, 2016, section 12.2.1.1
  """
  centred = images - tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
  variance = tf.reduce_mean(tf.square(centred), axis=[1, 2, 3], keepdims=True)
  return centred * (scale * _reciprocal_contrast(variance + bias, epsilon))


def _reciprocal_contrast(variance: tf.Tensor, epsilon: float) -> tf.Tensor:
  """1 / max(epsilon, sqrt(variance)). TFLite's int8 kernels have rsqrt and products, but no division."""
  return tf.math.rsqrt(tf.maximum(variance, max(epsilon**2, np.finfo(np.float32).tiny)))


def gaussian_weights(length: int, stddev_px: float) -> np.ndarray:
  """The matrix that means over a Gaussian window, cut off at three standard deviations and at the borders.

  Args:
    length: places in a row.
    stddev_px: of the Gaussian.

  Returns:
    float32 [length, length]: row i is the window around place i, its weights sum to 1.
  """
  positions = np.arange(length)
  distance = np.abs(positions[:, None] - positions[None, :])
  weights = np.exp(-(distance**2) / (2 * stddev_px**2)) * (distance <= 3 * stddev_px)
  return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def local_contrast_normalize(
  images: tf.Tensor, window_stddev_px: float, epsilon: float, across_channels: bool
) -> tf.Tensor:
  """Local contrast normalization: a pixel minus its window's mean, over the window's standard deviation.

  The window is a Gaussian around the pixel, cut off at three standard deviations. At the borders the weights
  that fall outside are left out and the others sum to 1 again, so that edges are not darkened.

  Args:
    images: float32 [batch, height, width, channels], all but the batch static.
    window_stddev_px: standard deviation of the Gaussian, in pixels.
    epsilon: the smallest divisor, above 0.
    across_channels: one mean and one standard deviation over all channels of the window, not one a channel.

  Returns:
    float32 [batch, height, width, channels].

  Source: Goodfellow, Bengio and Courville, Deep Learning, 2016, section 12.2.1.2
  """
  # The Gaussian is separable, and two small matrices hold its borders too; products with them are 14 times as
  # fast as depthwise convolutions on a CPU (128 images of 32x32x3: 4 against 56 ms).
  over_rows = gaussian_weights(images.shape[1], window_stddev_px)
  over_columns = gaussian_weights(images.shape[2], window_stddev_px).T

  def window_mean(planes: tf.Tensor) -> tf.Tensor:
    if across_channels:
      planes = tf.reduce_mean(planes, axis=1, keepdims=True)
    # Not tf.matmul for the columns: with a matrix on its right that all of the batch share, TensorFlow 2.16 on oneDNN
    # writes beyond its buffers on processors with AVX-512. A dot product makes one plain matrix of the batch.
    return tf.tensordot(tf.matmul(over_rows, planes), over_columns, 1)

  # The variance does not change with a shift and loses fewer digits near zero.
  centred = images - tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
  planes = tf.transpose(centred, [0, 3, 1, 2])
  mean = window_mean(planes)
  variance = window_mean(tf.square(planes)) - tf.square(mean)
  normalized = (planes - mean) * _reciprocal_contrast(variance, epsilon)
  return tf.transpose(normalized, [0, 2, 3, 1])


@keras.saving.register_keras_serializable(package="deepline")
class NormalizeImages(keras.layers.Layer):
  """Normalization as a model's first layer, so that it is exported with the model. It has no weights.

  Computes in float32 under every precision policy; the output has the policy's compute dtype.

  Args:
    method: "standardize", "global_contrast" or "local_contrast".
    mean: of each channel, for "standardize".
    stddev: of each channel, for "standardize".
    gcn_scale: see `global_contrast_normalize`, like the next two.
    gcn_bias: lambda.
    gcn_epsilon: the smallest divisor.
    lcn_window_stddev_px: see `local_contrast_normalize`, like the next two.
    lcn_epsilon: the smallest divisor.
    lcn_across_channels: window statistics over all channels.
    **kwargs: of keras.layers.Layer.

  Raises:
    ValueError: unknown method, or one whose numbers are missing or out of range.
  """

  def __init__(
    self,
    method: str,
    mean: Sequence[float] | None = None,
    stddev: Sequence[float] | None = None,
    gcn_scale: float = 1.0,
    gcn_bias: float = 10.0,
    gcn_epsilon: float = 1e-8,
    lcn_window_stddev_px: float = 2.0,
    lcn_epsilon: float = 10.0,
    lcn_across_channels: bool = False,
    **kwargs: Any,
  ):
    # Keras would cast the input to the compute dtype, and float16 or bfloat16 pixels lose digits.
    super().__init__(autocast=False, **kwargs)
    self.method = method
    self.mean = None if mean is None else [float(value) for value in mean]
    self.stddev = None if stddev is None else [float(value) for value in stddev]
    self.gcn_scale = gcn_scale
    self.gcn_bias = gcn_bias
    self.gcn_epsilon = gcn_epsilon
    self.lcn_window_stddev_px = lcn_window_stddev_px
    self.lcn_epsilon = lcn_epsilon
    self.lcn_across_channels = lcn_across_channels
    self._check()

  def _check(self) -> None:
    if self.method not in ("standardize", "global_contrast", "local_contrast"):
      raise ValueError(
        f'method is "{self.method}"; make it "standardize", "global_contrast" or "local_contrast"'
      )
    if self.method == "standardize":
      if not self.mean or not self.stddev or len(self.mean) != len(self.stddev):
        raise ValueError('"standardize" needs mean and stddev, one value a channel each')
      if min(self.stddev) <= 0:
        raise ValueError(f"stddev is {self.stddev}; every value must be above 0")
    for name in ("gcn_epsilon", "lcn_window_stddev_px", "lcn_epsilon"):
      if getattr(self, name) <= 0:
        raise ValueError(f"{name} is {getattr(self, name)}; make it greater than 0")

  def call(self, images: Any) -> Any:
    """float [batch, height, width, channels] in [0, 255] -> normalized, same shape."""
    images = tf.cast(images, tf.float32)
    if self.method == "standardize":
      normalized = standardize(images, self.mean, self.stddev)
    elif self.method == "global_contrast":
      normalized = global_contrast_normalize(images, self.gcn_scale, self.gcn_bias, self.gcn_epsilon)
    else:
      normalized = local_contrast_normalize(
        images, self.lcn_window_stddev_px, self.lcn_epsilon, self.lcn_across_channels
      )
    return tf.cast(normalized, self.compute_dtype)

  def compute_output_shape(self, input_shape: Any) -> Any:
    """The input's shape."""
    return input_shape

  def get_config(self) -> dict[str, Any]:
    """All constructor arguments, as plain values."""
    names = (
      "method mean stddev gcn_scale gcn_bias gcn_epsilon lcn_window_stddev_px lcn_epsilon lcn_across_channels"
    )
    return {**super().get_config(), **{name: getattr(self, name) for name in names.split()}}
