"""TextEmbedder: turns a text column of raw examples into embeddings, in bulk, with an exported model."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import tensorflow as tf
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
from tfx.components.util import examples_utils
from tfx.dsl.components.base.base_beam_component import BaseBeamComponent
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.dsl.components.base.executor_spec import BeamExecutorSpec
from tfx.dsl.io import fileio
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.artifact import Artifact
from tfx.types.channel import BaseChannel, Channel
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.utils import path_utils

from components.input import split_files
from components.progress import report_progress
from components.signature_handler import SignatureHandler, read_signature

EMBEDDING = "embedding"

# Records of an output file: as many are in memory while they are brought into their order.
_RECORDS_PER_FILE = 1 << 14
_OPTIONS = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)
_READ = "read"


class Executor(BaseBeamExecutor):
  """Embeds every split. An input file becomes files of `_RECORDS_PER_FILE` records, in its order.

  Which records a file has depends on the input alone. An embedding is computed together with others, and how many these
  are at the end of a worker's share depends on the workers: with some models its last digits do, too.
  """

  def Do(self, input_dict: dict, output_dict: dict, exec_properties: dict) -> None:
    """Writes the Examples artifact `embeddings`.

    Raises:
      ValueError: the parameters do not fit the examples or the model.
      RuntimeError: records were lost.
    """
    given = artifact_utils.get_single_instance(input_dict["examples"])
    model_dir = path_utils.serving_model_path(artifact_utils.get_single_uri(input_dict["model"]))
    result = artifact_utils.get_single_instance(output_dict["embeddings"])
    keys = json.loads(exec_properties["key_features"])
    if EMBEDDING in keys:
      raise ValueError(f"key_features holds {EMBEDDING!r}, which is the name of the embeddings themselves")
    payload_format = examples_utils.get_payload_format(given)
    if payload_format != example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE:
      name = example_gen_pb2.PayloadFormat.Name(payload_format)
      raise ValueError(f"the examples in {given.uri} are {name}; the TextEmbedder reads FORMAT_TF_EXAMPLE only")
    signature = read_signature(model_dir, exec_properties["signature"], exec_properties["output_name"])
    files = _files(given, result)
    # Beside the splits: never read as examples.
    partial_dir = os.path.join(result.uri, f"partial-{uuid.uuid4().hex}")
    fileio.makedirs(partial_dir)
    embed = EmbedFiles(
      SignatureHandler(model_dir, signature), exec_properties["text_feature"], keys, partial_dir
    )
    with self._make_beam_pipeline() as pipeline:
      _ = (
        pipeline
        | "Files" >> beam.Create(list(enumerate(files)), reshuffle=False)
        | "Spread" >> beam.Reshuffle()
        | "Embed" >> embed
      )
    total = _check_counts(partial_dir, files)
    fileio.rmtree(partial_dir)
    result.split_names = given.split_names
    examples_utils.set_payload_format(result, payload_format)
    examples_utils.set_file_format(result, "tfrecords_gzip")
    for name in ("read", "written"):
      result.set_int_custom_property(name, total)
    report_progress(f"embedded {total} texts in {signature.dim} dimensions")


class EmbedFiles(beam.PTransform):
  """(number, (input file, prefix of its output files)) -> None; leaves a file of counts for each input file.

  Args:
    handler: texts -> embeddings.
    text_feature: name of the bytes feature with the text.
    key_features: names of features that are kept.
    partial_dir: for unfinished files and counts; all workers see it.
    records_per_file: of the output.
  """

  def __init__(
    self,
    handler: SignatureHandler,
    text_feature: str,
    key_features: Sequence[str],
    partial_dir: str,
    records_per_file: int = _RECORDS_PER_FILE,
  ):
    super().__init__()
    self._handler = handler
    self._read_arguments = (text_feature, tuple(key_features), records_per_file)
    self._partial_dir = partial_dir

  def expand(self, files: beam.PCollection) -> beam.PCollection:
    read = files | "Read" >> beam.FlatMap(_read_file, *self._read_arguments).with_outputs(_READ, main="texts")
    written = (
      read.texts
      | "Infer" >> RunInference(KeyedModelHandler(self._handler))
      | "ToRecords" >> beam.Map(_to_record)
      | "ByFile" >> beam.GroupByKey()
      | "Write" >> beam.Map(_write_file, self._partial_dir)
    )
    return (
      {"read": read[_READ], "written": written}
      | "Counts" >> beam.CoGroupByKey()
      | "WriteCounts" >> beam.Map(_write_counts, self._partial_dir)
    )


def _files(given: Artifact, result: Artifact) -> list[tuple[str, str]]:
  """(input file, prefix of its output files) of all splits; makes the output directories."""
  files = []
  for split in artifact_utils.decode_split_names(given.split_names):
    directory = artifact_utils.get_split_uri([result], split)
    fileio.makedirs(directory)
    for path in split_files(given.uri, split):
      files.append((path, os.path.join(directory, os.path.basename(path).removesuffix(".gz"))))
  return files


def _read_file(
  numbered: tuple[int, tuple[str, str]], text_feature: str, key_features: Sequence[str], records_per_file: int
) -> Iterator[Any]:
  """((file's number, output file, position, key columns), text) of each record, and how many there are.

  Raises:
    ValueError: a record has not one text, or lacks a key column.
  """
  number, (path, prefix) = numbered
  count = 0
  for record in tf.data.TFRecordDataset(path, compression_type="GZIP").as_numpy_iterator():
    features = tf.train.Example.FromString(record).features.feature
    texts = features[text_feature].bytes_list.value
    if len(texts) != 1:
      raise ValueError(f"{path}: record {count} has {len(texts)} values of the text {text_feature!r}")
    kept = tf.train.Example()
    for name in key_features:
      if name not in features:
        raise ValueError(f"{path}: record {count} has no feature {name!r} (key_features)")
      kept.features.feature[name].CopyFrom(features[name])
    target = _output_file(prefix, count // records_per_file)
    yield (number, target, count, kept.SerializeToString()), texts[0]
    count += 1
  if not count:
    # Nothing comes of it, but who reads the split wants to find a file.
    tf.io.TFRecordWriter(_output_file(prefix, 0), _OPTIONS).close()
  yield beam.pvalue.TaggedOutput(_READ, (number, count))


def _output_file(prefix: str, block: int) -> str:
  return f"{prefix}-{block:05d}.gz"


def _to_record(embedded: tuple[tuple[int, str, int, bytes], Any]) -> tuple[tuple[int, str], tuple[int, bytes]]:
  """((file's number, output file), (position, serialized example))."""
  (number, target, position, kept), vector = embedded
  example = tf.train.Example.FromString(kept)
  example.features.feature[EMBEDDING].float_list.value[:] = vector.tolist()
  return (number, target), (position, example.SerializeToString(deterministic=True))


def _write_file(
  grouped: tuple[tuple[int, str], Iterable[tuple[int, bytes]]], partial_dir: str
) -> tuple[int, int]:
  """Writes the records in their order; returns (the input file's number, how many)."""
  (number, target), records = grouped
  partial = os.path.join(partial_dir, uuid.uuid4().hex)
  count = 0
  with tf.io.TFRecordWriter(partial, _OPTIONS) as writer:
    for _, record in sorted(records):
      writer.write(record)
      count += 1
  # A file has its name only when it is complete; a worker that does it again replaces it with its like.
  fileio.rename(partial, target, overwrite=True)
  return number, count


def _count_file(partial_dir: str, number: int) -> str:
  return os.path.join(partial_dir, f"counts-{number:05d}.json")


def _write_counts(counted: tuple[int, dict[str, Iterable[int]]], partial_dir: str) -> None:
  number, counts = counted
  with fileio.open(_count_file(partial_dir, number), "w") as file:
    file.write(json.dumps({name: sum(values) for name, values in counts.items()}))


def _check_counts(partial_dir: str, files: Sequence[tuple[str, str]]) -> int:
  """The number of records, all of which were written.

  Raises:
    RuntimeError: they were not.
  """
  total = 0
  for number, (path, _) in enumerate(files):
    if not fileio.exists(_count_file(partial_dir, number)):
      raise RuntimeError(f"{path} was lost; run again with --set beam.num_workers=1")
    with fileio.open(_count_file(partial_dir, number)) as file:
      counts = json.loads(file.read())
    if counts["read"] != counts["written"]:
      raise RuntimeError(f"{path}: {counts['read']} records were read and {counts['written']} written")
    total += counts["read"]
  return total


class TextEmbedderSpec(ComponentSpec):
  """What the TextEmbedder takes and gives."""

  PARAMETERS = {
    "text_feature": ExecutionParameter(type=str),
    "key_features": ExecutionParameter(type=str),
    "signature": ExecutionParameter(type=str),
    "output_name": ExecutionParameter(type=str),
  }
  INPUTS = {
    "examples": ChannelParameter(type=standard_artifacts.Examples),
    "model": ChannelParameter(type=standard_artifacts.Model),
  }
  OUTPUTS = {"embeddings": ChannelParameter(type=standard_artifacts.Examples)}


class TextEmbedder(BaseBeamComponent):
  """Embeds the text of raw examples with a signature of an exported model, by Beam's RunInference.

  Output `embeddings`: the splits of `examples`, each record with the key columns and the float feature "embedding".

  Args:
    examples: raw examples.
    model: with a SavedModel under Format-Serving.
    text_feature: name of the bytes feature with the text.
    key_features: names of features that are kept, to know the records by.
    signature: of the SavedModel; takes string [batch].
    output_name: which of its outputs, float32 [batch, dim].
  """

  SPEC_CLASS = TextEmbedderSpec
  EXECUTOR_SPEC = BeamExecutorSpec(Executor)

  def __init__(
    self,
    examples: BaseChannel,
    model: BaseChannel,
    text_feature: str = "text",
    key_features: Sequence[str] = ("path", "line"),
    signature: str = "embed",
    output_name: str = EMBEDDING,
  ):
    spec = TextEmbedderSpec(
      examples=examples,
      model=model,
      text_feature=text_feature,
      key_features=json.dumps(list(key_features)),
      signature=signature,
      output_name=output_name,
      embeddings=Channel(type=standard_artifacts.Examples),
    )
    super().__init__(spec=spec)
