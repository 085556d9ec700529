"""All methods but Predict by the official stubs, and what surrounds them: metrics, reflection, a UNIX socket."""

import re
import shutil
import urllib.request

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tensorflow_serving.apis import (
  classification_pb2,
  inference_pb2,
  model_management_pb2,
  model_service_pb2_grpc,
  prediction_service_pb2_grpc,
  regression_pb2,
)

from serving.options import ServerOptions
from serving.server import ModelServer
from tests.serving import example_export
from tests.serving.example_export import REGRESS, example
from tests.serving.grpc_calls import FEATURES, refusal, request_for


@pytest.fixture(scope="module")
def server(exports, tmp_path_factory):
  """Of the models "affine" and "examples"."""
  folder = tmp_path_factory.mktemp("servicer")
  shutil.copytree(exports[1], folder / "affine" / "1")
  (folder / "examples").mkdir()
  example_export.export(str(folder / "examples" / "3"))
  (folder / "monitoring.config").write_text("prometheus_config { enable: true }")
  options = ServerOptions(
    port=0,
    rest_port_file=str(folder / "rest_port"),
    monitoring_config_file=str(folder / "monitoring.config"),
    grpc_socket_path=str(folder / "socket"),
  )
  server = ModelServer(options, {name: str(folder / name) for name in ("affine", "examples")})
  server.start()
  assert server.wait_until_available(120)
  yield server
  assert server.stop()


@pytest.fixture(scope="module")
def channel(server):
  with grpc.insecure_channel(
    server.address, [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
  ) as channel:
    yield channel


@pytest.fixture(scope="module")
def stub(channel):
  return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def examples_request(kind, signature_name="", **features):
  request = kind()
  request.model_spec.name, request.model_spec.signature_name = "examples", signature_name
  request.input.example_list.examples.append(example(**features))
  return request


def test_classify_regress_and_multi_inference(stub):
  classified = stub.Classify(examples_request(classification_pb2.ClassificationRequest, a=1.5))
  assert [one.score for one in classified.result.classifications[0].classes] == [1.5, -1.5]
  assert classified.model_spec.version.value == 3
  regressed = stub.Regress(examples_request(regression_pb2.RegressionRequest, "regress", a=1.5))
  assert [one.value for one in regressed.result.regressions] == [1.5]
  request = inference_pb2.MultiInferenceRequest()
  request.input.example_list.examples.append(example(a=2.0))
  request.tasks.add(method_name=REGRESS).model_spec.name = "examples"
  request.tasks[0].model_spec.signature_name = "regress"
  (result,) = stub.MultiInference(request).results
  assert result.regression_result.regressions[0].value == 2.0
  request = examples_request(classification_pb2.ClassificationRequest, "nope", a=1.0)
  assert refusal(stub.Classify, request) == (
    grpc.StatusCode.INVALID_ARGUMENT,
    "No signature was found with the name: nope",
  )


def test_reload_takes_lists_of_models_alone(channel):
  stub = model_service_pb2_grpc.ModelServiceStub(channel)
  code, text = refusal(stub.HandleReloadConfigRequest, model_management_pb2.ReloadConfigRequest())
  assert code == grpc.StatusCode.INVALID_ARGUMENT
  assert text.startswith("ServerModelConfig type not supported by HandleReloadConfigRequest.")


def test_bytes_that_are_no_message_are_refused_without_a_traceback(channel, caplog):
  for method in ("PredictionService/Predict", "PredictionService/Classify", "ModelService/GetModelStatus"):
    ask = channel.unary_unary(f"/tensorflow.serving.{method}")
    code, text = refusal(ask, b"\xff\xff\xff")
    assert code == grpc.StatusCode.INTERNAL and text.startswith("Failed to parse the request")
  assert not [record for record in caplog.records if record.exc_info]


def test_methods_that_are_not_there_are_unimplemented(channel):
  code, _ = refusal(channel.unary_unary("/tensorflow.serving.PredictionService/Guess"), b"")
  assert code == grpc.StatusCode.UNIMPLEMENTED


def test_requests_are_counted_under_tf_servings_names(server, stub):
  def counts():
    url = f"http://{server.rest_address}/monitoring/prometheus/metrics"
    text = urllib.request.urlopen(url, timeout=30).read().decode()
    found = re.findall(
      r':tensorflow:serving:request_count\{model_name="affine",status="(\w+)"\} ([\d.]+)', text
    )
    return {status: float(count) for status, count in found}

  before = counts()
  stub.Predict(request_for({"features": FEATURES}))
  refusal(stub.Predict, request_for({}))
  after = counts()
  assert after["OK"] == before.get("OK", 0) + 1
  assert after["INVALID_ARGUMENT"] == before.get("INVALID_ARGUMENT", 0) + 1


def test_reflection_lists_the_services(channel):
  stub = reflection_pb2_grpc.ServerReflectionStub(channel)
  requests = [
    reflection_pb2.ServerReflectionRequest(list_services=""),
    reflection_pb2.ServerReflectionRequest(file_containing_symbol="tensorflow.serving.PredictionService"),
  ]
  listed, file = stub.ServerReflectionInfo(iter(requests))
  names = {service.name for service in listed.list_services_response.service}
  assert {"tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"} <= names
  assert {"grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= names
  assert b"MultiInference" in file.file_descriptor_response.file_descriptor_proto[0]


def test_a_unix_socket_answers_as_well(server):
  with grpc.insecure_channel(f"unix:{server.options.grpc_socket_path}") as channel:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    assert stub.Predict(request_for({"features": FEATURES}), timeout=60).model_spec.version.value == 1
