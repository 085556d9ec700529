"""One configuration for the processes of a server: a request to change it reaches only one of them."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from serving.process import write_atomically

LOG = logging.getLogger(__name__)

_POLL_S = 0.1
# The longest that a process which was reconfigured waits for the others, which load the new models too.
_WAIT_S = 120.0


class SharedConfig:
  """The last configuration that one of the processes was given, in a file that the others watch.

  Args:
    directory: folder that the processes share, empty when the first of them starts.
    index: which of the processes this is.
  """

  def __init__(self, directory: str, index: int):
    self._path = os.path.join(directory, "config")
    self._directory = directory
    self._own = os.path.join(directory, f"applied-{index}")
    self._applied = ""

  def publish(self, config: Any) -> None:
    """Hands a ModelServerConfig, which this process serves already, to the others, and waits until they do."""
    data = config.SerializeToString(deterministic=True)
    self._note(_digest(data))
    write_atomically(self._path, data.hex())
    deadline = time.monotonic() + _WAIT_S
    while time.monotonic() < deadline and not self._is_applied_by_all(_digest(data)):
      time.sleep(_POLL_S)

  def follow(self, configure: Callable[[Any], None], stop: threading.Event) -> None:
    """Applies what was published before, then, in a thread, all that the others publish until `stop` is set."""
    self._note("")
    self._catch_up(configure)

    def watch() -> None:
      while not stop.wait(_POLL_S):
        self._catch_up(configure)

    threading.Thread(target=watch, name="shared-config", daemon=True).start()

  def _catch_up(self, configure: Callable[[Any], None]) -> None:
    from tensorflow_serving.config import model_server_config_pb2

    try:
      with open(self._path, encoding="utf-8") as file:
        data = bytes.fromhex(file.read())
    except OSError:  # nothing was published yet
      return
    if _digest(data) == self._applied:
      return
    try:
      configure(model_server_config_pb2.ModelServerConfig.FromString(data))
    except (
      Exception
    ) as error:  # what the process that was asked could do, this one tries again with its next polls
      LOG.error("a configuration that another process serves is not complete here: %s", error)
    self._note(_digest(data))

  def _note(self, digest: str) -> None:
    self._applied = digest
    # The folder goes with the parent.
    with contextlib.suppress(OSError):
      write_atomically(self._own, digest)

  def _is_applied_by_all(self, digest: str) -> bool:
    for name in os.listdir(self._directory):
      if name.startswith("applied-") and ".partial-" not in name:
        with open(os.path.join(self._directory, name), encoding="utf-8") as file:
          if file.read() != digest:
            return False
    return True


def _digest(data: bytes) -> str:
  return hashlib.sha256(data).hexdigest()
