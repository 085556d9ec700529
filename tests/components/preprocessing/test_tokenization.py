"""Every kind of token through a real Transform: what is learned, what text becomes, and the way back to text."""

import pathlib

import apache_beam as beam
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from apache_beam.options.pipeline_options import PipelineOptions
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

from components.config import BeamConfig
from components.preprocessing.text import decode, split_words, token_strings, tokenize
from components.preprocessing.tokenization import VOCABULARY_NAME, TokenizationConfig
from pipeline.graph import beam_arguments
from trainers.ngram.arpa import SPECIAL_WORDS
from trainers.ngram.arpa_reader import read_arpa_words

LINES = [
  "The LORD's house, and the king's house: don't go!",
  "the house of the king",
  "go to the house",
  "",
  "문서를 저장하려면 저장을 누르십시오.",
  "문서를 열려면 열기를 누르십시오.",
  "the king, the house",
  "저장을 누르십시오.",
] * 4


def learn(folder, num_workers=1, **settings):
  """(vocabulary with the special words, function from texts to lists of ids, what Transform learned)."""
  config = TokenizationConfig(**settings)
  spec = {"text": tf.io.FixedLenFeature([], tf.string)}
  metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
  rows = [{"text": line.encode()} for line in LINES]
  with tft_beam.Context(temp_dir=str(folder / "temp")):
    options = PipelineOptions(beam_arguments(BeamConfig(num_workers=num_workers)))
    with beam.Pipeline(options=options) as pipeline:
      data = (pipeline | beam.Create(rows), metadata)
      function = data | tft_beam.AnalyzeDataset(
        lambda inputs: {"token_ids": tokenize(inputs["text"], config)}
      )
      _ = function | tft_beam.WriteTransformFn(str(folder / "graph"))
  output = tft.TFTransformOutput(str(folder / "graph"))
  vocabulary = [*SPECIAL_WORDS, *(token.decode() for token in output.vocabulary_by_name(VOCABULARY_NAME))]
  layer = output.transform_features_layer()

  def to_ids(texts):
    ids = layer({"text": tf.constant(texts)})["token_ids"]
    return (ids if isinstance(ids, tf.RaggedTensor) else tf.RaggedTensor.from_sparse(ids)).to_list()

  return vocabulary, to_ids, output


def padded(ids):
  return tf.ragged.constant(ids, tf.int64, ragged_rank=1).to_tensor(1)


def text_of(ids, vocabulary, kind):
  return [text.decode() for text in decode(padded(ids), vocabulary, kind).numpy()]


def test_words_of_several_scripts():
  words = split_words(tf.constant(["Don't stop; it's 3.5 km", "저장을 누르십시오.", "", "naïve l’été (x)"]))
  assert [[word.decode() for word in row] for row in words.to_list()] == [
    ["Don't", "stop", ";", "it's", "3", ".", "5", "km"],
    ["저장을", "누르십시오", "."],
    [],
    ["naïve", "l’été", "(", "x", ")"],
  ]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
  return learn(tmp_path_factory.mktemp("words"), min_count=5)


def test_words_by_their_frequency(words):
  vocabulary, to_ids, _ = words
  # "the" and "house" 7 and 5 times in each of four blocks, but "don't" 4 times in all.
  assert vocabulary[:5] == ["<unk>", "<s>", "</s>", "the", "house"]
  assert "don't" not in vocabulary and "The" not in vocabulary and "king" in vocabulary
  ids = to_ids(["The house DON'T , go", "", "unseen"])
  assert ids == [[3, 4, 0, vocabulary.index(","), vocabulary.index("go")], [], [0]]
  assert text_of(ids, vocabulary, "words") == ["the house <unk>, go", "", "<unk>"]
  strings = token_strings(padded(ids[:2]), vocabulary).numpy()
  assert [token.decode() for token in strings[1]] == [""] * 5
  assert strings[0][2] == b"<unk>"


def test_the_vocabulary_can_be_bounded(tmp_path):
  vocabulary, _, _ = learn(tmp_path, vocabulary_size=2)
  assert vocabulary == ["<unk>", "<s>", "</s>", "the", "house"]


@pytest.mark.parametrize("kind", ["characters", "sentencepiece", "wordpiece"])
def test_text_of_known_pieces_comes_back(kind, tmp_path):
  vocabulary, to_ids, _ = learn(tmp_path, kind=kind, vocabulary_size=300)
  texts = ["the house of the king", "저장을 누르십시오.", "문서를 저장하려면 저장을 누르십시오."]
  ids = to_ids([*texts, ""])
  assert ids[3] == []
  assert text_of(ids[:3], vocabulary, kind) == texts
  assert all(3 <= token < len(vocabulary) for row in ids for token in row)
  assert len(set(vocabulary)) == len(vocabulary)
  if kind != "characters":
    # Pieces are longer than characters.
    assert len(ids[1]) < len(texts[1])
  (unknown,) = to_ids(["Ω"])
  assert 0 in unknown


def test_the_graph_works_where_tf_serving_would_load_it(words, tmp_path):
  """In a TF1 session, with the ids of the layer in this process."""
  import keras

  _, to_ids, output = words
  expected = to_ids(LINES[:3])
  layer = output.transform_features_layer()
  archive = keras.export.ExportArchive()
  archive.track(layer)

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
  def serve(text):
    ids = layer({"text": tf.reshape(text, [-1, 1])[:, 0]})["token_ids"]
    return (ids if isinstance(ids, tf.SparseTensor) else ids.to_sparse()).values

  archive.add_endpoint("serve", serve)
  archive.write_out(str(tmp_path / "export"), verbose=False)
  with tf.compat.v1.Session(graph=tf.Graph()) as session:
    loaded = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / "export"))
    signature = loaded.signature_def["serve"]
    (source,) = signature.inputs.values()
    (target,) = signature.outputs.values()
    found = session.run(target.name, {source.name: LINES[:3]})
  assert np.concatenate(expected).tolist() == found.tolist()


def test_words_of_an_arpa_file_are_the_vocabulary(tmp_path):
  path = pathlib.Path(__file__).parents[2] / "data" / "genesis.arpa"
  _, words = read_arpa_words(str(path))
  vocabulary, to_ids, _ = learn(tmp_path, vocabulary=str(path), min_count=10**6)
  assert vocabulary == list(words)
  assert to_ids(["the house", "in the beginning"]) == [
    [vocabulary.index(word) if word in vocabulary else 0 for word in text.split()]
    for text in ("the house", "in the beginning")
  ]


# Each worker process imports TensorFlow anew.
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["words", "wordpiece", "sentencepiece"])
def test_number_of_workers_does_not_show(kind, tmp_path):
  size = {"vocabulary_size": 60} if kind != "words" else {}
  learned = []
  for num_workers in (1, 2):
    vocabulary, to_ids, _ = learn(tmp_path / str(num_workers), num_workers, kind=kind, min_count=1, **size)
    learned.append((vocabulary, to_ids(LINES)))
  assert len(learned[0][0]) > 20
  assert learned[0] == learned[1]
