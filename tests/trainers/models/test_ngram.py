"""The n-gram model's look-ups in the graph, against backing off word by word."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.models.ngram import NgramModel
from trainers.ngram.arpa import backed_off, read_arpa
from trainers.ngram.counting import SENTENCE_END, SENTENCE_START, UNKNOWN

DATA = pathlib.Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def reference():
  return read_arpa(str(DATA / "genesis.arpa"))


@pytest.fixture(scope="module")
def model(reference):
  return NgramModel.from_backoff_model(reference)


def sentences(reference):
  """Seen ones, the same with their words shuffled, and one with unknown words: ids with the end."""
  ids = {word: number for number, word in enumerate(reference.vocabulary)}
  lines = (DATA / "genesis.txt").read_text(encoding="utf-8").splitlines()[:12]
  seen = [[ids[word] for word in line.split()] for line in lines]
  shuffled = [np.random.default_rng(1).permutation(sentence).tolist() for sentence in seen]
  return [[*sentence, SENTENCE_END] for sentence in [*seen, *shuffled, [UNKNOWN, 7, UNKNOWN, UNKNOWN], []]]


def expected_scores(reference, sentence):
  """Natural logarithms, one n-gram at a time."""
  padded, order = [SENTENCE_START, *sentence], len(reference.sections)
  values = []
  for end in range(1, len(padded)):
    ngram = np.array([padded[max(0, end - order + 1) : end + 1]])
    values.append(float(backed_off(reference.sections, ngram, len(reference.vocabulary))[0]) * np.log(10))
  return values


def padded_batch(rows):
  batch = np.full((len(rows), max(map(len, rows))), SENTENCE_END, np.int64)
  for row, sentence in zip(batch, rows, strict=True):
    row[: len(sentence)] = sentence
  return batch


def test_scores_equal_backing_off_one_by_one(reference, model):
  rows = sentences(reference)
  found = model(padded_batch(rows)).numpy()
  for sentence, scores in zip(rows, found, strict=True):
    np.testing.assert_allclose(scores[: len(sentence)], expected_scores(reference, sentence), atol=1e-5)


def test_the_next_words_are_a_distribution_and_equal_the_scores(reference, model):
  histories = np.array([[-1, SENTENCE_START], [SENTENCE_START, 3], [3, 4], [4, 3], [UNKNOWN, UNKNOWN]])
  found = model.next_token_log_probabilities(histories).numpy()
  assert found.shape == (5, len(reference.vocabulary))
  without_start = np.delete(found, SENTENCE_START, axis=1)
  np.testing.assert_allclose(np.exp(without_start.astype(np.float64)).sum(axis=1), 1, atol=1e-5)
  ngrams = np.array([[3, 4, word] for word in range(len(reference.vocabulary))])
  expected = backed_off(reference.sections, ngrams, len(reference.vocabulary)) * np.log(10)
  np.testing.assert_allclose(found[2], expected, atol=1e-5)


def test_the_export_answers_as_the_model_and_loads_in_a_session(reference, model, tmp_path):
  archive = keras.export.ExportArchive()
  archive.track(model)
  spec = tf.TensorSpec([None, None], tf.int64, name="token_ids")
  archive.add_endpoint("score", lambda token_ids: {"log_probability": model(token_ids)}, [spec])
  archive.write_out(str(tmp_path / "export"), verbose=False)
  batch = padded_batch(sentences(reference))
  expected = model(batch).numpy()
  loaded = tf.saved_model.load(str(tmp_path / "export"))
  np.testing.assert_allclose(
    loaded.signatures["score"](token_ids=tf.constant(batch))["log_probability"], expected
  )
  with tf.compat.v1.Session(graph=tf.Graph()) as session:
    graph = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / "export"))
    signature = graph.signature_def["score"]
    fetch, feed = signature.outputs["log_probability"].name, signature.inputs["token_ids"].name
    np.testing.assert_allclose(session.run(fetch, {feed: batch}), expected)
