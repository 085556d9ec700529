"""Loading of versions, with their warm-up requests."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from serving.errors import RequestError, ServingError
from serving.messages.tensors import encode_tensor
from serving.methods.predict import predict
from serving.models.loading import LoadSettings, find_tflite, load_warmed_up
from serving.sessions.batching import BatchingSession
from serving.sessions.batching_settings import BatchingSettings
from serving.sessions.session import SavedModelSession
from serving.sessions.tflite_session import TfliteSession
from serving.telemetry.monitoring import Monitoring
from serving.warmup import write_warmup_requests

FEATURES = np.array([[1, 2, 3], [-1, 0, 0.5]], np.float32)


@pytest.fixture
def export(exports, tmp_path):
  """A copy of version 1 that a test may change."""
  return shutil.copytree(exports[1], tmp_path / "1")


@pytest.fixture(scope="module")
def tflite(exports):
  """A TFLite file of the default signature, which says ten times what the SavedModel says."""
  double = tf.function(
    lambda features: {
      "logits": 10 * (features @ tf.constant([[1.0, -1.0], [0.5, 2.0], [0.0, 3.0]]) + [0.25, -0.5])
    },
    [tf.TensorSpec([None, 3], name="features")],
    autograph=False,
  )
  module = tf.Module()
  module.double = double
  return tf.lite.TFLiteConverter.from_concrete_functions([double.get_concrete_function()], module).convert()


def put(content, *path):
  path = os.path.join(*path)
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with open(path, "wb") as file:
    file.write(content)
  return path


def ask(session, features=FEATURES):
  return predict(session, "", {"features": encode_tensor(features)}, ["logits"])["logits"]


def metric(monitoring, name):
  lines = monitoring.exposition()[0].decode().splitlines()
  return [float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name)]


def test_by_default_runs_are_joined(export, logits_of):
  session = load_warmed_up(str(export))
  assert isinstance(session, BatchingSession)
  np.testing.assert_allclose(ask(session), logits_of(FEATURES), rtol=1e-6)
  session.close()


def test_without_batching_it_is_the_session_itself(export, logits_of):
  session = load_warmed_up(str(export), LoadSettings(batching=None, intra_op_threads=1, inter_op_threads=1))
  assert isinstance(session, SavedModelSession)
  np.testing.assert_allclose(ask(session), logits_of(FEATURES), rtol=1e-6)
  session.close()


def test_warm_up_requests_go_through_the_batching(export):
  write_warmup_requests(
    str(export), "affine", [("", {"features": FEATURES}), ("", {"features": FEATURES[:1]})]
  )
  settings = LoadSettings(
    num_warmup_iterations=3,
    batching=BatchingSettings(max_batch_size=4, allowed_batch_sizes=(4,), num_batch_threads=1, greedy=False),
  )
  monitoring = Monitoring()
  load_warmed_up(str(export), settings, monitoring).close()
  prefix = ":tensorflow:serving:"
  assert metric(monitoring, prefix + "batching_session:processed_batch_size_count") == [6]
  assert metric(monitoring, prefix + "batching_session:processed_batch_size_sum") == [24]
  assert metric(monitoring, prefix + "model_warmup_latency_count") == [1]
  assert metric(monitoring, ":tensorflow:cc:saved_model:load_attempt_count") == [1]


def test_warm_up_can_be_switched_off(export):
  write_warmup_requests(str(export), "affine", [("", {"features": np.ones((1, 7), np.float32)})])
  load_warmed_up(str(export), LoadSettings(enable_model_warmup=False)).close()
  monitoring = Monitoring()
  with pytest.raises(RequestError):
    load_warmed_up(str(export), LoadSettings(), monitoring)
  assert 'status="INVALID_ARGUMENT"' in monitoring.exposition()[0].decode()


def test_a_failed_load_is_counted(tmp_path):
  monitoring = Monitoring()
  with pytest.raises(Exception, match="SavedModel"):
    load_warmed_up(str(tmp_path), LoadSettings(), monitoring)
  text = monitoring.exposition()[0].decode()
  assert f'load_attempt_count{{model_path="{tmp_path}",status="fail"}} 1.0' in text


def test_tags_and_configuration_file_reach_the_session(export, tmp_path):
  with pytest.raises(RuntimeError, match="tpu"):
    load_warmed_up(str(export), LoadSettings(saved_model_tags="serve,tpu"))
  with pytest.raises(ServingError, match="nothing.config"):
    load_warmed_up(str(export), LoadSettings(session_config_file=str(tmp_path / "nothing.config")))


def test_the_tflite_file_is_served_only_if_it_is_preferred(export, tflite, logits_of):
  put(tflite, str(export), "model.tflite")
  preferred = load_warmed_up(str(export), LoadSettings(prefer_tflite_model=True, batching=None))
  assert isinstance(preferred, TfliteSession)
  np.testing.assert_allclose(ask(preferred), 10 * logits_of(FEATURES), rtol=1e-5)
  other = load_warmed_up(str(export), LoadSettings(batching=None))
  np.testing.assert_allclose(ask(other), logits_of(FEATURES), rtol=1e-6)


def test_without_a_tflite_file_the_saved_model_is_served(export, logits_of):
  session = load_warmed_up(str(export), LoadSettings(prefer_tflite_model=True))
  np.testing.assert_allclose(ask(session), logits_of(FEATURES), rtol=1e-6)


def test_a_compressed_model_is_not_warmed_up_with_the_saved_models_requests(export, tflite, logits_of):
  write_warmup_requests(str(export), "affine", [("slow", {"steps": np.array([1])})])
  put(tflite, str(export), "assets.extra", "model_int8.tflite")
  session = load_warmed_up(str(export), LoadSettings(prefer_tflite_model=True))
  np.testing.assert_allclose(ask(session), 10 * logits_of(FEATURES), rtol=1e-5)
  put(tflite, str(export), "model.tflite")
  with pytest.raises(RequestError, match='"slow" not found'):
    load_warmed_up(str(export), LoadSettings(prefer_tflite_model=True))


def test_which_tflite_file_is_found(tmp_path):
  assert find_tflite(str(tmp_path)) is None
  for name in ("float32", "float16", "int8"):
    path = put(b"", str(tmp_path), "assets.extra", f"model_{name}.tflite")
    assert find_tflite(str(tmp_path)) == path
  path = put(b"", str(tmp_path), "model.tflite")
  assert find_tflite(str(tmp_path)) == path
