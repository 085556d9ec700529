"""Several server processes on one port: a Python process answers with about one processor's power.

The kernel spreads connections over the processes (SO_REUSEPORT). The parent holds the ports, starts the children,
passes signals on and replaces a child that has died; it imports neither TensorFlow nor gRPC.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator

from serving.announcement import announce, write_port_files
from serving.errors import ServingError
from serving.options import ServerOptions, address_of
from serving.process import (
  allow_many_connections,
  die_with_parent,
  end_now,
  log_to_stderr,
  stop_signals,
  without_keras,
)
from serving.server import STOP_GRACE_S, ModelServer
from serving.shared_config import SharedConfig

# By its name, since this module may run as __main__.
LOG = logging.getLogger("serving.processes")

# What a child tells its parent, one line each on its standard output.
LISTENING, READY, ERROR = "listening", "ready", "error"
_POLL_S = 0.1
_RESTART_AFTER_S = 1.0
_LONGEST_RESTART_WAIT_S = 30.0
# The longest that a process which replaces another waits for its models before it takes requests.
_LONGEST_CATCH_UP_S = 120.0
_KILL_AFTER_S = STOP_GRACE_S + 5


def run_processes(options: ServerOptions) -> None:
  """Serves in `options.num_processes` processes until SIGTERM or SIGINT.

  Raises:
    ServingError: a port cannot be had, or the children cannot start; what they say.
  """
  with contextlib.ExitStack() as stack:
    stop = stack.enter_context(stop_signals())
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="serving-"))
    port = stack.enter_context(_reserved(options.host, options.port, "--port"))
    rest_port = None
    if options.with_rest:
      rest_port = stack.enter_context(_reserved(options.host, options.rest_api_port, "--rest_api_port"))
    of_child = options.model_copy(
      update={"port": port, "rest_api_port": rest_port or 0, "port_file": "", "rest_port_file": ""}
    )
    children = [_Child(of_child, directory, index) for index in range(options.num_processes)]
    try:
      _supervise(options, children, stop, port, rest_port)
    finally:
      _end(children)


def _supervise(
  options: ServerOptions, children: list[_Child], stop: threading.Event, port: int, rest_port: int | None
) -> None:
  told_ports = told_ready = False
  for child in children:
    child.start()
  while not stop.wait(_POLL_S):
    for child in children:
      child.read_messages()
      if child.has_ended():
        if not told_ports:
          raise ServingError(child.last_words())
        child.restart_when_due()
    if not told_ports and all(child.said(LISTENING) for child in children):
      write_port_files(options, port, rest_port)
      told_ports = True
    if not told_ready and all(child.said(READY) for child in children):
      line = f"{children[0].messages[READY]}, in {len(children)} processes"
      print(line, file=sys.stderr, flush=True)
      told_ready = True


def _end(children: list[_Child]) -> None:
  deadline = time.monotonic() + _KILL_AFTER_S
  for child in children:
    child.terminate()
  for child in children:
    child.wait_or_kill(deadline)


class _Child:
  """One server process and what it has said so far."""

  def __init__(self, options: ServerOptions, directory: str, index: int):
    self.index = index
    self.messages: dict[str, str] = {}
    self._settings = {
      "options": options.model_dump(),
      "parent_pid": os.getpid(),
      "directory": directory,
      "index": index,
      "replaces": False,
    }
    self._process: subprocess.Popen | None = None
    self._lines: queue.SimpleQueue = queue.SimpleQueue()
    self._restart_wait_s = _RESTART_AFTER_S
    self._restart_at_s: float | None = None

  def start(self) -> None:
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    self.messages, self._restart_at_s = {}, None
    command = [sys.executable, "-m", "serving.processes", json.dumps(self._settings)]
    self._process = subprocess.Popen(
      command, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
    )
    self._settings["replaces"] = True
    threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True).start()

  def said(self, kind: str) -> bool:
    return kind in self.messages

  def read_messages(self) -> None:
    while not self._lines.empty():
      kind, _, text = self._lines.get().partition(" ")
      self.messages[kind] = text
      if kind == READY:
        self._restart_wait_s = _RESTART_AFTER_S

  def has_ended(self) -> bool:
    return self._process.poll() is not None

  def last_words(self) -> str:
    """Why it has ended."""
    self._process.wait()
    time.sleep(_POLL_S)  # for its last line to be read
    self.read_messages()
    default = f"a server process ended with status {self._process.returncode} while it started"
    return self.messages.get(ERROR, default)

  def restart_when_due(self) -> None:
    """Starts it again after a wait that doubles from one death to the next, until it answers again."""
    if self._restart_at_s is None:
      LOG.error(
        "server process %d ended with status %d; starting another in %g s",
        self._process.pid,
        self._process.returncode,
        self._restart_wait_s,
      )
      self._restart_at_s = time.monotonic() + self._restart_wait_s
      self._restart_wait_s = min(2 * self._restart_wait_s, _LONGEST_RESTART_WAIT_S)
    elif time.monotonic() >= self._restart_at_s:
      self.start()

  def terminate(self) -> None:
    if self._process is not None and not self.has_ended():
      self._process.terminate()

  def wait_or_kill(self, deadline: float) -> None:
    if self._process is None:
      return
    try:
      self._process.wait(max(0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()

  def _listen(self, stream: object) -> None:
    for line in stream:
      self._lines.put(line.rstrip("\n"))


@contextlib.contextmanager
def _reserved(host: str, port: int, flag: str) -> Iterator[int]:
  """A port for the children alone, as long as the context lasts; 0 chooses a free one."""
  try:
    holder = _hold(host, port)
  except OSError as error:
    raise ServingError(
      f"cannot listen on {address_of(host, port)}: it is in use or not allowed; choose another {flag}"
    ) from error
  with holder:
    yield holder.getsockname()[1]


def _hold(host: str, port: int) -> socket.socket:
  """A socket that is bound and does not listen: the port is taken, and no connection comes here."""
  family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
  # Sharing is what the children do; with anyone else it would be a mistake.
  with socket.socket(family) as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    probe.bind(address)
  holder = socket.socket(family)
  try:
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    holder.bind(address)
  except OSError:
    holder.close()
    raise
  return holder


def main(argument: str) -> int:
  """What a child does; the argument is what `_Child` puts together."""
  # Libraries' advice to developers is none for an operator.
  warnings.simplefilter("ignore", FutureWarning)
  settings = json.loads(argument)
  die_with_parent(settings["parent_pid"])
  log_to_stderr()
  allow_many_connections()
  without_keras()
  shared = SharedConfig(settings["directory"], settings["index"])
  server = ModelServer(ServerOptions(**settings["options"]), reuse_port=True, on_reload=shared.publish)
  with stop_signals() as stop:
    ended = True

    def catch_up() -> None:
      shared.follow(server.configure, stop)
      # The others answer meanwhile; this one would have to refuse its share of the requests.
      deadline = time.monotonic() + (_LONGEST_CATCH_UP_S if settings["replaces"] else 0)
      while not stop.is_set() and time.monotonic() < deadline and not server.wait_until_available(_POLL_S):
        pass

    try:
      server.start(catch_up)
      _tell(LISTENING)
      announce(server, stop, lambda line: _tell(READY, line))
      stop.wait()
    except ServingError as error:
      _tell(ERROR, str(error))
      return 1
    finally:
      ended = server.stop()
  if not ended:
    end_now()
  return 0


def _tell(kind: str, text: str = "") -> None:
  print(f"{kind} {text}".rstrip(), flush=True)


if __name__ == "__main__":
  sys.exit(main(sys.argv[1]))
