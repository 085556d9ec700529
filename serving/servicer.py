"""The gRPC services: PredictionService, ModelService, grpc.health.v1 and reflection.

Source: tensorflow_serving/model_servers/{prediction_service_impl,model_service_impl,grpc_status_util}.cc
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
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

from serving.api import CLASSIFY, MULTI_INFERENCE, PREDICT, REGRESS, ModelApi, status_name
from serving.errors import RequestError
from serving.wire import PredictCall, read_predict_request, write_predict_response

if TYPE_CHECKING:
  from serving.monitoring import Monitoring

LOG = logging.getLogger(__name__)

ENTRYPOINT = "GRPC"
PREDICTION_SERVICE = prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"].full_name
MODEL_SERVICE = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name
_LONGEST_RUN_S = 86_400 * 365
# The names under which TF Serving registers its health; "" is the server as a whole.
HEALTH_SERVICES = ("", "PredictionService", "ModelService")


def add_services(
  server: grpc.Server, api: ModelApi, monitoring: Monitoring, as_content: bool = False
) -> None:
  """Registers both services and their reflection. Predict's messages go through `serving.wire`.

  Args:
    as_content: Predict answers in `tensor_content`.
  """

  def measured(name: str, answer: Callable, kind: type[message.Message]) -> grpc.RpcMethodHandler:
    return _measured(monitoring, name, answer, kind.FromString, lambda response: response.SerializeToString())

  write_prediction = functools.partial(write_predict_response, as_content=as_content)
  prediction = {
    "Predict": _measured(monitoring, PREDICT, api.predict, read_predict_request, write_prediction),
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
) -> grpc.RpcMethodHandler:
  """A method that runs a model: within the client's deadline, and counted."""

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

  return grpc.unary_unary_rpc_method_handler(handle)


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
  if not isinstance(error, RequestError):
    # A fault of the server itself: the operator gets the traceback, the client one line.
    LOG.exception("a request failed")
    error = RequestError(grpc.StatusCode.INTERNAL, " ".join(str(error).split()) or type(error).__name__)
  context.abort(error.code, error.details)


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
