"""Servers in this process, and waiting for what they do."""

import contextlib
import time

from serving.client import PredictClient
from serving.options import ServerOptions
from serving.server import ModelServer


@contextlib.contextmanager
def running(base_path=None, **options):
  """(server, client) of the model "affine" at a base path, or of what the options name; stopped at the end."""
  options = ServerOptions(**{"port": 0, "file_system_poll_wait_seconds": 0.05, **options})
  server = ModelServer(options, {"affine": str(base_path)} if base_path else None)
  server.start()
  try:
    with PredictClient(server.address, timeout_s=60) as client:
      yield server, client
  finally:
    server.stop()


def wait_for(condition, timeout_s=120):
  """Returns as soon as the condition holds."""
  deadline = time.monotonic() + timeout_s
  while not condition():
    assert time.monotonic() < deadline, "timed out"
    time.sleep(0.02)
