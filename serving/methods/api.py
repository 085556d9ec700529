"""What the server answers, apart from how a question arrives: gRPC and REST both come here.

Source: tensorflow_serving/model_servers/{prediction_service_impl,get_model_status_impl,model_service_impl}.cc,
tensorflow_serving/servables/tensorflow/{get_model_metadata_impl,predict_impl}.cc
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import grpc
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
  classification_pb2,
  get_model_metadata_pb2,
  get_model_status_pb2,
  inference_pb2,
  model_management_pb2,
  prediction_log_pb2,
  regression_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

from serving.errors import RequestError, invalid_argument
from serving.messages.wire import PredictAnswer, PredictCall
from serving.methods import inference
from serving.methods.joint_predict import PREDICT, JointPredict, given_spec, resolved_spec
from serving.methods.predict import predict
from serving.models.config_files import model_configs
from serving.models.manager import ModelManager
from serving.sessions.timed_session import TimedSession
from serving.telemetry.request_log import RequestLog, predict_log

if TYPE_CHECKING:
  from serving.telemetry.monitoring import Monitoring

SIGNATURE_DEF = "signature_def"
# The names of the methods in metrics.
CLASSIFY, REGRESS, MULTI_INFERENCE = "Classify", "Regress", "MultiInference"


class ModelApi:
  """The methods of both services for the models of a manager. Any number of threads may call them.

  Every method raises a RequestError, with TF Serving's code and text, for a request that is not answered.

  Args:
    manager: the models; their set may change at any time.
    monitoring: is told of every run of a model.
    request_log: is shown every answered request.
    check_method_names: Classify and Regress want signatures that were exported for them.
    on_reload: is called with the new configuration after a reload.
  """

  def __init__(
    self,
    manager: ModelManager,
    monitoring: Monitoring,
    request_log: RequestLog,
    *,
    check_method_names: bool = False,
    on_reload: Callable[[model_server_config_pb2.ModelServerConfig], None] | None = None,
  ):
    self._manager = manager
    self._monitoring = monitoring
    self._request_log = request_log
    self._check_method_names = check_method_names
    self._on_reload = on_reload
    self._joint_predict = JointPredict(manager, monitoring, request_log)

  def predict(self, call: PredictCall, timeout_ms: int = 0) -> PredictAnswer:
    """Runs one signature on tensors.

    Args:
      timeout_ms: the longest that the run may take; 0: no limit.
    """
    spec = given_spec(call)
    with self._manager.version(spec) as version:
      session = TimedSession(version.session, self._monitoring, spec.name, PREDICT)
      outputs = predict(session, spec.signature_name, call.inputs, call.output_filter, timeout_ms)
      resolved = resolved_spec(spec, version.number)
    answer = PredictAnswer(resolved, outputs)
    self._request_log.record(spec.name, lambda: predict_log(call, answer))
    return answer

  def predict_together(self, calls: Sequence[PredictCall]) -> list[PredictAnswer | Exception | None]:
    """Predict for several calls in this thread; see `serving.methods.joint_predict.JointPredict.answers`."""
    return self._joint_predict.answers(calls)

  def classify(
    self, request: classification_pb2.ClassificationRequest, timeout_ms: int = 0
  ) -> classification_pb2.ClassificationResponse:
    """Classes and scores for examples."""
    result, spec = self._infer(inference.classify, request, CLASSIFY, timeout_ms)
    response = classification_pb2.ClassificationResponse(result=result, model_spec=spec)
    self._log("classify_log", spec.name, request, response)
    return response

  def regress(
    self, request: regression_pb2.RegressionRequest, timeout_ms: int = 0
  ) -> regression_pb2.RegressionResponse:
    """A value for each example."""
    result, spec = self._infer(inference.regress, request, REGRESS, timeout_ms)
    response = regression_pb2.RegressionResponse(result=result, model_spec=spec)
    self._log("regress_log", spec.name, request, response)
    return response

  def multi_inference(
    self, request: inference_pb2.MultiInferenceRequest, timeout_ms: int = 0
  ) -> inference_pb2.MultiInferenceResponse:
    """Several classifications and regressions of the same examples."""
    # TF Serving finds the version by the first task, and names the missing name when there is none.
    spec = request.tasks[0].model_spec if request.tasks else inference_pb2.InferenceTask().model_spec
    with self._manager.version(spec) as version:
      session = TimedSession(version.session, self._monitoring, spec.name, MULTI_INFERENCE)
      results = inference.multi_inference(
        session, request.tasks, request.input, timeout_ms, check_method_name=self._check_method_names
      )
      for result in results:
        result.model_spec.version.value = version.number
    response = inference_pb2.MultiInferenceResponse(results=results)
    self._log("multi_inference_log", spec.name, request, response)
    return response

  def signatures(self, spec: Any) -> Mapping[str, meta_graph_pb2.SignatureDef]:
    """{signature name: SignatureDef} of the version that a ModelSpec names; not to be changed."""
    with self._manager.version(spec) as version:
      return version.session.signatures

  def get_model_metadata(
    self, request: get_model_metadata_pb2.GetModelMetadataRequest
  ) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """The signatures of a version."""
    spec = _required(request)
    if not request.metadata_field:
      raise invalid_argument("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
      if field != SIGNATURE_DEF:
        raise invalid_argument(f"Metadata field {field} is not supported")
    signatures = get_model_metadata_pb2.SignatureDefMap()
    with self._manager.version(spec) as version:
      for name, signature in version.session.signatures.items():
        signatures.signature_def[name].CopyFrom(signature)
      number = version.number
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = spec.name
    response.model_spec.version.value = number
    response.metadata[SIGNATURE_DEF].Pack(signatures)
    return response

  def get_model_status(
    self, request: get_model_status_pb2.GetModelStatusRequest
  ) -> get_model_status_pb2.GetModelStatusResponse:
    """The state of one version, or of all that were seen, newest first."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for number, state, error in self._manager.model_statuses(_required(request)):
      status = response.model_version_status.add(version=number, state=int(state))
      # Also where all is well: TF Serving always sets this field.
      status.status.SetInParent()
      if error is not None:
        status.status.error_code = error.code.value[0]
        status.status.error_message = error.message
    return response

  def reload_config(
    self, request: model_management_pb2.ReloadConfigRequest
  ) -> model_management_pb2.ReloadConfigResponse:
    """Serves another set of models; returns when the new ones are available."""
    if request.config.WhichOneof("config") != "model_config_list":
      raise invalid_argument(
        "ServerModelConfig type not supported by HandleReloadConfigRequest. Only ModelConfigList is currently "
        "supported"
      )
    self.configure(request.config)
    if self._on_reload is not None:
      self._on_reload(request.config)
    response = model_management_pb2.ReloadConfigResponse()
    response.status.SetInParent()
    return response

  def configure(self, config: model_server_config_pb2.ModelServerConfig, wait: bool = True) -> None:
    """Serves the models of a configuration, and logs their requests as it says.

    Args:
      wait: load the models that are new before returning.

    Raises:
      RequestError: the configuration is wrong and nothing has changed, or new models did not become available.
      ServingError: a folder for logged requests cannot be made.
    """
    configs = model_configs(config)
    self._manager.check(configs)
    self._request_log.configure({model.name: model.logging for model in configs if model.logging is not None})
    self._manager.configure(configs, wait=wait)

  def _infer(self, infer: Callable[..., Any], request: Any, api: str, timeout_ms: int) -> tuple[Any, Any]:
    spec = _required(request)
    with self._manager.version(spec) as version:
      session = TimedSession(version.session, self._monitoring, spec.name, api)
      result = infer(
        session, spec.signature_name, request.input, timeout_ms, check_method_name=self._check_method_names
      )
      return result, resolved_spec(spec, version.number)

  def _log(self, field: str, model_name: str, request: Any, response: Any) -> None:
    def make_log() -> prediction_log_pb2.PredictionLog:
      log = prediction_log_pb2.PredictionLog()
      getattr(log, field).request.CopyFrom(request)
      getattr(log, field).response.CopyFrom(response)
      return log

    self._request_log.record(model_name, make_log)


def status_name(error: Exception) -> str:
  """The name of an error's code in metrics."""
  return error.code.name if isinstance(error, RequestError) else grpc.StatusCode.INTERNAL.name


def _required(request: Any) -> Any:
  if not request.HasField("model_spec"):
    raise invalid_argument("Missing ModelSpec")
  return request.model_spec
