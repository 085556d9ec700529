"""Warm-up requests: written as TF Serving reads them, replayed before a version answers."""

import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.errors import RequestError
from serving.loading import load_warmed_up
from serving.warmup import read_warmup_requests, write_warmup_requests

FEATURES = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
EXAMPLES = np.array([b"\n\x00"], object)


@pytest.fixture
def export(exports, tmp_path):
  return shutil.copytree(exports[1], tmp_path / "1")


def test_written_requests_are_predict_logs_and_read_back(export):
  path = write_warmup_requests(
    export,
    "affine",
    [("serving_default", {"features": FEATURES}), ("serve_examples", {"examples": EXAMPLES})],
  )
  assert path == str(export / "assets.extra" / "tf_serving_warmup_requests")
  logs = [
    prediction_log_pb2.PredictionLog.FromString(record)
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator()
  ]
  first = logs[0].predict_log.request
  assert first.model_spec.name == "affine" and first.model_spec.signature_name == "serving_default"
  np.testing.assert_array_equal(tf.make_ndarray(first.inputs["features"]), FEATURES)
  (name_1, inputs_1), (name_2, inputs_2) = read_warmup_requests(export)
  assert (name_1, name_2) == ("serving_default", "serve_examples")
  np.testing.assert_array_equal(inputs_1["features"], FEATURES)
  np.testing.assert_array_equal(inputs_2["examples"], EXAMPLES)


def test_an_export_without_a_file_has_none(export):
  assert read_warmup_requests(export) == []


def test_a_version_is_warmed_up_with_its_requests(export):
  write_warmup_requests(export, "affine", [("serving_default", {"features": FEATURES})])
  session = load_warmed_up(str(export))
  info = session.signatures["serving_default"]
  (logits,) = session.run({info.inputs["features"].name: FEATURES}, [info.outputs["logits"].name])
  assert logits.shape == (2, 2)
  session.close()


def test_a_warm_up_request_that_fails_makes_the_load_fail(export):
  write_warmup_requests(export, "affine", [("serving_default", {"features": FEATURES.astype(np.float64)})])
  with pytest.raises(RequestError, match="to be float but double is provided"):
    load_warmed_up(str(export))


def test_a_file_that_is_no_tfrecord_makes_the_load_fail(export):
  path = export / "assets.extra" / "tf_serving_warmup_requests"
  path.parent.mkdir()
  path.write_bytes(b"this is no TFRecord file at all")
  with pytest.raises(RequestError, match="verify your warmup data is in TFRecord format"):
    load_warmed_up(str(export))


def test_at_most_1000_requests(export):
  with pytest.raises(ValueError, match="1001 warm-up requests; TF Serving takes at most 1000"):
    write_warmup_requests(export, "affine", [("serving_default", {"features": FEATURES})] * 1001)
  path = export / "assets.extra" / "tf_serving_warmup_requests"
  path.parent.mkdir()
  with tf.io.TFRecordWriter(str(path)) as writer:
    for _ in range(1001):
      writer.write(prediction_log_pb2.PredictionLog().SerializeToString())
  with pytest.raises(RequestError, match=r"exceeds the maximum \(1000\)"):
    read_warmup_requests(export)


def test_a_directory_without_an_export_is_named(tmp_path):
  with pytest.raises(ValueError, match=f"{tmp_path} holds no saved_model.pb"):
    write_warmup_requests(str(tmp_path), "affine", [])
