"""1,000 seeded mutations of valid requests: each gets a status or an answer in time, and the next client its own."""

import base64
import collections
import json
import random

import grpc
import httpx
import numpy as np
import pytest
from tensorflow_serving.apis import (
  classification_pb2,
  get_model_metadata_pb2,
  get_model_status_pb2,
  inference_pb2,
  predict_pb2,
  regression_pb2,
)

NUM_MUTATIONS, CHECK_EVERY = 1_000, 25
DEADLINE_S = 30
PREDICTION = "/tensorflow.serving.PredictionService"
# The server was too late, is gone, or met with something that it did not foresee.
FAULTS = {"DEADLINE_EXCEEDED", "UNAVAILABLE", "UNKNOWN", "CANCELLED", "DATA_LOSS"}
X = np.array([2.0, 6.0], np.float32)


def of_examples(request, signature, client):
  """Fills a Classify or Regress request, or MultiInference's input."""
  example = request.input.example_list.examples.add()
  example.features.feature["a"].float_list.value.append(2.0)
  if signature:
    client.fill_spec(request.model_spec, "m", signature)
  return request


def grpc_requests(client):
  """(method, response's class, serialized request) of valid requests."""
  predict = client.predict_request
  multi = of_examples(inference_pb2.MultiInferenceRequest(), None, client)
  for signature in ("classify", "regress"):
    task = multi.tasks.add(method_name=f"tensorflow/serving/{signature}")
    client.fill_spec(task.model_spec, "m", signature)
  metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
  status = get_model_status_pb2.GetModelStatusRequest()
  for request in (metadata, status):
    client.fill_spec(request.model_spec, "m")
  two = predict({"a": X, "b": X}, "two", output_filter=["sum"])
  text = predict({"text": np.array([b"abc", b"d"], object)}, "text", version=1)
  typed = predict({"x": X})
  typed.inputs["x"].ClearField("tensor_content")
  typed.inputs["x"].float_val.extend(X.tolist())
  rows = predict({"rows": np.ones((4, 5), np.float32)}, "rows", label="stable")
  calls = [
    (f"{PREDICTION}/Predict", predict_pb2.PredictResponse, request) for request in (two, text, typed, rows)
  ]
  classify = of_examples(classification_pb2.ClassificationRequest(), "classify", client)
  regress = of_examples(regression_pb2.RegressionRequest(), "regress", client)
  calls += [
    (f"{PREDICTION}/Classify", classification_pb2.ClassificationResponse, classify),
    (f"{PREDICTION}/Regress", regression_pb2.RegressionResponse, regress),
    (f"{PREDICTION}/MultiInference", inference_pb2.MultiInferenceResponse, multi),
    (f"{PREDICTION}/GetModelMetadata", get_model_metadata_pb2.GetModelMetadataResponse, metadata),
    (
      "/tensorflow.serving.ModelService/GetModelStatus",
      get_model_status_pb2.GetModelStatusResponse,
      status,
    ),
  ]
  return [(method, response, request.SerializeToString()) for method, response, request in calls]


def rest_requests():
  """(path, body) of valid requests."""
  b64 = {"b64": base64.b64encode(b"abc").decode()}
  bodies = {
    ":predict": [
      {"instances": [1.0, 2.0]},
      {"signature_name": "two", "inputs": {"a": [1.0], "b": [2.5]}},
      {"signature_name": "text", "instances": ["text", b64]},
      {"signature_name": "rows", "instances": [[1, 2, 3], [4, 5, 6e3]]},
    ],
    ":classify": [{"signature_name": "classify", "examples": [{"a": 1.0, "b": [2.0]}]}],
    ":regress": [{"signature_name": "regress", "context": {"b": 1.0}, "examples": [{"a": 1.0}]}],
  }
  return [
    (f"/v1/models/m{verb}", json.dumps(body).encode()) for verb, group in bodies.items() for body in group
  ]


def mutated(chance, valid):
  """A few changes of bytes: flipped bits, other bytes, cut, doubled, removed or inserted pieces."""
  content = bytearray(valid)
  for _ in range(chance.choice((1, 1, 1, 2, 4, 8))):
    at = chance.randrange(len(content) + 1)
    piece = slice(at, at + chance.choice((1, 1, 2, 4, 16)))
    kind = chance.randrange(6)
    if kind == 0 and at < len(content):
      content[at] ^= 1 << chance.randrange(8)
    elif kind == 1 and at < len(content):
      content[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    elif kind == 2:
      del content[at:]
    elif kind == 3:
      content[at:at] = content[piece]
    elif kind == 4:
      del content[piece]
    else:
      content[at:at] = chance.randbytes(piece.stop - piece.start)
  return bytes(content)


@pytest.mark.slow
def test_mutated_grpc_requests(server, client):
  calls, chance = grpc_requests(client), random.Random(0)
  seen = collections.Counter()
  for i in range(NUM_MUTATIONS * 3 // 4):
    method, response, valid = calls[i % len(calls)]
    content = mutated(chance, valid) if i >= len(calls) else valid
    ask = server.channel.unary_unary(method, response_deserializer=response.FromString)
    try:
      answer = ask(content, timeout=DEADLINE_S)
      code = "OK" if isinstance(answer, response) else "UNKNOWN"
    except grpc.RpcError as error:
      code = error.code().name
    seen[code] += 1
    assert code == "OK" or i >= len(calls), f"{method} as it is: {code}"
    assert code not in FAULTS, f"mutation {i} of {method}: {code} for {content!r}"
    if i % CHECK_EVERY == 0:
      assert server.outputs({"x": X})["y"].tolist() == [3.0, 5.0]
  assert seen["OK"] > 50 and seen["INVALID_ARGUMENT"] > 50, seen


@pytest.mark.slow
def test_mutated_rest_requests(server):
  calls, chance = rest_requests(), random.Random(1)
  seen = collections.Counter()
  with httpx.Client(base_url=server.http.base_url, timeout=DEADLINE_S) as http:
    for i in range(NUM_MUTATIONS // 4):
      path, valid = calls[i % len(calls)]
      content = mutated(chance, valid) if i >= len(calls) else valid
      response = http.post(path, content=content)
      seen[response.status_code] += 1
      assert response.status_code == 200 or i >= len(calls), f"{path} as it is: {response.text}"
      assert response.status_code in (200, 400, 404), (
        f"mutation {i} of {path}: {response.text} for {content!r}"
      )
      assert response.status_code == 200 or list(response.json()) == ["error"]
      if i % CHECK_EVERY == 0:
        assert http.post("/v1/models/m:predict", json={"instances": [2.0]}).json() == {"predictions": [3.0]}
  assert seen[200] > 10 and seen[400] > 50, seen
