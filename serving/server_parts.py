"""What a server's options mean for its parts: which models, how they are loaded, where the metrics are."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tensorflow_serving.config import model_server_config_pb2

from serving.errors import ServingError
from serving.messages.protos import BatchingParameters
from serving.models.config_files import read_batching, read_metrics_path, read_models
from serving.models.model_config import TENSORFLOW_PLATFORM
from serving.options import ServerOptions
from serving.sessions.batching_settings import BatchingSettings
from serving.telemetry.monitoring import PROMETHEUS_PATH

if TYPE_CHECKING:
  from serving.telemetry.monitoring import Monitoring

# A version's own parameters for batching, which --enable_per_model_batching_parameters looks for.
VERSION_BATCHING_FILE = "batching_params.pbtxt"


def models_of(
  options: ServerOptions, models: Mapping[str, str] | None = None
) -> model_server_config_pb2.ModelServerConfig:
  """The configuration to start with.

  Args:
    models: {name: base path} in place of those that the options name.

  Raises:
    ServingError: --model_config_file cannot be read, or nothing says what to serve.
  """
  if models is None and options.model_config_file:
    return read_models(options.model_config_file)
  if models is None:
    if not options.model_base_path:
      raise ServingError("tell what to serve: --model_base_path or --model_config_file")
    models = {options.model_name: options.model_base_path}
  config = model_server_config_pb2.ModelServerConfig()
  config.model_config_list.SetInParent()
  for name, base_path in models.items():
    if not os.path.isdir(base_path):
      raise ServingError(
        f"model_base_path {base_path} of model {name} is no directory; push a model there first"
      )
    config.model_config_list.config.add(
      name=name, base_path=os.path.abspath(base_path), model_platform=TENSORFLOW_PLATFORM
    )
  return config


def loader_of(options: ServerOptions, monitoring: Monitoring) -> Callable[[str], Any]:
  """The function that loads a version from its folder.

  Raises:
    ServingError: --batching_parameters_file is not as it should be.
  """
  batching = {"batching": _batching(options.batching_parameters_file)} if options.enable_batching else {}
  # TensorFlow comes with it, which takes seconds: after all that may be wrong.
  from serving.models.loading import LoadSettings, load_warmed_up

  intra_op_threads, inter_op_threads = options.session_threads
  settings = LoadSettings(
    intra_op_threads=intra_op_threads,
    inter_op_threads=inter_op_threads,
    session_config_file=options.tensorflow_session_config_file,
    saved_model_tags=options.saved_model_tags,
    enable_model_warmup=options.enable_model_warmup,
    num_warmup_iterations=max(options.num_request_iterations_for_warmup, 1),
    prefer_tflite_model=options.prefer_tflite_model,
    **batching,
  )

  def load(path: str) -> Any:
    of_version = os.path.join(path, VERSION_BATCHING_FILE)
    if options.enable_per_model_batching_parameters and os.path.isfile(of_version):
      return load_warmed_up(path, dataclasses.replace(settings, batching=_batching(of_version)), monitoring)
    return load_warmed_up(path, settings, monitoring)

  return load


def metrics_path_of(options: ServerOptions) -> str | None:
  """The URL path of the metrics; None where there are none.

  Raises:
    ServingError: --monitoring_config_file is not as it should be, or there is no REST port for the metrics.
  """
  if not options.monitoring_config_file:
    return None
  path = read_metrics_path(options.monitoring_config_file, PROMETHEUS_PATH)
  if path is not None and not options.with_rest:
    raise ServingError("--monitoring_config_file needs --rest_api_port: the metrics are on the REST port")
  return path


def _batching(path: str) -> BatchingSettings:
  try:
    return BatchingSettings.from_parameters(read_batching(path) if path else BatchingParameters())
  except ServingError as error:
    raise error if path in str(error) else ServingError(f"{path}: {error}") from error
