"""REST requests without HTTP around them: method, path and body in; status code and JSON out.

Source: tensorflow_serving/model_servers/{http_rest_api_handler,http_rest_api_util,http_server}.cc
"""

from __future__ import annotations

import logging
import re
import time
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow_serving.apis import (
  classification_pb2,
  get_model_metadata_pb2,
  get_model_status_pb2,
  regression_pb2,
)

from serving.errors import RequestError, invalid_argument
from serving.messages.protos import ModelSpec
from serving.messages.tensors import encode_tensor_content
from serving.messages.wire import PredictCall
from serving.methods.api import SIGNATURE_DEF, ModelApi, status_name
from serving.methods.predict import DEFAULT_SIGNATURE
from serving.rest.json_examples import read_examples, write_classifications, write_regressions
from serving.rest.rest_json import read_predict_inputs, write_json, write_predict_outputs
from serving.telemetry.monitoring import Monitoring

LOG = logging.getLogger(__name__)

JSON = "application/json"
ENTRYPOINT = "REST"
METADATA = "metadata"
PREDICT, CLASSIFY, REGRESS = "predict", "classify", "regress"
INT64_MAX = 2**63 - 1

_API_PREFIX = b"/v1/"
_VERSION = rb"(?:/versions/(\d+)|/labels/([^/:]+))?"
_POST_PATH = re.compile(rb"(?i)/v1/models/([^/:]+)" + _VERSION + rb":(classify|regress|predict)")
_GET_PATH = re.compile(rb"(?i)/v1/models(?:/([^/:]+))?" + _VERSION + rb"(?:/(metadata))?")

HTTP_STATUS = {
  grpc.StatusCode.OK: 200,
  grpc.StatusCode.CANCELLED: 499,
  grpc.StatusCode.UNKNOWN: 500,
  grpc.StatusCode.INVALID_ARGUMENT: 400,
  grpc.StatusCode.DEADLINE_EXCEEDED: 504,
  grpc.StatusCode.NOT_FOUND: 404,
  grpc.StatusCode.ALREADY_EXISTS: 409,
  grpc.StatusCode.PERMISSION_DENIED: 403,
  grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
  grpc.StatusCode.FAILED_PRECONDITION: 400,
  grpc.StatusCode.ABORTED: 409,
  grpc.StatusCode.OUT_OF_RANGE: 400,
  grpc.StatusCode.UNIMPLEMENTED: 501,
  grpc.StatusCode.INTERNAL: 500,
  grpc.StatusCode.UNAVAILABLE: 503,
  grpc.StatusCode.DATA_LOSS: 500,
  grpc.StatusCode.UNAUTHENTICATED: 401,
}


class Answer(NamedTuple):
  """What is sent back."""

  status: int
  body: bytes
  content_type: str = JSON


class _Target(NamedTuple):
  """The model a path names, and what is asked of it: `verb` is empty for its status."""

  model_name: str
  version: int | None
  label: str | None
  verb: str

  def fill(self, spec: Any) -> Any:
    """Writes the model into a ModelSpec of any class, and returns it."""
    spec.name = self.model_name
    if self.version is not None:
      spec.version.value = self.version
    elif self.label is not None:
      spec.version_label = self.label
    return spec


class RestHandler:
  """Answers REST requests for the models of a ModelApi. Any number of threads may call it.

  Args:
    timeout_ms: the longest that a request may take; 0: no limit.
    metrics_path: where the metrics are; None: nowhere.
  """

  def __init__(self, api: ModelApi, monitoring: Monitoring, timeout_ms: int, metrics_path: str | None):
    self._api = api
    self._monitoring = monitoring
    self._timeout_ms = timeout_ms
    self._metrics_path = None if metrics_path is None else metrics_path.encode()

  def answer(self, method: str, path: bytes, body: bytes, arrived_s: float) -> Answer:
    """Answers one request, whatever it is.

    Args:
      method: of HTTP, in capitals.
      path: as it was sent: percent-encoded, without the query.
      arrived_s: by time.perf_counter.
    """
    if path == self._metrics_path and method == "GET":
      return Answer(200, *self._monitoring.exposition())
    if not path.lower().startswith(_API_PREFIX):
      return error_answer(404, f"Not found: {method} {_text(path)}")
    target = None
    status = grpc.StatusCode.OK.name
    try:
      target = _target(method, path)
      return Answer(200, self._json(target, body, arrived_s))
    except RequestError as error:
      status = status_name(error)
      return error_answer(HTTP_STATUS[error.code], error.details)
    except Exception as error:
      LOG.exception("%s %s failed", method, _text(path))
      status = status_name(error)
      return error_answer(
        500, RequestError(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}").details
      )
    finally:
      if target is not None and method == "POST":
        latency_us = (time.perf_counter() - arrived_s) * 1e6
        self._monitoring.request(target.model_name, target.verb, ENTRYPOINT, status, latency_us)

  def _json(self, target: _Target, body: bytes, arrived_s: float) -> bytes:
    if target.verb == PREDICT:
      return self._predict(target, body, arrived_s)
    if target.verb == CLASSIFY:
      return self._classify(target, body, arrived_s)
    if target.verb == REGRESS:
      return self._regress(target, body, arrived_s)
    if not target.model_name:
      raise invalid_argument("Missing model name in request.")
    if target.verb == METADATA:
      return _metadata_json(self._metadata(target))
    request = get_model_status_pb2.GetModelStatusRequest()
    target.fill(request.model_spec)
    return _pretty(_as_dict(self._api.get_model_status(request)))

  def _predict(self, target: _Target, body: bytes, arrived_s: float) -> bytes:
    inputs = read_predict_inputs(body, lambda signature_name: self._input_types(target, signature_name))
    spec = target.fill(ModelSpec(signature_name=inputs.signature_name))
    tensors = {name: encode_tensor_content(array) for name, array in inputs.arrays.items()}
    answer = self._api.predict(PredictCall(spec, tensors, []), self._left_ms(arrived_s))
    return write_predict_outputs(answer.outputs, inputs.is_row)

  def _classify(self, target: _Target, body: bytes, arrived_s: float) -> bytes:
    request = classification_pb2.ClassificationRequest()
    target.fill(request.model_spec)
    read_examples(body, request)
    return write_classifications(self._api.classify(request, self._left_ms(arrived_s)).result)

  def _regress(self, target: _Target, body: bytes, arrived_s: float) -> bytes:
    request = regression_pb2.RegressionRequest()
    target.fill(request.model_spec)
    read_examples(body, request)
    return write_regressions(self._api.regress(request, self._left_ms(arrived_s)).result)

  def _left_ms(self, arrived_s: float) -> int:
    """What is left of the time limit: a request may have waited for a thread."""
    if not self._timeout_ms:
      return 0
    left_ms = self._timeout_ms - int((time.perf_counter() - arrived_s) * 1e3)
    if left_ms <= 0:
      raise RequestError(
        grpc.StatusCode.DEADLINE_EXCEEDED, f"not answered within {self._timeout_ms} ms: the server is busy"
      )
    return left_ms

  def _metadata(self, target: _Target) -> get_model_metadata_pb2.GetModelMetadataResponse:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=[SIGNATURE_DEF])
    target.fill(request.model_spec)
    return self._api.get_model_metadata(request)

  def _input_types(self, target: _Target, signature_name: str) -> dict[str, int]:
    """{input name: tensorflow.DataType} of a signature, in the names' order."""
    name = signature_name or DEFAULT_SIGNATURE
    signatures = self._api.signatures(target.fill(ModelSpec()))
    if name not in signatures:
      raise invalid_argument(f'Serving signature name: "{name}" not found in signature def')
    inputs = signatures[name].inputs
    return {alias: inputs[alias].dtype for alias in sorted(inputs)}


def _target(method: str, path: bytes) -> _Target:
  pattern = {"POST": _POST_PATH, "GET": _GET_PATH}.get(method)
  match = pattern.fullmatch(path) if pattern else None
  name, version, label, verb = match.groups() if match else (None, None, None, b"?")
  verb = (verb or b"").decode()
  # As TF Serving has it: paths are read in any case, but a method in capitals is none.
  if match is None or verb not in ("", PREDICT, CLASSIFY, REGRESS, METADATA):
    raise invalid_argument(f"Malformed request: {method} {_text(path)}")
  if version is not None and int(version) > INT64_MAX:
    raise invalid_argument(f"Failed to convert version: {version.decode()} to numeric.")
  return _Target(
    _decoded(name or b"", "name"),
    None if version is None else int(version),
    None if label is None else _decoded(label, "version label"),
    verb,
  )


def _decoded(part: bytes, what: str) -> str:
  try:
    return unquote_to_bytes(part).decode("utf-8")
  except UnicodeDecodeError as error:
    raise invalid_argument(f"Failed to decode model {what}:{_text(part)}") from error


def _text(path: bytes) -> str:
  return path.decode("ascii", "replace")


def error_answer(status: int, message: str) -> Answer:
  """An error as TF Serving writes it."""
  return Answer(status, write_json({"error": message}))


def _signatures(
  response: get_model_metadata_pb2.GetModelMetadataResponse,
) -> get_model_metadata_pb2.SignatureDefMap:
  return get_model_metadata_pb2.SignatureDefMap.FromString(response.metadata[SIGNATURE_DEF].value)


def _metadata_json(response: get_model_metadata_pb2.GetModelMetadataResponse) -> bytes:
  metadata = {SIGNATURE_DEF: _as_dict(_signatures(response))}
  return _pretty({"model_spec": _as_dict(response.model_spec), "metadata": metadata})


def _as_dict(message: Message) -> dict[str, Any]:
  return json_format.MessageToDict(
    message, including_default_value_fields=True, preserving_proto_field_name=True
  )


def _pretty(value: Any) -> bytes:
  return write_json(value, indent=1) + b"\n"
