"""Features of several scales: their strides whatever the picture's size, and where they lie after enlarging."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest

from trainers.models.pyramid import build_features, convolution_block, feature_pyramid, resized_like


def identity():
  return keras.layers.Identity(name="normalize")


def resnet_features(size, channels=3):
  inputs = keras.Input((*size, channels))
  return inputs, build_features("resnet", inputs, identity(), (8, 12, 16), 1)


@pytest.mark.parametrize(
  "size, strides",
  [
    ((64, 64), (4, 8, 16, 32)),
    ((75, 100), (4, 8, 16, 32)),
    ((240, 320), (4, 8, 16, 32)),
    ((65, 129), (4, 8, 16, 32)),
    ((33, 47), (1, 2, 4, 8)),
    ((63, 200), (1, 2, 4, 8)),
  ],
)
def test_the_residual_networks_strides_and_sizes(size, strides):
  _, found = resnet_features(size)
  assert tuple(found) == strides
  for stride, channels in zip(strides, (8, 8, 12, 16), strict=True):
    expected = (None, math.ceil(size[0] / stride), math.ceil(size[1] / stride), channels)
    assert found[stride].shape == expected


def test_features_are_rectified_and_pixels_normalized_first():
  inputs = keras.Input((16, 16, 1))
  features = build_features("resnet", inputs, keras.layers.Rescaling(0.0), (8,), 1)
  model = keras.Model(inputs, list(features.values()))
  for values in model(np.random.default_rng(1).uniform(0, 255, (1, 16, 16, 1))):
    # Everything is multiplied by 0, and nothing else depends on the pixels.
    np.testing.assert_allclose(values, 0, atol=1e-6)
  inputs, found = resnet_features((32, 32))
  for values in keras.Model(inputs, list(found.values()))(
    np.random.default_rng(2).normal(size=(1, 32, 32, 3))
  ):
    assert np.min(values) == 0 and np.max(values) > 0


def test_other_names_are_networks_of_keras_applications():
  inputs = keras.Input((40, 66, 3))
  found = build_features("MobileNetV2", inputs, identity(), (8,), 1)
  assert list(found) == [1, 2, 4, 8, 16, 32]
  with pytest.raises(ValueError, match="did you mean MobileNetV2"):
    build_features("MobileNetV9", inputs, identity(), (8,), 1)


@pytest.mark.parametrize("size", [(64, 64), (75, 100)])
@pytest.mark.parametrize("strides", [(8, 16, 32), (4, 8), (16,), (16, 32, 64, 128)])
def test_levels_have_the_sizes_of_their_strides(size, strides):
  inputs, features = resnet_features(size)
  levels = feature_pyramid(features, strides, 6)
  assert [level.shape for level in levels] == [
    (None, math.ceil(size[0] / stride), math.ceil(size[1] / stride), 6) for stride in strides
  ]
  names = {layer.name for layer in keras.Model(inputs, levels).layers}
  assert {f"pyramid_{stride}" for stride in strides} <= names


def test_a_stride_that_the_backbone_lacks_is_an_error():
  _, features = resnet_features((64, 64))
  with pytest.raises(ValueError) as caught:
    feature_pyramid(features, (2, 4), 6)
  assert str(caught.value) == "model.strides=[2, 4]: the backbone has features of stride 4, 8, 16, 32 only"


def test_fine_levels_see_what_coarse_ones_saw():
  """With laterals that pass channels on, a level before its convolution is the sum of all coarser ones."""
  fine, coarse = keras.Input((5, 7, 2)), keras.Input((3, 4, 2))
  levels = feature_pyramid({8: fine, 16: coarse}, (8, 16), 2)
  model = keras.Model([fine, coarse], levels)
  for stride in (8, 16):
    model.get_layer(f"lateral_{stride}").set_weights([np.eye(2).reshape(1, 1, 2, 2), np.zeros(2)])
  rng = np.random.default_rng(1)
  values = [rng.normal(size=(1, *x.shape[1:])).astype(np.float32) for x in (fine, coarse)]
  merged = keras.Model(model.input, model.get_layer("merge_8").output)(values)
  above = values[1].repeat(2, axis=1).repeat(2, axis=2)[:, :5, :7]
  np.testing.assert_allclose(merged, values[0] + above, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", range(1, 40))
def test_enlarged_features_stand_where_they_were_made(rows):
  """Cell i of stride 2, 4 or 8 comes to rows from i times the stride on, for all sizes."""
  for stride in (2, 4, 8):
    own = math.ceil(rows / stride)
    x, reference = keras.Input((own, 4, 1)), keras.Input((rows, 4, 1))
    y = resized_like(x, reference, "up")
    assert y.shape == (None, rows, 4, 1)
    if own > 1:
      values = np.tile(np.arange(own, dtype=np.float32)[None, :, None, None], (1, 1, 4, 1))
      found = keras.Model(x, y)(values)[0, :, 0, 0]
      np.testing.assert_array_equal(found, np.arange(rows) // stride)


def test_features_of_the_right_size_are_left_alone():
  x = keras.Input((5, 7, 3))
  assert resized_like(x, keras.Input((5, 7, 1)), "up") is x


def test_bilinear_enlarging_interpolates_between_the_middles_of_cells():
  x = keras.Input((2, 1, 1))
  y = resized_like(x, keras.Input((4, 1, 1)), "up", "bilinear")
  found = keras.Model(x, y)(np.array([0.0, 4.0], np.float32).reshape(1, 2, 1, 1))
  np.testing.assert_allclose(np.ravel(found), [0, 1, 3, 4])


@pytest.mark.parametrize(
  "options, parameters",
  [
    ({"kernel_size": 3}, 9 * 4 * 6),
    ({"kernel_size": 1}, 4 * 6),
    ({"kernel_size": 3, "separable": True}, 9 * 4 + 4 * 6),
  ],
)
def test_parameters_of_a_block(options, parameters):
  x = keras.Input((8, 9, 4))
  y = convolution_block(6, name="block", **options)(x)
  model = keras.Model(x, y)
  assert y.shape == (None, 8, 9, 6)
  # And gamma, beta, moving mean and moving variance.
  assert model.count_params() == parameters + 4 * 6
  values = model(np.random.default_rng(1).normal(size=(1, 8, 9, 4)))
  assert np.min(values) == 0 and np.max(values) > 0


@pytest.mark.parametrize("separable", [False, True])
def test_dilation_spreads_an_impulse(separable):
  x = keras.Input((15, 15, 1))
  model = keras.Model(x, convolution_block(1, 3, "block", dilation=4, separable=separable)(x))
  first = model.layers[1]
  first.set_weights([np.ones(weight.shape) for weight in first.get_weights()])
  if separable:
    model.get_layer("block_pointwise").set_weights([np.ones((1, 1, 1, 1))])
  impulse = np.zeros((1, 15, 15, 1), np.float32)
  impulse[0, 7, 7] = 1
  rows, columns = np.nonzero(model(impulse)[0, ..., 0].numpy())
  assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {
    (r, c) for r in (3, 7, 11) for c in (3, 7, 11)
  }
