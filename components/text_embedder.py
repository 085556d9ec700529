"""TextEmbedder: turns a text column of raw examples into embeddings, in bulk, with an exported model."""

from __future__ import annotations

import itertools
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference
from tensorflow.core.protobuf import saved_model_pb2
from tfx.components.util import examples_utils
from tfx.dsl.components.base.base_beam_component import BaseBeamComponent
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.dsl.components.base.executor_spec import BeamExecutorSpec
from tfx.dsl.io import fileio
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.channel import BaseChannel, Channel
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.utils import path_utils

from components.input import split_files
from components.progress import report_progress
from serving.sessions.session import SavedModelSession

EMBEDDING = "embedding"

_BATCH_SIZE = 256
# Records of an output file: as many are in memory while they are brought into their order.
_RECORDS_PER_FILE = 1 << 14
_OPTIONS = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)
_COUNT_FILE = "counts-{:05d}.json"


class SignatureHandler(ModelHandler[bytes, np.ndarray, SavedModelSession]):
  """A signature of a SavedModel for RunInference: text -> float32 [dim].

  Beam's own handlers for TensorFlow load Keras's formats only, and need tensorflow_hub, which this TensorFlow refuses.
  Batches have one size, but for a bundle's last one: sizes that Beam chooses depend on how quick the machine was.

  Args:
    model_dir: of the SavedModel; all workers see it.
    signature: its name.
    output_name: which of its outputs.

  Raises:
    ValueError: it has no such signature or output, or they are not string [batch] -> float32 [batch, dim].
  """

  def __init__(self, model_dir: str, signature: str, output_name: str):
    super().__init__(min_batch_size=_BATCH_SIZE, max_batch_size=_BATCH_SIZE)
    saved_model = saved_model_pb2.SavedModel()
    with tf.io.gfile.GFile(os.path.join(model_dir, "saved_model.pb"), "rb") as file:
      saved_model.ParseFromString(file.read())
    found = _item(saved_model.meta_graphs[0].signature_def, signature, f"{model_dir}: signature")
    output = _item(found.outputs, output_name, f"signature {signature!r}: output")
    inputs = list(found.inputs.values())
    if len(inputs) != 1 or not _is_tensor(inputs[0], tf.string, 1):
      raise ValueError(f"signature {signature!r}: inputs {sorted(found.inputs)} are not one string [batch]")
    if not _is_tensor(output, tf.float32, 2):
      raise ValueError(f"signature {signature!r}: output {output_name!r} is not float32 [batch, dim]")
    self._model_dir = model_dir
    self._input, self._output = inputs[0].name, output.name

  def load_model(self) -> SavedModelSession:
    """Once in each process."""
    return SavedModelSession(self._model_dir)

  def run_inference(
    self, batch: Sequence[bytes], model: SavedModelSession, inference_args: dict[str, Any] | None = None
  ) -> Iterable[np.ndarray]:
    """One row a text.

    Raises:
      RuntimeError: the model answers with another number of rows.
    """
    (rows,) = model.run({self._input: np.array(batch, object)}, [self._output])
    if len(rows) != len(batch):
      raise RuntimeError(f"{len(batch)} texts went into the model, and {len(rows)} rows came out")
    return rows


def _item(items: Any, name: str, what: str) -> Any:
  if name not in items:
    raise ValueError(f"{what} {name!r} is not there, but {', '.join(sorted(items)) or 'none'}")
  return items[name]


def _is_tensor(info: Any, dtype: tf.DType, rank: int) -> bool:
  shape = info.tensor_shape
  return info.dtype == dtype.as_datatype_enum and not shape.unknown_rank and len(shape.dim) == rank


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
      raise ValueError(f"{given.uri}: the TextEmbedder reads FORMAT_TF_EXAMPLE, not {name}")
    handler = SignatureHandler(model_dir, exec_properties["signature"], exec_properties["output_name"])
    result.split_names = given.split_names
    examples_utils.set_payload_format(result, payload_format)
    examples_utils.set_file_format(result, "tfrecords_gzip")
    files = _files(given, result)
    # Beside the splits: never read as examples.
    partial_dir = os.path.join(result.uri, f"partial-{uuid.uuid4().hex}")
    fileio.makedirs(partial_dir)
    with self._make_beam_pipeline() as pipeline:
      numbered = (
        pipeline
        | "Files" >> beam.Create(list(enumerate(files)), reshuffle=False)
        | "Spread" >> beam.Reshuffle()
      )
      _embed(numbered, handler, exec_properties["text_feature"], keys, partial_dir)
    total = _check_counts(partial_dir, files)
    fileio.rmtree(partial_dir)
    result.set_int_custom_property("read", total)
    result.set_int_custom_property("written", total)
    report_progress(f"embedded {total} texts")


def _files(given: Any, result: Any) -> list[tuple[str, str]]:
  """(input file, prefix of its output files) of all splits; makes the output directories."""
  files = []
  for split in artifact_utils.decode_split_names(given.split_names):
    directory = artifact_utils.get_split_uri([result], split)
    fileio.makedirs(directory)
    for path in split_files(given.uri, split):
      files.append((path, os.path.join(directory, os.path.basename(path).removesuffix(".gz"))))
  return files


def _embed(
  files: beam.PCollection, handler: SignatureHandler, text_feature: str, keys: Sequence[str], partial_dir: str
) -> None:
  """Embeds (number, (input file, prefix of its output files)), and leaves a file of counts for each of them."""
  arguments = (text_feature, keys, _RECORDS_PER_FILE)
  read = files | "Read" >> beam.FlatMap(_read_file, *arguments).with_outputs("read", main="texts")
  written = (
    read.texts
    | "Infer" >> RunInference(KeyedModelHandler(handler))
    | "ToRecords" >> beam.Map(_to_record)
    | "ByFile" >> beam.GroupByKey()
    | "Write" >> beam.Map(_write_file, partial_dir)
  )
  _ = (
    {"read": read.read, "written": written}
    | "Counts" >> beam.CoGroupByKey()
    | "WriteCounts" >> beam.Map(_write_counts, partial_dir)
  )


def _read_file(
  numbered: tuple[int, tuple[str, str]], text_feature: str, keys: Sequence[str], records_per_file: int
) -> Iterator[Any]:
  """((file's number, output file, position, key columns), text) of each record, and how many; none make an empty file.

  Raises:
    ValueError: a record has not one text, or lacks a key column.
  """
  number, (path, prefix) = numbered
  count = 0
  # One by one, records cost four times as much to read.
  batches = tf.data.TFRecordDataset(path, compression_type="GZIP").batch(_BATCH_SIZE).as_numpy_iterator()
  for record in itertools.chain.from_iterable(batches):
    features = tf.train.Example.FromString(record).features.feature
    texts = features[text_feature].bytes_list.value if text_feature in features else ()
    if len(texts) != 1:
      raise ValueError(f"{path}: record {count} has {len(texts)} values of the text feature {text_feature!r}")
    kept = tf.train.Example()
    for name in keys:
      kept.features.feature[name].CopyFrom(_item(features, name, f"{path}: record {count}: key feature"))
    target = f"{prefix}-{count // records_per_file:05d}.gz"
    yield (number, target, count, kept.SerializeToString()), texts[0]
    count += 1
  if not count:
    tf.io.TFRecordWriter(f"{prefix}-{0:05d}.gz", _OPTIONS).close()
  yield beam.pvalue.TaggedOutput("read", (number, count))


def _to_record(embedded: tuple[tuple, np.ndarray]) -> tuple[tuple[int, str], tuple[int, bytes]]:
  """((file's number, output file), (position, serialized example))."""
  (number, target, position, kept), vector = embedded
  example = tf.train.Example.FromString(kept)
  example.features.feature[EMBEDDING].float_list.value[:] = vector.tolist()
  return (number, target), (position, example.SerializeToString(deterministic=True))


def _write_file(grouped: tuple[tuple[int, str], Iterable], partial_dir: str) -> tuple[int, int]:
  """Writes the records in their order; returns (the input file's number, how many)."""
  (number, target), records = grouped[0], sorted(grouped[1])
  partial = os.path.join(partial_dir, uuid.uuid4().hex)
  with tf.io.TFRecordWriter(partial, _OPTIONS) as writer:
    for _, record in records:
      writer.write(record)
  # A file has its name only when it is complete; a worker that does it again replaces it with its like.
  fileio.rename(partial, target, overwrite=True)
  return number, len(records)


def _write_counts(counted: tuple[int, dict[str, Iterable[int]]], partial_dir: str) -> None:
  number, counts = counted
  with fileio.open(os.path.join(partial_dir, _COUNT_FILE.format(number)), "w") as file:
    file.write(json.dumps({name: sum(values) for name, values in counts.items()}))


def _check_counts(partial_dir: str, files: Sequence[tuple[str, str]]) -> int:
  """The number of records, all of which were written.

  Raises:
    RuntimeError: they were not.
  """
  total = 0
  for number, (path, _) in enumerate(files):
    count_file = os.path.join(partial_dir, _COUNT_FILE.format(number))
    if not fileio.exists(count_file):
      raise RuntimeError(f"{path} was lost; run again with --set beam.num_workers=1")
    with fileio.open(count_file) as file:
      counts = json.loads(file.read())
    if counts["read"] != counts["written"]:
      raise RuntimeError(f"{path}: {counts['read']} records were read and {counts['written']} written")
    total += counts["read"]
  return total


class TextEmbedderSpec(ComponentSpec):
  """What the TextEmbedder takes and gives."""

  PARAMETERS = {
    name: ExecutionParameter(type=str)
    for name in ("text_feature", "key_features", "signature", "output_name")
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
