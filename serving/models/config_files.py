"""Configuration files in protocol buffers' text format, and what they mean.

Source: tensorflow_serving/config/{model_server_config,ssl_config,monitoring_config}.proto,
tensorflow_serving/servables/tensorflow/session_bundle_config.proto
"""

from __future__ import annotations

from typing import Any

from google.protobuf import message, text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.errors import ServingError, invalid_argument
from serving.messages import protos
from serving.models.model_config import TENSORFLOW_PLATFORM, ModelConfig
from serving.models.version_folders import ALL_VERSIONS, VersionPolicy


def read_text_proto(path: str, kind: type[message.Message], what: str) -> Any:
  """Reads one message.

  Args:
    kind: its class.
    what: the flag that names the file, for errors.

  Raises:
    ServingError: the file cannot be read, or is no such message; with the line and what is wrong there.
  """
  try:
    with open(path, encoding="utf-8") as file:
      text = file.read()
  except OSError as error:
    raise ServingError(f"--{what}={path}: cannot read it ({error.strerror})") from error
  except UnicodeDecodeError as error:
    raise ServingError(f"--{what}={path}: it is no text file") from error
  try:
    return text_format.Parse(text, kind())
  except (text_format.ParseError, ValueError) as error:
    reason = " ".join(str(error).split())
    raise ServingError(f"--{what}={path}: not a {kind.DESCRIPTOR.name} in text format: {reason}") from error


def read_models(path: str) -> model_server_config_pb2.ModelServerConfig:
  """--model_config_file. See `read_text_proto`."""
  config = read_text_proto(path, model_server_config_pb2.ModelServerConfig, "model_config_file")
  if config.WhichOneof("config") == "custom_model_config":
    raise ServingError(
      f"--model_config_file={path}: custom_model_config is not supported; use model_config_list"
    )
  return config


def read_ssl(path: str) -> Any:
  """--ssl_config_file, a protos.SSLConfig with the key and the certificate in it. See `read_text_proto`."""
  config = read_text_proto(path, protos.SSLConfig, "ssl_config_file")
  for field in ("server_key", "server_cert"):
    if not getattr(config, field):
      raise ServingError(f"--ssl_config_file={path}: {field} is missing; put the PEM text there, not a path")
    if "-----BEGIN" not in getattr(config, field):
      raise ServingError(f"--ssl_config_file={path}: {field} is no PEM text; put the text there, not a path")
  if config.client_verify and not config.custom_ca:
    raise ServingError(
      f"--ssl_config_file={path}: client_verify needs custom_ca, the PEM text of who signed the clients' certificates"
    )
  return config


def read_metrics_path(path: str, default: str) -> str | None:
  """--monitoring_config_file: the URL path of the metrics; None where they are off. See `read_text_proto`.

  Args:
    default: the path where the file names none.
  """
  config = read_text_proto(path, protos.MonitoringConfig, "monitoring_config_file").prometheus_config
  if not config.enable:
    return None
  if config.path and not config.path.startswith("/"):
    raise ServingError(f"--monitoring_config_file={path}: path has to begin with /, not {config.path}")
  return config.path or default


def read_batching(path: str, what: str = "batching_parameters_file") -> Any:
  """--batching_parameters_file, a protos.BatchingParameters. See `read_text_proto`."""
  return read_text_proto(path, protos.BatchingParameters, what)


def model_configs(config: model_server_config_pb2.ModelServerConfig) -> list[ModelConfig]:
  """The models of a configuration.

  Raises:
    RequestError: INVALID_ARGUMENT, with TF Serving's text where it has one; what `logging_config` may not hold.
  """
  return [_model_config(model) for model in config.model_config_list.config]


def _model_config(model: model_server_config_pb2.ModelConfig) -> ModelConfig:
  log_settings = None
  if model.HasField("logging_config"):
    from serving.telemetry.request_log import LogSettings

    log_settings = LogSettings.from_config(model.logging_config)
  return ModelConfig(
    model.name,
    model.base_path,
    _policy(model),
    dict(model.version_labels),
    log_settings,
    _platform(model),
  )


def _policy(model: model_server_config_pb2.ModelConfig) -> VersionPolicy:
  policy = model.model_version_policy
  choice = policy.WhichOneof("policy_choice")
  if choice == "all":
    return ALL_VERSIONS
  if choice == "specific":
    if not policy.specific.versions:
      raise invalid_argument(f"Model {model.name} has a specific version policy without versions")
    return VersionPolicy(latest=None, specific=frozenset(policy.specific.versions))
  # 0, which is also what an empty policy says, is 1 to TF Serving.
  return VersionPolicy(latest=max(policy.latest.num_versions, 1))


def _platform(model: model_server_config_pb2.ModelConfig) -> str:
  kinds = model_server_config_pb2.ModelType
  if model.model_type != kinds.MODEL_TYPE_UNSPECIFIED:
    if model.model_platform:
      raise invalid_argument(
        "Illegal setting both ModelServerConfig::model_type (deprecated) and ModelServerConfig::model_platform."
      )
    return TENSORFLOW_PLATFORM if model.model_type == kinds.TENSORFLOW else "other"
  if not model.model_platform:
    raise invalid_argument(
      "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform."
    )
  return model.model_platform
