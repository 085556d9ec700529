"""Which pairs and negative samples are drawn."""

import collections

import numpy as np
import pytest

from trainers.embeddings.pair_sampling import GROUP_PAIRS, GROUP_SAMPLES, PairSampler

IDS = np.array([3, 4, 5, 0, 6, 7, 3, 8], np.int32)
LENGTHS = np.array([6, 2])


def text():
  return [(IDS, LENGTHS)]


def counted(size=9):
  return np.bincount(IDS, minlength=size)


def drawn_pairs(sampler, chunks, epochs, batch_pairs=GROUP_PAIRS):
  found = collections.Counter()
  for epoch in range(epochs):
    for batch in sampler.batches(chunks, epoch, batch_pairs):
      found.update(zip(batch["words"].ravel().tolist(), batch["contexts"].ravel().tolist(), strict=True))
  return found


def test_pairs_are_those_of_a_sentence_without_unknown_words():
  found = drawn_pairs(PairSampler(counted(), 1, 0, 0), text, 1)
  # 5 and 6 are next to each other once the unknown word is gone; 7 and 3 are of two sentences.
  edges = [(3, 4), (4, 5), (5, 6), (6, 7), (3, 8)]
  assert set(found) == {pair for a, b in edges for pair in ((a, b), (b, a))}
  # Ten pairs, repeated until they fill a group.
  assert sum(found.values()) == GROUP_PAIRS and set(found.values()) == {3, 4}


def test_near_pairs_come_more_often():
  line = np.arange(3, 3 + 40, dtype=np.int32)
  chunks = lambda: [(line, np.array([40]))] * 50  # noqa: E731
  counts = np.bincount(line, minlength=43)
  distances = collections.Counter()
  for (word, context), count in drawn_pairs(PairSampler(counts, 4, 0, 1), chunks, 4).items():
    distances[abs(word - context)] += count
  # A window that reaches d words or further has a probability of 1, 3/4, 1/2, 1/4 for d = 1 to 4.
  assert set(distances) == {1, 2, 3, 4}
  shares = [distances[d] / ((40 - d) * 2 * 200) for d in (1, 2, 3, 4)]
  np.testing.assert_allclose(shares, [1, 0.75, 0.5, 0.25], atol=0.02)


def test_frequent_words_are_left_out_by_the_formula():
  counts = np.array([5, 0, 7, 900, 90, 10, 0])
  sampler = PairSampler(counts, 2, 0.01, 0)
  ratio = 0.01 / np.array([0.9, 0.09])
  np.testing.assert_allclose(sampler.kept, [0, 0, 0, *(np.sqrt(ratio) + ratio), 1, 0])
  # Words that occur together only with one that is nearly always left out.
  ids = np.tile(np.array([3, 4], np.int32), 4000)
  chunks = lambda: [(ids, np.full(4000, 2))]  # noqa: E731
  expected = 4000 * 2 * sampler.kept[3] * sampler.kept[4]
  assert sampler.count(chunks) == pytest.approx(expected, rel=0.15)


def test_noise_is_a_power_of_the_frequency():
  counts = np.array([100, 100, 100, 16, 0, 81, 1])
  sampler = PairSampler(counts, 2, 0, 3)
  np.testing.assert_allclose(sampler.noise, np.array([0, 0, 0, 8, 0, 27, 1]) / 36)
  ids = np.tile(np.array([3, 5], np.int32), 20_000)
  chunks = lambda: [(ids, np.full(20_000, 2))]  # noqa: E731
  samples = np.concatenate([batch["samples"].ravel() for batch in sampler.batches(chunks, 0, 4096)])
  shares = np.bincount(samples, minlength=7) / len(samples)
  np.testing.assert_allclose(shares, sampler.noise, atol=0.015)
  assert shares[4] == 0


def test_batches_are_full_and_cross_chunks():
  generator = np.random.default_rng(4)
  pieces = [(generator.integers(3, 30, 90).astype(np.int32), np.full(9, 10)) for _ in range(6)]
  counts = np.bincount(np.concatenate([ids for ids, _ in pieces]), minlength=30)
  sampler = PairSampler(counts, 3, 0, 5)
  batches = list(sampler.batches(lambda: pieces, 0, 4 * GROUP_PAIRS))
  total = sampler.count(lambda: pieces)
  assert len(batches) == total // (4 * GROUP_PAIRS) > len(pieces)
  for batch in batches:
    assert batch["words"].shape == batch["contexts"].shape == (4, GROUP_PAIRS)
    assert batch["samples"].shape == (4, GROUP_SAMPLES)
    assert {array.dtype for array in batch.values()} == {np.dtype(np.int32)}


def test_draws_depend_on_seed_epoch_and_chunk():
  counts = counted()
  chunks = lambda: text() * 5  # noqa: E731

  def first(seed, epoch):
    return [batch["words"].tolist() for batch in PairSampler(counts, 3, 0, seed).batches(chunks, epoch, 32)]

  assert first(1, 0) == first(1, 0)
  assert first(1, 0) != first(2, 0) and first(1, 0) != first(1, 1)


def test_no_pairs():
  sampler = PairSampler(np.zeros(9, int), 2, 1e-3, 0)
  assert sampler.count(text) == 0
  assert list(sampler.batches(text, 0, 32)) == []
  assert list(PairSampler(counted(), 2, 0, 0).batches(lambda: [], 0, 32)) == []
