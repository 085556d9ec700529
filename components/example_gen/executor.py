"""Executor of ExampleGen: each chunk of raw data is read, split and written by whichever worker has it.

A chunk writes its own shards: sending the encoded pictures through Beam's shuffle halves the speed. Chunks, and with
them shards, splits and counts, depend on the data alone and never on the number of workers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
import tensorflow as tf
from absl import logging
from tfx.components.example_gen.base_example_gen_executor import BaseExampleGenExecutor
from tfx.components.util import examples_utils
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils

from components.config import SplitFractions
from components.example_gen.driver import RESOLVED_PATH, resolve_span
from components.progress import report_progress
from components.task import SPLITS, Reject, load_task

# The encoded inputs hardly shrink further: the lowest level costs a tenth of the default's time.
_OPTIONS = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)
_HASH_BUCKETS = 10_000
_NAMED_REJECTS = 3


class Executor(BaseExampleGenExecutor):
  """Writes `examples` and `rejects`."""

  def GetInputSourceToExamplePTransform(self) -> beam.PTransform:
    """The transform from (number, chunk) pairs to the names of the chunks' count files."""
    return WriteChunks

  def Do(
    self, input_dict: dict[str, list], output_dict: dict[str, list], exec_properties: dict[str, Any]
  ) -> None:
    """Runs the reader over all chunks and checks that nothing was lost."""
    self._log_startup(input_dict, output_dict, exec_properties)
    task, config = load_task(exec_properties["task"], exec_properties["config"])
    # Kubeflow's open-source backend runs no drivers: there the span is resolved here.
    path = exec_properties.get(RESOLVED_PATH) or resolve_span(config.data)[0]
    data = config.data.model_copy(update={"path": path})
    examples = artifact_utils.get_single_instance(output_dict["examples"])
    rejects = artifact_utils.get_single_instance(output_dict["rejects"])
    tf.io.gfile.makedirs(rejects.uri)
    for split in SPLITS:
      tf.io.gfile.makedirs(os.path.join(examples.uri, f"Split-{split}"))

    reader = task.read(data)
    chunks = list(enumerate(reader.chunks()))
    with self._make_beam_pipeline() as pipeline:
      transform = self.GetInputSourceToExamplePTransform()
      _ = (
        pipeline
        | "Chunks" >> beam.Create(chunks, reshuffle=False)
        | "Spread" >> beam.Reshuffle()
        | "Write" >> transform(reader, data.splits, examples.uri, rejects.uri, len(chunks))
      )
    counts = _merge_counts(rejects.uri, len(chunks))
    _check(counts, data, rejects.uri)

    examples.split_names = artifact_utils.encode_split_names(list(SPLITS))
    examples_utils.set_payload_format(examples, example_gen_pb2.FORMAT_TF_EXAMPLE)
    examples_utils.set_file_format(examples, "tfrecords_gzip")
    examples.set_string_custom_property("data_path", path)
    for name in ("read", "written", "rejected"):
      rejects.set_int_custom_property(name, counts[name])
    report_progress(f"read {counts['read']}, written {counts['written']}, rejected {counts['rejected']}")
    logging.info("Examples written: %s", counts)


class WriteChunks(beam.PTransform):
  """Reads and writes each (number, chunk); yields the name of the file with its counts."""

  def __init__(
    self, reader: Any, fractions: SplitFractions, examples_uri: str, rejects_uri: str, num_chunks: int
  ):
    super().__init__()
    self._arguments = (reader, fractions, examples_uri, rejects_uri, num_chunks)

  def expand(self, chunks: beam.PCollection) -> beam.PCollection:
    return chunks | beam.Map(_write_chunk, *self._arguments)


def split_of(group: str, fractions: SplitFractions) -> str:
  """The split of a group: a function of its name alone, so that it stays where it is when the data set grows."""
  digest = hashlib.sha256(group.encode("utf-8", "surrogateescape")).hexdigest()
  share = (int(digest, 16) % _HASH_BUCKETS) / _HASH_BUCKETS
  if share < fractions.train:
    return "train"
  return "validation" if share < fractions.train + fractions.validation else "test"


def to_example(features: Mapping[str, Any]) -> tf.train.Example:
  """A tf.Example of bytes, str, int and float values or lists of them.

  Raises:
    TypeError: a value of another type.
  """
  example = tf.train.Example()
  for name, value in features.items():
    values = value if isinstance(value, (list, tuple)) else [value]
    feature = example.features.feature[name]
    if not values:
      # A list of no kind, which every kind's reader takes for an empty one.
      continue
    kind = type(values[0])
    if kind is bytes:
      feature.bytes_list.value.extend(values)
    elif kind is str:
      feature.bytes_list.value.extend([text.encode("utf-8", "surrogateescape") for text in values])
    elif kind in (int, bool):
      feature.int64_list.value.extend(values)
    elif kind is float:
      feature.float_list.value.extend(values)
    else:
      raise TypeError(f"feature {name!r} holds {kind.__name__}; use bytes, str, int or float")
  return example


class _ShardWriters:
  """One TFRecord file a split, opened when its first example comes; files get their final names at the end."""

  def __init__(self, examples_uri: str, number: int, num_chunks: int):
    self._uri = examples_uri
    self._name = f"data_tfrecord-{number:05d}-of-{num_chunks:05d}.gz"
    self._writers: dict[str, tf.io.TFRecordWriter] = {}
    self.written = dict.fromkeys(SPLITS, 0)

  def write(self, split: str, record: bytes) -> None:
    if split not in self._writers:
      self._writers[split] = tf.io.TFRecordWriter(self._path(split, "partial."), _OPTIONS)
    self._writers[split].write(record)
    self.written[split] += 1

  def close(self) -> None:
    for split, writer in self._writers.items():
      writer.close()
      tf.io.gfile.rename(self._path(split, "partial."), self._path(split, ""), overwrite=True)

  def _path(self, split: str, prefix: str) -> str:
    return os.path.join(self._uri, f"Split-{split}", prefix + self._name)


def _write_chunk(
  numbered: tuple[int, Any],
  reader: Any,
  fractions: SplitFractions,
  examples_uri: str,
  rejects_uri: str,
  num_chunks: int,
) -> str:
  """Reads one chunk, writes its examples, and beside the rejects a file with its counts."""
  number, chunk = numbered
  writers = _ShardWriters(examples_uri, number, num_chunks)
  rejects = []
  read = 0
  for item in reader.read(chunk):
    read += 1
    if isinstance(item, Reject):
      rejects.append({"path": item.path, "reason": item.reason})
      continue
    split = item.split or split_of(item.group or item.key, fractions)
    writers.write(split, to_example(item.features).SerializeToString(deterministic=True))
  writers.close()
  counts = {"read": read, "splits": writers.written, "rejects": rejects}
  path = os.path.join(rejects_uri, _count_file(number))
  with tf.io.gfile.GFile(path, "w") as file:
    file.write(json.dumps(counts))
  return path


def _count_file(number: int) -> str:
  return f"chunk-{number:05d}.json"


def _merge_counts(rejects_uri: str, num_chunks: int) -> dict[str, Any]:
  """Adds the chunks' counts up into counts.json and rejects.jsonl, in the order of the chunks.

  Raises:
    RuntimeError: a chunk has left no counts, that is, Beam has lost it.
  """
  totals = {"read": 0, "written": 0, "rejected": 0, "splits": dict.fromkeys(SPLITS, 0)}
  with tf.io.gfile.GFile(os.path.join(rejects_uri, "rejects.jsonl"), "w") as rejects_file:
    for number in range(num_chunks):
      path = os.path.join(rejects_uri, _count_file(number))
      if not tf.io.gfile.exists(path):
        raise RuntimeError(
          f"chunk {number} of {num_chunks} was lost; run again with --set beam.num_workers=1"
        )
      with tf.io.gfile.GFile(path) as file:
        counts = json.loads(file.read())
      tf.io.gfile.remove(path)
      totals["read"] += counts["read"]
      totals["rejected"] += len(counts["rejects"])
      for split, count in counts["splits"].items():
        totals["splits"][split] += count
        totals["written"] += count
      rejects_file.write("".join(json.dumps(reject) + "\n" for reject in counts["rejects"]))
  with tf.io.gfile.GFile(os.path.join(rejects_uri, "counts.json"), "w") as file:
    file.write(json.dumps(totals))
  return totals


def _check(counts: Mapping[str, Any], data: Any, rejects_uri: str) -> None:
  """Stops the run where the data is not what its owner believes it is."""
  if counts["read"] != counts["written"] + counts["rejected"]:
    raise RuntimeError(f"read is not written + rejected: {dict(counts)}")
  if not counts["read"]:
    raise ValueError(f"{data.path}: nothing to read there; see README.md for the layouts")
  if counts["rejected"] > data.max_reject_fraction * counts["read"]:
    named = "; ".join(f"{reject['path']}: {reject['reason']}" for reject in _first_rejects(rejects_uri))
    raise ValueError(
      f"{counts['rejected']} of {counts['read']} items of {data.path} were rejected, more than "
      f"data.max_reject_fraction={data.max_reject_fraction:g} allows: {named}"
    )
  empty = [split for split in SPLITS if not counts["splits"][split]]
  if empty:
    raise ValueError(
      f"{data.path}: no examples for the split {' and '.join(empty)} (written: {counts['written']}); "
      "add data, or change data.splits"
    )


def _first_rejects(rejects_uri: str) -> Sequence[dict[str, str]]:
  with tf.io.gfile.GFile(os.path.join(rejects_uri, "rejects.jsonl")) as file:
    return [json.loads(line) for _, line in zip(range(_NAMED_REJECTS), file, strict=False)]
