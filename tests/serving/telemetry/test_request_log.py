"""The request log: what is written, that files serve as warm-up data, and that requests never wait or fail."""

import os
import random
import shutil
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2, prediction_service_pb2_grpc
from tensorflow_serving.config import logging_config_pb2

from serving.errors import RequestError, ServingError
from serving.messages.tensors import encode_tensor
from serving.messages.wire import PredictAnswer, read_predict_request
from serving.sessions.session import SavedModelSession
from serving.telemetry.request_log import LogSettings, RequestLog, predict_log
from serving.warmup import replay
from tests.serving import example_export
from tests.serving.warmup_requests import read_warmup_requests

FEATURES = np.array([[1.0, 2.0, 3.0]], np.float32)


@pytest.fixture
def request_log():
  log = RequestLog()
  yield log
  log.close()


def classify_log(label):
  log = prediction_log_pb2.PredictionLog()
  log.classify_log.request.model_spec.name = "m"
  log.classify_log.response.result.classifications.add().classes.add(label=label)
  return log


def files_of(folder):
  return sorted(Path(folder).glob("*.tfrecord"))


def logs_of(path):
  return [
    prediction_log_pb2.PredictionLog.FromString(record)
    for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
  ]


def labels_of(path):
  return [log.classify_log.response.result.classifications[0].classes[0].label for log in logs_of(path)]


def test_a_record_holds_request_response_and_metadata(request_log, tmp_path):
  request_log.configure({"m": LogSettings(str(tmp_path / "new" / "m"), 1.0)})
  before_s = int(time.time())
  request_log.record("m", lambda: classify_log("cat"))
  assert request_log.flush()
  (path,) = files_of(tmp_path / "new")
  assert path.name.startswith("m-") and path.name.endswith(f"-{os.getpid()}-00001.tfrecord")
  (log,) = logs_of(path)
  assert log.classify_log == classify_log("cat").classify_log
  assert log.log_metadata.model_spec.name == "m"
  assert log.log_metadata.sampling_config.sampling_rate == 1.0
  assert before_s <= log.log_metadata.timestamp_secs <= time.time()


@pytest.mark.parametrize("field", ["regress_log", "multi_inference_log", "predict_log"])
def test_the_metadata_name_the_model_that_was_asked(request_log, tmp_path, field):
  log = prediction_log_pb2.PredictionLog()
  request = getattr(log, field).request
  asked = request.tasks.add() if field == "multi_inference_log" else request
  asked.model_spec.name, asked.model_spec.signature_name = "m", field
  request_log.configure({"m": LogSettings(str(tmp_path / "m"), 1.0)})
  request_log.record("m", lambda: log)
  request_log.flush()
  (written,) = logs_of(files_of(tmp_path)[0])
  assert written.log_metadata.model_spec.signature_name == field


def test_only_configured_models_are_logged_and_others_cost_nothing(request_log, tmp_path):
  called = []
  request_log.record("m", lambda: called.append("before any configuration"))
  request_log.configure(
    {"m": LogSettings(str(tmp_path / "m"), 1.0), "never": LogSettings(str(tmp_path / "never"), 0.0)}
  )
  request_log.record("other", lambda: called.append("other"))
  request_log.record("never", lambda: called.append("never"))
  request_log.record("m", lambda: classify_log("cat"))
  request_log.flush()
  assert called == [] and request_log.dropped == 0
  assert [labels_of(path) for path in files_of(tmp_path)] == [["cat"]]


def test_the_sampling_rate_is_a_share_of_the_requests(request_log, tmp_path):
  random.seed(20)
  request_log.configure({"m": LogSettings(str(tmp_path / "m"), 0.25)})
  for _ in range(2000):
    request_log.record("m", lambda: classify_log("cat"))
  request_log.flush()
  count = sum(len(logs_of(path)) for path in files_of(tmp_path))
  # Of 2000 at 0.25: 500, standard deviation 19.
  assert 400 < count < 600


def test_a_new_configuration_takes_the_place_of_the_old_one(request_log, tmp_path):
  request_log.configure({"m": LogSettings(str(tmp_path / "first"), 1.0)})
  request_log.record("m", lambda: classify_log("1"))
  request_log.configure({"m": LogSettings(str(tmp_path / "second"), 1.0)})
  request_log.record("m", lambda: classify_log("2"))
  request_log.configure({})
  request_log.record("m", lambda: classify_log("3"))
  assert request_log.flush()
  assert [labels_of(path) for path in files_of(tmp_path)] == [["1"], ["2"]]


def test_files_hold_as_many_records_as_warm_up_takes(tmp_path):
  request_log = RequestLog(max_records_per_file=3)
  request_log.configure({"m": LogSettings(str(tmp_path / "m"), 1.0)})
  for i in range(7):
    request_log.record("m", lambda i=i: classify_log(str(i)))
  request_log.close()
  written = {path: labels_of(path) for path in files_of(tmp_path)}
  assert list(written.values()) == [["0", "1", "2"], ["3", "4", "5"], ["6"]]


def test_close_writes_what_is_queued_and_ends_the_log(request_log, tmp_path):
  request_log.configure({"m": LogSettings(str(tmp_path / "m"), 1.0)})
  for i in range(200):
    request_log.record("m", lambda i=i: classify_log(str(i)))
  request_log.close()
  request_log.record("m", lambda: classify_log("too late"))
  assert labels_of(files_of(tmp_path)[0]) == [str(i) for i in range(200)]
  assert request_log.dropped == 1
  assert not any(thread.name == "request-log" for thread in threading.enumerate())


def test_threads_log_side_by_side(request_log, tmp_path):
  request_log.configure({"m": LogSettings(str(tmp_path / "m"), 1.0)})

  def work(worker):
    for i in range(50):
      request_log.record("m", lambda i=i: classify_log(f"{worker}.{i}"))

  threads = [threading.Thread(target=work, args=(worker,)) for worker in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  request_log.flush()
  labels = [label for path in files_of(tmp_path) for label in labels_of(path)]
  assert sorted(labels) == sorted(f"{worker}.{i}" for worker in range(8) for i in range(50))


def test_what_does_not_fit_into_the_queue_is_counted_not_waited_for(tmp_path):
  request_log = RequestLog(max_queued_bytes=500)
  request_log.configure({"m": LogSettings(str(tmp_path / "m"), 1.0)})
  request_log.record("m", lambda: classify_log("x" * 501))
  request_log.record("m", lambda: classify_log("y" * 300))
  request_log.close()
  assert [labels_of(path) for path in files_of(tmp_path)] == [["y" * 300]]
  assert request_log.dropped == 1


def test_a_request_survives_a_log_that_cannot_be_made(request_log, tmp_path, caplog):
  request_log.configure({"m": LogSettings(str(tmp_path / "m"), 1.0)})
  request_log.record("m", lambda: 1 / 0)
  assert request_log.dropped == 1
  assert "m: a request could not be logged" in caplog.text


def test_a_folder_that_vanishes_is_told_once_and_the_log_goes_on(request_log, tmp_path, caplog):
  folder = tmp_path / "logs"
  request_log.configure({"m": LogSettings(str(folder / "m"), 1.0)})
  shutil.rmtree(folder)
  for _ in range(3):
    request_log.record("m", lambda: classify_log("lost"))
    assert request_log.flush()
  assert request_log.dropped == 3
  assert caplog.text.count(f"requests cannot be logged to {folder / 'm'}") == 1
  folder.mkdir()
  request_log.record("m", lambda: classify_log("kept"))
  assert request_log.flush()
  assert labels_of(files_of(folder)[0]) == ["kept"]


def test_settings_come_from_the_models_configuration():
  config = logging_config_pb2.LoggingConfig()
  config.log_collector_config.filename_prefix = "/logs/m"
  config.sampling_config.sampling_rate = 0.5
  assert LogSettings.from_config(config) == LogSettings("/logs/m", 0.5, "")
  config.log_collector_config.type = "tfrecord"
  assert LogSettings.from_config(config) == LogSettings("/logs/m", 0.5)


def test_wrong_settings_are_refused():
  with pytest.raises(RequestError, match="Cannot find LogCollector::Factory for type: kafka") as caught:
    LogSettings("/logs/m", 1.0, "kafka")
  assert caught.value.code == grpc.StatusCode.NOT_FOUND
  with pytest.raises(RequestError, match="has no filename_prefix"):
    LogSettings("", 1.0)
  with pytest.raises(RequestError, match="sampling_rate is 1.5; it has to be between 0 and 1"):
    LogSettings("/logs/m", 1.5)


def test_a_folder_that_cannot_be_made_is_named(request_log, tmp_path):
  (tmp_path / "file").write_text("in the way")
  with pytest.raises(
    ServingError, match=f"m: cannot make the folder {tmp_path}/file/logs of logging_config's"
  ):
    request_log.configure({"m": LogSettings(str(tmp_path / "file" / "logs" / "m"), 1.0)})


def test_logged_predict_requests_warm_up_an_export(request_log, exports, logits_of, tmp_path):
  """The round from a client's bytes to a log file, copied into an export and replayed."""
  request = prediction_log_pb2.PredictLog().request
  request.model_spec.name = "affine"
  request.inputs["features"].MergeFromString(encode_tensor(FEATURES))
  call = read_predict_request(request.SerializeToString())
  answer = PredictAnswer(call.model_spec, {"logits": logits_of(FEATURES)})
  request_log.configure({"affine": LogSettings(str(tmp_path / "affine"), 1.0)})
  request_log.record("affine", lambda: predict_log(call, answer))
  request_log.close()
  (path,) = files_of(tmp_path)
  (log,) = logs_of(path)
  assert log.predict_log.request == request
  logits = tf.make_ndarray(log.predict_log.response.outputs["logits"])
  np.testing.assert_array_equal(logits, logits_of(FEATURES))
  export = shutil.copytree(exports[1], tmp_path / "1")
  (export / "assets.extra").mkdir(exist_ok=True)
  shutil.copy(path, export / "assets.extra" / "tf_serving_warmup_requests")
  ((signature_name, inputs),) = read_warmup_requests(str(export))
  assert signature_name == ""
  np.testing.assert_array_equal(inputs["features"], FEATURES)
  session = SavedModelSession(str(export))
  assert replay(session, str(export)) == 1
  session.close()


def test_a_server_logs_what_its_configuration_asks_for(tmp_path):
  """All kinds of requests by gRPC; what is logged warms up the same model."""
  from serving.options import parse_flags
  from serving.server import ModelServer

  export = example_export.export(str(tmp_path / "m" / "1"))
  config = tmp_path / "models.config"
  config.write_text(
    f"""model_config_list {{ config {{
      name: "m" base_path: "{tmp_path}/m" model_platform: "tensorflow"
      logging_config {{
        log_collector_config {{ filename_prefix: "{tmp_path}/logs/m" }}
        sampling_config {{ sampling_rate: 1 }}
      }}
    }} }}"""
  )
  server = ModelServer(parse_flags([f"--model_config_file={config}", "--port=0"]))
  server.start()
  try:
    assert server.wait_until_available(120)
    with grpc.insecure_channel(server.address) as channel:
      answers = ask_everything(prediction_service_pb2_grpc.PredictionServiceStub(channel))
  finally:
    server.stop()
  (path,) = files_of(tmp_path / "logs")
  logs = logs_of(path)
  kinds = [log.WhichOneof("log_type") for log in logs]
  assert kinds == ["predict_log", "classify_log", "regress_log", "multi_inference_log"]
  assert [getattr(log, kind).response for log, kind in zip(logs, kinds, strict=True)] == answers
  assert logs[2].regress_log.response.result.regressions[0].value == 1.5
  assert all(log.log_metadata.model_spec.name == "m" for log in logs)
  os.makedirs(os.path.join(export, "assets.extra"))
  shutil.copy(path, os.path.join(export, "assets.extra", "tf_serving_warmup_requests"))
  session = SavedModelSession(export)
  assert replay(session, export) == 4
  session.close()


def ask_everything(stub):
  """Responses to one request of each kind; that to a failing one, which is not logged, left out."""
  logs = prediction_log_pb2
  predict, several = logs.PredictLog().request, logs.MultiInferenceLog().request
  classify, regress = logs.ClassifyLog().request, logs.RegressLog().request
  signatures = {"predict": predict, "serving_default": classify, "regress": regress}
  for signature_name, request in signatures.items():
    request.model_spec.name, request.model_spec.signature_name = "m", signature_name
  with pytest.raises(grpc.RpcError, match="Input is empty"):
    stub.Classify(classify, timeout=20)
  predict.inputs["x"].MergeFromString(encode_tensor(np.array([3.0], np.float32)))
  several.tasks.add(model_spec=classify.model_spec, method_name=example_export.CLASSIFY)
  several.tasks.add(model_spec=regress.model_spec, method_name=example_export.REGRESS)
  for request in (classify, regress, several):
    request.input.example_list.examples.append(example_export.example(a=1.5))
  asked = [(stub.Predict, predict), (stub.Classify, classify)]
  asked += [(stub.Regress, regress), (stub.MultiInference, several)]
  return [call(request, timeout=20) for call, request in asked]
