"""The server's flags: those of tensorflow_model_server 2.16 with its defaults, and a few of our own.

Source: tensorflow_serving/model_servers/{main.cc,server.h}
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import pydantic
from pydantic import Field

# What means something only inside tensorflow_model_server: taken at its default, so that nothing is skipped silently.
UNSUPPORTED = frozenset(
  {
    "use_alts_credentials",
    "platform_config_file",
    "per_process_gpu_memory_fraction",
    "thread_pool_factory_config_file",
    "mixed_precision",
    "skip_initialize_tpu",
  }
)
# Advice about resources that is followed in another way here. Any value is taken; the server tells of it at its start.
WITHOUT_EFFECT = frozenset(
  {
    "num_unload_threads",
    "flush_filesystem_caches",
    "remove_unused_fields_from_bundle_metagraph",
    "num_tflite_pools",
    "num_tflite_interpreters_per_pool",
    "xla_cpu_compilation_enabled",
    "xla_gpu_compilation_enabled",
    "enable_profiler",
  }
)
_HELP_WIDTH = 110
_METAVARS = {str: "TEXT", int: "N", float: "X", bool: "true|false"}


def num_processors() -> int:
  """Processors that this process may use."""
  return len(os.sched_getaffinity(0))


def default_max_threads() -> int:
  """Four requests at once for each processor, as in TF Serving: from 1 to 16 a processor made no difference."""
  return 4 * num_processors()


class ServerOptions(pydantic.BaseModel):
  """Everything that a server is told at its start: one field for each flag.

  Raises:
    pydantic.ValidationError: a value is out of range, has no meaning here, or contradicts another.
  """

  model_config = pydantic.ConfigDict(
    frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
  )

  # What is served.
  model_name: str = Field(
    "default", min_length=1, description="Name of the model; ignored with --model_config_file."
  )
  model_base_path: str = Field(
    "", description="Folder of numbered versions; ignored with --model_config_file, otherwise required."
  )
  model_config_file: str = Field(
    "", description="Text ModelServerConfig with the models to serve, their version policies and labels."
  )
  model_config_file_poll_wait_seconds: float = Field(
    0, description="Seconds between two readings of --model_config_file; 0: it is read once."
  )
  file_system_poll_wait_seconds: float = Field(
    1, description="Seconds between looks for new versions; 0: one look, at the start; negative: none at all."
  )
  allow_version_labels_for_unavailable_models: bool = Field(
    False, description="Lets a new version label name a version that is not available yet."
  )

  # Where it listens.
  host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all of this machine's.")
  port: int = Field(8500, ge=0, le=65535, description="TCP port for gRPC; 0 chooses a free one.")
  port_file: str = Field("", description="File that the gRPC port is written to once the server listens.")
  grpc_socket_path: str = Field("", description="UNIX socket to listen on for gRPC as well.")
  grpc_max_threads: int = Field(
    default_factory=default_max_threads, gt=0, description="gRPC requests that are answered at once."
  )
  grpc_channel_arguments: str = Field(
    "", description="Arguments for the gRPC server: name=value,name=value (grpc.max_connection_age_ms=2000)."
  )
  ssl_config_file: str = Field("", description="Text SSLConfig; gRPC then speaks TLS.")
  enable_grpc_healthcheck_service: bool = Field(True, description="Answers grpc.health.v1.")
  rest_api_port: int = Field(
    0,
    ge=0,
    le=65535,
    description="TCP port for REST, other than --port; 0: no REST without --rest_port_file.",
  )
  rest_port_file: str = Field(
    "", description="File that the REST port is written to; REST then takes a free port if none is given."
  )
  rest_api_num_threads: int = Field(
    default_factory=default_max_threads, gt=0, description="REST requests that are answered at once."
  )
  rest_api_timeout_in_ms: int = Field(30000, gt=0, description="The longest that a REST request may run.")
  rest_api_enable_cors_support: bool = Field(False, description="CORS headers in REST answers.")
  monitoring_config_file: str = Field("", description="Text MonitoringConfig: Prometheus on the REST port.")
  num_processes: int = Field(1, gt=0, le=256, description="Server processes that share the ports.")

  # How it loads.
  num_load_threads: int = Field(0, ge=0, description="Models that are loaded at once; 0: one a processor.")
  num_unload_threads: int = Field(0, ge=0, description="No effect: a version goes with its last request.")
  max_num_load_retries: int = Field(
    5, ge=0, description="How often a version that fails to load is tried again."
  )
  load_retry_interval_micros: int = Field(
    60_000_000, description="Microseconds between two attempts to load; negative: no wait."
  )
  saved_model_tags: str = Field("serve", description="Tags of the SavedModel's graph, separated by commas.")
  enable_model_warmup: bool = Field(
    True, description="Replays a version's warm-up requests when it is loaded."
  )
  num_request_iterations_for_warmup: int = Field(1, description="How often each is replayed, if more than 0.")
  prefer_tflite_model: bool = Field(
    False, description="Serves a version's TensorFlow Lite model if it has one."
  )
  num_tflite_pools: int = Field(
    default_factory=num_processors, gt=0, description="No effect: interpreters follow the requests."
  )
  num_tflite_interpreters_per_pool: int = Field(
    1, gt=0, description="No effect: interpreters follow the requests."
  )
  flush_filesystem_caches: bool = Field(True, description="No effect: the kernel manages its caches.")
  remove_unused_fields_from_bundle_metagraph: bool = Field(True, description="No effect.")

  # How it runs.
  enable_batching: bool = Field(False, description="Batches requests as --batching_parameters_file says.")
  batching_parameters_file: str = Field("", description="Text BatchingParameters; needs --enable_batching.")
  enable_per_model_batching_parameters: bool = Field(
    False, description="With --enable_batching: takes a version's own batching_params.pbtxt where it has one."
  )
  tensorflow_session_parallelism: int = Field(
    0, ge=0, description="Threads within an op and of ops side by side; 0: chosen by the server."
  )
  tensorflow_intra_op_parallelism: int = Field(0, ge=0, description="Threads within an op; 0: chosen.")
  tensorflow_inter_op_parallelism: int = Field(0, ge=0, description="Ops side by side; 0: chosen.")
  tensorflow_session_config_file: str = Field("", description="Text ConfigProto of the sessions.")
  enable_signature_method_name_check: bool = Field(
    False, description="Classify and Regress want the signature's method_name of TF 1."
  )
  enable_serialization_as_tensor_content: bool = Field(
    False, description="Predict answers in tensor_content instead of typed fields."
  )

  # What only tensorflow_model_server can do.
  use_alts_credentials: bool = Field(False, description="Not supported.")
  platform_config_file: str = Field("", description="Not supported.")
  per_process_gpu_memory_fraction: float = Field(
    0, description="Not supported: use --tensorflow_session_config_file."
  )
  thread_pool_factory_config_file: str = Field("", description="Not supported.")
  mixed_precision: str = Field("", description="Not supported.")
  skip_initialize_tpu: bool = Field(False, description="Not supported.")
  enable_profiler: bool = Field(True, description="No effect: there is no profiler service.")
  xla_cpu_compilation_enabled: bool = Field(False, description="No effect: a model's own jit_compile counts.")
  xla_gpu_compilation_enabled: bool = Field(False, description="No effect: a model's own jit_compile counts.")

  version: bool = Field(False, description="Tells the versions and ends.")

  @pydantic.model_validator(mode="after")
  def _check(self) -> ServerOptions:
    for name in sorted(UNSUPPORTED):
      if getattr(self, name) != default_of(name):
        raise ValueError(f"--{name} is not supported by the embedded server; leave it out")
    if self.batching_parameters_file and not self.enable_batching:
      raise ValueError("--batching_parameters_file is set without --enable_batching")
    if self.enable_per_model_batching_parameters and not self.enable_batching:
      raise ValueError("--enable_per_model_batching_parameters is set without --enable_batching")
    if self.tensorflow_session_parallelism and (
      self.tensorflow_intra_op_parallelism and self.tensorflow_inter_op_parallelism
    ):
      raise ValueError(
        "set either --tensorflow_session_parallelism or --tensorflow_intra_op_parallelism and "
        "--tensorflow_inter_op_parallelism, not all of them"
      )
    if self.rest_api_port and self.rest_api_port == self.port:
      raise ValueError("--rest_api_port cannot be the same as --port")
    return self

  @property
  def with_rest(self) -> bool:
    """Whether REST is wanted."""
    return bool(self.rest_api_port or self.rest_port_file)

  @property
  def session_threads(self) -> tuple[int, int]:
    """(threads within an op, ops side by side) of a session; 0: to be chosen."""
    if self.tensorflow_intra_op_parallelism or self.tensorflow_inter_op_parallelism:
      return self.tensorflow_intra_op_parallelism, self.tensorflow_inter_op_parallelism
    return self.tensorflow_session_parallelism, self.tensorflow_session_parallelism

  def without_effect(self) -> list[str]:
    """Flags that were set though nothing comes of it here."""
    return [name for name in sorted(WITHOUT_EFFECT) if getattr(self, name) != default_of(name)]


def address_of(host: str, port: int) -> str:
  """HOST:PORT as clients take it."""
  return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def default_of(name: str) -> Any:
  """The value of a flag that is not given."""
  return ServerOptions.model_fields[name].get_default(call_default_factory=True)


def parse_flags(arguments: Sequence[str] | None = None, prog: str = "serving.server") -> ServerOptions:
  """Reads a command line; `--help` and `--version` end the process, as does (with status 2) anything wrong.

  Args:
    arguments: the flags, without the program's name; None: those of this process.
    prog: the command in help and errors.
  """
  parser = _parser(prog)
  found, unknown = parser.parse_known_args(arguments)
  if unknown:
    parser.error(f"unknown argument {unknown[0]}; {prog} --help lists the flags")
  try:
    options = ServerOptions(**vars(found))
  except pydantic.ValidationError as error:
    parser.error(_first_problem(error))
  if options.version:
    print(f"deepline {_version('deepline')}\nTensorFlow {_version('tensorflow')}")
    sys.exit(0)
  if not (options.model_base_path or options.model_config_file):
    parser.error("tell what to serve: --model_name=NAME --model_base_path=DIR, or --model_config_file=FILE")
  return options


class _Parser(argparse.ArgumentParser):
  def error(self, message: str) -> NoReturn:
    """One line: the usage of some fifty flags would bury it."""
    self.exit(2, f"{self.prog}: {message}\n")


def _parser(prog: str) -> argparse.ArgumentParser:
  parser = _Parser(
    prog=prog,
    usage=f"{prog} --model_name=NAME --model_base_path=DIR [--flag=value ...]",
    description="Serves models over TF Serving's gRPC and REST APIs. The flags are tensorflow_model_server's.",
    formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=4, width=_HELP_WIDTH),
    allow_abbrev=False,
    argument_default=argparse.SUPPRESS,
  )
  for name, field in ServerOptions.model_fields.items():
    default = default_of(name)
    shown = str(default).lower() if field.annotation is bool else str(default)
    parser.add_argument(
      f"--{name}",
      metavar=_METAVARS[field.annotation],
      help=f"{field.description} Default: {shown or 'none'}.".replace("%", "%%"),
      **({"nargs": "?", "const": True} if field.annotation is bool else {}),
    )
  return parser


def _first_problem(error: pydantic.ValidationError) -> str:
  problem = error.errors()[0]
  if problem["type"] == "value_error":
    return str(problem["ctx"]["error"])
  return f"--{problem['loc'][0]}={problem['input']}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return "of unknown version"
