"""What a client sends, as tensors: of one request, and of many examples in batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

Tensors = dict[str, np.ndarray]


def as_tensor(name: str, value: Any) -> np.ndarray:
  """An input as an array that can be sent: strings as bytes objects, Python numbers as float32 and int64.

  Raises:
    ValueError: the rows have different shapes, or values that no tensor holds.
  """
  if _holds_text(value):
    # Not by way of numpy's own byte strings: they lose trailing zero bytes.
    return _bytes_array(name, np.asarray(value, object))
  try:
    array = np.asarray(value)
  except ValueError as error:
    raise ValueError(f'the rows of input "{name}" have different shapes') from error
  if array.dtype.kind in "OSU":
    return _bytes_array(name, array.astype(object))
  if not isinstance(value, (np.ndarray, np.generic)):
    array = array.astype({"f": np.float32, "i": np.int64}.get(array.dtype.kind, array.dtype))
  return array


def example_batches(examples: Iterable[Mapping[str, Any]], batch_size: int) -> Iterator[list[Tensors]]:
  """Neighbours that one request can hold: equal names, dtypes and shapes. Reads no further than it yields.

  Args:
    examples: {input name: value}, without the batch.
    batch_size: the longest that a batch may be.

  Yields:
    {input name: array [1, ...]} of 1 to `batch_size` examples.

  Raises:
    ValueError: a value cannot be made a tensor.
  """
  tensors = ({name: as_tensor(name, [value]) for name, value in example.items()} for example in examples)
  for _, group in itertools.groupby(tensors, key=_kind):
    while batch := list(itertools.islice(group, batch_size)):
      yield batch


def joined(batch: list[Tensors]) -> Tensors:
  """The tensors of a request for all examples of a batch."""
  return {name: np.concatenate([example[name] for example in batch]) for name in batch[0]}


def split(outputs: Mapping[str, np.ndarray], count: int) -> list[Tensors] | None:
  """The outputs of each of `count` examples, without the batch; None where an output does not have one an example.

  Outputs that are not one an example are the answer to an only example as they are.
  """
  if any(values.shape[:1] != (count,) for values in outputs.values()):
    return [dict(outputs)] if count == 1 else None
  return [{name: values[row] for name, values in outputs.items()} for row in range(count)]


def _kind(example: Tensors) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
  return {name: (values.dtype, values.shape) for name, values in example.items()}


def _holds_text(value: Any) -> bool:
  while isinstance(value, (list, tuple)) and value:
    value = value[0]
  return isinstance(value, (str, bytes))


def _bytes_array(name: str, array: np.ndarray) -> np.ndarray:
  result = np.empty(array.shape, object)
  for index, value in np.ndenumerate(array):
    if isinstance(value, str):
      value = value.encode("utf-8")
    if not isinstance(value, bytes):
      raise ValueError(f'input "{name}" holds {type(value).__name__}; send bytes, text or numbers')
    result[index] = bytes(value)
  return result
