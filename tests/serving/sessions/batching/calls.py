"""Callers of a batching session, and a gate that makes its runs wait."""

import concurrent.futures
import threading
import time

import numpy as np

from serving.sessions.batching import BatchingSession
from serving.sessions.batching_settings import BatchingSettings
from serving.telemetry.monitoring import Monitoring

GATE = 1000.0  # A row with this value waits until the gate is opened.
WAIT_S = 60


class Gated:
  """The session, with a record of its runs; runs that hold a `GATE` value wait for `open`."""

  def __init__(self, session):
    self.signatures = session.signatures
    self._session = session
    self.open = threading.Event()
    self.sizes = []
    self.shapes = []

  def run(self, feeds, fetches, timeout_ms=0):
    array = next(iter(feeds.values()))
    self.sizes.append(len(array) if array.ndim else None)
    self.shapes.append(array.shape)
    if array.dtype == np.float32 and np.any(array == GATE):
      assert self.open.wait(WAIT_S)
    return self._session.run(feeds, fetches, timeout_ms)


class Clients:
  """Concurrent callers of a batching session."""

  def __init__(self, session, **settings):
    self.gated = Gated(session)
    self.monitoring = Monitoring()
    self.session = BatchingSession(self.gated, BatchingSettings(**settings), self.monitoring)
    self._pool = concurrent.futures.ThreadPoolExecutor(32)

  def ask(self, signature, timeout_ms=0, fetches=None, **inputs):
    of = self.session.signatures[signature]
    feeds = {of.inputs[name].name: np.asarray(value) for name, value in inputs.items()}
    outputs = [of.outputs[name].name for name in fetches or sorted(of.outputs)]
    return self._pool.submit(self.session.run, feeds, outputs, timeout_ms)

  def queued(self):
    return sum(len(batch.tasks) for batch in self.session._scheduler._open.values())

  def until(self, condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
      assert time.monotonic() < deadline
      time.sleep(0.002)

  def wait_for_runs(self, count):
    self.until(lambda: len(self.gated.sizes) >= count)

  def wait_for_queued(self, count):
    self.until(lambda: self.queued() == count)


def rows(*values):
  return np.array(values, np.float32)
