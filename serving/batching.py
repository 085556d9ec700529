"""Joining concurrent runs of a session into batches: the settings, and what may be joined.

Source: tensorflow_serving/batching/batching_session.cc,
tensorflow/core/kernels/batching_util/shared_batch_scheduler.h
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.batch_merging import merged, split
from serving.batch_scheduler import BatchScheduler, Task, deadline_exceeded
from serving.errors import ServingError, invalid_argument

if TYPE_CHECKING:
  from serving.monitoring import Monitoring

Feeds = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class BatchingSettings:
  """How runs are joined.

  The default is greedy: a run starts as soon as one of `num_batch_threads` places is free, together with those that
  came while none was. Nothing waits for company, and nothing is refused. Otherwise as TF Serving does it.

  Attributes:
    max_batch_size: examples in a batch, at most. A larger request runs alone if greedy, and is refused otherwise.
    batch_timeout_us: how long a batch waits for more examples.
    max_enqueued_batches: batches of one signature that may wait; None: any number. The next request is refused.
    num_batch_threads: batches that run at once; 0: one for each processor this process may use.
    allowed_batch_sizes: ascending; a batch is filled up to the next one of them. Empty: any size.
    pad_variable_length_inputs: joins requests of different inner shapes, filling up the smaller ones.
    enable_large_batch_splitting: runs a request that exceeds `max_execution_batch_size` in parts.
    max_execution_batch_size: with splitting, what a batch may hold; 0: `max_batch_size`.
    greedy: see above.
  """

  max_batch_size: int = 32
  batch_timeout_us: int = 0
  max_enqueued_batches: int | None = None
  num_batch_threads: int = 0
  allowed_batch_sizes: tuple[int, ...] = ()
  pad_variable_length_inputs: bool = False
  enable_large_batch_splitting: bool = False
  max_execution_batch_size: int = 0
  greedy: bool = True

  @classmethod
  def from_parameters(cls, parameters: Any) -> BatchingSettings:
    """TF Serving's parameters, with its defaults where they are left out.

    Args:
      parameters: a `serving.protos.BatchingParameters`.

    Raises:
      ServingError: they contradict each other; TF Serving's words.
    """
    settings = cls(
      max_batch_size=_value(parameters, "max_batch_size", 1000),
      batch_timeout_us=_value(parameters, "batch_timeout_micros", 0),
      max_enqueued_batches=_value(parameters, "max_enqueued_batches", 10),
      num_batch_threads=_value(parameters, "num_batch_threads", len(os.sched_getaffinity(0))),
      allowed_batch_sizes=tuple(parameters.allowed_batch_sizes),
      pad_variable_length_inputs=parameters.pad_variable_length_inputs,
      enable_large_batch_splitting=_value(parameters, "enable_large_batch_splitting", False),
      max_execution_batch_size=_value(parameters, "max_execution_batch_size", 0),
      greedy=False,
    )
    problem = _problem(settings)
    if problem:
      raise ServingError(problem)
    return settings

  @property
  def largest_batch(self) -> int:
    """Examples that one run of the session may hold."""
    return self.enable_large_batch_splitting and self.max_execution_batch_size or self.max_batch_size


def _value(parameters: Any, name: str, default: int) -> int:
  return getattr(parameters, name).value if parameters.HasField(name) else default


def _problem(settings: BatchingSettings) -> str:
  for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
    if getattr(settings, name) < 1:
      return f"{name} must be positive; was {getattr(settings, name)}"
  if settings.batch_timeout_us < 0:
    return f"batch_timeout_micros must be non-negative; was {settings.batch_timeout_us}"
  if settings.largest_batch > settings.max_batch_size or settings.max_execution_batch_size < 0:
    return (
      f"max_execution_batch_size must be positive and at most max_batch_size, {settings.max_batch_size}; "
      f"was {settings.max_execution_batch_size}"
    )
  sizes = settings.allowed_batch_sizes
  if sizes and (sizes[0] < 1 or any(a >= b for a, b in zip(sizes, sizes[1:], strict=False))):
    return "allowed_batch_sizes entries must be positive and monotonically increasing"
  if sizes and sizes[-1] != settings.largest_batch:
    name = "max_execution_batch_size" if settings.enable_large_batch_splitting else "max_batch_size"
    return (
      f"Last entry in allowed_batch_sizes must match {name}; last entry was {sizes[-1]}; "
      f"expected {settings.largest_batch}"
    )
  return ""


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

  def run(self, feeds: Feeds, fetches: Sequence[str], timeout_ms: int = 0) -> list[np.ndarray]:
    """Values of the fetched tensors.

    Args:
      feeds: {tensor name: value}; names and fetches are those in `signatures`.
      timeout_ms: the longest that waiting and running may take; 0: no limit.

    Raises:
      RequestError: DEADLINE_EXCEEDED while waiting; UNAVAILABLE, too many wait; INVALID_ARGUMENT, too large.
      Exception: what the session's own run raises.
    """
    signature = frozenset(feeds)
    outputs = self._batchable.get(signature)
    if outputs is None or not outputs.issuperset(fetches):
      return self._session.run(feeds, fetches, timeout_ms)
    size = self._size(feeds)
    deadline_s = time.monotonic() + timeout_ms / 1000 if timeout_ms else None
    if size > self._settings.largest_batch and self._settings.enable_large_batch_splitting:
      return self._run_in_parts(feeds, fetches, size, deadline_s)
    if not size or size > self._settings.largest_batch:
      return self._session.run(feeds, fetches, timeout_ms)
    if self._settings.greedy and self._scheduler.take_slot():
      return self._run_at_once(feeds, fetches, timeout_ms, size)
    names = tuple(sorted(set(fetches)))
    task = Task(feeds, size, deadline_s)
    self._scheduler.submit((signature, names, *self._shapes(feeds)), task)
    if task.is_alone:
      return self._session.run(feeds, fetches, _remaining_ms(deadline_s))
    if task.error is not None:
      raise task.error
    return [task.outputs[names.index(name)] for name in fetches]

  def close(self) -> None:
    """Closes the session. No `run` may be under way or come later."""
    self._session.close()

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
      return self._session.run(feeds, fetches, timeout_ms)
    finally:
      self._scheduler.release_slot()

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
      outputs = self._session.run(feeds, names, _longest_ms(tasks))
    except Exception as error:
      # Which of the requests is to blame shows when each runs alone.
      for task in tasks:
        task.is_alone, task.error = len(tasks) > 1 or padding > 0, error
      return
    if len(tasks) == 1 and not padding:
      tasks[0].outputs = outputs
    elif all(output.ndim and len(output) == allowed_size for output in outputs):
      for task, values in zip(tasks, split(outputs, [task.size for task in tasks]), strict=True):
        task.outputs = values
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
