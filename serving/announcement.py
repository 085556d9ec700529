"""How a server tells where it listens and when it answers: files for programs, a line for people."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from serving.errors import ServingError
from serving.options import ServerOptions
from serving.process import write_atomically

if TYPE_CHECKING:
  from serving.server import ModelServer

LOG = logging.getLogger(__name__)

_POLL_S = 0.2
_WAITING_TOLD_AFTER_S = 1.0


def write_port_files(options: ServerOptions, port: int, rest_port: int | None) -> None:
  """Writes the ports to the files that the options name.

  Raises:
    ServingError: a file cannot be written.
  """
  for flag, number in (("port_file", port), ("rest_port_file", rest_port)):
    path = getattr(options, flag)
    if path:
      try:
        write_atomically(path, str(number))
      except OSError as error:
        raise ServingError(f"--{flag}={path}: cannot write it ({error.strerror})") from error


def announce(server: ModelServer, stop: threading.Event, tell: Callable[[str], None]) -> None:
  """Tells in one line what is served where, once all models answer; before that where, if they take long."""
  where = f"{server.address} (gRPC)" + (f", {server.rest_address} (REST)" if server.rest_address else "")
  began_s, told = time.monotonic(), False
  while not stop.is_set():
    if server.wait_until_available(_POLL_S):
      tell(f"serving {_available(server)} at {where}")
      return
    if not told and time.monotonic() - began_s > _WAITING_TOLD_AFTER_S:
      told = True
      LOG.info("listening at %s; not every model is available yet", where)


def _available(server: ModelServer) -> str:
  shown = []
  for name, seen in server.statuses().items():
    numbers = [str(number) for number, state, _ in seen if state.name == "AVAILABLE"]
    shown.append(f"{name} version {', '.join(numbers)}")
  return "; ".join(shown) or "no model"
