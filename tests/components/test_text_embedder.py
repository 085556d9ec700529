"""The TextEmbedder against the model called in this process."""

import os

import numpy as np
import pytest
import tensorflow as tf
from tfx.components.util import examples_utils
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils, channel_utils, standard_artifacts

from components import text_embedder
from components.config import BeamConfig
from components.example_gen.executor import to_example
from components.text_embedder import Executor, SignatureHandler, TextEmbedder
from pipeline.graph import beam_arguments
from serving.export import export_saved_model
from trainers.embeddings.mean_embedding import mean_embedding

WORDS = ["<unk>", "<s>", "</s>", "in", "the", "beginning", "god", "created", "heaven", "그리고"]
DIM = 6
SPLITS = {"train": (41, 9), "validation": (5,), "test": (0, 3)}


@pytest.fixture(scope="module")
def vectors():
  found = np.random.default_rng(8).normal(size=(len(WORDS), DIM)).astype(np.float32)
  found[:3] = 0
  return found


@pytest.fixture(scope="module")
def model(tmp_path_factory, vectors):
  """A Model artifact: words between blanks, looked up, and the mean of their vectors."""
  table_of_vectors = tf.Variable(vectors)

  def mean(token_ids):
    return mean_embedding(table_of_vectors, token_ids)

  ids = tf.lookup.KeyValueTensorInitializer(WORDS[3:], tf.range(3, len(WORDS), dtype=tf.int64))
  table = tf.lookup.StaticHashTable(ids, default_value=0)

  def embed(text):
    words = tf.strings.split(text)
    token_ids = tf.ragged.map_flat_values(table.lookup, words).to_tensor(1)
    return {"embedding": mean(token_ids), "num_words": words.row_lengths()}

  def join(first, second):
    return {"text": tf.strings.join([first, second])}

  text = tf.TensorSpec([None], tf.string)
  artifact = standard_artifacts.Model()
  artifact.uri = str(tmp_path_factory.mktemp("model"))
  export_saved_model(
    os.path.join(artifact.uri, "Format-Serving"),
    [table, table_of_vectors],
    {
      "serving_default": (lambda text: {"embedding": mean(tf.strings.length(text)[:, None])}, {"text": text}),
      "embed": (embed, {"text": text}),
      "join": (join, {"first": text, "second": text}),
      "score": (
        lambda ids: {"embedding": tf.cast(ids, tf.float32)},
        {"ids": tf.TensorSpec([None, 1], tf.int64)},
      ),
    },
  )
  return artifact


def write_examples(directory, features_of):
  artifact = standard_artifacts.Examples()
  artifact.uri = str(directory)
  artifact.split_names = artifact_utils.encode_split_names(list(SPLITS))
  number = 0
  for split, sizes in SPLITS.items():
    os.makedirs(directory / f"Split-{split}")
    for shard, size in enumerate(sizes):
      path = directory / f"Split-{split}" / f"data_tfrecord-{shard:05d}-of-{len(sizes):05d}.gz"
      with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for _ in range(size):
          writer.write(to_example(features_of(number)).SerializeToString())
          number += 1
  return artifact


def make_features(number):
  generator = np.random.default_rng(number)
  words = generator.choice([*WORDS[3:], "unseen"], generator.integers(0, 9))
  return {"text": " ".join(words), "path": f"{number % 3}.txt", "line": number, "weight": number / 4}


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
  return write_examples(tmp_path_factory.mktemp("examples"), make_features)


def run(directory, examples, model, num_workers=1, **parameters):
  result = standard_artifacts.Examples()
  result.uri = str(directory)
  component = TextEmbedder(
    examples=channel_utils.as_channel([examples]), model=channel_utils.as_channel([model]), **parameters
  )
  context = BaseBeamExecutor.Context(
    beam_pipeline_args=beam_arguments(BeamConfig(num_workers=num_workers)), tmp_dir=str(directory)
  )
  Executor(context).Do(
    {"examples": [examples], "model": [model]}, {"embeddings": [result]}, component.exec_properties
  )
  return result


def mean_by_hand(text, vectors):
  known = [vectors[WORDS.index(word)] for word in text.split() if word in WORDS]
  units = [vector / np.linalg.norm(vector) for vector in known]
  return np.mean(units, axis=0) if units else np.zeros(DIM)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory, examples, model):
  return run(tmp_path_factory.mktemp("embedded"), examples, model)


def test_every_text_has_its_embedding(embedded, examples, vectors, records_of):
  given, written = records_of(examples), records_of(embedded)
  assert {path.replace(".gz", "-00000.gz") for path in given} == set(written)
  count = 0
  for path, originals in given.items():
    found = written[path.replace(".gz", "-00000.gz")]
    assert len(found) == len(originals)
    for pair in zip(originals, found, strict=True):
      original, example = (tf.train.Example.FromString(record) for record in pair)
      assert set(example.features.feature) == {"path", "line", "embedding"}
      for key in ("path", "line"):
        assert example.features.feature[key] == original.features.feature[key]
      text = original.features.feature["text"].bytes_list.value[0].decode()
      embedding = example.features.feature["embedding"].float_list.value
      np.testing.assert_allclose(embedding, mean_by_hand(text, vectors), atol=1e-6)
      count += 1
  assert count == 58
  assert embedded.get_int_custom_property("read") == embedded.get_int_custom_property("written") == 58


def test_the_artifact_is_read_like_other_examples(embedded, examples):
  assert embedded.split_names == examples.split_names
  assert examples_utils.get_payload_format(embedded) == example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE
  assert examples_utils.get_file_format(embedded) == "tfrecords_gzip"
  assert sorted(os.listdir(embedded.uri)) == ["Split-test", "Split-train", "Split-validation"]


def test_long_files_are_cut_and_batches_do_not_show(
  embedded, examples, model, tmp_path, monkeypatch, records_of
):
  monkeypatch.setattr(text_embedder, "_RECORDS_PER_FILE", 16)
  monkeypatch.setattr(text_embedder, "_BATCH_SIZE", 7)
  written = records_of(run(tmp_path, examples, model))
  prefix = os.path.join("Split-train", "data_tfrecord-00000-of-00002")
  cut = [written.pop(f"{prefix}-{block:05d}.gz") for block in range(3)]
  assert [len(block) for block in cut] == [16, 16, 9]
  whole = records_of(embedded)
  assert sum(cut, []) == whole.pop(f"{prefix}-00000.gz")
  assert written == whole


# Each worker process imports TensorFlow and TFX anew: half a minute of one core each.
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_number_of_workers_does_not_show(embedded, examples, model, tmp_path, records_of):
  assert records_of(run(tmp_path, examples, model, num_workers=2)) == records_of(embedded)


def test_other_columns_and_signatures(examples, model, tmp_path, records_of):
  result = run(
    tmp_path, examples, model, text_feature="path", key_features=["weight"], signature="serving_default"
  )
  records = records_of(result)[os.path.join("Split-validation", "data_tfrecord-00000-of-00001-00000.gz")]
  found = [tf.train.Example.FromString(record) for record in records]
  assert [example.features.feature["weight"].float_list.value[0] for example in found] == [
    number / 4 for number in range(50, 55)
  ]
  assert set(found[0].features.feature) == {"weight", "embedding"}


@pytest.mark.parametrize(
  "parameters, message",
  [
    ({"signature": "translate"}, "signature 'translate' is not there, but .*embed"),
    ({"output_name": "vector"}, "output 'vector' is not there, but embedding, num_words"),
    ({"output_name": "num_words"}, "'num_words' is not float32"),
    ({"signature": "join", "output_name": "text"}, "'first', 'second'.* are not one string"),
    ({"signature": "score"}, "ids.* are not one string"),
    ({"key_features": ["embedding"]}, "name of the embeddings"),
  ],
)
def test_parameters_that_do_not_fit(examples, model, tmp_path, parameters, message):
  with pytest.raises(ValueError, match=message):
    run(tmp_path, examples, model, **parameters)
  # Nothing has begun.
  assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"text": ["two", "texts"]}, "record 4 has 2 values of the text feature 'text'"),
    ({"text": 7}, "record 4 has 0 values"),
    ({"line": None}, "record 4: key feature 'line' is not there"),
  ],
)
def test_records_that_do_not_fit(model, tmp_path, change, message):
  def features_of(number):
    features = make_features(number) | (change if number == 4 else {})
    return {name: value for name, value in features.items() if value is not None}

  (tmp_path / "examples").mkdir()
  examples = write_examples(tmp_path / "examples", features_of)
  with pytest.raises(Exception, match=message):
    run(tmp_path / "embedded", examples, model)


def test_lost_records_are_noticed(tmp_path):
  files = [("a.gz", "a"), ("b.gz", "b")]
  text_embedder._write_counts((0, {"read": [5], "written": [3, 2]}), str(tmp_path))
  with pytest.raises(RuntimeError, match="b.gz was lost"):
    text_embedder._check_counts(str(tmp_path), files)
  text_embedder._write_counts((1, {"read": [4], "written": [3]}), str(tmp_path))
  with pytest.raises(RuntimeError, match="b.gz: 4 records were read and 3 written"):
    text_embedder._check_counts(str(tmp_path), files)
  text_embedder._write_counts((1, {"read": [4], "written": [4]}), str(tmp_path))
  assert text_embedder._check_counts(str(tmp_path), files) == 9


def test_a_model_that_answers_with_other_rows_is_refused(tmp_path):
  text = {"text": tf.TensorSpec([None], tf.string)}
  export = export_saved_model(
    str(tmp_path / "model"), [], {"serving_default": (lambda text: {"embedding": tf.ones([1, 3])}, text)}
  )
  handler = SignatureHandler(export, "serving_default", "embedding")
  with pytest.raises(RuntimeError, match="2 texts went into the model, and 1 rows"):
    handler.run_inference([b"a", b"b"], handler.load_model())


def test_other_payloads_are_refused(model, tmp_path):
  artifact = standard_artifacts.Examples()
  artifact.uri = "examples"
  examples_utils.set_payload_format(artifact, example_gen_pb2.PayloadFormat.FORMAT_PARQUET)
  with pytest.raises(ValueError, match="FORMAT_PARQUET"):
    run(tmp_path, artifact, model)


def test_component_has_its_channels(examples, model):
  component = TextEmbedder(channel_utils.as_channel([examples]), channel_utils.as_channel([model]))
  assert component.outputs["embeddings"].type is standard_artifacts.Examples
  assert set(component.inputs) == {"examples", "model"}
  assert component.exec_properties["key_features"] == '["path", "line"]'
