"""Merging the inputs of several requests into those of one run, and splitting its outputs again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from serving.errors import invalid_argument

Feeds = Mapping[str, np.ndarray]


def merged(requests: Sequence[Feeds], padding: int) -> Feeds:
  """The requests' inputs one after the other.

  Args:
    requests: {tensor name: array [size, ...]}, with the same names, dtypes and ranks. Smaller inner dimensions are
      filled up to the largest, with the array's first value as TF Serving does.
    padding: how often the last request's first row follows.

  Raises:
    RequestError: an empty array would have to be filled up.
  """
  if len(requests) == 1 and not padding:
    return requests[0]
  inputs = {}
  for name in requests[0]:
    arrays = [feeds[name] for feeds in requests]
    inner = tuple(max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True))
    arrays = [_filled_up(array, inner) for array in arrays]
    inputs[name] = np.concatenate(arrays + [arrays[-1][:1]] * padding)
  return inputs


def split(outputs: Sequence[np.ndarray], sizes: Sequence[int]) -> Iterator[list[np.ndarray]]:
  """Each request's rows of the outputs.

  Args:
    outputs: arrays [sum of sizes and perhaps more, ...].
    sizes: rows of each request.
  """
  start = 0
  for size in sizes:
    yield [output[start : start + size] for output in outputs]
    start += size


def _filled_up(array: np.ndarray, inner: tuple[int, ...]) -> np.ndarray:
  if array.shape[1:] == inner:
    return array
  if not array.size:
    raise invalid_argument("Got empty tensor in batch of non-empty tensors.")
  filled = np.full((len(array), *inner), array.flat[0], array.dtype)
  filled[tuple(slice(size) for size in array.shape)] = array
  return filled
