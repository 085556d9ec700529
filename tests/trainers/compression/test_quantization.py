"""TFLite files of a network that was really trained, against the network itself."""

import pathlib
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.compression.quantization import (
  TFLiteRunner,
  export_network,
  tflite_layer_sparsity,
  tflite_weights,
  to_tflite,
)

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import shapes  # noqa: E402


@pytest.fixture(scope="module")
def network(tmp_path_factory):
  directory = str(tmp_path_factory.mktemp("network"))
  model = shapes.train()
  export_network(model, tf.TensorSpec([None, shapes.SIZE, shapes.SIZE, 1]), directory)
  return model, directory


@pytest.fixture(scope="module")
def files(network):
  calibration = shapes.draw(64, 2)[0]
  return {fmt: to_tflite(network[1], fmt, calibration) for fmt in ("float32", "float16", "int8")}


def accuracy(logits, targets):
  return float(np.mean(np.argmax(logits, -1) == np.argmax(targets, -1)))


def test_the_saved_network_answers_as_the_model(network):
  model, directory = network
  pictures, _ = shapes.draw(8, 3)
  signature = tf.saved_model.load(directory).signatures["network"]
  np.testing.assert_allclose(
    signature(inputs=pictures)["outputs"], model.predict(pictures, verbose=0), atol=1e-5
  )


@pytest.mark.parametrize("fmt, tolerance", [("float32", 1e-5), ("float16", 5e-3), ("int8", 0.1)])
def test_answers_agree_with_the_network(network, files, fmt, tolerance):
  pictures, targets = shapes.draw(400, 3)
  logits = network[0].predict(pictures, verbose=0)
  assert accuracy(logits, targets) > 0.9, "the network did not learn; nothing is shown by comparing with it"
  answers = TFLiteRunner(files[fmt])(pictures)
  assert answers.dtype == np.float32 and answers.shape == logits.shape
  assert np.max(np.abs(answers - logits)) <= tolerance * (logits.max() - logits.min())
  assert abs(accuracy(answers, targets) - accuracy(logits, targets)) <= 0.01


def test_batches_of_any_size_give_the_same_answers(files):
  pictures, _ = shapes.draw(32, 4)
  runner = TFLiteRunner(files["int8"])
  whole = runner(pictures)
  one_by_one = np.concatenate([runner(picture[np.newaxis]) for picture in pictures])
  np.testing.assert_allclose(whole, one_by_one, atol=1e-6)
  np.testing.assert_array_equal(runner(pictures), whole)


def test_weights_are_stored_in_the_format_asked_for(network, files):
  kernels = sum(weight.size for weight in network[0].get_weights() if weight.ndim >= 2)
  for fmt, dtype in [("float32", np.float32), ("float16", np.float16), ("int8", np.int32)]:
    weights = tflite_weights(files[fmt]).values()
    assert sum(array.size for array in weights if array.ndim >= 2 and array.dtype == dtype) >= kernels, fmt
  stored = [
    array for array in tflite_weights(files["int8"]).values() if array.size in (24 * 9, 48 * 24 * 9, 48 * 4)
  ]
  assert len(stored) == 3 and all(np.abs(array).max() == 127 for array in stored)
  assert len(files["int8"]) < len(files["float16"]) < len(files["float32"])


def test_pruned_weights_stay_zero_in_int8(network, tmp_path):
  model = keras.models.clone_model(network[0])
  model.set_weights(network[0].get_weights())
  kernel = model.get_layer("conv_2").kernel
  values = kernel.numpy()
  values[np.abs(values) < np.quantile(np.abs(values), 0.75)] = 0
  kernel.assign(values)
  export_network(model, tf.TensorSpec([None, shapes.SIZE, shapes.SIZE, 1]), str(tmp_path))
  for fmt in ("float32", "int8"):
    content = to_tflite(str(tmp_path), fmt, shapes.draw(16, 2)[0])
    sparsity = tflite_layer_sparsity(content, model)
    assert list(sparsity) == ["conv_1", "conv_2", "logits"]
    assert 0.75 <= sparsity["conv_2"] < 0.8
    assert sparsity["conv_1"] < 0.05
    (stored,) = [array for array in tflite_weights(content).values() if array.size == values.size]
    np.testing.assert_array_equal(np.moveaxis(stored, 0, -1)[values == 0], 0)


def test_calibration_decides_the_ranges(network):
  """Calibrated on black pictures, the file clips real ones: the examples are really used."""
  pictures, _ = shapes.draw(100, 3)
  black = np.zeros((8, shapes.SIZE, shapes.SIZE, 1), "float32")
  logits = network[0].predict(pictures, verbose=0)

  def error(calibration):
    return np.abs(TFLiteRunner(to_tflite(network[1], "int8", calibration))(pictures) - logits).mean()

  assert error(black) > 5 * error(pictures[:32])


def test_several_inputs_and_outputs_go_by_name(tmp_path):
  keras.utils.set_random_seed(1)
  left, right = keras.Input((4,), name="left"), keras.Input((3,), name="right")
  joined = keras.layers.Concatenate()([left, right])
  heads = {"near": keras.layers.Dense(2)(joined), "far": keras.layers.Dense(5)(joined)}
  model = keras.Model({"left": left, "right": right}, heads)
  specs = {"left": tf.TensorSpec([None, 4]), "right": tf.TensorSpec([None, 3])}
  export_network(model, specs, str(tmp_path))
  rng = np.random.default_rng(0)
  batch = {"left": rng.normal(size=(6, 4)).astype("f"), "right": rng.normal(size=(6, 3)).astype("f")}
  expected = model.predict(batch, verbose=0)
  examples = [{name: values[i] for name, values in batch.items()} for i in range(6)]
  for fmt, tolerance in [("float32", 1e-5), ("int8", 0.1)]:
    answers = TFLiteRunner(to_tflite(str(tmp_path), fmt, examples))(batch)
    for name in ("near", "far"):
      np.testing.assert_allclose(answers[name], expected[name], atol=tolerance)


def test_what_cannot_be_converted_is_said_in_one_line(network, tmp_path):
  with pytest.raises(ValueError, match="TFLite format 'int4' is unknown"):
    to_tflite(network[1], "int4")
  with pytest.raises(ValueError, match="int8 needs calibration examples"):
    to_tflite(network[1], "int8", [])
  inputs = keras.Input((4, 4))
  model = keras.Model(inputs, keras.layers.Lambda(tf.linalg.inv)(inputs))
  export_network(model, tf.TensorSpec([None, 4, 4]), str(tmp_path))
  with pytest.raises(ValueError, match="cannot express") as caught:
    to_tflite(str(tmp_path), "float32")
  assert "\n" not in str(caught.value)
