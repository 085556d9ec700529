"""TFLite files with and without signatures, behind the interface of a session."""

import concurrent.futures

import grpc
import numpy as np
import pytest
import tensorflow as tf

from serving.errors import RequestError
from serving.messages.tensors import encode_tensor
from serving.methods.predict import predict
from serving.sessions.batching import BatchingSession
from serving.sessions.batching_settings import BatchingSettings
from serving.sessions.tflite_session import TfliteSession


def logits(features):
  return {"logits": features @ tf.constant([[1.0, -1.0], [0.5, 2.0], [0.0, 3.0]]) + [0.25, -0.5]}


def doubled(x):
  return {"doubled": 2 * x}


@pytest.fixture(scope="module")
def write(tmp_path_factory):
  """({signature: (function, {input: spec})}) -> path of a TFLite file with these signatures."""

  def make(endpoints):
    directory = tmp_path_factory.mktemp("tflite")
    module = tf.Module()
    signatures = {}
    for name, (function, specs) in endpoints.items():
      traced = tf.function(function, autograph=False)
      signatures[name] = traced.get_concrete_function(
        **{key: tf.TensorSpec(spec.shape, spec.dtype, key) for key, spec in specs.items()}
      )
    tf.saved_model.save(module, str(directory / "model"), signatures=signatures)
    converter = tf.lite.TFLiteConverter.from_saved_model(
      str(directory / "model"), signature_keys=list(endpoints)
    )
    path = directory / "model.tflite"
    path.write_bytes(converter.convert())
    return str(path)

  return make


@pytest.fixture(scope="module")
def affine(write):
  session = TfliteSession(write({"network": (logits, {"features": tf.TensorSpec([None, 3])})}))
  yield session
  session.close()


def run(session, signature, *outputs, timeout_ms=0, **inputs):
  of = session.signatures[signature]
  feeds = {of.inputs[name].name: value for name, value in inputs.items()}
  return session.run(feeds, [of.outputs[name].name for name in outputs], timeout_ms)


def test_the_only_signature_is_the_default_one_too(affine):
  assert set(affine.signatures) == {"network", "serving_default"}
  assert affine.signatures["network"] == affine.signatures["serving_default"]
  info = affine.signatures["network"].inputs["features"]
  assert (info.dtype, [dim.size for dim in info.tensor_shape.dim]) == (1, [-1, 3])
  assert affine.signatures["network"].method_name == "tensorflow/serving/predict"


def test_batches_of_any_size_are_answered(affine, logits_of):
  for size in (2, 5, 1):
    features = np.arange(size * 3, dtype=np.float32).reshape(size, 3)
    (values,) = run(affine, "network", "logits", features=features)
    np.testing.assert_allclose(values, logits_of(features), rtol=1e-5)


def test_predict_takes_it_as_any_session(affine, logits_of):
  features = np.ones((2, 3), np.float32)
  answer = predict(affine, "", {"features": encode_tensor(features)})
  np.testing.assert_allclose(answer["logits"], logits_of(features), rtol=1e-5)


@pytest.mark.parametrize(
  ("features", "message"),
  [
    (np.ones((2, 3)), "input features must be float32, not float64"),
    (np.ones((5, 4), np.float32), "input features has the shape [5, 4], the model takes [-1, 3]"),
    (np.float32(1), "input features has the shape [], the model takes [-1, 3]"),
    (np.array([[b"a"] * 3], object), "input features must be float32, not string"),
  ],
)
def test_values_that_the_model_does_not_take(affine, features, message):
  with pytest.raises(RequestError) as caught:
    run(affine, "network", "logits", features=features)
  assert (caught.value.code, caught.value.message) == (grpc.StatusCode.INVALID_ARGUMENT, message)


def test_several_signatures(write, logits_of):
  session = TfliteSession(
    write(
      {
        "scores": (logits, {"features": tf.TensorSpec([None, 3])}),
        "twice": (doubled, {"x": tf.TensorSpec([None], tf.int32)}),
      }
    )
  )
  assert set(session.signatures) == {"scores", "twice"}
  assert run(session, "twice", "doubled", x=np.array([1, 4], np.int32))[0].tolist() == [2, 8]
  features = np.ones((1, 3), np.float32)
  np.testing.assert_allclose(
    run(session, "scores", "logits", features=features)[0], logits_of(features), rtol=1e-5
  )
  fetch = session.signatures["scores"].outputs["logits"].name
  feeds = {session.signatures["twice"].inputs["x"].name: np.array([1], np.int32)}
  with pytest.raises(RequestError, match="runs one signature at once, not 2"):
    session.run(feeds, [fetch])


def test_a_file_without_signatures_and_with_strings(tmp_path):
  specs = [tf.TensorSpec([None], tf.string, "words"), tf.TensorSpec([None], tf.int32, "positions")]
  function = tf.function(lambda words, positions: tf.gather(words, positions), specs, autograph=False)
  converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
  path = tmp_path / "model.tflite"
  path.write_bytes(converter.convert())
  session = TfliteSession(str(path))
  assert set(session.signatures) == {"serving_default"}
  (output,) = session.signatures["serving_default"].outputs
  words, positions = np.array([b"ab", "é".encode()], object), np.array([1, 0, 1], np.int32)
  (picked,) = run(session, "serving_default", output, words=words, positions=positions)
  assert picked.tolist() == ["é".encode(), b"ab", "é".encode()]


def test_many_callers_joined_and_alone(affine, logits_of):
  joint = BatchingSession(affine, BatchingSettings(num_batch_threads=1))
  rng = np.random.default_rng(0)
  batches = [rng.normal(size=(1 + i % 3, 3)).astype(np.float32) for i in range(60)]
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    for session in (joint, affine):
      answers = pool.map(lambda x, session=session: run(session, "network", "logits", features=x)[0], batches)
      for batch, answer in zip(batches, answers, strict=True):
        np.testing.assert_allclose(answer, logits_of(batch), rtol=1e-4, atol=1e-5)


def test_waiting_for_an_interpreter_ends_at_the_deadline(affine, logits_of):
  features = np.ones((1, 3), np.float32)
  taken = []
  while not affine._free.empty():
    taken.append(affine._free.get())
  with pytest.raises(RequestError, match="waiting for a free TFLite interpreter") as caught:
    run(affine, "network", "logits", features=features, timeout_ms=50)
  assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
  for interpreter in taken:
    affine._free.put(interpreter)
  np.testing.assert_allclose(
    run(affine, "network", "logits", features=features)[0], logits_of(features), rtol=1e-5
  )


def test_a_file_that_is_no_model_fails_the_load(tmp_path):
  path = tmp_path / "model.tflite"
  path.write_bytes(b"not a model at all")
  with pytest.raises(ValueError, match="Model provided has model identifier|could not be"):
    TfliteSession(str(path))
