"""Warm-up requests: written as TF Serving reads them, replayed before a version answers."""

import shutil

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from serving.errors import RequestError
from serving.messages.tensors import encode_tensor
from serving.models.loading import load_warmed_up
from serving.sessions.session import SavedModelSession
from serving.warmup import replay, write_warmup_requests
from tests.serving import example_export
from tests.serving.example_export import CLASSIFY, REGRESS, example
from tests.serving.warmup_requests import read_warmup_requests

FEATURES = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], np.float32)
EXAMPLES = np.array([b"\n\x00"], object)


class RecordingSession:
  """A real session that notes which outputs were computed for which batch."""

  def __init__(self, session):
    self.signatures = session.signatures
    self.runs = []
    self._session = session

  def run(self, feeds, fetches, timeout_ms=0):
    values = self._session.run(feeds, fetches, timeout_ms)
    self.runs.append([value.tolist() for value in values])
    return values


@pytest.fixture(scope="module")
def examples_dir(tmp_path_factory):
  return example_export.export(str(tmp_path_factory.mktemp("examples") / "1"))


@pytest.fixture(scope="module")
def examples_session(examples_dir):
  session = SavedModelSession(examples_dir)
  yield session
  session.close()


@pytest.fixture
def write_records(tmp_path):
  """(records) -> directory of an export with no more than this warm-up file."""

  def write(*records):
    path = tmp_path / "export" / "assets.extra" / "tf_serving_warmup_requests"
    path.parent.mkdir(parents=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
      for record in records:
        writer.write(record if isinstance(record, bytes) else record.SerializeToString())
    return str(tmp_path / "export")

  return write


def log_of(kind, signature_name=""):
  """(log, its request), the input one example with a = 1.5."""
  log = prediction_log_pb2.PredictionLog()
  request = getattr(log, kind).request
  request.model_spec.name, request.model_spec.signature_name = "m", signature_name
  if hasattr(request, "input"):
    request.input.example_list.examples.append(example(a=1.5))
  return log, request


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


def test_a_directory_without_an_export_is_named(tmp_path):
  with pytest.raises(ValueError, match=f"{tmp_path} holds no saved_model.pb"):
    write_warmup_requests(str(tmp_path), "affine", [])


def test_every_kind_of_request_is_replayed(examples_session, write_records):
  predicted, request = log_of("predict_log", "predict")
  request.inputs["x"].MergeFromString(encode_tensor(np.array([3.0], np.float32)))
  several = prediction_log_pb2.PredictionLog()
  several.multi_inference_log.request.input.example_list.examples.append(example(a=4.0))
  for signature_name, method_name in (("only_scores", CLASSIFY), ("regress", REGRESS)):
    task = several.multi_inference_log.request.tasks.add(method_name=method_name)
    task.model_spec.name, task.model_spec.signature_name = "m", signature_name
  logs = [predicted, log_of("classify_log")[0], log_of("regress_log", "regress_column")[0], several]
  recording = RecordingSession(examples_session)
  assert replay(recording, write_records(*logs)) == 4
  *first, last = recording.runs
  assert first == [[[6.0]], [[[b"up", b"down"]], [[1.5, -1.5]]], [[[15.0]]]]
  assert sorted(map(str, last)) == sorted(map(str, [[[4.0, -4.0]], [4.0]]))


def test_requests_are_replayed_as_often_as_told(examples_session, write_records):
  recording = RecordingSession(examples_session)
  assert replay(recording, write_records(log_of("classify_log")[0]), iterations=3) == 1
  assert len(recording.runs) == 3


def test_an_export_without_a_file_is_replayed_in_no_time(examples_dir):
  assert replay(None, examples_dir) == 0


def test_records_without_a_request_warm_nothing_up(write_records):
  streamed = prediction_log_pb2.PredictionLog()
  streamed.predict_streamed_log.request.add().model_spec.name = "m"
  assert replay(None, write_records(prediction_log_pb2.PredictionLog(), streamed)) == 2


def test_session_runs_are_not_supported(write_records):
  log = prediction_log_pb2.PredictionLog()
  log.session_run_log.request.SetInParent()
  with pytest.raises(RequestError, match="Unsupported log_type for warmup: 5") as caught:
    replay(None, write_records(log))
  assert caught.value.code == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
  ("kind", "signature_name", "message"),
  [
    ("classify_log", "regress", 'at least one of "classes" or "scores"'),
    ("regress_log", "nothing", "No signature was found with the name: nothing"),
    ("predict_log", "nothing", 'Serving signature key "nothing" not found.'),
  ],
)
def test_a_failing_request_of_any_kind_fails_the_replay(
  examples_session, write_records, kind, signature_name, message
):
  with pytest.raises(RequestError, match=message):
    replay(examples_session, write_records(log_of(kind, signature_name)[0]))


def test_the_method_name_is_checked_on_demand(examples_session, write_records):
  directory = write_records(log_of("regress_log", "regress_as_predict")[0])
  assert replay(examples_session, directory) == 1
  with pytest.raises(RequestError, match="Expected regression signature method_name to be"):
    replay(examples_session, directory, check_method_name=True)


def test_a_record_that_is_no_prediction_log_is_named(write_records):
  directory = write_records(prediction_log_pb2.PredictionLog(), b"\xff\xff")
  with pytest.raises(RequestError, match=f"record: number 2 from {directory}/.* is no PredictionLog"):
    replay(None, directory)


def test_more_than_1000_records_are_refused(examples_session, write_records):
  directory = write_records(*[prediction_log_pb2.PredictionLog()] * 1001)
  with pytest.raises(RequestError, match=r"Number of warmup records exceeds the maximum \(1000\) at"):
    replay(examples_session, directory)
