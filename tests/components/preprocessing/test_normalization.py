import keras
import numpy as np
import pytest
import tensorflow as tf

from components.preprocessing import image as ops

RNG = np.random.default_rng(11)
METHODS = {
  "standardize": {"method": "standardize", "mean": [120.5, 90.0, 80.0], "stddev": [50.0, 60.0, 70.5]},
  "global_contrast": {"method": "global_contrast", "gcn_scale": 2.0, "gcn_bias": 4.0},
  "local_contrast": {"method": "local_contrast", "lcn_window_stddev_px": 1.5, "lcn_epsilon": 3.0},
  "local_across": {"method": "local_contrast", "lcn_epsilon": 3.0, "lcn_across_channels": True},
}


def pictures(num_images=3, height=9, width=12, channels=3):
  return RNG.integers(0, 256, (num_images, height, width, channels)).astype(np.float32)


def numpy_lcn(images, stddev_px, epsilon, across_channels):
  """The definition, pixel by pixel, in float64."""
  images = images.astype(np.float64)
  radius = int(3 * stddev_px)
  result = np.empty_like(images)
  _, height, width, channels = images.shape
  for row in range(height):
    for column in range(width):
      rows = np.arange(max(0, row - radius), min(height, row + radius + 1))
      columns = np.arange(max(0, column - radius), min(width, column + radius + 1))
      squares = (rows[:, None] - row) ** 2 + (columns[None, :] - column) ** 2
      weights = np.exp(-squares / (2 * stddev_px**2))
      weights = (weights / weights.sum())[None, :, :, None]
      window = images[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
      axes = (1, 2)
      if across_channels:
        weights, axes = weights / channels, (1, 2, 3)
      mean = (weights * window).sum(axis=axes, keepdims=True)
      stddev = np.sqrt((weights * (window - mean) ** 2).sum(axis=axes))
      centred = images[:, row, column] - mean.reshape(len(images), -1)
      result[:, row, column] = centred / np.maximum(epsilon, stddev.reshape(len(images), -1))
  return result


def numpy_gcn(images, scale, bias, epsilon):
  return np.stack(
    [
      scale * (one - one.mean()) / max(epsilon, np.sqrt(bias + one.var()))
      for one in images.astype(np.float64)
    ]
  )


def test_standardize():
  images = pictures()
  expected = (images.astype(np.float64) - [100, 110, 120]) / [50, 55, 60.5]
  normalized = ops.standardize(tf.constant(images), [100, 110, 120], [50, 55, 60.5])
  np.testing.assert_allclose(normalized, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("scale", "bias", "epsilon"), [(1, 10, 1e-8), (2.5, 0, 1e-8), (1, 0, 90)])
def test_global_contrast(channels, scale, bias, epsilon):
  images = pictures(channels=channels)
  images[1] = images[1] / 50 + 100
  normalized = ops.global_contrast_normalize(tf.constant(images), scale, bias, epsilon).numpy()
  np.testing.assert_allclose(normalized, numpy_gcn(images, scale, bias, epsilon), rtol=1e-5, atol=1e-5)
  if not bias and epsilon < 1:
    np.testing.assert_allclose(normalized.std(axis=(1, 2, 3)), scale, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("across_channels", [False, True])
@pytest.mark.parametrize(("stddev_px", "epsilon"), [(2.0, 10.0), (0.8, 1.0), (9.0, 60.0)])
def test_local_contrast(channels, across_channels, stddev_px, epsilon):
  images = pictures(channels=channels)
  # A quiet corner falls below epsilon.
  images[0, :5, :5] = 200 + images[0, :5, :5] / 255
  normalized = ops.local_contrast_normalize(tf.constant(images), stddev_px, epsilon, across_channels)
  expected = numpy_lcn(images, stddev_px, epsilon, across_channels)
  np.testing.assert_allclose(normalized, expected, rtol=1e-4, atol=1e-4)


def test_pictures_without_contrast_become_zero():
  flat = tf.fill([2, 8, 8, 3], 200.0)
  for across_channels in (False, True):
    np.testing.assert_allclose(ops.local_contrast_normalize(flat, 2.0, 1e-8, across_channels), 0)
  np.testing.assert_allclose(ops.global_contrast_normalize(flat, 1.0, 0.0, 1e-8), 0)


@pytest.mark.parametrize("name", METHODS)
def test_layer_computes_in_float32_under_every_policy(name):
  images = pictures() / 3
  expected = ops.NormalizeImages(**METHODS[name])(images)
  assert expected.dtype == tf.float32
  for policy, dtype in (("mixed_float16", tf.float16), ("mixed_bfloat16", tf.bfloat16)):
    output = ops.NormalizeImages(**METHODS[name], dtype=policy)(images)
    # Equal to the last bit: rounded once, at the end.
    assert output.dtype == dtype
    assert tf.reduce_all(output == tf.cast(expected, dtype))
  assert not ops.NormalizeImages(**METHODS[name]).weights


@pytest.mark.parametrize("name", METHODS)
def test_layer_in_a_model_with_xla_and_in_a_keras_file(name, tmp_path):
  images = pictures()
  expected = ops.NormalizeImages(**METHODS[name])(images).numpy()
  given = keras.Input(images.shape[1:], name="pixels")
  model = keras.Model(given, ops.NormalizeImages(**METHODS[name], name="normalize")(given))
  assert model.output_shape == (None, *images.shape[1:])
  compiled = tf.function(model, jit_compile=True)
  np.testing.assert_allclose(compiled(tf.constant(images)), expected, rtol=1e-4, atol=1e-5)
  model.save(tmp_path / "model.keras")
  again = keras.models.load_model(tmp_path / "model.keras")
  np.testing.assert_array_equal(again(images), model(images))
  assert again.get_layer("normalize").get_config() == model.get_layer("normalize").get_config()


@pytest.mark.parametrize("name", METHODS)
def test_tflite_answers_like_the_model(name, tmp_path):
  images = pictures()
  given = keras.Input(images.shape[1:], name="pixels")
  model = keras.Model(given, ops.NormalizeImages(**METHODS[name])(given))
  archive = keras.export.ExportArchive()
  archive.track(model)
  archive.add_endpoint("serve", model, [tf.TensorSpec([None, *images.shape[1:]], tf.float32)])
  archive.write_out(str(tmp_path), verbose=False)
  content = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path), signature_keys=["serve"]).convert()
  interpreter = tf.lite.Interpreter(model_content=content)
  interpreter.allocate_tensors()
  for image, expected in zip(images, model(images).numpy(), strict=True):
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[np.newaxis])
    interpreter.invoke()
    answer = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-4)


def test_statistics_as_arrays_become_plain_numbers():
  layer = ops.NormalizeImages("standardize", mean=np.float32([1.5]), stddev=np.float32([2.5]))
  config = layer.get_config()
  assert (config["mean"], config["stddev"]) == ([1.5], [2.5])
  assert type(config["mean"][0]) is float


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"method": "whiten"}, 'method is "whiten"'),
    ({"method": "standardize"}, "needs mean and stddev"),
    ({"method": "standardize", "mean": [0, 0], "stddev": [1]}, "needs mean and stddev"),
    ({"method": "standardize", "mean": [0], "stddev": [0]}, "must be above 0"),
    ({"method": "local_contrast", "lcn_epsilon": 0}, "lcn_epsilon is 0"),
  ],
)
def test_wrong_arguments_are_errors(arguments, message):
  with pytest.raises(ValueError, match=message):
    ops.NormalizeImages(**arguments)
