"""The embedded model server: TF Serving's gRPC and REST APIs from a Python process."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from serving.announcement import announce, write_port_files
from serving.errors import RequestError, ServingError
from serving.options import ServerOptions, address_of, num_processors, parse_flags
from serving.process import (
  allow_many_connections,
  end_now,
  log_to_stderr,
  stop_signals,
  without_keras,
)

# By its name, since this module may run as __main__.
LOG = logging.getLogger("serving.server")

STOP_GRACE_S = 10.0
# How often loads that failed are tried again if nothing looks for new versions.
_RETRY_POLL_S = 1.0


class ModelServer:
  """Serves models over gRPC, and over REST if wanted, in this process.

  Args:
    options: the flags.
    models: {model name: base path} of the models to serve in place of those that the options name.
    reuse_port: share the ports with other processes that do the same.
    on_reload: is called with the ModelServerConfig after each HandleReloadConfigRequest that succeeded.
  """

  def __init__(
    self,
    options: ServerOptions,
    models: Mapping[str, str] | None = None,
    *,
    reuse_port: bool = False,
    on_reload: Callable[[Any], None] | None = None,
  ):
    self.options = options
    self.port = options.port
    self._models = models
    self._reuse_port = reuse_port
    self._on_reload = on_reload
    self._stopping = threading.Event()
    self._stopped = threading.Event()
    self._threads: list[threading.Thread] = []
    self._manager = self._api = self._request_log = self._grpc = self._rest = None

  @property
  def address(self) -> str:
    """HOST:PORT of gRPC as clients take it."""
    return address_of(self.options.host, self.port)

  @property
  def rest_address(self) -> str | None:
    """HOST:PORT of REST; None where there is none."""
    return None if self._rest is None else address_of(self.options.host, self.rest_port)

  @property
  def rest_port(self) -> int | None:
    """TCP port of REST; None where there is none."""
    return None if self._rest is None else self._rest.port

  def start(self, before_listening: Callable[[], None] | None = None) -> None:
    """Listens, and begins to load in the background: see `wait_until_available`.

    Args:
      before_listening: is called when the models begin to load, and before the first request can come.

    Raises:
      ServingError: a configuration file or a base path is not as it should be, or a port cannot be had.
    """
    try:
      listen = self._assemble()
      self._run(self._watch_versions, "version-watcher")
      if before_listening is not None:
        before_listening()
      listen()
    except BaseException:
      self.stop(0)
      raise
    self._tell_health()
    if self.options.model_config_file and self.options.model_config_file_poll_wait_seconds > 0:
      self._run(self._watch_config_file, "config-watcher")
    for name in self.options.without_effect():
      LOG.info("--%s has no effect in the embedded server", name)

  def wait_until_available(self, timeout_s: float | None = None) -> bool:
    """Waits until every model has a version that answers; False if that takes longer than `timeout_s`."""
    return self._manager.wait_until_available(timeout_s)

  def wait(self, timeout_s: float | None = None) -> bool:
    """Waits until the server is stopped; False if that takes longer than `timeout_s`."""
    return self._stopped.wait(timeout_s)

  def stop(self, grace_s: float = STOP_GRACE_S) -> bool:
    """Refuses new requests, lets those in flight finish for up to `grace_s`, unloads the models.

    Returns:
      Whether everything came to an end; False: a request or a load is still under way.
    """
    deadline = time.monotonic() + grace_s
    self._stopping.set()
    grpc_stopped = self._grpc.stop(grace_s) if self._grpc is not None else None
    if self._rest is not None:
      self._rest.stop(grace_s)
    if grpc_stopped is not None:
      grpc_stopped.wait()
    for thread in self._threads:
      thread.join(max(0, deadline - time.monotonic()))
    ended = True
    if self._manager is not None:
      # A little even where requests took all of the time: an idle model is unloaded in no time.
      ended = self._manager.close(max(0.5, deadline - time.monotonic()))
    if self._request_log is not None:
      self._request_log.close()
    self._stopped.set()
    return ended

  def statuses(self) -> dict[str, list]:
    """{model name: (version, state, error) of the versions seen}, for the process that embeds the server."""
    return self._manager.statuses()

  def configure(self, config: Any) -> None:
    """Serves the models of another ModelServerConfig; see `serving.methods.api.ModelApi.configure`."""
    self._api.configure(config)

  def _assemble(self) -> Callable[[], None]:
    """Puts all but the ports together; returns what takes these."""
    from serving.server_parts import loader_of, metrics_path_of, models_of
    from serving.telemetry.monitoring import Monitoring

    options, monitoring = self.options, Monitoring()
    config, metrics_path = models_of(options, self._models), metrics_path_of(options)
    load = loader_of(options, monitoring)
    from serving.methods.api import ModelApi
    from serving.models.manager import ModelManager
    from serving.rpc.grpc_listener import GrpcListener
    from serving.telemetry.request_log import RequestLog

    self._request_log = RequestLog()
    self._manager = ModelManager(
      load,
      max_num_load_retries=options.max_num_load_retries,
      load_retry_interval_s=options.load_retry_interval_micros / 1e6,
      num_load_threads=options.num_load_threads or num_processors(),
      allow_labels_for_unavailable=options.allow_version_labels_for_unavailable_models,
      on_change=self._tell_health,
    )
    self._api = ModelApi(
      self._manager,
      monitoring,
      self._request_log,
      check_method_names=options.enable_signature_method_name_check,
      on_reload=self._on_reload,
    )
    with _as_serving_error(options):
      self._api.configure(config, wait=False)

    def listen() -> None:
      if options.with_rest:
        self._rest = self._start_rest(monitoring, metrics_path)
      self._grpc = GrpcListener(options, self._api, monitoring, reuse_port=self._reuse_port)
      self.port = self._grpc.port

    return listen

  def _start_rest(self, monitoring: Any, metrics_path: str | None) -> Any:
    from serving.rest.rest_server import RestServer

    rest = RestServer(
      self._api,
      monitoring,
      host=self.options.host,
      port=self.options.rest_api_port,
      num_threads=self.options.rest_api_num_threads,
      timeout_ms=self.options.rest_api_timeout_in_ms,
      enable_cors=self.options.rest_api_enable_cors_support,
      metrics_path=metrics_path,
      reuse_port=self._reuse_port,
    )
    rest.start()
    return rest

  def _run(self, function: Callable[[], None], name: str) -> None:
    self._threads.append(threading.Thread(target=function, name=name, daemon=True))
    self._threads[-1].start()

  def _watch_versions(self) -> None:
    interval_s = self.options.file_system_poll_wait_seconds
    # 0 is one look, negative is none; what failed to load is tried again in any case.
    self._manager.poll(look=interval_s >= 0)
    while not self._stopping.wait(interval_s if interval_s > 0 else _RETRY_POLL_S):
      self._manager.poll(look=interval_s > 0)

  def _watch_config_file(self) -> None:
    from serving.server_parts import models_of

    told = ""
    while not self._stopping.wait(self.options.model_config_file_poll_wait_seconds):
      trouble = ""
      try:
        with _as_serving_error(self.options):
          self._api.configure(models_of(self.options))
      except ServingError as error:
        trouble = str(error)
      if trouble and trouble != told:
        LOG.error("the models stay as they are: %s", trouble)
      told = trouble

  def _tell_health(self) -> None:
    if self._grpc is not None:
      self._grpc.set_serving(self._manager.all_available())


@contextlib.contextmanager
def _as_serving_error(options: ServerOptions) -> Iterator[None]:
  """What a client would be answered about a configuration, for the operator who wrote it."""
  try:
    yield
  except RequestError as error:
    place = f"--model_config_file={options.model_config_file}: " if options.model_config_file else ""
    hint = ""
    if error.message.startswith("Request to assign label"):
      hint = "; --allow_version_labels_for_unavailable_models would allow that"
    raise ServingError(f"{place}{error.message}{hint}") from error


def run_server(options: ServerOptions) -> None:
  """Serves until SIGTERM or SIGINT, in `options.num_processes` processes.

  Raises:
    ServingError: see `ModelServer.start`.
  """
  log_to_stderr()
  allow_many_connections()
  if options.num_processes > 1:
    from serving.processes import run_processes

    run_processes(options)
    return
  without_keras()
  server = ModelServer(options)
  with stop_signals() as stop:
    ended = True
    try:
      server.start()
      write_port_files(options, server.port, server.rest_port)
      announce(server, stop, lambda line: print(line, file=sys.stderr, flush=True))
      stop.wait()
      print(f"stopping {', '.join(server.statuses())}", file=sys.stderr, flush=True)
    finally:
      ended = server.stop()
  if not ended:
    end_now()


def main(arguments: Sequence[str] | None = None) -> int:
  """`python -m serving.server FLAGS`: as `deepline serve`."""
  # Libraries' advice to developers is none for an operator.
  warnings.simplefilter("ignore", FutureWarning)
  try:
    run_server(parse_flags(arguments))
  except ServingError as error:
    print(error, file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
