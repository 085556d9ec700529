"""The REST API.

Source: tensorflow_serving/model_servers/{http_server,http_rest_api_handler,http_rest_api_util}.cc, util/json_tensor.cc
"""

import base64
import json
import re

import httpx
import pytest

PREDICT = "/v1/models/m:predict"


def encoded(raw):
  return {"b64": base64.b64encode(raw).decode()}


def test_instances_and_predictions(server):
  assert server.rest(PREDICT, {"instances": [1.0, 2, 5]}) == (200, {"predictions": [2.5, 3.0, 4.5]})
  body = {"signature_name": "rows", "instances": [[1, 2], [3, 4]]}
  predictions = [{"sum": 3.0, "width": 2}, {"sum": 7.0, "width": 2}]
  assert server.rest(PREDICT, body) == (200, {"predictions": predictions})


def test_named_instances(server):
  body = {"signature_name": "two", "instances": [{"a": 1, "b": 2}, {"b": 0.5, "a": 4}]}
  predictions = [{"sum": 3.0, "difference": -1.0}, {"sum": 4.5, "difference": 3.5}]
  assert server.rest(PREDICT, body) == (200, {"predictions": predictions})
  assert server.rest(PREDICT, {"instances": [{"x": 4}]}) == (200, {"predictions": [4.0]})


def test_inputs_and_outputs(server):
  """One output stands alone, several are named."""
  assert server.rest(PREDICT, {"inputs": [1.0, 2.0]}) == (200, {"outputs": [2.5, 3.0]})
  assert server.rest(PREDICT, {"inputs": {"x": [1.0, 2.0]}}) == (200, {"outputs": [2.5, 3.0]})
  body = {"signature_name": "two", "inputs": {"a": [1.0, 2.0], "b": [1.0, 1.0]}}
  assert server.rest(PREDICT, body) == (200, {"outputs": {"sum": [2.0, 3.0], "difference": [0.0, 1.0]}})


def test_scalars(server):
  body = {"signature_name": "scalar", "inputs": 2.5}
  assert server.rest(PREDICT, body) == (200, {"outputs": 5.0})


def test_version_and_label_in_the_path(server):
  body = {"instances": [1.0]}
  assert server.rest("/v1/models/m/versions/1:predict", body) == (200, {"predictions": [1.5]})
  assert server.rest("/v1/models/m/versions/2:predict", body) == (200, {"predictions": [2.5]})
  assert server.rest("/v1/models/m/labels/stable:predict", body) == (200, {"predictions": [1.5]})


def test_bytes(server):
  """{"b64": ...} for any string; outputs whose name ends in _bytes come encoded."""
  body = {"signature_name": "text", "instances": ["grün", encoded(b"abc")]}
  status, answer = server.rest(PREDICT, body)
  assert status == 200
  assert answer["predictions"] == [
    {"upper": "GRüN", "same_bytes": encoded("grün".encode())},
    {"upper": "ABC", "same_bytes": encoded(b"abc")},
  ]
  raw = bytes(range(256))
  body = {"signature_name": "text", "inputs": {"text": [encoded(raw)]}}
  response = server.http.post(PREDICT, json=body)
  assert response.status_code == 200
  assert json.loads(response.content.decode("latin-1"))["outputs"]["same_bytes"] == [encoded(raw)]


def test_numbers_are_written_as_tf_serving_writes_them(server):
  """Floats keep a point, have their own shortest digits, and may be NaN or infinite."""
  body = {"signature_name": "batch", "inputs": [0.05, 1, 3e8, 1e-12]}
  text = server.http.post(PREDICT, json=body).text
  floats = re.search(r'"y":\s*\[([^]]*)\]', text)[1].replace("\n", "").replace(" ", "").split(",")
  assert [float(number) for number in floats] == [0.1, 2.0, 6e8, 2e-12]
  assert floats[:2] == ["0.1", "2.0"]
  assert re.search(r'"ran_with":\s*\[\s*4,', text)
  body = {"signature_name": "over_zero", "instances": [0, 1, -1]}
  text = server.http.post(PREDICT, json=body).text
  assert re.sub(r"\s", "", text) == '{"predictions":[NaN,Infinity,-Infinity]}'


def test_not_a_number_may_be_sent(server):
  response = server.http.post(PREDICT, content=b'{"instances": [NaN, Infinity, -Infinity, 1.0]}')
  assert response.status_code == 200
  assert str(response.json()["predictions"]) == "[nan, inf, -inf, 2.5]"


def test_classify_and_regress(server):
  body = {"signature_name": "classify", "examples": [{"a": 3.0}, {"a": [-2.0]}]}
  results = [[["up", 3.0], ["down", -3.0]], [["up", -2.0], ["down", 2.0]]]
  assert server.rest("/v1/models/m:classify", body) == (200, {"results": results})
  body = {"signature_name": "regress", "context": {"b": 10.0}, "examples": [{"a": 1.0}, {"a": 2.5}]}
  assert server.rest("/v1/models/m:regress", body) == (200, {"results": [11.0, 12.5]})
  assert server.rest("/v1/models/m/versions/1:regress", body) == (200, {"results": [11.0, 12.5]})


def test_status(server):
  def entry(version):
    status = {"error_code": "OK", "error_message": ""}
    return {"version": str(version), "state": "AVAILABLE", "status": status}

  assert server.rest("/v1/models/m/versions/1") == (200, {"model_version_status": [entry(1)]})
  code, answer = server.rest("/v1/models/m")
  assert code == 200
  answer["model_version_status"].sort(key=lambda status: status["version"])
  assert answer == {"model_version_status": [entry(1), entry(2)]}


@pytest.mark.parametrize(
  "path, version", [("m", "2"), ("m/versions/1", "1"), ("m/labels/stable", "1"), ("m/labels/canary", "2")]
)
def test_metadata(server, path, version):
  code, answer = server.rest(f"/v1/models/{path}/metadata")
  assert code == 200
  assert answer["model_spec"] == {"name": "m", "signature_name": "", "version": version}
  signatures = answer["metadata"]["signature_def"]["signature_def"]
  assert {"serving_default", "two", "classify", "regress"} <= set(signatures)
  assert signatures["classify"]["method_name"] == "tensorflow/serving/classify"
  x = signatures["serving_default"]["inputs"]["x"]
  assert x["dtype"] == "DT_FLOAT"
  assert x["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}


@pytest.mark.parametrize(
  "body, message",
  [
    (
      {"signature_name": "nothing", "instances": [1]},
      'Serving signature name: "nothing" not found in signature def',
    ),
    ({"signature_name": 3, "instances": [1]}, "'signature_name' key must be a string value."),
    ({}, "Missing 'inputs' or 'instances' key"),
    ({"instances": [1], "inputs": [1]}, "expecting only one of 'inputs' or 'instances' keys to exist"),
    ({"instances": 3}, "'instances' to be an list/array"),
    ({"instances": []}, "No values in 'instances' array"),
    ([1], "Is not object"),
    ({"instances": ["a"]}, "Type: String is not of expected type: float"),
    ({"signature_name": "index", "instances": [1.5]}, "is not of expected type: int32"),
    ({"instances": [1e300]}, "to float without loss of precision"),
    ({"instances": [[1], [1, 2]]}, "Expecting tensor size: 1 but got: 2"),
    (
      {"signature_name": "rows", "inputs": [[1, 2], [3]]},
      "Encountered list at unexpected size: 1 at level: 1",
    ),
    ({"signature_name": "rows", "inputs": [[1, 2], 3]}, "found at incorrect level"),
    ({"signature_name": "two", "instances": [1]}, "instances is a plain list, but expecting list of objects"),
    ({"signature_name": "two", "inputs": [1]}, "inputs is a plain value/list, but expecting an object"),
    ({"signature_name": "two", "inputs": {"a": [1]}}, "Missing named input: b in 'inputs' object."),
    ({"signature_name": "two", "instances": [{"a": 1}]}, "keys must be equal to: a,b"),
    ({"signature_name": "two", "instances": [{"a": 1, "c": 1}]}, "does not have named input: c"),
    ({"instances": [{"b64": "!"}]}, "JSON Value"),
    ({"signature_name": "text", "instances": [{"b64": "!"}]}, "Unable to base64 decode"),
    ({"signature_name": "two", "inputs": {"a": [1, 2, 3], "b": [1, 2]}}, "Incompatible shapes: [3] vs. [2]"),
    ({"signature_name": "index", "inputs": [7]}, "= 7 is not in [0, 3)"),
  ],
)
def test_invalid_argument_is_400(server, body, message):
  code, answer = server.rest(PREDICT, body)
  assert code == 400 and list(answer) == ["error"]
  assert message in " ".join(answer["error"].split())


@pytest.mark.parametrize("content", [b"", b"{", b"nonsense", b'{"instances": [1,]}', b"\xff\xfe\x00"])
def test_no_json_is_400(server, content):
  response = server.http.post(PREDICT, content=content)
  assert response.status_code == 400
  assert response.json()["error"].startswith("JSON Parse error: ")


@pytest.mark.parametrize("method", ["classify", "regress"])
def test_examples_that_are_none(server, method):
  path = f"/v1/models/m:{method}"
  for body, message in [
    (
      {"signature_name": "nothing", "examples": [{"a": 1.0}]},
      "No signature was found with the name: nothing",
    ),
    ({"signature_name": method}, "key 'examples' is expected and was not found"),
    ({"signature_name": method, "examples": []}, "'examples' value is an empty array"),
    ({"signature_name": method, "examples": [3]}, "Example must be JSON object but got JSON Number"),
    ({"signature_name": method, "examples": [{"a": [1.0, "b"]}]}, "Unexpected element type in feature: a"),
  ]:
    code, answer = server.rest(path, body)
    assert code == 400 and message in answer["error"]


@pytest.mark.parametrize(
  "path, request_name",
  [("nobody:predict", "Latest(nobody)"), ("m/versions/9:predict", "Specific(m, 9)")],
)
def test_not_found_is_404(server, path, request_name):
  expected = (404, {"error": f"Servable not found for request: {request_name}"})
  assert server.rest(f"/v1/models/{path}", {"instances": [1]}) == expected


def test_status_not_found_is_404(server):
  assert server.rest("/v1/models/nobody") == (404, {"error": "Could not find any versions of model nobody"})
  assert server.rest("/v1/models/m/versions/9") == (404, {"error": "Could not find version 9 of model m"})
  code, answer = server.rest("/v1/models/nobody/metadata")
  assert (code, answer) == (404, {"error": "Servable not found for request: Latest(nobody)"})


def test_unknown_label_is_400(server):
  expected = (400, {"error": "Unrecognized servable version label: nightly"})
  assert server.rest("/v1/models/m/labels/nightly:predict", {"instances": [1]}) == expected


@pytest.mark.parametrize(
  "method, path",
  [
    ("POST", "/v1/models/m"),
    ("GET", "/v1/models/m:predict"),
    ("POST", "/v1/models/m:explain"),
    ("GET", "/v1/models/m/nothing"),
    ("PUT", "/v1/models/m:predict"),
    ("DELETE", "/v1/models/m"),
    ("POST", "/v1/models/m/versions/one:predict"),
  ],
)
def test_malformed_request_is_400(server, method, path):
  response = server.http.request(method, path, content=b"{}" if method == "POST" else None)
  assert (response.status_code, response.json()) == (400, {"error": f"Malformed request: {method} {path}"})


def test_a_path_outside_the_api_is_404(server):
  assert server.http.get("/").status_code == 404
  assert server.http.get("/v2/models/m").status_code == 404


def test_resource_exhausted_is_429(server):
  body = {"signature_name": "allocate", "inputs": [10**14]}
  code, answer = server.rest(PREDICT, body)
  assert code == 429 and "OOM" in answer["error"]


def test_deadline_exceeded_is_504(server):
  """--rest_api_timeout_in_ms bounds the run."""
  code, answer = server.rest(PREDICT, {"signature_name": "slow", "instances": [2**60]})
  assert code == 504 and answer["error"]


def test_a_large_body_and_a_kept_connection(server):
  values = [number / 4 for number in range(300_000)]
  with httpx.Client(base_url=server.http.base_url, timeout=60) as http:
    for _ in range(2):
      answer = http.post(PREDICT, json={"instances": values})
      assert answer.status_code == 200
      assert answer.headers["content-type"] == "application/json"
      assert answer.json()["predictions"] == [value * 0.5 + 2 for value in values]
