"""Word vectors from what was counted, as first weights and for the report."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from components import counted_vectors
from components.config import EmbeddingsConfig
from components.counted_vectors import (
  FIRST_VECTORS,
  NEIGHBOURS_FILE,
  TRAINED_VECTORS,
  add_trained_neighbours,
  count_occurrences,
  first_vectors,
)
from components.trainer import TrainingRun
from pipeline.tasks.language_model import TASK, LanguageModelConfig
from trainers.embeddings.cooccurrence import Window, count_pairs, to_matrix
from trainers.embeddings.first_weights import first_weights
from trainers.embeddings.neighbours import neighbour_rows
from trainers.embeddings.ppmi import positive_pmi, word_vectors
from trainers.models.neural_language_model import build_language_model

# Two kinds of words, each near its own verb alone; "never" does not occur.
WORDS = ["<unk>", "<s>", "</s>", "eats", "rides", "bread", "rice", "bus", "train", "never"]
DIM = 4
RNG = np.random.default_rng(3)
SENTENCES = [
  [3, int(RNG.integers(5, 7))] if RNG.random() < 0.5 else [4, int(RNG.integers(7, 9))] for _ in range(600)
]


class Outputs:
  """The vocabulary of a Transform graph."""

  def vocabulary(self, name):
    return WORDS[3:]


@pytest.fixture
def run(tmp_path):
  """A training run on the sentences, and the co-occurrences that the TextCounter left."""
  path = str(tmp_path / "examples.gz")
  with tf.io.TFRecordWriter(path, "GZIP") as writer:
    for sentence in SENTENCES:
      feature = tf.train.Feature(int64_list=tf.train.Int64List(value=sentence))
      example = tf.train.Example(features=tf.train.Features(feature={"token_ids": feature}))
      writer.write(example.SerializeToString())
  flat, lengths = np.concatenate(SENTENCES), np.array([len(sentence) for sentence in SENTENCES])
  counts = count_pairs(flat, lengths, len(WORDS), Window(2))
  folder = tmp_path / "counts" / "cooccurrences"
  folder.mkdir(parents=True)
  np.savez(
    folder / "part-00000-of-00001.npz",
    keys=counts.keys,
    counts=counts.counts,
    vocabulary_size=len(WORDS),
    units=1,
  )
  return TrainingRun(
    task=TASK,
    config=LanguageModelConfig(model={"embedding_dim": DIM, "hidden_dim": 4}, embeddings={"window": 2}),
    outputs=Outputs(),
    train_files=[path],
    validation_files=[path],
    run_dir=str(tmp_path),
    checkpoint_dir=str(tmp_path / "checkpoints"),
    counts_dir=str(tmp_path / "counts"),
  )


def test_occurrences_are_those_of_the_sentences(run):
  expected = np.bincount(np.concatenate(SENTENCES), minlength=len(WORDS))
  expected[2] = len(SENTENCES)
  assert count_occurrences(run).tolist() == expected.tolist()


def test_counted_vectors_are_those_of_the_matrix(run, tmp_path):
  flat, lengths = np.concatenate(SENTENCES), np.array([len(sentence) for sentence in SENTENCES])
  matrix = to_matrix(count_pairs(flat, lengths, len(WORDS), Window(2)), len(WORDS), 1)
  expected = word_vectors(positive_pmi(matrix), DIM)
  found = first_vectors(run, count_occurrences(run))
  np.testing.assert_array_equal(found, first_weights(expected, run.config.seed))
  shown = json.loads((tmp_path / NEIGHBOURS_FILE).read_text())
  assert shown["method"] == "ppmi"
  assert shown["first"] == neighbour_rows(WORDS, expected, shown["queries"])
  # <unk>, <s>, </s> and the word that never occurs have no vector to show; a heading, and the others.
  assert len((tmp_path / FIRST_VECTORS / "metadata.tsv").read_text().splitlines()) == 1 + 6


def test_trained_vectors_find_what_is_used_alike(run):
  settings = EmbeddingsConfig(method="skip_gram", window=2, epochs=30, subsampling=0)
  run = dataclasses.replace(run, config=run.config.model_copy(update={"embeddings": settings}))
  vectors = first_vectors(run, count_occurrences(run))
  rows = {row[0]: row[1].split(", ")[0] for row in neighbour_rows(WORDS, vectors, [5, 6, 7, 8], 1)}
  assert rows == {"bread": "rice", "rice": "bread", "bus": "train", "train": "bus"}
  np.testing.assert_array_equal(vectors, first_vectors(run, count_occurrences(run)))


def test_neighbours_after_training_are_added(run, tmp_path):
  first_vectors(run, count_occurrences(run))
  model = build_language_model(len(WORDS), embedding_dim=DIM, hidden_dim=4, softmax="full")
  add_trained_neighbours(run, model, count_occurrences(run))
  shown = json.loads((tmp_path / NEIGHBOURS_FILE).read_text())
  assert shown["trained"] == neighbour_rows(WORDS, model.embeddings.numpy(), shown["queries"])
  assert [row[0] for row in shown["trained"]] == [row[0] for row in shown["first"]]
  assert (tmp_path / TRAINED_VECTORS / "metadata.tsv").exists()


def test_a_text_in_which_no_words_meet_begins_at_random(run, tmp_path, monkeypatch):
  empty = to_matrix(count_pairs(np.zeros(0, int), np.zeros(0, int), len(WORDS), Window(2)), len(WORDS), 1)
  monkeypatch.setattr(counted_vectors, "_read_counts", lambda directory: empty)
  found = first_vectors(run, count_occurrences(run))
  assert found.shape == (len(WORDS), DIM) and found.any(axis=1).all()
  assert not (tmp_path / FIRST_VECTORS).exists()
