"""Raw examples of a run, read for the report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from components.input import parse_raw, read_records, split_files
from components.task import Task


def class_label(task: Task) -> str | None:
  """The label named "label", the class of an example in words; None for tasks that have no such label."""
  feature = task.labels.get("label")
  return "label" if feature is not None and feature.dtype == "bytes" and not feature.shape else None


def raw_examples(task: Task, examples_uri: str, split: str, batch_size: int) -> Iterator[tuple[Any, dict]]:
  """Batches of (serialized examples [batch], {feature or label: numpy array [batch, ...]}) of one split."""
  wanted = {**task.raw_features, **task.labels}
  try:
    files = split_files(examples_uri, split)
  except ValueError:  # a split without examples
    return
  # Files may be sorted by class: a little of each file comes first.
  dataset = tf.data.Dataset.from_tensor_slices(files).interleave(
    lambda file: tf.data.TFRecordDataset(file, compression_type="GZIP"), cycle_length=16, block_length=1
  )
  for batch in dataset.batch(batch_size):
    features = parse_raw(batch, wanted)
    yield batch, {name: value.numpy() for name, value in features.items()}


def serialized_batches(examples_uri: str, split: str, batch_size: int) -> Iterable[Any]:
  """Serialized raw examples of a split, string [batch]; none where it is empty."""
  try:
    files = split_files(examples_uri, split)
  except ValueError:
    return ()
  return read_records(files).batch(batch_size)


def rows_of(features: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
  """The examples of a batch one by one."""
  for values in zip(*features.values(), strict=True):
    yield dict(zip(features, values, strict=True))
