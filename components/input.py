"""Materialised examples as batches: the one input pipeline of training, fine-tuning and validation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from components.config import RunConfig
from components.task import Task, TransformOutputs

# Rows of the sample that TransformOutputs carries.
_SAMPLE_ROWS = 8
# Batches that are sorted by length together.
_BATCHES_A_WINDOW = 64


def split_files(examples_uri: str, split: str) -> list[str]:
  """TFRecord files of one split of an Examples artifact, sorted.

  Raises:
    ValueError: the split has no files.
  """
  files = sorted(tf.io.gfile.glob(os.path.join(examples_uri, f"Split-{split}", "*")))
  if not files:
    raise ValueError(f"{examples_uri} has no files for the split {split!r}")
  return files


def read_records(files: Sequence[str]) -> tf.data.Dataset:
  """Serialized tf.Examples (string scalars) of gzipped TFRecord files, in order."""
  return tf.data.TFRecordDataset(list(files), compression_type="GZIP")


def count_examples(files: Sequence[str]) -> int:
  """Number of records in gzipped TFRecord files; one sequential read."""
  total = (
    read_records(files)
    .batch(1024)
    .reduce(tf.constant(0, tf.int64), lambda count, batch: count + tf.size(batch, tf.int64))
  )
  return int(total.numpy())


def load_outputs(transform_graph_uri: str, files: Sequence[str]) -> TransformOutputs:
  """What the Transform stage learned, with a few transformed examples from `files` as its sample."""
  outputs = TransformOutputs(transform_graph_uri)
  batch = next(iter(read_records(files).batch(_SAMPLE_ROWS)))
  features = tf.io.parse_example(batch, outputs.transformed_feature_spec())
  sample = {name: _dense(value).numpy() for name, value in features.items()}
  return TransformOutputs(transform_graph_uri, sample)


def train_dataset(
  task: Task,
  config: RunConfig,
  outputs: TransformOutputs,
  files: Sequence[str],
  first_epoch: int = 0,
) -> tf.data.Dataset:
  """Endless batches (inputs, targets) of the training split, shuffled and augmented.

  Order and augmentation are functions of `config.seed` and the number of the epoch, so that a resumed training sees
  in its epoch what an uninterrupted one would have seen. Every batch is full. Where the task names a feature of
  varying length, a batch holds examples of about the same length.
  """
  training = config.training
  size = training.batch_size
  augment = task.augment(config, outputs)
  parse = _parser(task, config, outputs)

  def epoch_of(epoch: tf.Tensor) -> tf.data.Dataset:
    records = read_records(files).shuffle(training.shuffle_buffer, seed=config.seed + epoch)
    if task.length_feature:
      batches = _batches_by_length(records, task.length_feature, size, config.seed + epoch)
    else:
      batches = records.batch(size, drop_remainder=True)
    return batches.enumerate().map(lambda step, batch: (tf.stack([config.seed + epoch, step]), batch))

  def finish(seed: tf.Tensor, batch: tf.Tensor) -> tuple[Any, Any]:
    inputs, targets = parse(batch)
    if augment is None:
      return inputs, targets
    return augment(inputs, targets, tf.cast(seed, tf.int32))

  epochs = tf.data.Dataset.range(first_epoch, tf.int64.max)
  batches = epochs.flat_map(epoch_of).map(finish, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
  return batches.prefetch(tf.data.AUTOTUNE)


def _batches_by_length(records: tf.data.Dataset, feature: str, size: int, seed: tf.Tensor) -> tf.data.Dataset:
  """Full batches of `size` records: windows of many batches, sorted by the feature's length, in shuffled order."""
  spec = {feature: tf.io.RaggedFeature(tf.int64)}

  def cut(window: tf.Tensor) -> tf.data.Dataset:
    lengths = tf.io.parse_example(window, spec)[feature].row_lengths()
    by_length = tf.gather(window, tf.argsort(lengths, stable=True))
    num_batches = tf.size(window) // size
    # What does not fill a batch is a random choice: the records came shuffled, and so are those left over by the cut.
    start = tf.random.stateless_uniform(
      [], tf.stack([seed, tf.constant(1, tf.int64)]), 0, tf.size(window) - num_batches * size + 1, tf.int32
    )
    batches = tf.reshape(by_length[start : start + num_batches * size], [num_batches, size])
    order = tf.random.experimental.stateless_shuffle(batches, tf.stack([seed, tf.constant(2, tf.int64)]))
    return tf.data.Dataset.from_tensor_slices(order)

  return records.batch(size * _BATCHES_A_WINDOW).flat_map(cut)


def eval_dataset(
  task: Task, config: RunConfig, outputs: TransformOutputs, files: Sequence[str]
) -> tf.data.Dataset:
  """Batches (inputs, targets) of a split, in order; the last one may be smaller."""
  batches = read_records(files).batch(config.training.batch_size)
  return batches.map(_parser(task, config, outputs), num_parallel_calls=2).prefetch(2)


def _parser(task: Task, config: RunConfig, outputs: TransformOutputs) -> Any:
  """Function from a batch of serialized examples to (inputs, targets)."""
  spec = outputs.transformed_feature_spec()

  def parse(batch: tf.Tensor) -> tuple[Any, Any]:
    return task.parse(tf.io.parse_example(batch, spec), config, outputs)

  return parse


def _dense(value: Any) -> tf.Tensor:
  return tf.sparse.to_dense(value) if isinstance(value, tf.SparseTensor) else value
