"""The U-Net: sizes that do not divide, parameters, skips, and that it learns a picture."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.compression.quantization import TFLiteRunner, export_network, to_tflite
from trainers.models.unet import build_unet
from trainers.segmentation_losses import VOID_ID, MeanIou, SegmentationLoss


def identity():
  return keras.layers.Identity(name="normalize")


def small(input_shape=(16, 24, 3), num_classes=3, widths=(4, 6, 8), **settings):
  keras.utils.set_random_seed(5)
  return build_unet(input_shape, num_classes, identity(), widths, **settings)


@pytest.mark.parametrize("shape", [(16, 24, 3), (75, 100, 1), (33, 17, 3), (5, 9, 1)])
def test_every_pixel_has_logits_whatever_the_size(shape):
  model = small(shape)
  output = model(np.random.default_rng(1).normal(size=(2, *shape)))
  assert output.shape == (2, *shape[:2], 3) and output.dtype == tf.float32
  assert np.all(np.isfinite(output)) and np.ptp(output) > 0
  halves = [model.get_layer(f"down{level}_second").output.shape[1:3] for level in (1, 2)]
  assert halves == [(-(-shape[0] // factor), -(-shape[1] // factor)) for factor in (2, 4)]


def test_parameters_counted_by_hand():
  def block(channels, width):
    return 9 * channels * width + 4 * width

  down = block(3, 4) + block(4, 4) + block(4, 6) + block(6, 6) + block(6, 8) + block(8, 8)
  up = block(6 + 8, 6) + block(6, 6) + block(4 + 6, 4) + block(4, 4)
  assert small().count_params() == down + up + 4 * 3 + 3


def test_one_level_and_dropout():
  model = small(widths=(4,), dropout=0.25)
  assert model.output.shape == (None, 16, 24, 3)
  assert model.get_layer("head_dropout").rate == 0.25
  assert not [layer for layer in model.layers if isinstance(layer, keras.layers.MaxPooling2D)]


def test_pixels_are_normalized_first():
  keras.utils.set_random_seed(5)
  model = build_unet((8, 8, 1), 2, keras.layers.Rescaling(1 / 50, offset=-2.0), (4, 4))
  plain = small((8, 8, 1), 2, (4, 4))
  plain.set_weights(model.get_weights())
  pixels = np.random.default_rng(1).uniform(0, 255, (1, 8, 8, 1)).astype(np.float32)
  np.testing.assert_allclose(model(pixels), plain(pixels / 50 - 2), rtol=1e-3, atol=1e-4)


def test_fine_features_are_handed_across():
  """Without what comes from below, a pixel's logits still depend on the pixels around it alone."""
  model = small((32, 32, 1))
  first = model.get_layer("up0_first_conv")
  kernel = np.array(first.kernel)
  # The join has the skip's channels first.
  kernel[:, :, 4:] = 0
  first.kernel.assign(kernel)
  empty = np.zeros((1, 32, 32, 1), np.float32)
  lit = empty.copy()
  lit[0, 20, 9] = 100
  rows, columns = np.nonzero(np.abs(model(lit) - model(empty))[0].sum(axis=-1))
  # Four convolutions of 3x3.
  assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 24, 5, 13)


def test_logits_are_float32_under_mixed_precision():
  keras.mixed_precision.set_global_policy("mixed_bfloat16")
  try:
    model = small()
  finally:
    keras.mixed_precision.set_global_policy("float32")
  assert model.get_layer("up0_first_conv").compute_dtype == "bfloat16"
  assert model(np.zeros((1, 16, 24, 3), np.float32)).dtype == tf.float32


def test_it_learns_a_picture_and_int8_tflite_agrees(tmp_path):
  rng = np.random.default_rng(1)
  masks = np.zeros((1, 37, 45), np.int32)
  masks[0, 5:20, 8:30], masks[0, 22:35, 25:43] = 1, 2
  pixels = (masks[..., None] == np.arange(3)) * 100.0 + rng.normal(60, 20, (1, 37, 45, 3))
  pixels = pixels.astype(np.float32)
  masks[0, :3] = VOID_ID
  keras.utils.set_random_seed(1)
  model = build_unet((37, 45, 3), 3, keras.layers.Rescaling(1 / 64, offset=-1.0), (8, 12, 16))
  model.compile(keras.optimizers.Adam(0.02), SegmentationLoss())
  model.fit(tf.data.Dataset.from_tensors((pixels, masks)).repeat(80), epochs=1, verbose=0)
  export_network(model, tf.TensorSpec([None, 37, 45, 3]), str(tmp_path))
  answer = TFLiteRunner(to_tflite(str(tmp_path), "int8", pixels))(pixels)
  for logits in (model.predict(pixels, verbose=0), answer):
    metric = MeanIou(3)
    metric.update_state(masks, logits)
    assert float(metric.result()) > 0.9
