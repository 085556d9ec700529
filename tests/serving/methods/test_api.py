"""The answers themselves, without a transport: real models, real metrics, a real request log."""

import glob
import re
import shutil

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
  classification_pb2,
  get_model_metadata_pb2,
  get_model_status_pb2,
  inference_pb2,
  model_management_pb2,
  prediction_log_pb2,
  regression_pb2,
)

from serving.errors import RequestError
from serving.messages.protos import ModelSpec
from serving.messages.tensors import encode_tensor
from serving.messages.wire import PredictCall
from serving.methods.api import ModelApi
from serving.models.loading import load_warmed_up
from serving.models.manager import ModelManager
from serving.telemetry.monitoring import Monitoring
from serving.telemetry.request_log import RequestLog
from tests.serving import example_export
from tests.serving.example_export import CLASSIFY, REGRESS, example

FEATURES = np.array([[1.0, 2.0, 3.0], [0.0, -1.0, 0.5]], np.float32)


class Served:
  """A ModelApi and what it reports to."""

  def __init__(self, **options):
    self.monitoring, self.request_log, self.reloaded = Monitoring(), RequestLog(), []
    self.manager = ModelManager(load_warmed_up)
    self.api = ModelApi(
      self.manager, self.monitoring, self.request_log, on_reload=self.reloaded.append, **options
    )

  def reload(self, text):
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(text, request.config)
    return self.api.reload_config(request)

  def close(self):
    self.request_log.close()
    assert self.manager.close()


@pytest.fixture(scope="module")
def folder(exports, tmp_path_factory):
  """Of the models "affine" and "examples"."""
  folder = tmp_path_factory.mktemp("api")
  shutil.copytree(exports[1], folder / "affine" / "1")
  (folder / "examples").mkdir()
  example_export.export(str(folder / "examples" / "3"))
  return folder


@pytest.fixture(scope="module")
def entries(folder):
  """The models of a configuration in text format."""
  return "".join(
    f'config {{ name: "{name}" base_path: "{folder / name}" model_platform: "tensorflow" '
    f'logging_config {{ log_collector_config {{ filename_prefix: "{folder / "logs" / name}" }} '
    "sampling_config { sampling_rate: 1 } } }"
    for name in ("affine", "examples")
  )


@pytest.fixture(scope="module")
def served(entries):
  made = Served()
  made.reload(f"model_config_list {{ {entries} }}")
  yield made
  made.close()


def call_for(inputs, output_filter=(), **spec):
  made = ModelSpec(name="affine", signature_name=spec.get("signature_name", ""))
  if "version" in spec:
    made.version.value = spec["version"]
  return PredictCall(
    made, {name: encode_tensor(np.asarray(value)) for name, value in inputs.items()}, list(output_filter)
  )


def error_of(method, *arguments, **named):
  with pytest.raises(RequestError) as caught:
    method(*arguments, **named)
  return caught.value.code, caught.value.message


def examples_request(kind, signature_name="", name="examples", **features):
  request = kind()
  request.model_spec.name, request.model_spec.signature_name = name, signature_name
  request.input.example_list.examples.append(example(**features))
  return request


def runs(served, api):
  """How many runs of a method the metrics count."""
  text = served.monitoring.exposition()[0].decode()
  found = re.findall(rf':tensorflow:serving:runtime_latency_count{{[^}}]*API="{api}"[^}}]*}} ([\d.]+)', text)
  return sum(map(float, found))


def test_predict(served, logits_of):
  before = runs(served, "Predict")
  answer = served.api.predict(call_for({"features": FEATURES}, ["logits"], version=1))
  assert list(answer.outputs) == ["logits"]
  np.testing.assert_allclose(answer.outputs["logits"], logits_of(FEATURES), rtol=1e-6)
  spec = answer.model_spec
  assert (spec.name, spec.version.value, spec.signature_name) == ("affine", 1, "serving_default")
  assert runs(served, "Predict") == before + 1
  assert error_of(served.api.predict, PredictCall(None, {}, [])) == (
    grpc.StatusCode.INVALID_ARGUMENT,
    "Missing ModelSpec",
  )
  assert error_of(served.api.predict, call_for({}, version=2))[0] == grpc.StatusCode.NOT_FOUND
  assert runs(served, "Predict") == before + 1


def test_predict_within_its_time(served):
  call = call_for({"steps": np.array([3_000_000_000])}, signature_name="slow")
  assert error_of(served.api.predict, call, timeout_ms=100)[0] == grpc.StatusCode.DEADLINE_EXCEEDED


def test_classify_and_regress(served):
  before = runs(served, "Classify"), runs(served, "Regress")
  classified = served.api.classify(examples_request(classification_pb2.ClassificationRequest, a=1.5, b=1.0))
  (row,) = classified.result.classifications
  assert [(one.label, one.score) for one in row.classes] == [("up", 2.5), ("down", -2.5)]
  spec = classified.model_spec
  assert (spec.name, spec.version.value, spec.signature_name) == ("examples", 3, "serving_default")
  regressed = served.api.regress(examples_request(regression_pb2.RegressionRequest, "regress", a=1.5))
  assert [one.value for one in regressed.result.regressions] == [1.5]
  assert (regressed.model_spec.version.value, regressed.model_spec.signature_name) == (3, "regress")
  assert (runs(served, "Classify"), runs(served, "Regress")) == (before[0] + 1, before[1] + 1)


@pytest.mark.parametrize(
  ("method", "kind"),
  [
    ("classify", classification_pb2.ClassificationRequest),
    ("regress", regression_pb2.RegressionRequest),
    ("get_model_metadata", get_model_metadata_pb2.GetModelMetadataRequest),
    ("get_model_status", get_model_status_pb2.GetModelStatusRequest),
  ],
)
def test_a_request_without_a_model_spec(served, method, kind):
  error = error_of(getattr(served.api, method), kind())
  assert error == (grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec")


def test_classify_and_regress_of_what_is_not_there(served):
  request = examples_request(classification_pb2.ClassificationRequest, "nope", a=1.0)
  assert error_of(served.api.classify, request)[0] == grpc.StatusCode.INVALID_ARGUMENT
  request = examples_request(regression_pb2.RegressionRequest, name="m", a=1.0)
  assert error_of(served.api.regress, request) == (
    grpc.StatusCode.NOT_FOUND,
    "Servable not found for request: Latest(m)",
  )


def multi_request(*tasks):
  request = inference_pb2.MultiInferenceRequest()
  request.input.example_list.examples.append(example(a=2.0))
  for signature_name, method_name in tasks:
    task = request.tasks.add(method_name=method_name)
    task.model_spec.name, task.model_spec.signature_name = "examples", signature_name
  return request


def test_multi_inference(served):
  before = runs(served, "MultiInference")
  response = served.api.multi_inference(multi_request(("regress", REGRESS), ("", CLASSIFY)))
  regressed, classified = response.results
  assert regressed.regression_result.regressions[0].value == 2.0
  assert classified.classification_result.classifications[0].classes[0].score == 2.0
  for result, signature_name in ((regressed, "regress"), (classified, "serving_default")):
    assert (result.model_spec.name, result.model_spec.version.value) == ("examples", 3)
    assert result.model_spec.signature_name == signature_name
  assert runs(served, "MultiInference") == before + 1
  assert error_of(served.api.multi_inference, inference_pb2.MultiInferenceRequest()) == (
    grpc.StatusCode.INVALID_ARGUMENT,
    "ModelSpec has no name specified.",
  )
  error = error_of(served.api.multi_inference, multi_request(("", CLASSIFY), ("", CLASSIFY)))
  assert error == (grpc.StatusCode.INVALID_ARGUMENT, "Duplicate evaluation of signature: serving_default")


def test_method_names_are_checked_if_wanted(served, entries):
  request = examples_request(classification_pb2.ClassificationRequest, "as_predict", a=1.0)
  assert served.api.classify(request).result.classifications
  strict = Served(check_method_names=True)
  strict.reload(f"model_config_list {{ {entries} }}")
  code, message = error_of(strict.api.classify, request)
  assert code == grpc.StatusCode.INVALID_ARGUMENT
  assert message.startswith("Expected classification signature method_name to be tensorflow/serving/classify")
  strict.close()


def test_answered_requests_are_logged(folder, entries):
  own = Served()
  own.reload(f"model_config_list {{ {entries} }}".replace("/logs/", "/own_logs/"))
  own.api.predict(call_for({"features": FEATURES}))
  error_of(own.api.predict, call_for({}))
  own.api.classify(examples_request(classification_pb2.ClassificationRequest, a=1.5))
  own.api.regress(examples_request(regression_pb2.RegressionRequest, "regress", a=2.5))
  own.api.multi_inference(multi_request(("", CLASSIFY)))
  own.close()
  found = {}
  for path in glob.glob(f"{folder}/own_logs/*"):
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
      log = prediction_log_pb2.PredictionLog.FromString(record)
      found[log.WhichOneof("log_type")] = getattr(log, log.WhichOneof("log_type"))
  assert set(found) == {"predict_log", "classify_log", "regress_log", "multi_inference_log"}
  np.testing.assert_array_equal(tf.make_ndarray(found["predict_log"].request.inputs["features"]), FEATURES)
  assert set(found["predict_log"].response.outputs) == {"logits", "name"}
  assert found["classify_log"].response.result.classifications[0].classes[0].score == 1.5
  assert found["regress_log"].response.result.regressions[0].value == 2.5
  assert found["multi_inference_log"].response.results[0].model_spec.version.value == 3


def test_metadata_and_status(served):
  request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
  request.model_spec.name = "examples"
  response = served.api.get_model_metadata(request)
  assert (response.model_spec.name, response.model_spec.version.value) == ("examples", 3)
  signatures = get_model_metadata_pb2.SignatureDefMap()
  assert response.metadata["signature_def"].Unpack(signatures)
  assert signatures.signature_def["regress"].method_name == REGRESS
  request = get_model_status_pb2.GetModelStatusRequest()
  request.model_spec.name = "affine"
  (status,) = served.api.get_model_status(request).model_version_status
  assert (status.version, status.state, status.status.error_code) == (1, 30, 0)
  assert status.HasField("status")


def test_the_reason_of_a_failed_load_is_in_the_status(tmp_path):
  own = Served()
  (tmp_path / "8").mkdir()
  (tmp_path / "8" / "saved_model.pb").write_bytes(b"no model")
  text = (
    f'model_config_list {{ config {{ name: "m" base_path: "{tmp_path}" model_platform: "tensorflow" }} }}'
  )
  code, message = error_of(own.reload, text)
  assert code == grpc.StatusCode.UNKNOWN
  assert message.startswith("1 model(s) did not become available: {{{name: m version: 8} due to error: ")
  request = get_model_status_pb2.GetModelStatusRequest()
  request.model_spec.name = "m"
  (status,) = own.api.get_model_status(request).model_version_status
  assert (status.version, status.state) == (8, 50)
  assert status.status.error_code != 0 and "saved_model.pb" in status.status.error_message
  assert own.reloaded == []
  own.close()


def test_reload(served, entries):
  response = served.reload(f"model_config_list {{ {entries} }}")
  assert response.HasField("status") and response.status.error_code == 0
  assert [model.name for model in served.reloaded[-1].model_config_list.config] == ["affine", "examples"]
  for text in ("", "custom_model_config {}"):
    code, message = error_of(served.reload, text)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert message == (
      "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently supported"
    )
  # What is refused changes nothing, neither models nor logs.
  refused = entries.replace("sampling_rate: 1", "sampling_rate: 7")
  assert error_of(served.reload, f"model_config_list {{ {refused} }}")[0] == grpc.StatusCode.INVALID_ARGUMENT
  assert served.manager.names() == ["affine", "examples"]
