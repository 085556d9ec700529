"""The parameters of batching: TF Serving's, and what is greedy.

Source: tensorflow_serving/batching/batching_session.cc,
tensorflow_serving/servables/tensorflow/session_bundle_config.proto
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from serving.errors import ServingError


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
      parameters: a `serving.messages.protos.BatchingParameters`.

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
