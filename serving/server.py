"""The embedded model server: TF Serving's gRPC API from a Python process."""

from __future__ import annotations

import argparse
import concurrent.futures
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Mapping, Sequence

from serving.errors import ServingError
from serving.process import without_keras

LOG = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 2**31 - 1
STOP_GRACE_S = 10.0


def default_max_threads() -> int:
  """Four requests at once for each processor this process may use, as TF Serving does."""
  return 4 * len(os.sched_getaffinity(0))


class ModelServer:
  """Serves models over gRPC in this process.

  Args:
    models: {model name: base path, a directory of numbered versions}.
    host: address to listen on.
    port: TCP port; 0 chooses a free one, which `port` then names.
    file_system_poll_wait_seconds: time between two looks at the base paths; 0: one look, at the start.
    grpc_max_threads: requests answered at once.
    intra_op_threads, inter_op_threads: threads of each model's session; 0: TensorFlow chooses.
    max_num_load_retries, load_retry_interval_s: how often a version that failed to load is tried again.
  """

  def __init__(
    self,
    models: Mapping[str, str],
    host: str = "127.0.0.1",
    port: int = 8500,
    file_system_poll_wait_seconds: float = 1,
    grpc_max_threads: int | None = None,
    intra_op_threads: int = 0,
    inter_op_threads: int = 0,
    max_num_load_retries: int = 5,
    load_retry_interval_s: float = 60.0,
  ):
    self.host = host
    self.port = port
    self._base_paths = dict(models)
    self._poll_wait_s = file_system_poll_wait_seconds
    self._max_threads = grpc_max_threads or default_max_threads()
    self._session_threads = {"intra_op_threads": intra_op_threads, "inter_op_threads": inter_op_threads}
    self._retries = {
      "max_num_load_retries": max_num_load_retries,
      "load_retry_interval_s": load_retry_interval_s,
    }
    self._models = {}
    self._polled = threading.Condition()
    self._stopping = threading.Event()
    self._stopped = threading.Event()
    self._watcher = threading.Thread(target=self._watch, name="version-watcher", daemon=True)
    self._server = None
    self._health = None

  @property
  def address(self) -> str:
    """HOST:PORT as clients take it."""
    return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

  def start(self) -> None:
    """Listens, and begins to load in the background: see `wait_until_available`.

    Raises:
      ServingError: a base path is missing, or the port cannot be had.
    """
    for name, base_path in self._base_paths.items():
      if not os.path.isdir(base_path):
        raise ServingError(
          f"model_base_path {base_path} of model {name} is no directory; push a model there first"
        )
    from serving.loading import load_warmed_up
    from serving.models import ServedModel

    def load(path: str):
      return load_warmed_up(path, **self._session_threads)

    self._models.update(
      {name: ServedModel(name, path, load, **self._retries) for name, path in self._base_paths.items()}
    )
    self._listen()
    self._watcher.start()

  def wait_until_available(self, timeout_s: float | None = None) -> bool:
    """Waits until every model has a version that answers; False if that takes longer than `timeout_s`."""
    with self._polled:
      return self._polled.wait_for(self._all_available, timeout_s)

  def wait(self, timeout_s: float | None = None) -> bool:
    """Waits until the server is stopped; False if that takes longer than `timeout_s`."""
    return self._stopped.wait(timeout_s)

  def stop(self, grace_s: float = STOP_GRACE_S) -> None:
    """Refuses new requests, lets those in flight finish for up to `grace_s`, unloads the models."""
    self._stopping.set()
    if self._server is not None:
      self._health.set_serving(False)
      self._server.stop(grace_s).wait()
    if self._watcher.is_alive():
      self._watcher.join(grace_s)
    if not self._watcher.is_alive():
      for model in self._models.values():
        model.close()
    self._stopped.set()

  def statuses(self) -> dict[str, list]:
    """{model name: (version, state, error) of the versions seen}, for the process that embeds the server."""
    from serving.errors import RequestError

    found = {}
    for name, model in self._models.items():
      try:
        found[name] = model.statuses()
      except RequestError:
        found[name] = []
    return found

  def _listen(self) -> None:
    import grpc

    from serving.servicer import Health, ModelServicer, add_services

    server = grpc.server(
      concurrent.futures.ThreadPoolExecutor(self._max_threads, thread_name_prefix="grpc"),
      options=[
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # Two servers on one port would share its requests silently.
        ("grpc.so_reuseport", 0),
      ],
    )
    add_services(server, ModelServicer(self._models))
    self._health = Health(server)
    try:
      port = server.add_insecure_port(self.address)
    except RuntimeError:
      port = 0
    if not port:
      raise ServingError(
        f"cannot listen on {self.address}: it is in use or not allowed; choose another --port"
      )
    self.port = port
    server.start()
    self._server = server

  def _watch(self) -> None:
    while not self._stopping.is_set():
      for model in self._models.values():
        try:
          model.poll()
        except Exception:
          LOG.exception("%s: watching %s failed; trying again", model.name, model.base_path)
      with self._polled:
        self._polled.notify_all()
      if not self._stopping.is_set():
        self._health.set_serving(self._all_available())
      if self._poll_wait_s <= 0:
        return
      self._stopping.wait(self._poll_wait_s)

  def _all_available(self) -> bool:
    return all(model.available() for model in self._models.values())


def run_server(
  model_name: str,
  model_base_path: str,
  port: int = 8500,
  host: str = "127.0.0.1",
  file_system_poll_wait_seconds: float = 1,
  grpc_max_threads: int | None = None,
  port_file: str | None = None,
) -> None:
  """Serves one model until SIGTERM or SIGINT. The flags are named as tensorflow_model_server's.

  Args:
    model_name: what clients call the model.
    model_base_path: directory of numbered versions; it may still be without one.
    port: 0 chooses a free one.
    host: address to listen on; 0.0.0.0 for all of this machine's.
    port_file: path that the port is written to once the server listens.

  Raises:
    ServingError: the base path is missing, or the port cannot be had.
  """
  _log_to_stderr()
  without_keras()
  server = ModelServer(
    {model_name: model_base_path}, host, port, file_system_poll_wait_seconds, grpc_max_threads
  )
  stop = threading.Event()
  handlers = {
    number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)
  }
  try:
    server.start()
    if port_file:
      _write_atomically(port_file, str(server.port))
    _announce(server, model_name, model_base_path, stop)
    stop.wait()
    print(f"stopping {model_name}", file=sys.stderr, flush=True)
  finally:
    server.stop()
    for number, handler in handlers.items():
      signal.signal(number, handler)


def _announce(server: ModelServer, name: str, base_path: str, stop: threading.Event) -> None:
  """One line with name, version and address once the model answers; one before if there is none to load."""
  waiting_told = False
  start_s = time.monotonic()
  while not stop.is_set():
    if server.wait_until_available(0.2):
      version = next(number for number, state, _ in server.statuses()[name] if state.name == "AVAILABLE")
      print(f"serving {name} version {version} at {server.address} (gRPC)", file=sys.stderr, flush=True)
      return
    if not waiting_told and not server.statuses()[name] and time.monotonic() - start_s > 1:
      waiting_told = True
      message = f"no version of {name} under {base_path} yet; waiting for one at {server.address} (gRPC)"
      print(message, file=sys.stderr, flush=True)


def _log_to_stderr() -> None:
  logger = logging.getLogger("serving")
  if not logger.handlers:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
  logger.setLevel(logging.INFO)
  logger.propagate = False


def _write_atomically(path: str, text: str) -> None:
  partial = f"{path}.partial-{os.getpid()}"
  with open(partial, "w", encoding="utf-8") as file:
    file.write(text)
  os.replace(partial, path)


def main(arguments: Sequence[str] | None = None) -> int:
  """`python -m serving.server`: as `deepline serve`, for a process that starts and ends the server itself."""
  # Libraries' advice to developers is none for an operator.
  warnings.simplefilter("ignore", FutureWarning)
  parser = argparse.ArgumentParser(prog="serving.server", description=main.__doc__)
  parser.add_argument("--model_name", required=True)
  parser.add_argument("--model_base_path", required=True)
  parser.add_argument("--port", type=int, default=8500)
  parser.add_argument("--host", default="127.0.0.1")
  parser.add_argument("--file_system_poll_wait_seconds", type=float, default=1)
  parser.add_argument("--port_file")
  try:
    run_server(**vars(parser.parse_args(arguments)))
  except ServingError as error:
    print(error, file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
