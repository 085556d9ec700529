"""Architectures of keras.applications as classifiers of pixels."""

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.legacy.saving import legacy_h5_format

from trainers.models.applications import OwnPreprocessing, backbone_features, build_application


def normalize():
  return keras.layers.Rescaling(1 / 50, offset=-2.0, name="normalize")


def pixels(channels, side=32):
  return np.random.default_rng(3).uniform(0, 255, (2, side, side, channels)).astype(np.float32)


def first_input(model):
  """What the network's own first layer gets, as a model of the pixels."""
  first = next(
    layer for layer in model.layers if isinstance(layer, (keras.layers.Conv2D, keras.layers.ZeroPadding2D))
  )
  return keras.Model(model.input, first.input)


def features(model):
  return keras.Model(model.input, model.get_layer("head_pool").output)


def test_a_classifier_with_the_networks_own_parameters():
  model = build_application("MobileNet", (32, 40, 3), 5, normalize(), dropout=0.25)
  assert model.input.shape == (None, 32, 40, 3)
  assert model.output.shape == (None, 5)
  own = keras.applications.MobileNet(include_top=False, weights=None, input_shape=(32, 40, 3))
  assert model.count_params() == own.count_params() + 1024 * 5 + 5
  assert model.get_layer("head_dropout").rate == 0.25
  # Flat, so that pruning and measuring see each layer; and with statistics that follow a short training.
  assert not any(isinstance(layer, keras.Model) for layer in model.layers)
  norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
  assert len(norms) == 27 and {layer.momentum for layer in norms} == {0.9}


@pytest.mark.parametrize(
  "architecture", ["MobileNet", "MobileNetV3Small", "EfficientNetB0", "EfficientNetV2B0"]
)
def test_the_network_gets_the_normalized_pixels_and_nothing_else_done_to_them(architecture):
  model = build_application(architecture, (32, 32, 1), 3, normalize())
  grey = pixels(1)
  np.testing.assert_allclose(first_input(model)(grey), grey / 50 - 2, rtol=1e-3, atol=1e-4)


def test_logits_are_float32_under_mixed_bfloat16():
  keras.mixed_precision.set_global_policy("mixed_bfloat16")
  try:
    model = build_application("MobileNetV3Small", (32, 32, 3), 4, normalize())
    logits = model(pixels(3))
  finally:
    keras.mixed_precision.set_global_policy("float32")
  assert logits.dtype == tf.float32 and logits.shape == (2, 4)
  assert model.get_layer("conv").compute_dtype == "bfloat16"


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
  """A MobileNet and files of its weights: with its top, without it, and in the old format."""
  folder = tmp_path_factory.mktemp("weights")
  keras.utils.set_random_seed(11)
  whole = keras.applications.MobileNet(weights=None, input_shape=(32, 32, 3), classes=7)
  network = keras.Model(whole.input, whole.get_layer("conv_pw_13_relu").output)
  # Moving statistics as after a training: those of one batch.
  for layer in network.layers:
    if isinstance(layer, keras.layers.BatchNormalization):
      layer.momentum = 0.0
  network(np.random.default_rng(1).uniform(-1, 1, (32, 32, 32, 3)).astype(np.float32), training=True)
  whole.save_weights(folder / "with_top.weights.h5")
  network.save(folder / "network.keras")
  with h5py.File(folder / "no_top.h5", "w") as file:
    legacy_h5_format.save_weights_to_hdf5_group(file, network)
  return network, folder


@pytest.mark.parametrize("name", ["with_top.weights.h5", "network.keras", "no_top.h5"])
def test_weights_come_with_the_preprocessing_that_they_were_learned_with(pretrained, name):
  network, folder = pretrained
  model = build_application("MobileNet", (32, 32, 3), 5, normalize(), weights=str(folder / name))
  expected = network(pixels(3) / 127.5 - 1).numpy().mean(axis=(1, 2))
  assert np.ptp(expected) > 0.1
  np.testing.assert_allclose(features(model)(pixels(3)), expected, rtol=1e-4, atol=1e-4)


def test_grey_pictures_are_repeated_for_given_weights(pretrained):
  network, folder = pretrained
  path = str(folder / "with_top.weights.h5")
  model = build_application("MobileNet", (32, 32, 1), 5, normalize(), weights=path)
  expected = network(np.repeat(pixels(1), 3, axis=-1) / 127.5 - 1).numpy().mean(axis=(1, 2))
  assert np.ptp(expected) > 0.1
  np.testing.assert_allclose(features(model)(pixels(1)), expected, rtol=1e-4, atol=1e-4)


def test_own_preprocessing_by_hand():
  pixel = np.array([10.0, 20.0, 30.0], np.float32).reshape(1, 1, 1, 3)
  blue_green_red = [30 - 103.939, 20 - 116.779, 10 - 123.68]
  torch = (np.array([10, 20, 30]) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
  for architecture, expected in [
    ("VGG16", blue_green_red),
    ("DenseNet121", torch),
    ("MobileNetV2", np.array([10, 20, 30]) / 127.5 - 1),
    ("EfficientNetB0", [10, 20, 30]),
  ]:
    layer = OwnPreprocessing(architecture)
    np.testing.assert_allclose(layer(pixel).numpy().ravel(), expected, rtol=1e-5)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.architecture == architecture


@pytest.mark.parametrize("size", [(64, 64), (40, 66), (33, 47)])
@pytest.mark.parametrize("architecture", ["MobileNetV2", "EfficientNetB0"])
def test_features_by_stride_whatever_the_size(architecture, size):
  """Neither borders that are put around pictures nor the 1x1 gates of squeeze-and-excitation are among them."""
  inputs = keras.Input((*size, 3))
  found = backbone_features(architecture, inputs, normalize())
  assert list(found) == [1, 2, 4, 8, 16, 32]
  for stride, feature in found.items():
    assert feature.shape[1:3] == (-(-size[0] // stride), -(-size[1] // stride))
  deep = {stride: found[stride].shape[-1] for stride in (2, 4, 8, 16, 32)}
  # The widest layers of each stride, before the next one begins.
  widths = {"MobileNetV2": (96, 144, 192, 576, 1280), "EfficientNetB0": (96, 144, 240, 672, 1280)}
  assert tuple(deep.values()) == widths[architecture]


def test_features_of_grey_pictures_with_given_weights(pretrained):
  network, folder = pretrained
  inputs = keras.Input((32, 32, 1))
  path = str(folder / "with_top.weights.h5")
  found = backbone_features("MobileNet", inputs, normalize(), path)[32]
  expected = network(np.repeat(pixels(1), 3, axis=-1) / 127.5 - 1)
  np.testing.assert_allclose(keras.Model(inputs, found)(pixels(1)), expected, rtol=1e-4, atol=1e-4)


def test_features_of_pictures_that_are_too_small_are_an_error():
  with pytest.raises(ValueError, match="does not take pictures of 16x16"):
    backbone_features("MobileNetV2", keras.Input((16, 16, 3)), normalize())


@pytest.mark.parametrize(
  "architecture, hint",
  [
    ("MobileNet2", "did you mean MobileNetV2 or MobileNet or "),
    ("resnet50", "did you mean ResNet50"),
    ("resne", "did you mean resnet"),
    ("AlexNet3000", "use resnet, or a name from keras.applications, like MobileNetV2"),
    ("mobilenet", "did you mean MobileNet "),
  ],
)
def test_unknown_architectures_are_named_with_close_ones(architecture, hint):
  with pytest.raises(ValueError) as caught:
    build_application(architecture, (32, 32, 3), 5, normalize())
  message = str(caught.value)
  assert message.startswith(f"model.architecture={architecture!r}: no such architecture; ")
  assert hint in message and "\n" not in message


def test_pictures_that_are_too_small():
  with pytest.raises(ValueError) as caught:
    build_application("Xception", (28, 28, 1), 5, normalize())
  message = str(caught.value)
  assert message.startswith("model.architecture=Xception does not take pictures of 28x28: ")
  assert "at least 71x71" in message and "preprocessing.height" in message and "\n" not in message


@pytest.mark.parametrize(
  "name, message",
  [
    ("missing.weights.h5", "no such file"),
    ("weights.txt", "name a .weights.h5, .keras or .h5 file"),
    ("garbage.weights.h5", "not weights of MobileNet ("),
    ("garbage.keras", "not weights of MobileNet ("),
    ("other.weights.h5", "not weights of MobileNet ("),
  ],
)
def test_weights_that_cannot_be_used(tmp_path, name, message):
  path = tmp_path / name
  if name.startswith("garbage"):
    path.write_bytes(b"garbage" * 100)
  elif name.startswith("other"):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save_weights(path)
  with pytest.raises(ValueError) as caught:
    build_application("MobileNet", (32, 32, 3), 5, normalize(), weights=str(path))
  assert str(caught.value).startswith(f"model.weights={path}: {message}")
  assert "\n" not in str(caught.value)
