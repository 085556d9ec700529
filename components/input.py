"""Materialised examples as batches: the one input pipeline of training, fine-tuning and validation."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from components.config import RunConfig
from components.task import Feature, Task, TransformOutputs

DTYPES = {"bytes": tf.string, "int64": tf.int64, "float32": tf.float32}

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


def parse_raw(examples: tf.Tensor, features: Mapping[str, Feature]) -> dict[str, tf.Tensor]:
  """Features of serialized raw examples, string [batch].

  Returns:
    {name: tensor [batch, *shape]}; what is of varying length is filled up with zeros or empty strings.
  """
  spec = {}
  for name, feature in features.items():
    dtype = DTYPES[feature.dtype]
    if feature.is_list:
      spec[name] = tf.io.FixedLenSequenceFeature([], dtype, allow_missing=True)
    else:
      spec[name] = tf.io.FixedLenFeature(feature.shape, dtype)
  return tf.io.parse_example(examples, spec)


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
  in its epoch what an uninterrupted one would have seen. Every batch is full, or, where the task names a feature of
  varying length, holds examples of about the same length, together about as long as those of any other batch.
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
  """Batches of `size` records on the average: windows of many batches, sorted by the feature's length and cut into
  pieces of about the same length in all, in shuffled order.

  Were batches of equally many records, a token among short records would count more than one among long ones: a batch
  is one step, and its loss a mean. Replicas get equal shares of each batch: Keras adds their first ones up.
  """
  spec = {feature: tf.io.RaggedFeature(tf.int64)}
  num_replicas = tf.distribute.get_strategy().num_replicas_in_sync

  def cut(window: tf.Tensor) -> tf.data.Dataset:
    num_batches = tf.size(window) // size
    # What cannot be shared out is a random choice: the records came shuffled.
    window = window[: tf.size(window) // num_replicas * num_replicas]
    lengths = tf.io.parse_example(window, spec)[feature].row_lengths()
    by_length = tf.argsort(lengths, stable=True)
    shares = tf.reduce_sum(tf.reshape(tf.gather(lengths, by_length), [-1, num_replicas]), axis=1)
    edges = _even_cuts(shares, num_batches) * num_replicas
    order = tf.random.experimental.stateless_shuffle(
      tf.range(tf.size(edges) - 1), tf.stack([seed, tf.constant(2, tf.int64)])
    )
    batches = tf.data.Dataset.from_tensor_slices(order)
    return batches.map(lambda number: tf.gather(window, by_length[edges[number] : edges[number + 1]]))

  return records.batch(size * _BATCHES_A_WINDOW).flat_map(cut)


def _even_cuts(lengths: tf.Tensor, num_pieces: tf.Tensor) -> tf.Tensor:
  """int32 [num_pieces + 1]: edges of pieces with about the same sum, none of them empty; [0] for no pieces.

  Args:
    lengths: int64 [records].
    num_pieces: int32, at most as many as there are records.
  """
  ends = tf.cumsum(tf.cast(lengths, tf.int64))
  pieces = tf.range(1, tf.maximum(num_pieces, 1))
  # Products of integers: a quotient of floats would be rounded.
  wanted = tf.searchsorted(ends * tf.cast(num_pieces, tf.int64), tf.cast(pieces, tf.int64) * ends[-1])
  # Each piece keeps one record at least.
  most = tf.size(lengths) - num_pieces + pieces
  last = tf.constant(0)
  inner = tf.scan(lambda before, edge: tf.maximum(before + 1, edge), tf.minimum(wanted + 1, most), last)
  return tf.concat([[0], inner, tf.fill([tf.minimum(num_pieces, 1)], tf.size(lengths))], axis=0)


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
