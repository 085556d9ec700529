"""What compression is about, measured: parameters, zeros, bytes, milliseconds."""

from __future__ import annotations

import gzip
import os
import shutil
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from trainers.compression.kernels import all_kernels

_CHUNK_BYTES = 1 << 20


def parameter_counts(model: keras.Model) -> dict[str, int]:
  """Elements of all weights, trained or not (moving averages count: they are served).

  Returns:
    {"parameters": all, "non_zero": those that are not exactly 0}.
  """
  return array_counts([keras.ops.convert_to_numpy(weight) for weight in model.weights])


def array_counts(arrays: list[np.ndarray]) -> dict[str, int]:
  """`parameter_counts` of plain arrays."""
  return {
    "parameters": int(sum(array.size for array in arrays)),
    "non_zero": int(sum(np.count_nonzero(array) for array in arrays)),
  }


def layer_sparsity(model: keras.Model) -> dict[str, float]:
  """Fraction of exact zeros by layer, in its kernel or embedding table.

  Returns:
    {layer's path: fraction}; further kernels of a layer have their own names ("gru/cell/recurrent_kernel").
  """
  sparsity = {}
  for weight in all_kernels(model):
    values = keras.ops.convert_to_numpy(weight.variable)
    sparsity[weight.name] = 1 - np.count_nonzero(values) / values.size
  return sparsity


def saved_model_bytes(directory: str) -> dict[str, int]:
  """Size of a SavedModel without assets.extra: warm-up requests and TFLite files are no part of the model.

  Args:
    directory: the SavedModel's.

  Returns:
    {"bytes": sum of the files' sizes, "gzip_bytes": size of all files, one after the other in the order of
      their paths, in
    one gzip stream of level 9 without name and time; the same directory always gives the same number}.

  Raises:
    ValueError: there is no SavedModel.
  """
  paths = []
  for root, folders, files in os.walk(directory):
    if root == directory and "assets.extra" in folders:
      folders.remove("assets.extra")
    paths += [os.path.join(root, name) for name in files]
  if os.path.join(directory, "saved_model.pb") not in paths:
    raise ValueError(f"{directory} holds no SavedModel")
  sink = _CountingSink()
  with gzip.GzipFile(filename="", fileobj=sink, mode="wb", compresslevel=9, mtime=0) as stream:
    for path in sorted(paths):
      with open(path, "rb") as file:
        shutil.copyfileobj(file, stream, _CHUNK_BYTES)
  return {"bytes": sum(os.path.getsize(path) for path in paths), "gzip_bytes": sink.count}


def content_bytes(content: bytes) -> dict[str, int]:
  """`saved_model_bytes` of one file in memory."""
  return {"bytes": len(content), "gzip_bytes": len(gzip.compress(content, 9, mtime=0))}


class _CountingSink:
  """A file that only counts."""

  def __init__(self):
    self.count = 0

  def write(self, data: bytes) -> int:
    self.count += len(data)
    return len(data)

  def flush(self) -> None:
    """Nothing is held back."""


def latency_ms(fn: Callable[[Any], Any], batch: Any, calls: int, warmup_calls: int = 10) -> dict[str, float]:
  """Wall-clock time of a call, one call at a time.

  Args:
    fn: called with `batch`; returns when its answer is there.
    batch: the input.
    calls: calls timed.
    warmup_calls: calls before, not timed: they trace, allocate and fill caches.

  Returns:
    {"p50": median, "p99": 99th percentile (linear interpolation)}, milliseconds.
  """
  for _ in range(warmup_calls):
    fn(batch)
  times_ns = []
  for _ in range(calls):
    started = time.perf_counter_ns()
    fn(batch)
    times_ns.append(time.perf_counter_ns() - started)
  p50, p99 = np.percentile(times_ns, [50, 99]) / 1e6
  return {"p50": float(p50), "p99": float(p99)}
