"""Threads that load models beside those that answer requests."""

from __future__ import annotations

import concurrent.futures
import queue
import threading
import time
from collections.abc import Callable


class LoadWorkers:
  """Runs calls in a fixed number of threads that do not keep the process alive.

  An executor of the standard library would hold up the end of the process until the last load is done, which takes
  minutes for a large model.

  Args:
    num_threads: calls that run at once.
  """

  def __init__(self, num_threads: int):
    self._calls: queue.SimpleQueue = queue.SimpleQueue()
    self._threads = [
      threading.Thread(target=self._work, name=f"load-{i}", daemon=True) for i in range(num_threads)
    ]
    for thread in self._threads:
      thread.start()

  def submit(self, function: Callable[..., None], *args: object) -> concurrent.futures.Future:
    """Runs a function, which may not raise, as soon as a thread is free."""
    future = concurrent.futures.Future()
    self._calls.put((future, function, args))
    return future

  def close(self, timeout_s: float) -> bool:
    """Ends the threads after the calls that they are at; False if that takes longer than `timeout_s`."""
    for _ in self._threads:
      self._calls.put(None)
    deadline = time.monotonic() + timeout_s
    for thread in self._threads:
      thread.join(max(0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in self._threads)

  def _work(self) -> None:
    for future, function, args in iter(self._calls.get, None):
      function(*args)
      future.set_result(None)
