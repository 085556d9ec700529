"""Who runs a batch, and when: the callers do it themselves, the first of a batch leading it.

There is no thread of its own, and so no hand-over for a caller that comes alone.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence

import grpc
import numpy as np

from serving.errors import RequestError

# A run that takes long must not hold up the others of its session for as long: there are processors to share.
PATIENCE_S = 0.05


class Task:
  """One caller's share of a batch.

  Args:
    feeds: {tensor name: array [size, ...]}.
    size: examples.
    deadline_s: on `time.monotonic`'s clock; None: none.
  """

  __slots__ = ("feeds", "size", "deadline_s", "outputs", "error", "is_alone", "is_done", "signal")

  def __init__(self, feeds: Mapping[str, np.ndarray], size: int, deadline_s: float | None):
    self.feeds = feeds
    self.size = size
    self.deadline_s = deadline_s
    self.outputs: Mapping[str, np.ndarray] = {}
    self.error: Exception | None = None
    self.is_alone = False
    self.is_done = False
    # Held, but for the moment in which the caller is woken up.
    self.signal = threading.Lock()
    self.signal.acquire()

  def wake(self) -> None:
    """Makes the caller look again. Only with the scheduler's lock held."""
    if self.signal.locked():
      self.signal.release()


class _Batch:
  __slots__ = ("key", "tasks", "size", "opened_s", "is_closed", "is_waiting", "is_granted")

  def __init__(self, key: tuple[Hashable, ...]):
    self.key = key
    self.tasks: list[Task] = []  # the first one leads
    self.size = 0
    self.opened_s = time.monotonic()
    self.is_closed = False  # to further tasks
    self.is_waiting = False  # for a slot
    self.is_granted = False  # a slot


class BatchScheduler:
  """Groups the tasks of concurrent callers into batches.

  A batch is open to tasks of its key until it is full or a slot is granted to it. It asks for a slot when it is full or
  `timeout_s` old; slots go to those that asked first.

  Args:
    run: (key, tasks, seconds that the batch has waited) -> None; sets the tasks' results. It must not raise.
    largest_batch: examples.
    num_slots: batches that run at once.
    max_enqueued_batches: batches of one signature (the key's first item) that have no slot; None: any number.
    is_patient: False: a batch starts without a slot after `PATIENCE_S`.
  """

  def __init__(
    self,
    run: Callable[[tuple, Sequence[Task], float], None],
    largest_batch: int,
    num_slots: int,
    timeout_s: float = 0.0,
    max_enqueued_batches: int | None = None,
    is_patient: bool = True,
  ):
    self._run = run
    self._largest_batch = largest_batch
    self._free_slots = num_slots
    self._timeout_s = timeout_s
    self._max_enqueued_batches = max_enqueued_batches
    self._is_patient = is_patient
    self._lock = threading.Lock()
    self._open: dict[tuple, _Batch] = {}
    self._enqueued: collections.Counter = collections.Counter()
    self._waiting: collections.deque[_Batch] = collections.deque()

  def take_slot(self) -> bool:
    """Takes a slot if there is a free one; the caller has to release it."""
    with self._lock:
      if self._free_slots <= 0:
        return False
      self._free_slots -= 1
      return True

  def release_slot(self) -> None:
    """Hands a slot on to the batch that has waited longest."""
    with self._lock:
      self._free_slots += 1
      if self._waiting and self._free_slots > 0:
        self._grant(self._waiting[0])

  def submit(self, key: tuple[Hashable, ...], task: Task) -> None:
    """Returns when the task has been run in a batch of this key, by this thread or by another one.

    Raises:
      RequestError: DEADLINE_EXCEEDED, its time is up; UNAVAILABLE, too many batches wait.
    """
    with self._lock:
      batch = self._join(key, task)
    if not self._leads(batch, task):
      return
    try:
      tasks = self._without_expired(batch)
      if tasks:
        self._run(key, tasks, time.monotonic() - batch.opened_s)
    finally:
      with self._lock:
        for done in batch.tasks:
          done.is_done = True
          done.wake()
      self.release_slot()

  def _join(self, key: tuple, task: Task) -> _Batch:
    batch = self._open.get(key)
    if batch is None or batch.size + task.size > self._largest_batch:
      limit, enqueued = self._max_enqueued_batches, self._enqueued[key[0]]
      if limit is not None and enqueued >= limit:
        raise RequestError(
          grpc.StatusCode.UNAVAILABLE,
          "The batch scheduling queue to which this task was submitted is full; "
          f"currently {enqueued} batches enqueued and max_enqueued_batches is {limit}",
        )
      if batch is not None:
        self._close(batch)
      batch = self._open[key] = _Batch(key)
      self._enqueued[key[0]] += 1
    batch.tasks.append(task)
    batch.size += task.size
    if batch.size == self._largest_batch:
      self._close(batch)
    return batch

  def _leads(self, batch: _Batch, task: Task) -> bool:
    """Waits until the task is done (False), or its batch is to be run by this caller (True)."""
    while True:
      with self._lock:
        if task.is_done:
          return False
        wake_s = self._ask_for_slot(batch) if batch.tasks[0] is task else None
        if batch.is_granted and batch.tasks[0] is task:
          return True
        if task.deadline_s is not None:
          if time.monotonic() >= task.deadline_s:
            self._leave(batch, task)
            raise deadline_exceeded()
          wake_s = task.deadline_s if wake_s is None else min(wake_s, task.deadline_s)
      if wake_s is None:
        task.signal.acquire()
      else:
        task.signal.acquire(timeout=max(0.0, wake_s - time.monotonic()))

  def _ask_for_slot(self, batch: _Batch) -> float | None:
    """Brings a batch forward; when to do so again, or None if it will be told."""
    if batch.is_granted:
      return None
    due_s = batch.opened_s + self._timeout_s
    if not batch.is_waiting:
      if not batch.is_closed and time.monotonic() < due_s:
        return due_s
      batch.is_waiting = True
      self._waiting.append(batch)
    if self._free_slots > 0:
      self._grant(batch)
    elif not self._is_patient:
      if time.monotonic() < due_s + PATIENCE_S:
        return due_s + PATIENCE_S
      self._grant(batch)
    return None

  def _grant(self, batch: _Batch) -> None:
    self._free_slots -= 1
    batch.is_granted = True
    self._close(batch)
    self._forget(batch)

  def _close(self, batch: _Batch) -> None:
    batch.is_closed = True
    if self._open.get(batch.key) is batch:
      del self._open[batch.key]
    batch.tasks[0].wake()

  def _forget(self, batch: _Batch) -> None:
    """A batch is no longer enqueued."""
    if batch.is_waiting:
      self._waiting.remove(batch)
    self._enqueued[batch.key[0]] -= 1
    if not self._enqueued[batch.key[0]]:
      del self._enqueued[batch.key[0]]

  def _leave(self, batch: _Batch, task: Task) -> None:
    """Takes a task out of its batch, unless that runs already."""
    if batch.is_granted:
      return
    led = batch.tasks[0] is task
    if len(batch.tasks) == 1:
      self._close(batch)
      self._forget(batch)
    batch.tasks.remove(task)
    batch.size -= task.size
    if led and batch.tasks:
      batch.tasks[0].wake()

  def _without_expired(self, batch: _Batch) -> list[Task]:
    """The tasks that still have time."""
    now_s = time.monotonic()
    expired = [task for task in batch.tasks if task.deadline_s is not None and task.deadline_s <= now_s]
    for task in expired:
      task.error = deadline_exceeded()
    return [task for task in batch.tasks if task not in expired]


def deadline_exceeded() -> RequestError:
  """What a request is answered whose time is up before it runs."""
  return RequestError(
    grpc.StatusCode.DEADLINE_EXCEEDED, "Run() timeout exceeded while waiting in batching queue"
  )
