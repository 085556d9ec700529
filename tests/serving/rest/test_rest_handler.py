"""What REST answers: paths, formats, codes and texts, over HTTP."""

import base64

import numpy as np
import pytest
import tensorflow as tf

from tests.serving.rest_calls import ROWS, predict


def test_rows_and_columns(rest_client, logits_of):
  logits = logits_of(ROWS, version=2)
  status, answer = predict(rest_client, {"instances": ROWS})
  assert status == 200
  np.testing.assert_array_equal(np.float32([row["logits"] for row in answer["predictions"]]), logits)
  assert [row["name"] for row in answer["predictions"]] == [["left", "right"][i] for i in logits.argmax(1)]
  status, answer = predict(rest_client, {"inputs": {"features": ROWS}, "signature_name": "serving_default"})
  assert status == 200
  np.testing.assert_array_equal(np.float32(answer["outputs"]["logits"]), logits)


@pytest.mark.parametrize(
  ("path", "version"),
  [("versions/1", 1), ("versions/2", 2), ("labels/stable", 1), ("labels/canary", 2)],
)
def test_versions_and_labels(rest_client, logits_of, path, version):
  status, answer = predict(rest_client, {"instances": ROWS}, f"affine/{path}")
  assert status == 200
  logits = np.float32([row["logits"] for row in answer["predictions"]])
  np.testing.assert_array_equal(logits, logits_of(ROWS, version))


def test_bytes_in_base64(rest_client, logits_of):
  def example(row):
    features = tf.train.Feature(float_list=tf.train.FloatList(value=row))
    return tf.train.Example(features=tf.train.Features(feature={"features": features})).SerializeToString()

  instances = [{"b64": base64.b64encode(example(row)).decode()} for row in ROWS]
  status, answer = predict(rest_client, {"signature_name": "serve_examples", "instances": instances})
  assert status == 200
  logits = np.float32([row["logits"] for row in answer["predictions"]])
  np.testing.assert_array_equal(logits, logits_of(ROWS, 2))


def test_dtypes_that_json_cannot_hold(rest_client):
  inputs = {
    f"{name}_in": [[1]] for name in ("float32", "float64", "int32", "int64", "uint8", "float16", "bfloat16")
  }
  inputs |= {"bool_in": [[True]], "string_in": [["a"]], "complex64_in": [[1]]}
  answer = predict(rest_client, {"signature_name": "echo", "inputs": inputs})
  assert answer == (501, {"error": "Conversion of JSON Value: 1 to type: complex64"})


def test_scalars_and_an_only_output(rest_client):
  assert predict(rest_client, {"signature_name": "slow", "instances": [5]}) == (200, {"predictions": [5]})
  assert predict(rest_client, {"signature_name": "slow", "inputs": [5]}) == (200, {"outputs": [5]})


def test_classify_and_regress(rest_client):
  path = "/v1/models/a%20name%2F%C3%A9"
  body = {"examples": [{"a": 1.0, "b": 2.0}, {"a": 0.1}]}
  answer = rest_client.post(f"{path}:classify", json=body)
  assert answer.json() == {"results": [[["up", 3.0], ["down", -3.0]], [["up", 0.1], ["down", -0.1]]]}
  body = {"signature_name": "regress", "context": {"b": 10.0}, "examples": [{"a": 1.0}, {"a": 0.1}]}
  answer = rest_client.post(f"{path}/versions/7:regress", json=body)
  assert answer.text == '{"results":[11.0,10.1]}'
  answer = rest_client.post(f"{path}:regress", json={**body, "signature_name": "none"})
  assert (answer.status_code, answer.json()) == (400, {"error": "No signature was found with the name: none"})


def test_status_and_metadata(rest_client):
  entry = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
  both = {"model_version_status": [{"version": "2", **entry}, {"version": "1", **entry}]}
  answer = rest_client.get("/v1/models/affine")
  assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
  assert answer.json() == both
  one = {"model_version_status": [{"version": "1", **entry}]}
  assert rest_client.get("/v1/models/affine/labels/stable").json() == one
  metadata = rest_client.get("/v1/models/affine/versions/1/metadata").json()
  assert metadata["model_spec"] == {"name": "affine", "signature_name": "", "version": "1"}
  signatures = metadata["metadata"]["signature_def"]["signature_def"]
  assert {"serving_default", "serve_examples", "slow", "echo"} <= set(signatures)
  features = signatures["serving_default"]["inputs"]["features"]
  assert features["dtype"] == "DT_FLOAT"
  dims = [{"size": "-1", "name": ""}, {"size": "3", "name": ""}]
  assert features["tensor_shape"] == {"dim": dims, "unknown_rank": False}


@pytest.mark.parametrize(
  ("path", "body", "status", "error"),
  [
    ("nobody", {"instances": [1]}, 404, "Servable not found for request: Latest(nobody)"),
    ("affine/versions/9", {"instances": [1]}, 404, "Servable not found for request: Specific(affine, 9)"),
    ("affine/labels/old", {"instances": [1]}, 400, "Unrecognized servable version label: old"),
    (f"affine/versions/{2**63}", {}, 400, f"Failed to convert version: {2**63} to numeric."),
    (
      "affine",
      {"signature_name": "x", "instances": [1]},
      400,
      'Serving signature name: "x" not found in signature def',
    ),
    ("affine", {"instances": ["a"]}, 400, 'JSON Value: "a" Type: String is not of expected type: float'),
    ("affine", {"instances": [[1.0, 2.0]]}, 400, "Matrix size-incompatible"),
  ],
)
def test_errors(rest_client, path, body, status, error):
  code, answer = predict(rest_client, body, path)
  assert code == status
  assert list(answer) == ["error"]
  assert error in answer["error"]


def test_long_errors_are_cut(rest_client):
  _, answer = predict(rest_client, {"instances": ["x" * 5000]})
  assert len(answer["error"]) == 1024 + len("...TRUNCATED")
  assert answer["error"].endswith("x...TRUNCATED")


@pytest.mark.parametrize(
  ("method", "path"),
  [
    ("POST", "/v1/models/affine"),
    ("GET", "/v1/models/affine:predict"),
    ("POST", "/v1/models/affine:explain"),
    ("POST", "/v1/models/affine:PREDICT"),
    ("POST", "/v1/models/affine/version/1:predict"),
    ("POST", "/v1/models/affine/versions/x:predict"),
    ("PUT", "/v1/models/affine:predict"),
    ("OPTIONS", "/v1/models/affine:predict"),
    ("GET", "/v1/"),
  ],
)
def test_malformed_requests(rest_client, method, path):
  answer = rest_client.request(method, path)
  assert (answer.status_code, answer.json()) == (400, {"error": f"Malformed request: {method} {path}"})


def test_paths(rest_client):
  assert rest_client.get("/v1/models").json() == {"error": "Missing model name in request."}
  assert rest_client.get("/v1/models").status_code == 400
  for path in ("/", "/v2/models/affine", "/monitoring/other"):
    assert rest_client.get(path).status_code == 404
  assert rest_client.get("/V1/Models/affine?verbose=1").status_code == 200
  answer = rest_client.get("/v1/models/%ff")
  assert (answer.status_code, answer.json()) == (400, {"error": "Failed to decode model name:%ff"})
