"""Joining concurrent runs of a session into batches: which may be joined, and how.

Source: tensorflow_serving/batching/batching_session.cc,
tensorflow/core/kernels/batching_util/shared_batch_scheduler.h
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.errors import invalid_argument
from serving.sessions.batch_merging import merged, split
from serving.sessions.batch_scheduler import BatchScheduler, Task, deadline_exceeded
from serving.sessions.batching_settings import BatchingSettings

if TYPE_CHECKING:
  from serving.telemetry.monitoring import Monitoring

Feeds = Mapping[str, np.ndarray]
# Processor time of one example's run up to which handing it to another thread would take about as long.
QUICK_S = 0.001
_LATEST_SHARE = 0.3  # of the latest run in the average


class BatchingSession:
  """A session whose concurrent runs are joined. Any number of threads may call `run` at once.

  Runs are joined where that cannot be told from the answers: all inputs and outputs of the signature have an open first
  dimension, the requests' dtypes and inner shapes are equal, and (if greedy) the outputs' inner shapes are fixed, so
  that no request changes the shape of another's answer. Should a joint run fail, or not give a row for each example,
  every request of it runs alone.

  Args:
    session: with `signatures`, `run` and `close`; closed together with this one.
    monitoring: is told of every batch, if not greedy: TF Serving has such figures with --enable_batching alone.
  """

  def __init__(self, session: Any, settings: BatchingSettings, monitoring: Monitoring | None = None):
    self.signatures = session.signatures
    self._session = session
    self._settings = settings
    self._monitoring = None if settings.greedy else monitoring
    self._batchable = _batchable_outputs(session.signatures, settings.greedy)
    self._scheduler = BatchScheduler(
      self._run_batch,
      largest_batch=settings.largest_batch,
      num_slots=settings.num_batch_threads or len(os.sched_getaffinity(0)),
      timeout_s=settings.batch_timeout_us / 1e6,
      max_enqueued_batches=settings.max_enqueued_batches,
      is_patient=not settings.greedy,
    )
    # {tensors fetched: processor time of one example's run}
    self._example_s: dict[frozenset[str], float] = {}

  def is_quick(self, feeds: Feeds, fetches: Sequence[str]) -> bool:
    """Whether such a run has been so short that `run_together` may be called where nothing should be held up."""
    if not self._settings.greedy or not self._session.runs_in_caller_thread(fetches):
      return False
    example_s = self._example_s.get(frozenset(fetches), math.inf)
    return example_s <= QUICK_S and self._joinable_size(feeds, fetches) > 0

  def run_together(
    self, requests: Sequence[tuple[Feeds, Sequence[str]]]
  ) -> list[list[np.ndarray] | Exception]:
    """Runs requests in this thread and at once, joined as far as `run` would join them.

    Args:
      requests: (feeds, fetches) as for `run`.

    Returns:
      For each request its values, or what its run raises.
    """
    if len(requests) == 1:
      return [self._run_lone(*requests[0])]
    tasks = [Task(feeds, 1, None) for feeds, _ in requests]
    batches: dict[tuple, list[int]] = {}
    for i, (feeds, fetches) in enumerate(requests):
      tasks[i].size = self._joinable_size(feeds, fetches)
      tasks[i].is_alone = not tasks[i].size
      if tasks[i].size:
        batches.setdefault(self._key(feeds, fetches), []).append(i)
    for key, members in batches.items():
      for batch in _chunks([tasks[i] for i in members], self._settings.largest_batch):
        self._run_batch(key, batch, 0.0)
    return [self._outcome(task, fetches) for task, (_, fetches) in zip(tasks, requests, strict=True)]

  def run(self, feeds: Feeds, fetches: Sequence[str], timeout_ms: int = 0) -> list[np.ndarray]:
    """Values of the fetched tensors.

    Args:
      feeds: {tensor name: value}; names and fetches are those in `signatures`.
      timeout_ms: the longest that waiting and running may take; 0: no limit.

    Raises:
      RequestError: DEADLINE_EXCEEDED while waiting; UNAVAILABLE, too many wait; INVALID_ARGUMENT, too large.
      Exception: what the session's own run raises.
    """
    if not self._is_batchable(feeds, fetches):
      return self._session.run(feeds, fetches, timeout_ms)
    size = self._size(feeds)
    deadline_s = time.monotonic() + timeout_ms / 1000 if timeout_ms else None
    if size > self._settings.largest_batch and self._settings.enable_large_batch_splitting:
      return self._run_in_parts(feeds, fetches, size, deadline_s)
    if not size or size > self._settings.largest_batch:
      return self._session.run(feeds, fetches, timeout_ms)
    if self._settings.greedy and self._scheduler.take_slot():
      return self._run_at_once(feeds, fetches, timeout_ms, size)
    task = Task(feeds, size, deadline_s)
    self._scheduler.submit(self._key(feeds, fetches), task)
    if task.is_alone:
      return self._session.run(feeds, fetches, _remaining_ms(deadline_s))
    if task.error is not None:
      raise task.error
    return _values(task, fetches)

  def close(self) -> None:
    """Closes the session. No `run` may be under way or come later."""
    self._session.close()

  def _is_batchable(self, feeds: Feeds, fetches: Sequence[str]) -> bool:
    outputs = self._batchable.get(frozenset(feeds))
    return outputs is not None and outputs.issuperset(fetches)

  def _joinable_size(self, feeds: Feeds, fetches: Sequence[str]) -> int:
    """Examples in a request; 0 if it has to run alone."""
    size = self._size(feeds) if self._is_batchable(feeds, fetches) else 0
    return size if size <= self._settings.largest_batch else 0

  def _key(self, feeds: Feeds, fetches: Sequence[str]) -> tuple:
    """What requests of one batch have in common: (names of the inputs, names of the outputs, dtypes and shapes)."""
    return (frozenset(feeds), tuple(sorted(set(fetches))), *self._shapes(feeds))

  def _run_lone(self, feeds: Feeds, fetches: Sequence[str]) -> list[np.ndarray] | Exception:
    try:
      size = self._joinable_size(feeds, fetches)
      return self._timed_run(feeds, fetches, 0, size) if size else self._session.run(feeds, fetches)
    except Exception as error:
      return error

  def _outcome(self, task: Task, fetches: Sequence[str]) -> list[np.ndarray] | Exception:
    if task.is_alone:
      return self._run_lone(task.feeds, fetches)
    return task.error if task.error is not None else _values(task, fetches)

  def _size(self, feeds: Feeds) -> int:
    """Examples in a request; 0 if it cannot be joined with others.

    Raises:
      RequestError: TF Serving refuses it.
    """
    sizes = {array.shape[0] if array.ndim else -1 for array in feeds.values()}
    if self._settings.greedy:
      return max(0, sizes.pop()) if len(sizes) == 1 else 0
    if -1 in sizes:
      raise invalid_argument("Batching Run() input tensors must have at least one dimension")
    if len(sizes) > 1:
      raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
    size = sizes.pop()
    if size > self._settings.max_batch_size:
      raise invalid_argument(
        f"Task size {size} is larger than maximum input batch size {self._settings.max_batch_size}"
      )
    return size

  def _shapes(self, feeds: Feeds) -> list[tuple]:
    """What must be equal for requests to be joined."""
    if self._settings.pad_variable_length_inputs:
      return [(feeds[name].dtype, feeds[name].ndim) for name in sorted(feeds)]
    return [(feeds[name].dtype, feeds[name].shape[1:]) for name in sorted(feeds)]

  def _run_at_once(
    self, feeds: Feeds, fetches: Sequence[str], timeout_ms: int, size: int
  ) -> list[np.ndarray]:
    try:
      return self._timed_run(feeds, fetches, timeout_ms, size)
    finally:
      self._scheduler.release_slot()

  def _timed_run(self, feeds: Feeds, fetches: Sequence[str], timeout_ms: int, size: int) -> list[np.ndarray]:
    """A run that is timed for `is_quick`, by this thread's own processor time: others may be at work as well."""
    began_s = time.thread_time()
    values = self._session.run(feeds, fetches, timeout_ms)
    example_s = (time.thread_time() - began_s) / size
    names = frozenset(fetches)
    average_s = self._example_s.get(names, example_s)
    self._example_s[names] = average_s + _LATEST_SHARE * (example_s - average_s)
    return values

  def _run_in_parts(
    self, feeds: Feeds, fetches: Sequence[str], size: int, deadline_s: float | None
  ) -> list[np.ndarray]:
    step = self._settings.largest_batch
    parts = []
    for start in range(0, size, step):
      part = {name: array[start : start + step] for name, array in feeds.items()}
      parts.append(self.run(part, fetches, _remaining_ms(deadline_s)))
    return [np.concatenate(values) for values in zip(*parts, strict=True)]

  def _run_batch(self, key: tuple, tasks: Sequence[Task], waited_s: float) -> None:
    """Runs the tasks of a batch together, and gives each its outputs, an error, or word to run alone."""
    signature, names = key[:2]
    size = sum(task.size for task in tasks)
    allowed_size = next((allowed for allowed in self._settings.allowed_batch_sizes if allowed >= size), size)
    padding = allowed_size - size
    if self._monitoring is not None:
      self._monitoring.batch(allowed_size, padding, waited_s * 1e6)
    try:
      feeds = merged([task.feeds for task in tasks], padding)
      outputs = self._timed_run(feeds, names, _longest_ms(tasks), allowed_size)
    except Exception as error:
      # Which of the requests is to blame shows when each runs alone.
      for task in tasks:
        task.is_alone, task.error = len(tasks) > 1 or padding > 0, error
      return
    if len(tasks) == 1 and not padding:
      tasks[0].outputs = dict(zip(names, outputs, strict=True))
    elif all(output.ndim and len(output) == allowed_size for output in outputs):
      for task, values in zip(tasks, split(outputs, [task.size for task in tasks]), strict=True):
        task.outputs = dict(zip(names, values, strict=True))
    else:
      self._batchable.pop(signature, None)
      for task in tasks:
        task.is_alone = True


def _batchable_outputs(signatures: Mapping[str, Any], greedy: bool) -> dict[frozenset[str], set[str]]:
  """{names of all inputs: names of outputs} of the signatures whose runs may be joined."""
  found: dict[frozenset[str], set[str]] = {}
  for signature in signatures.values():
    inputs, outputs = list(signature.inputs.values()), list(signature.outputs.values())
    fixed = not greedy or all(dim.size >= 0 for info in outputs for dim in info.tensor_shape.dim[1:])
    if inputs and outputs and fixed and all(_has_open_batch(info.tensor_shape) for info in inputs + outputs):
      names = frozenset(info.name for info in inputs)
      found.setdefault(names, set()).update(info.name for info in outputs)
  return found


def _has_open_batch(shape: Any) -> bool:
  return not shape.unknown_rank and len(shape.dim) > 0 and shape.dim[0].size < 0


def _values(task: Task, fetches: Sequence[str]) -> list[np.ndarray]:
  return [task.outputs[name] for name in fetches]


def _chunks(tasks: Sequence[Task], largest_batch: int) -> Iterator[list[Task]]:
  """The tasks in order, in batches of at most `largest_batch` examples."""
  batch, size = [], 0
  for task in tasks:
    if batch and size + task.size > largest_batch:
      yield batch
      batch, size = [], 0
    batch.append(task)
    size += task.size
  if batch:
    yield batch


def _longest_ms(tasks: Sequence[Task]) -> int:
  """The timeout of a joint run: its most patient task's."""
  deadlines = [task.deadline_s for task in tasks]
  return 0 if None in deadlines else max(1, math.ceil((max(deadlines) - time.monotonic()) * 1000))


def _remaining_ms(deadline_s: float | None) -> int:
  if deadline_s is None:
    return 0
  remaining_ms = math.ceil((deadline_s - time.monotonic()) * 1000)
  if remaining_ms <= 0:
    raise deadline_exceeded()
  return remaining_ms
