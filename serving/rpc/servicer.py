"""The gRPC services: PredictionService, ModelService, grpc.health.v1 and reflection.

Source: tensorflow_serving/model_servers/{prediction_service_impl,model_service_impl,grpc_status_util}.cc
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import logging
import operator
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.apis import (
  classification_pb2,
  get_model_metadata_pb2,
  get_model_status_pb2,
  inference_pb2,
  model_management_pb2,
  model_service_pb2,
  prediction_service_pb2,
  regression_pb2,
)

from serving.errors import RequestError
from serving.messages.wire import PredictAnswer, PredictCall, read_predict_request, write_predict_response
from serving.methods.api import CLASSIFY, MULTI_INFERENCE, REGRESS, ModelApi, status_name
from serving.methods.joint_predict import PREDICT
from serving.rpc.call_queue import CallEnded, UnaryCall

if TYPE_CHECKING:
  from serving.telemetry.monitoring import Monitoring

LOG = logging.getLogger(__name__)

ENTRYPOINT = "GRPC"
PREDICTION_SERVICE = prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"].full_name
MODEL_SERVICE = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
PREDICT_METHOD = f"/{PREDICTION_SERVICE}/Predict"
# Such a request is decoded in no time, whatever it holds.
LARGEST_AT_ONCE_BYTES = 1 << 16
_LONGEST_RUN_S = 86_400 * 365
# The names under which TF Serving registers its health; "" is the server as a whole.
HEALTH_SERVICES = ("", "PredictionService", "ModelService")


def add_services(server: grpc.Server, api: ModelApi, monitoring: Monitoring) -> None:
  """Registers both services and their reflection, but for Predict, which `PredictCalls` answers."""

  def measured(name: str, answer: Callable, kind: type[message.Message]) -> grpc.RpcMethodHandler:
    write = operator.methodcaller("SerializeToString")
    return grpc.unary_unary_rpc_method_handler(_measured(monitoring, name, answer, kind.FromString, write))

  prediction = {
    "Classify": measured(CLASSIFY, api.classify, classification_pb2.ClassificationRequest),
    "Regress": measured(REGRESS, api.regress, regression_pb2.RegressionRequest),
    "MultiInference": measured(MULTI_INFERENCE, api.multi_inference, inference_pb2.MultiInferenceRequest),
    "GetModelMetadata": _unmeasured(api.get_model_metadata, get_model_metadata_pb2.GetModelMetadataRequest),
  }
  model = {
    "GetModelStatus": _unmeasured(api.get_model_status, get_model_status_pb2.GetModelStatusRequest),
    "HandleReloadConfigRequest": _unmeasured(api.reload_config, model_management_pb2.ReloadConfigRequest),
  }
  for service, handlers in ((PREDICTION_SERVICE, prediction), (MODEL_SERVICE, model)):
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
  services = (PREDICTION_SERVICE, MODEL_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
  reflection.enable_server_reflection(services, server)


class PredictCalls:
  """Predict for the calls of a `CallQueue`: quick runs are joined and made at once, others given to threads.

  Its messages go through `serving.messages.wire`.

  Args:
    threads: where what may take long is answered.
    as_content: outputs go into `tensor_content`.
  """

  def __init__(
    self,
    api: ModelApi,
    monitoring: Monitoring,
    threads: concurrent.futures.Executor,
    as_content: bool = False,
  ):
    self._api = api
    self._monitoring = monitoring
    self._threads = threads
    self._write = functools.partial(write_predict_response, as_content=as_content)
    self._handle = _measured(monitoring, PREDICT, api.predict, read_predict_request, self._write)

  def answer(self, calls: Sequence[UnaryCall]) -> bool:
    """Answers calls, or has a thread do so. Whether some of them were quick ones."""
    began_s = time.perf_counter()
    small = []
    for call in calls:
      if call.is_cancelled:
        continue
      if len(call.message) <= LARGEST_AT_ONCE_BYTES:
        small.append(call)
      else:
        self._threads.submit(self._answer_in_thread, call)
    requests, outcomes = self._outcomes(small)
    for call, request, outcome in zip(small, requests, outcomes, strict=True):
      if outcome is None:
        self._threads.submit(self._answer_in_thread, call)
      else:
        self._answer_at_once(call, request, outcome, began_s)
    return any(outcome is not None for outcome in outcomes)

  def _outcomes(
    self, calls: Sequence[UnaryCall]
  ) -> tuple[list[PredictCall | None], list[PredictAnswer | Exception | None]]:
    """The requests, None for one that cannot be read, and what is to be answered, None for what may take long."""
    requests: list[PredictCall | None] = [None] * len(calls)
    outcomes: list[PredictAnswer | Exception | None] = [None] * len(calls)
    readable = []
    for i, call in enumerate(calls):
      try:
        requests[i] = _read(read_predict_request, call.message)
        readable.append(i)
      except RequestError as error:
        outcomes[i] = error
    try:
      answers = self._api.predict_together([requests[i] for i in readable])
    except Exception as error:  # a fault of the server: each client is told
      answers = [error] * len(readable)
    for i, answer in zip(readable, answers, strict=True):
      outcomes[i] = answer
    return requests, outcomes

  def _answer_at_once(
    self, call: UnaryCall, request: PredictCall | None, outcome: PredictAnswer | Exception, began_s: float
  ) -> None:
    status, response, refusal = "OK", b"", None
    try:
      if isinstance(outcome, Exception):
        raise outcome
      response = self._write(outcome)
    except Exception as error:
      status, refusal = status_name(error), _refusal(error)
    name = _model_name(request) if request is not None else ""
    # Before the answer: who has it may look at the metrics.
    self._monitoring.request(name, PREDICT, ENTRYPOINT, status, (time.perf_counter() - began_s) * 1e6)
    if refusal is None:
      call.answer(response)
    else:
      call.refuse(*refusal)

  def _answer_in_thread(self, call: UnaryCall) -> None:
    if not call.is_cancelled:
      with contextlib.suppress(CallEnded):
        call.answer(self._handle(call.message, call))


class Health:
  """grpc.health.v1: SERVING once every model has an available version, as a readiness probe wants to know."""

  def __init__(self, server: grpc.Server):
    self._servicer = health.HealthServicer()
    self._serving: bool | None = None
    self.set_serving(False)
    health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

  def set_serving(self, serving: bool) -> None:
    """Tells probes whether the server answers requests."""
    if serving == self._serving:
      return
    self._serving = serving
    states = health_pb2.HealthCheckResponse
    for service in HEALTH_SERVICES:
      self._servicer.set(service, states.SERVING if serving else states.NOT_SERVING)


def _measured(
  monitoring: Monitoring,
  api_name: str,
  answer: Callable[[Any, int], Any],
  read: Callable[[bytes], Any],
  write: Callable[[Any], bytes],
) -> Callable[[bytes, grpc.ServicerContext], bytes]:
  """Answers with a run of a model: within the client's deadline, and counted."""

  def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
    began_s = time.perf_counter()
    model_name, status = "", "OK"
    try:
      request = _read(read, data)
      model_name = _model_name(request)
      return write(answer(request, _timeout_ms(context)))
    except Exception as error:
      status = status_name(error)
      _abort(context, error)
    finally:
      monitoring.request(model_name, api_name, ENTRYPOINT, status, (time.perf_counter() - began_s) * 1e6)

  return handle


def _unmeasured(answer: Callable[[Any], Any], kind: type[message.Message]) -> grpc.RpcMethodHandler:
  """A method about the models, which TF Serving does not count either."""

  def handle(data: bytes, context: grpc.ServicerContext) -> bytes:
    try:
      return answer(_read(kind.FromString, data)).SerializeToString()
    except Exception as error:
      _abort(context, error)

  return grpc.unary_unary_rpc_method_handler(handle)


def _read(read: Callable[[bytes], Any], data: bytes) -> Any:
  # Here and not in gRPC's own hook, which writes a traceback to the log for a client's broken message.
  try:
    return read(data)
  except (ValueError, message.DecodeError) as error:
    raise RequestError(grpc.StatusCode.INTERNAL, f"Failed to parse the request: {error}") from error


def _abort(context: grpc.ServicerContext, error: Exception) -> None:
  context.abort(*_refusal(error))


def _refusal(error: Exception) -> tuple[grpc.StatusCode, str]:
  """The code and the text with which an error is answered."""
  if not isinstance(error, RequestError):
    # A fault of the server itself: the operator gets the traceback, the client one line.
    LOG.error("a request failed", exc_info=error)
    error = RequestError(grpc.StatusCode.INTERNAL, " ".join(str(error).split()) or type(error).__name__)
  return error.code, error.details


def _model_name(request: Any) -> str:
  """The model that a request asks, for the metrics."""
  if isinstance(request, PredictCall):
    return request.model_spec.name if request.model_spec is not None else ""
  if isinstance(request, inference_pb2.MultiInferenceRequest):
    return request.tasks[0].model_spec.name if request.tasks else ""
  return request.model_spec.name


def _timeout_ms(context: grpc.ServicerContext) -> int:
  remaining_s = context.time_remaining()
  # Without a deadline gRPC tells of one in the far future.
  if remaining_s is None or remaining_s > _LONGEST_RUN_S:
    return 0
  return max(1, int(remaining_s * 1000))
