"""The calls of one unary method, taken from gRPC's core by one thread.

grpc.server accepts one call at a time, hands it to a thread, and has that wait for a message which yet another thread
receives: so many hand-overs of Python's lock that a call takes three times the processor time of the core's own work
(tests/benchmarks/model_serving.py), and that calls never come together where they could be answered together. Here one
thread accepts calls and receives their messages as they come, and passes them on when there are no more. Ports, TLS,
limits, shutdown and all other methods stay with grpc.server.

There is no public way to this: it uses grpc's inner module `cygrpc`, for which pyproject.toml bounds grpcio's version.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from grpc._cython import cygrpc

LOG = logging.getLogger(__name__)

# Calls that the core may accept before this thread has looked at the first of them.
_CALLS_AHEAD = 16
# Messages that are not kept waiting for more.
LARGEST_GROUP = 32
# Where the next call usually comes at once, going to sleep in between takes longer than a small model's run: for
# waking up, and as the processor's caches are cold afterwards.
AWAKE_S = 0.0005
_NO_FLAGS = 0
_AT_ONCE_S = 0.0  # as a deadline: long past


class CallEnded(Exception):
  """Ends what a call's handler does, after `UnaryCall.abort`."""


class UnaryCall:
  """One call: its message, and where its answer goes. It is to be answered once, by any thread.

  It has the methods of a grpc.ServicerContext that handlers here need.

  Attributes:
    message: the request.
    is_cancelled: the client does not wait for an answer any more.
  """

  __slots__ = ("message", "is_cancelled", "_call", "_deadline_s", "_owner")

  def __init__(self, event: Any, owner: CallQueue):
    self.message = b""
    self.is_cancelled = False
    self._call = event.call
    self._deadline_s = event.call_details.deadline
    self._owner = owner
    self._call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), self._on_close)
    self._call.start_server_batch((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), self._on_message)

  def time_remaining(self) -> float:
    """Seconds until the client's deadline; far more than a year where it has set none."""
    return max(self._deadline_s - time.time(), 0)

  def answer(self, response: bytes) -> None:
    """Ends the call with a response."""
    self._end(grpc.StatusCode.OK, "", cygrpc.SendMessageOperation(response, _NO_FLAGS))

  def refuse(self, code: grpc.StatusCode, details: str) -> None:
    """Ends the call with an error."""
    self._end(code, details)

  def abort(self, code: grpc.StatusCode, details: str) -> None:
    """Ends the call with an error, and what is being done for it.

    Raises:
      CallEnded: always.
    """
    self.refuse(code, details)
    raise CallEnded

  def _end(self, code: grpc.StatusCode, details: str, *operations: Any) -> None:
    status = cygrpc.SendStatusFromServerOperation(None, code.value[0], details.encode(), _NO_FLAGS)
    head = cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS)
    with self._owner.sending:
      # A handler may be longer at work than the server waits for it; gRPC would end the process.
      if not self._owner.is_closed:
        self._call.start_server_batch((status, head, *operations), _ignore)

  def _on_message(self, event: Any) -> None:
    message = event.batch_operations[0].message()
    if message is not None:
      self.message = message
      self._owner.arrived.append(self)
    elif not self.is_cancelled:
      self.refuse(grpc.StatusCode.UNIMPLEMENTED, "The method requires exactly one request message.")

  def _on_close(self, event: Any) -> None:
    self.is_cancelled = bool(event.batch_operations[0].cancelled())


class CallQueue:
  """Serves one method of a grpc.Server in a thread of its own. To be made before the server is started.

  Args:
    server: what grpc.server gives.
    method: "/package.Service/Method".

  Attributes:
    arrived, sending, is_closed: for its calls alone: those with a message, a lock that they hold to be ended, whether
      it is too late for that.
  """

  def __init__(self, server: grpc.Server, method: str):
    self._core = server._cy_server
    self._method = method
    self._queue = cygrpc.CompletionQueue()
    self._core.register_completion_queue(self._queue)
    self._core.register_method(method)
    self.arrived: list[UnaryCall] = []
    self.sending = threading.Lock()
    self.is_closed = False
    self._may_stay_awake = len(os.sched_getaffinity(0)) > 1
    self._awake_until_s = 0.0
    self._thread: threading.Thread | None = None

  def start(self, answer: Callable[[Sequence[UnaryCall]], bool]) -> None:
    """Begins, as soon as the server is started.

    Args:
      answer: answers calls, or has other threads do so. True: the next may well come at once.
    """
    for _ in range(_CALLS_AHEAD):
      self._accept()
    self._thread = threading.Thread(target=self._serve, args=(answer,), name="calls", daemon=True)
    self._thread.start()

  def close(self) -> None:
    """Ends the thread. The server must have ended all calls before; handlers may still be at work."""
    with self.sending:
      self.is_closed = True
      self._queue.shutdown()
    if self._thread is not None:
      self._thread.join()

  def _serve(self, answer: Callable[[Sequence[UnaryCall]], bool]) -> None:
    while True:
      is_awake = self.arrived or time.monotonic() < self._awake_until_s
      event = self._queue.poll(_AT_ONCE_S if is_awake else None)
      if event.completion_type == cygrpc.CompletionType.queue_shutdown:
        return
      try:
        self._take(event, answer)
      except Exception:
        # Whatever it was, the calls to come are to be answered.
        LOG.exception("%s: a call was lost", self._method)
      # A call is not to be kept in memory by this frame.
      event = None

  def _take(self, event: Any, answer: Callable[[Sequence[UnaryCall]], bool]) -> None:
    is_idle = event.completion_type == cygrpc.CompletionType.queue_timeout
    if not is_idle:
      event.tag(event)
    if self.arrived and (is_idle or len(self.arrived) >= LARGEST_GROUP):
      calls = self.arrived[:]
      self.arrived.clear()
      if answer(calls) and self._may_stay_awake:
        self._awake_until_s = time.monotonic() + AWAKE_S

  def _accept(self) -> None:
    try:
      self._core.request_registered_call(self._queue, self._queue, self._method, self._on_call)
    except ValueError:  # the server is shutting down
      return

  def _on_call(self, event: Any) -> None:
    if event.success:
      self._accept()
      UnaryCall(event, self)


def _ignore(event: Any) -> None:
  """What is to be done when an answer is sent."""
