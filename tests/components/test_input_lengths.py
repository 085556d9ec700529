"""Batches of examples of about the same length."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from components.input import _even_cuts, train_dataset
from pipeline.tasks.language_model import TASK, LanguageModelConfig

LENGTHS = np.random.default_rng(4).integers(1, 60, 200)
SPEC = {"token_ids": tf.io.VarLenFeature(tf.int64)}


class Outputs:
  """What train_dataset asks of TransformOutputs."""

  def transformed_feature_spec(self):
    return SPEC


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """One sentence a row: its number, as often as it is long."""
  path = str(tmp_path_factory.mktemp("examples") / "a.gz")
  with tf.io.TFRecordWriter(path, "GZIP") as writer:
    for number, length in enumerate(LENGTHS):
      values = tf.train.Int64List(value=[number + 10] * int(length))
      features = tf.train.Features(feature={"token_ids": tf.train.Feature(int64_list=values)})
      writer.write(tf.train.Example(features=features).SerializeToString())
  return [path]


def batches(files, count, first_epoch=0, task=TASK, **model):
  config = LanguageModelConfig(training={"batch_size": 16}, model=model)
  dataset = train_dataset(task, config, Outputs(), files, first_epoch)
  return [token_ids.numpy() for token_ids, _ in dataset.take(count)]


STEPS = len(LENGTHS) // 16


def test_batches_are_of_similar_lengths_and_equally_long_together(files):
  found = batches(files, STEPS)
  numbers = np.concatenate([batch[:, 0] - 10 for batch in found])
  # Every sentence is there once.
  assert sorted(numbers) == list(range(len(LENGTHS)))
  lengths = [LENGTHS[batch[:, 0] - 10] for batch in found]
  assert max(np.ptp(length) for length in lengths) < 25
  totals = np.array([length.sum() for length in lengths])
  assert np.abs(totals - LENGTHS.sum() / STEPS).max() <= 59
  assert [length.min() for length in lengths] != sorted(length.min() for length in lengths)
  # Far less padding than in batches of any lengths.
  any_length = batches(files, STEPS, task=dataclasses.replace(TASK, length_feature=None))
  assert [len(batch) for batch in any_length] == [16] * STEPS
  padding, before = (
    (np.concatenate([batch.ravel() for batch in made]) == 1).mean() for made in (found, any_length)
  )
  assert padding < 0.15 < before


def test_replicas_get_equal_shares(files, monkeypatch):
  strategy = SimpleNamespace(num_replicas_in_sync=4)
  monkeypatch.setattr(tf.distribute, "get_strategy", lambda: strategy)
  found = batches(files, STEPS)
  sizes = [len(batch) for batch in found]
  assert len(set(sizes)) > 3 and not any(size % 4 for size in sizes)
  assert sum(sizes) == len({number for batch in found for number in batch[:, 0]}) == len(LENGTHS)


@pytest.mark.parametrize(
  ("lengths", "num_pieces", "edges"),
  [
    ([1, 1, 1, 1, 1, 1], 3, [0, 2, 4, 6]),
    ([1, 1, 2, 4, 4], 3, [0, 3, 4, 5]),
    # One record is longer than all pieces should be.
    ([1, 1, 100], 2, [0, 2, 3]),
    ([100, 1, 1], 3, [0, 1, 2, 3]),
    ([0, 0, 0], 2, [0, 1, 3]),
    ([5], 1, [0, 1]),
    ([5], 0, [0]),
  ],
)
def test_cuts_by_hand(lengths, num_pieces, edges):
  assert _even_cuts(tf.constant(lengths, tf.int64), tf.constant(num_pieces)).numpy().tolist() == edges


def test_epochs_differ_and_are_found_again_after_a_resumption(files):
  whole = batches(files, 2 * STEPS)
  resumed = batches(files, STEPS, first_epoch=1)
  assert all(np.array_equal(a, b) for a, b in zip(whole[STEPS:], resumed, strict=True))
  assert not all(np.array_equal(a, b) for a, b in zip(whole[:STEPS], resumed, strict=True))


def test_training_sentences_are_cut(files):
  found = batches(files, STEPS, max_training_tokens=20)
  assert max(batch.shape[1] for batch in found) == 20
