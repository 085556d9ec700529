"""What a process that does nothing but serve asks of the system: signals, limits, the log, an end with its parent."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterator

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
  """Makes the kernel kill this process when the one that started it ends in whatever way, SIGKILL included.

  Elsewhere than on Linux nothing happens: the parent's own clean-up has to do.

  Args:
    parent_pid: the process id that this process expects as its parent; it ends if that is gone already.
  """
  if not sys.platform.startswith("linux"):
    return
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != parent_pid:
    os._exit(1)


def without_keras() -> None:
  """Spares this process the import of Keras, a third of TensorFlow's, as nothing that is served needs it.

  TensorFlow imports one Keras or the other when it is imported itself; the older one is the lighter. Nor does an
  operator need the notes that it writes then.
  """
  os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def allow_many_connections() -> None:
  """Raises the number of files and connections that may be open to what the system allows this process."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  if soft != hard:
    with contextlib.suppress(ValueError, OSError):
      resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def log_to_stderr() -> None:
  """Shows the operator what the server logs, one line each."""
  logger = logging.getLogger("serving")
  if not logger.handlers:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
  logger.setLevel(logging.INFO)
  logger.propagate = False


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
  """An event that SIGTERM and SIGINT set, as long as the context lasts."""
  stop = threading.Event()
  handlers = {
    number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGTERM, signal.SIGINT)
  }
  try:
    yield stop
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)


def end_now() -> None:
  """Ends this process though threads are still at work: waiting for them could take for ever."""
  sys.stdout.flush()
  sys.stderr.flush()
  os._exit(0)


def write_atomically(path: str, text: str) -> None:
  """Writes a file that others wait for: they see all of it or nothing."""
  partial = f"{path}.partial-{os.getpid()}"
  with open(partial, "w", encoding="utf-8") as file:
    file.write(text)
  os.replace(partial, path)
