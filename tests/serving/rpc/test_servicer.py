"""What the server answers, texts included, asked by the official stubs over real gRPC."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
  get_model_metadata_pb2,
  get_model_status_pb2,
  model_service_pb2_grpc,
  predict_pb2,
  prediction_service_pb2_grpc,
)

from tests.serving.grpc_calls import FEATURES, refusal, request_for


@pytest.fixture(scope="module")
def channel(affine_server):
  with grpc.insecure_channel(
    affine_server.address, [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
  ) as channel:
    yield channel


@pytest.fixture(scope="module")
def stub(channel):
  return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def test_predict_answers_in_typed_fields_with_the_resolved_spec(stub, logits_of):
  response = stub.Predict(request_for())
  assert response.model_spec.name == "affine"
  assert response.model_spec.version.value == 1
  assert response.model_spec.signature_name == "serving_default"
  logits = response.outputs["logits"]
  assert not logits.tensor_content and len(logits.float_val) == 4
  np.testing.assert_allclose(tf.make_ndarray(logits), logits_of(FEATURES), rtol=1e-6)
  assert list(response.outputs["name"].string_val) == [b"right", b"left"]


def test_predict_takes_typed_fields_and_tensor_content(stub):
  typed = request_for({})
  typed.inputs["features"].dtype = 1
  for size in FEATURES.shape:
    typed.inputs["features"].tensor_shape.dim.add(size=size)
  typed.inputs["features"].float_val.extend(FEATURES.ravel().tolist())
  assert request_for().inputs["features"].tensor_content
  assert stub.Predict(typed) == stub.Predict(request_for())


def test_serialized_examples_give_the_same_answers(stub):
  examples = [
    tf.train.Example(
      features=tf.train.Features(
        feature={"features": tf.train.Feature(float_list=tf.train.FloatList(value=row))}
      )
    ).SerializeToString()
    for row in FEATURES
  ]
  response = stub.Predict(request_for({"examples": np.array(examples, object)}, signature="serve_examples"))
  assert response.model_spec.signature_name == "serve_examples"
  assert response.outputs == stub.Predict(request_for()).outputs


def test_every_dtype_comes_back_as_it_was_sent(stub):
  values = {
    "float32": [[1.5, -np.inf]],
    "float64": [[1e300, 0.1]],
    "int32": [[-5, 2**31 - 1]],
    "int64": [[-(2**63), 2**40]],
    "uint8": [[0, 255]],
    "bool": [[True, False]],
    "string": [[b"\x00\xff", b""]],
    "float16": [[0.5, 2.0]],
    "bfloat16": [[0.5, 3.0]],
    "complex64": [[1 + 2j, -1j]],
  }
  arrays = {name: np.array(value, tf.as_dtype(name).as_numpy_dtype) for name, value in values.items()}
  request = request_for({f"{name}_in": array for name, array in arrays.items()}, signature="echo")
  outputs = stub.Predict(request).outputs
  assert set(outputs) == {f"{name}_out" for name in arrays}
  for name, array in arrays.items():
    proto = outputs[f"{name}_out"]
    assert not proto.tensor_content and proto.dtype == tf.as_dtype(name).as_datatype_enum
    np.testing.assert_array_equal(tf.make_ndarray(proto), array)


def test_output_filter(stub):
  assert set(stub.Predict(request_for(output_filter=["name"])).outputs) == {"name"}
  code, text = refusal(stub.Predict, request_for(output_filter=["nope"]))
  assert code == grpc.StatusCode.INVALID_ARGUMENT
  assert text == (
    "output tensor alias not found in signature: nope Outputs expected to be in the set {logits,name}."
  )
  code, text = refusal(stub.Predict, request_for(output_filter=["name", "name"]))
  assert code == grpc.StatusCode.INVALID_ARGUMENT
  assert text == "duplicate output tensor alias: name"


@pytest.mark.parametrize(
  ("request_", "code", "text"),
  [
    (request_for(name="m"), "NOT_FOUND", "Servable not found for request: Latest(m)"),
    (request_for(name="m", version=3), "NOT_FOUND", "Servable not found for request: Specific(m, 3)"),
    (request_for(version=9), "NOT_FOUND", "Servable not found for request: Specific(affine, 9)"),
    (request_for(name=""), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    (predict_pb2.PredictRequest(), "INVALID_ARGUMENT", "Missing ModelSpec"),
    (request_for(label="beta"), "INVALID_ARGUMENT", "Unrecognized servable version label: beta"),
    (request_for(signature="X"), "FAILED_PRECONDITION", 'Serving signature key "X" not found.'),
    (
      request_for({}),
      "INVALID_ARGUMENT",
      "input size does not match signature: 0!=1 len({}) != len({features}). Sent extra: {}. "
      "Missing but required: {features}.",
    ),
    (
      request_for({"features": FEATURES, "b": [1], "a": [1]}),
      "INVALID_ARGUMENT",
      "input size does not match signature: 3!=1 len({a,b,features}) != len({features}). Sent extra: {a,b}. "
      "Missing but required: {}.",
    ),
    (
      request_for({}, signature="__saved_model_init_op"),
      "INVALID_ARGUMENT",
      "Tensor NoOp was not found in the Graph",
    ),
    (
      request_for({"pixels": FEATURES}),
      "INVALID_ARGUMENT",
      "Signature input alias: features(feed name: serving_default_features:0) not found in request and no "
      "default value provided. Inputs expected to be in the request {pixels}, or default input alias set: ",
    ),
    (
      request_for({"features": FEATURES.astype(np.float64)}),
      "INVALID_ARGUMENT",
      "Expects arg[0] to be float but double is provided",
    ),
  ],
)
def test_errors_have_the_codes_and_texts_of_tf_serving(stub, request_, code, text):
  assert refusal(stub.Predict, request_) == (grpc.StatusCode[code], text)


def test_a_wrong_shape_is_what_the_run_says(stub):
  code, text = refusal(stub.Predict, request_for({"features": FEATURES[:, :2]}))
  assert code == grpc.StatusCode.INVALID_ARGUMENT
  assert "Matrix size-incompatible" in text and "[2,2]" in text


def test_a_tensor_that_cannot_be_parsed(stub):
  request = request_for()
  request.inputs["features"].tensor_content = b"\x00" * 5
  assert refusal(stub.Predict, request) == (
    grpc.StatusCode.INVALID_ARGUMENT,
    "tensor parsing error: features",
  )


def test_long_errors_are_cut_at_1024_characters(stub):
  code, text = refusal(stub.Predict, request_for(signature="s" * 2000))
  assert code == grpc.StatusCode.FAILED_PRECONDITION
  assert text == f'Serving signature key "{"s" * 2000}" not found.'[:1024] + "...TRUNCATED"


def test_messages_larger_than_grpcs_usual_limit_are_taken(stub):
  features = np.zeros((2_000_000, 3), np.float32)
  response = stub.Predict(request_for({"features": features}, output_filter=["name"]))
  assert len(response.outputs["name"].string_val) == len(features)


def test_the_deadline_bounds_the_run(stub, channel):
  slow = {"steps": np.array([3_000_000_000], np.int64)}
  code, _ = refusal(stub.Predict, request_for(slow, signature="slow"), timeout=0.5)
  assert code == grpc.StatusCode.DEADLINE_EXCEEDED
  # The run itself has ended too: requests after it are answered at once.
  assert stub.Predict(request_for(), timeout=5).model_spec.version.value == 1


def test_model_metadata(stub):
  request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
  request.model_spec.name = "affine"
  response = stub.GetModelMetadata(request)
  assert response.model_spec.name == "affine" and response.model_spec.version.value == 1
  signatures = get_model_metadata_pb2.SignatureDefMap()
  assert response.metadata["signature_def"].Unpack(signatures)
  assert {"serving_default", "serve_examples", "slow", "echo"} <= set(signatures.signature_def)
  features = signatures.signature_def["serving_default"].inputs["features"]
  assert features.dtype == 1 and [dim.size for dim in features.tensor_shape.dim] == [-1, 3]


@pytest.mark.parametrize(
  ("name", "fields", "code", "text"),
  [
    (None, ["signature_def"], "INVALID_ARGUMENT", "Missing ModelSpec"),
    ("affine", [], "INVALID_ARGUMENT", "GetModelMetadataRequest must specify at least one metadata_field"),
    ("affine", ["graph"], "INVALID_ARGUMENT", "Metadata field graph is not supported"),
    ("m", ["signature_def"], "NOT_FOUND", "Servable not found for request: Latest(m)"),
  ],
)
def test_model_metadata_errors(stub, name, fields, code, text):
  request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
  if name:
    request.model_spec.name = name
  assert refusal(stub.GetModelMetadata, request) == (grpc.StatusCode[code], text)


def status_request(name=None, version=None):
  request = get_model_status_pb2.GetModelStatusRequest()
  if name is not None:
    request.model_spec.name = name
  if version is not None:
    request.model_spec.version.value = version
  return request


def test_model_status(channel):
  stub = model_service_pb2_grpc.ModelServiceStub(channel)
  for request in (status_request("affine"), status_request("affine", 1)):
    (status,) = stub.GetModelStatus(request).model_version_status
    assert status.version == 1
    assert status.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert status.HasField("status") and status.status.error_code == 0 and not status.status.error_message


@pytest.mark.parametrize(
  ("request_", "code", "text"),
  [
    (status_request(), "INVALID_ARGUMENT", "Missing ModelSpec"),
    (status_request("m"), "NOT_FOUND", "Could not find any versions of model m"),
    (status_request("m", 4), "NOT_FOUND", "Could not find version 4 of model m"),
    (status_request("affine", 4), "NOT_FOUND", "Could not find version 4 of model affine"),
  ],
)
def test_model_status_errors(channel, request_, code, text):
  stub = model_service_pb2_grpc.ModelServiceStub(channel)
  assert refusal(stub.GetModelStatus, request_) == (grpc.StatusCode[code], text)


@pytest.mark.parametrize("service", ["", "PredictionService", "ModelService"])
def test_health_is_serving_once_the_model_is_available(channel, service):
  response = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=service))
  assert response.status == health_pb2.HealthCheckResponse.SERVING
