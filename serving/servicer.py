"""The gRPC services: PredictionService, ModelService and grpc.health.v1.

Source: tensorflow_serving/model_servers/{prediction_service_impl,get_model_status_impl}.cc,
tensorflow_serving/servables/tensorflow/get_model_metadata_impl.cc
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
  get_model_metadata_pb2,
  get_model_status_pb2,
  model_pb2,
  model_service_pb2,
  prediction_service_pb2,
)

from serving.errors import RequestError, invalid_argument
from serving.models import ServedModel, Version, servable_not_found, versions_not_found
from serving.predict import DEFAULT_SIGNATURE, predict
from serving.wire import PredictAnswer, PredictCall, read_predict_request, write_predict_response

LOG = logging.getLogger(__name__)

SIGNATURE_DEF = "signature_def"
_LONGEST_RUN_S = 86_400 * 365
# The names under which TF Serving registers its health; "" is the server as a whole.
HEALTH_SERVICES = ("", "PredictionService", "ModelService")


class ModelServicer:
  """Answers the methods of both services for a set of models.

  Args:
    models: {name: ServedModel}; looked up at each request.
  """

  def __init__(self, models: Mapping[str, ServedModel]):
    self._models = models

  def predict(self, call: PredictCall, context: grpc.ServicerContext) -> PredictAnswer:
    """PredictionService.Predict; the client's deadline bounds the run."""
    spec = _required(call.model_spec)
    with self._version(spec) as version:
      outputs = predict(
        version.session, spec.signature_name, call.inputs, call.output_filter, _timeout_ms(context)
      )
    resolved = _resolved(spec.name, version)
    resolved.signature_name = spec.signature_name or DEFAULT_SIGNATURE
    return PredictAnswer(resolved, outputs)

  def get_model_metadata(
    self, request: get_model_metadata_pb2.GetModelMetadataRequest, context: grpc.ServicerContext
  ) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """PredictionService.GetModelMetadata: the signatures of a version."""
    spec = _required(request.model_spec if request.HasField("model_spec") else None)
    if not request.metadata_field:
      raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
      if field != SIGNATURE_DEF:
        raise invalid_argument(f"Metadata field {field} is not supported")
    signatures = get_model_metadata_pb2.SignatureDefMap()
    with self._version(spec) as version:
      for name, signature in version.session.signatures.items():
        signatures.signature_def[name].CopyFrom(signature)
    response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=_resolved(spec.name, version))
    response.metadata[SIGNATURE_DEF].Pack(signatures)
    return response

  def get_model_status(
    self, request: get_model_status_pb2.GetModelStatusRequest, context: grpc.ServicerContext
  ) -> get_model_status_pb2.GetModelStatusResponse:
    """ModelService.GetModelStatus: the state of one version or of all that were seen."""
    spec = _required(request.model_spec if request.HasField("model_spec") else None)
    number = spec.version.value if spec.HasField("version") else None
    model = self._models.get(spec.name)
    if model is None:
      if number is None:
        raise versions_not_found(spec.name)
      raise RequestError(grpc.StatusCode.NOT_FOUND, f"Could not find version {number} of model {spec.name}")
    response = get_model_status_pb2.GetModelStatusResponse()
    for seen, state, error in model.statuses(number):
      status = response.model_version_status.add(version=seen, state=int(state))
      # Also where all is well: TF Serving always sets this field.
      status.status.SetInParent()
      if error is not None:
        status.status.error_code = error.code.value[0]
        status.status.error_message = error.message
    return response

  @contextlib.contextmanager
  def _version(self, spec: model_pb2.ModelSpec) -> Iterator[Version]:
    if not spec.name:
      raise invalid_argument("ModelSpec has no name specified.")
    if spec.WhichOneof("version_choice") == "version_label":
      raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
    number = spec.version.value if spec.HasField("version") else None
    model = self._models.get(spec.name)
    if model is None:
      raise servable_not_found(spec.name, number)
    with model.acquire(number) as version:
      yield version


def add_services(server: grpc.Server, servicer: ModelServicer) -> None:
  """Registers both services. Predict's messages go through `serving.wire`, others their own classes."""
  prediction = prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"]
  model = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"]
  _add(
    server,
    prediction.full_name,
    {
      "Predict": _handler(servicer.predict, read_predict_request, write_predict_response),
      "GetModelMetadata": _handler(
        servicer.get_model_metadata,
        get_model_metadata_pb2.GetModelMetadataRequest.FromString,
        get_model_metadata_pb2.GetModelMetadataResponse.SerializeToString,
      ),
    },
  )
  _add(
    server,
    model.full_name,
    {
      "GetModelStatus": _handler(
        servicer.get_model_status,
        get_model_status_pb2.GetModelStatusRequest.FromString,
        get_model_status_pb2.GetModelStatusResponse.SerializeToString,
      )
    },
  )


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


def _add(server: grpc.Server, service: str, handlers: dict[str, grpc.RpcMethodHandler]) -> None:
  server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))


def _handler(
  method: Callable[[Any, grpc.ServicerContext], Any],
  deserialize: Callable[[bytes], Any],
  serialize: Callable[[Any], bytes],
) -> grpc.RpcMethodHandler:
  def answer(request: Any, context: grpc.ServicerContext) -> Any:
    try:
      return method(request, context)
    except RequestError as error:
      context.abort(error.code, error.details)
    except Exception as error:
      # A fault of the server itself: the operator gets the traceback, the client one line.
      LOG.exception("a request failed")
      context.abort(grpc.StatusCode.INTERNAL, RequestError(grpc.StatusCode.INTERNAL, str(error)).details)

  return grpc.unary_unary_rpc_method_handler(answer, deserialize, serialize)


def _required(spec: model_pb2.ModelSpec | None) -> model_pb2.ModelSpec:
  if spec is None:
    raise invalid_argument("Missing ModelSpec")
  return spec


def _resolved(name: str, version: Version) -> model_pb2.ModelSpec:
  spec = model_pb2.ModelSpec(name=name)
  spec.version.value = version.number
  return spec


def _timeout_ms(context: grpc.ServicerContext) -> int:
  remaining_s = context.time_remaining()
  # Without a deadline gRPC tells of one in the far future.
  if remaining_s is None or remaining_s > _LONGEST_RUN_S:
    return 0
  return max(1, int(remaining_s * 1000))
