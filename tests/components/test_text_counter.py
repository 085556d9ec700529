"""TextCounter on materialised examples: KenLM's model, and the same bytes for any number of workers."""

import glob
import json
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.types import standard_artifacts

from components.config import BeamConfig
from components.cooccurrence_counting import load_cooccurrences
from components.ngram_counting import read_tokens
from components.text_counter import ARPA_FILE, COOCCURRENCES, Executor, order_dir
from pipeline.graph import beam_arguments
from trainers.embeddings.cooccurrence import Window, count_pairs, to_matrix
from trainers.ngram.arpa_reader import read_arpa
from trainers.ngram.tables import load_model

DATA = pathlib.Path(__file__).parents[1] / "data"
SENTENCES = (DATA / "genesis.txt").read_text(encoding="utf-8").splitlines()


def preprocessing_fn(inputs):
  """Words by their frequency; the first one has the id 3."""
  tokens = tf.strings.split(inputs["text"])
  ids = tft.compute_and_apply_vocabulary(tokens.to_sparse(), vocab_filename="tokens")
  return {"token_ids": tf.SparseTensor(ids.indices, ids.values + 3, ids.dense_shape)}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
  """{input name: [artifact]}: the sentences in three files, and the Transform graph."""
  folder = tmp_path_factory.mktemp("inputs")
  spec = {"text": tf.io.FixedLenFeature([], tf.string)}
  metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
  rows = [{"text": sentence.encode()} for sentence in SENTENCES]
  with tft_beam.Context(temp_dir=str(folder / "temp")):
    import apache_beam as beam

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
      data = (pipeline | beam.Create(rows), metadata)
      function = data | tft_beam.AnalyzeDataset(preprocessing_fn)
      _ = function | tft_beam.WriteTransformFn(str(folder / "graph"))
  layer = tft.TFTransformOutput(str(folder / "graph")).transform_features_layer()
  ids = layer({"text": tf.constant(SENTENCES)})["token_ids"]
  examples = standard_artifacts.Examples()
  examples.uri = str(folder / "examples")
  examples.split_names = json.dumps(["train"])
  os.makedirs(os.path.join(examples.uri, "Split-train"))
  ragged = tf.RaggedTensor.from_sparse(ids).to_list()
  for number in range(3):
    path = os.path.join(examples.uri, "Split-train", f"transformed_examples-{number:05d}-of-00003.gz")
    with tf.io.TFRecordWriter(path, "GZIP") as writer:
      for row in ragged[number * 30 : (number + 1) * 30]:
        feature = tf.train.Feature(int64_list=tf.train.Int64List(value=row))
        example = tf.train.Example(features=tf.train.Features(feature={"token_ids": feature}))
        writer.write(example.SerializeToString())
  graph = standard_artifacts.TransformGraph()
  graph.uri = str(folder / "graph")
  return {"transformed_examples": [examples], "transform_graph": [graph]}


def count(inputs, folder, num_workers=1, embeddings=None, **ngram):
  arguments = beam_arguments(BeamConfig(num_workers=num_workers))
  context = BaseBeamExecutor.Context(beam_pipeline_args=arguments, tmp_dir=str(folder), unique_id="1")
  model = standard_artifacts.Model()
  model.uri = str(folder / "model")
  if embeddings:
    name, settings = "language_model", {"ngram": ngram or None, "embeddings": embeddings}
  else:
    name, settings = "ngram_language_model", {"ngram": ngram}
  properties = {"task": f"pipeline.tasks.{name}:TASK", "config": json.dumps({"task": name, **settings})}
  Executor(context).Do(inputs, {"model": [model]}, properties)
  return pathlib.Path(model.uri) / "Format-Serving"


def in_words(model, number):
  """{n-gram in words: (log10 probability, log10 backoff)}."""
  sections, found = model.sections, {}
  for row in range(len(sections[number])):
    words, parent = [], row
    for section in reversed(sections[: number + 1]):
      words.append(model.vocabulary[section.word[parent]])
      parent = section.parent[parent]
    section = sections[number]
    found[tuple(words)] = (section.log10_probability[row], section.log10_backoff[row])
  return found


def test_the_model_is_that_of_kenlm(inputs, tmp_path):
  folder = count(inputs, tmp_path, order=3)
  expected = read_arpa(str(DATA / "genesis.arpa"))
  for found in (read_arpa(str(folder / ARPA_FILE)), load_model(order_dir(str(folder), 3))):
    for number in range(3):
      ours, theirs = in_words(found, number), in_words(expected, number)
      assert set(ours) == set(theirs)
      words = sorted(theirs)
      np.testing.assert_allclose([ours[word] for word in words], [theirs[word] for word in words], atol=2e-6)
  assert [len(load_model(order_dir(str(folder), order)).sections) for order in (1, 2, 3)] == [1, 2, 3]


def test_any_number_of_workers_writes_the_same_bytes(inputs, tmp_path, monkeypatch):
  written = {}
  for num_workers in (1, 2, 4):
    folder = count(inputs, tmp_path / str(num_workers), num_workers, order=3, compare_orders=False)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    written[num_workers] = {str(path.relative_to(folder)): path.read_bytes() for path in files}
  assert len(written[1]) == 1 + 1 + 3 * 4
  assert written[1] == written[2] == written[4]


def test_many_small_parts_and_chunks_make_the_same_file(inputs, tmp_path, monkeypatch):
  whole = (count(inputs, tmp_path / "whole", order=3) / ARPA_FILE).read_bytes()
  monkeypatch.setattr("components.ngram_counting._TOKENS_PER_CHUNK", 100)
  monkeypatch.setattr("components.ngram_counting._RECORDS_AT_ONCE", 4)
  monkeypatch.setattr("components.ngram_counting._WINDOWS_PER_PART", 200)
  assert (count(inputs, tmp_path / "parts", order=3) / ARPA_FILE).read_bytes() == whole


def test_co_occurrences_of_the_same_text(inputs, tmp_path):
  folder = count(inputs, tmp_path, embeddings={"window": 3})
  assert [path.name for path in folder.iterdir()] == [COOCCURRENCES]
  files = sorted(glob.glob(os.path.join(inputs["transformed_examples"][0].uri, "Split-train", "*")))
  ids, lengths = (np.concatenate(arrays) for arrays in zip(*read_tokens(files, "token_ids"), strict=True))
  matrix = load_cooccurrences(str(folder / COOCCURRENCES))
  expected = to_matrix(count_pairs(ids, lengths, matrix.shape[0], Window(3)), matrix.shape[0], 1)
  assert len(lengths) == len(SENTENCES)
  assert (matrix != expected).nnz == 0 and expected.nnz > 1000


def test_an_arpa_file_made_elsewhere(inputs, tmp_path):
  made = read_arpa(str(DATA / "genesis.arpa"))
  # The file's words in the order of this vocabulary, which is theirs where the file was the vocabulary.
  words = (
    pathlib.Path(inputs["transform_graph"][0].uri, "transform_fn", "assets", "tokens").read_text().split()
  )
  order = [made.vocabulary.index(word) for word in ("<unk>", "<s>", "</s>", *words)]
  unigrams, _, rest = (DATA / "genesis.arpa").read_text().partition("\\1-grams:\n")
  lines, _, rest = rest.partition("\n\n")
  lines = sorted(lines.split("\n"), key=lambda line: order.index(made.vocabulary.index(line.split("\t")[1])))
  path = tmp_path / "elsewhere.arpa"
  path.write_text(unigrams + "\\1-grams:\n" + "\n".join(lines) + "\n\n" + rest)
  folder = count(inputs, tmp_path, arpa=str(path), order=3)
  taken, expected = load_model(order_dir(str(folder), 3)), read_arpa(str(path))
  assert list(taken.vocabulary) == list(expected.vocabulary)
  for ours, theirs in zip(taken.sections, expected.sections, strict=True):
    for name in ("parent", "word", "log10_probability", "log10_backoff"):
      np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
  assert in_words(read_arpa(str(folder / ARPA_FILE)), 2) == in_words(made, 2)
  with pytest.raises(ValueError, match=r"genesis\.arpa has changed since its words became the vocabulary"):
    count(inputs, tmp_path / "other", arpa=str(DATA / "genesis.arpa"), order=3)
