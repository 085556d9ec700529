"""Augmenter: adds augmented copies of the training examples to what Transform wrote."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
from tfx.components.util import examples_utils
from tfx.dsl.components.base.base_beam_component import BaseBeamComponent
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.dsl.components.base.executor_spec import BeamExecutorSpec
from tfx.dsl.io import fileio
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.channel import BaseChannel, Channel
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.task import SPLITS, Task, TransformOutputs, load_task

_TRAIN = SPLITS[0]

# Examples that are augmented together: bounds the memory, changes nothing that is written.
_BATCH_SIZE = 64


class Executor(BaseBeamExecutor):
  """Copies every split and writes `augmentation.copies` augmented copies after each training example.

  Each input file becomes one output file of the same name. A copy depends on the run's seed, its number and
  the content of its original alone: neither workers nor batches show in the output, and an original that
  occurs twice has the same copies twice.
  """

  def Do(self, input_dict: dict, output_dict: dict, exec_properties: dict) -> None:
    """Writes the Examples artifact `examples`.

    Raises:
      ValueError: copies are asked for and there is nothing to tell them from their originals.
      RuntimeError: a file is missing after the run.
    """
    task, config = load_task(exec_properties["task"], exec_properties["config"])
    given = artifact_utils.get_single_instance(input_dict["transformed_examples"])
    result = artifact_utils.get_single_instance(output_dict["examples"])
    graph_uri = artifact_utils.get_single_uri(input_dict["transform_graph"])
    copies = getattr(config.augmentation, "copies", 0)
    if copies:
      _augment_example(task, config, TransformOutputs(graph_uri))
    payload_format = examples_utils.get_payload_format(given)
    if payload_format != example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE:
      name = example_gen_pb2.PayloadFormat.Name(payload_format)
      raise ValueError(f"the examples in {given.uri} are {name}; the Augmenter reads FORMAT_TF_EXAMPLE only")
    result.split_names = given.split_names
    examples_utils.set_payload_format(result, payload_format)
    examples_utils.set_file_format(result, examples_utils.get_file_format(given))

    shards = _shards(given, result)
    # Beside the splits: what a worker that died has left there is never read as examples.
    partial_dir = os.path.join(result.uri, f"partial-{uuid.uuid4().hex}")
    fileio.makedirs(partial_dir)
    write = _WriteShard(exec_properties["task"], exec_properties["config"], graph_uri, copies, partial_dir)
    with self._make_beam_pipeline() as pipeline:
      _ = (
        pipeline
        | "Shards" >> beam.Create(shards)
        | "Spread" >> beam.Reshuffle()
        | "Write" >> beam.ParDo(write)
      )
    fileio.rmtree(partial_dir)
    missing = [target for _, _, target in shards if not fileio.exists(target)]
    if missing:
      raise RuntimeError(f"{len(missing)} of {len(shards)} files were not written, the first: {missing[0]}")


def _shards(given: Any, result: Any) -> list[tuple[str, str, str]]:
  """(split, input file, output file) of every file; makes the output directories."""
  shards = []
  for split in artifact_utils.decode_split_names(given.split_names):
    (pattern,) = examples_utils.get_split_file_patterns([given], split)
    directory = artifact_utils.get_split_uri([result], split)
    fileio.makedirs(directory)
    for path in sorted(fileio.glob(pattern)):
      shards.append((split, path, os.path.join(directory, os.path.basename(path))))
  return shards


def _augment_example(task: Task, config: Any, outputs: TransformOutputs) -> Any:
  """The task's function of (features, seeds).

  Raises:
    ValueError: the task has none, or its configuration switches nothing on.
  """
  augment = task.augment_example(config, outputs) if task.augment_example else None
  if augment is None:
    copies = config.augmentation.copies
    raise ValueError(
      f"augmentation.copies is {copies}, but {task.name} has no augmentation of single examples"
      f"{' switched on' if task.augment_example else ''}: set augmentation.copies to 0"
    )
  return augment


class _WriteShard(beam.DoFn):
  """Writes one output file for one input file."""

  def __init__(self, task_path: str, config_json: str, graph_uri: str, copies: int, partial_dir: str):
    self._task_path = task_path
    self._config_json = config_json
    self._graph_uri = graph_uri
    self._copies = copies
    self._partial_dir = partial_dir
    self._augment_batch = None

  def process(self, shard: tuple[str, str, str]) -> None:
    split, source, target = shard
    partial = os.path.join(self._partial_dir, uuid.uuid4().hex)
    if split == _TRAIN and self._copies:
      self._write_with_copies(source, partial)
    else:
      fileio.copy(source, partial)
    # A file has its name only when it is complete; a worker that does it again replaces it with its like.
    fileio.rename(partial, target, overwrite=True)

  def _write_with_copies(self, source: str, partial: str) -> None:
    if self._augment_batch is None:
      self._augment_batch = self._make_augment_batch()
    _, config = load_task(self._task_path, self._config_json)
    records = tf.data.TFRecordDataset(source, compression_type="GZIP").batch(_BATCH_SIZE)
    with tf.io.TFRecordWriter(partial, tf.io.TFRecordOptions(compression_type="GZIP")) as writer:
      for batch in records.as_numpy_iterator():
        for record in add_copies(list(batch), self._copies, config.seed, self._augment_batch):
          writer.write(record)

  def _make_augment_batch(self) -> Any:
    """(serialized examples, seeds) -> {feature: tensor}, as one graph."""
    task, config = load_task(self._task_path, self._config_json)
    outputs = TransformOutputs(self._graph_uri)
    augment = _augment_example(task, config, outputs)
    spec = outputs.transformed_feature_spec()
    signature = [tf.TensorSpec([None], tf.string), tf.TensorSpec([None, 2], tf.int32)]

    @tf.function(input_signature=signature)
    def augment_batch(records: tf.Tensor, seeds: tf.Tensor) -> Any:
      return augment(tf.io.parse_example(records, spec), seeds)

    return augment_batch


def add_copies(records: Sequence[bytes], copies: int, seed: int, augment_batch: Any) -> Iterator[bytes]:
  """Each record as it is, followed by its copies.

  Args:
    records: serialized tf.Examples.
    copies: of each.
    seed: of the run.
    augment_batch: (string [batch], int32 [batch, 2]) -> {feature: dense tensor [batch, ...]} of what changes.

  Yields:
    len(records) * (1 + copies) serialized tf.Examples. Features that do not change stay as they are.
  """
  originals = [tf.train.Example.FromString(record) for record in records]
  # Protocol buffers may write a map in any order; this one is fixed.
  contents = [original.SerializeToString(deterministic=True) for original in originals]
  changes = []
  for copy in range(copies):
    seeds = np.stack([example_seed(content, seed, copy) for content in contents])
    batch = augment_batch(tf.constant(records, tf.string), tf.constant(seeds))
    changes.append({name: tensor.numpy() for name, tensor in batch.items()})
  for row, (record, original) in enumerate(zip(records, originals, strict=True)):
    yield record
    for change in changes:
      for name, values in change.items():
        # A slice, not an item: numpy would cut the zero bytes off the end of a single bytes object.
        _set_feature(original.features.feature[name], values[row : row + 1])
      yield original.SerializeToString(deterministic=True)


def example_seed(content: bytes, seed: int, copy: int) -> np.ndarray:
  """int32 [2] from an example's content, the run's seed and the number of the copy."""
  digest = hashlib.blake2b(f"{seed}/{copy}/".encode() + content, digest_size=8)
  return np.frombuffer(digest.digest(), "<i4").astype(np.int32)


def _set_feature(feature: tf.train.Feature, values: np.ndarray) -> None:
  """Replaces a feature's values."""
  values = np.ravel(values)
  if np.issubdtype(values.dtype, np.integer):
    feature.int64_list.value[:] = values.tolist()
  elif np.issubdtype(values.dtype, np.floating):
    feature.float_list.value[:] = values.tolist()
  else:
    feature.bytes_list.value[:] = values.tolist()


class AugmenterSpec(ComponentSpec):
  """What the Augmenter takes and gives; TFX wants another name for an input than for an output."""

  PARAMETERS = {
    "task": ExecutionParameter(type=str),
    "config": ExecutionParameter(type=str),
  }
  INPUTS = {
    "transformed_examples": ChannelParameter(type=standard_artifacts.Examples),
    "transform_graph": ChannelParameter(type=standard_artifacts.TransformGraph),
  }
  OUTPUTS = {"examples": ChannelParameter(type=standard_artifacts.Examples)}


class Augmenter(BaseBeamComponent):
  """Adds augmented copies of each training example before training.

  Args:
    task: `Task.path`.
    config: JSON of the sections "preprocessing" and "augmentation", see `RunConfig.only`.
    examples: Transform's materialised examples.
    transform_graph: Transform's graph.
  """

  SPEC_CLASS = AugmenterSpec
  EXECUTOR_SPEC = BeamExecutorSpec(Executor)

  def __init__(self, task: str, config: str, examples: BaseChannel, transform_graph: BaseChannel):
    spec = AugmenterSpec(
      task=task,
      config=config,
      transformed_examples=examples,
      transform_graph=transform_graph,
      examples=Channel(type=standard_artifacts.Examples),
    )
    super().__init__(spec=spec)
