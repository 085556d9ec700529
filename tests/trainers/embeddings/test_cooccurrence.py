"""Co-occurrence counts against a dictionary of pairs."""

import collections
import fractions

import numpy as np
import pytest

from trainers.embeddings import cooccurrence
from trainers.embeddings.cooccurrence import (
  PairCounts,
  Window,
  count_pairs,
  merge,
  pairs_of_rows,
  to_matrix,
)

SIZE = 12


def flat(sentences):
  ids = np.concatenate([np.array(sentence, np.int32) for sentence in sentences])
  return ids, np.array([len(sentence) for sentence in sentences])


def random_sentences(seed, count=50):
  generator = np.random.default_rng(seed)
  return [generator.integers(0, SIZE, generator.integers(0, 14)).tolist() for _ in range(count)]


def dictionary_counts(sentences, window):
  """{(word, other word): Fraction}."""
  found = collections.Counter()
  for sentence in sentences:
    for i, word in enumerate(sentence):
      for j, other in enumerate(sentence):
        if i != j and abs(i - j) <= window.size and word > 2 and other > 2:
          found[word, other] += fractions.Fraction(1, abs(i - j)) if window.by_distance else 1
  return dict(found)


def as_dictionary(counts, units):
  return {
    divmod(key, SIZE): fractions.Fraction(count, units)
    for key, count in zip(counts.keys.tolist(), counts.counts.tolist(), strict=True)
  }


def test_counts_by_hand():
  # Two sentences; <unk> (0) keeps its place, so that 4 and 5 are two apart.
  ids, lengths = flat([[3, 4, 0, 5], [4, 3]])
  counts = count_pairs(ids, lengths, 6, Window(2))
  assert dict(zip(counts.keys.tolist(), counts.counts.tolist(), strict=True)) == {
    3 * 6 + 4: 2,
    4 * 6 + 3: 2,
    4 * 6 + 5: 1,
    5 * 6 + 4: 1,
  }
  counts = count_pairs(ids, lengths, 6, Window(3, by_distance=True))
  # In sixths: 3 4 once at distance 1 in each sentence; 4 5 at distance 2; 3 5 at distance 3.
  assert to_matrix(counts, 6, 6).toarray()[3:, 3:].tolist() == [[0, 2, 1 / 3], [2, 0, 0.5], [1 / 3, 0.5, 0]]
  assert pairs_of_rows(counts, 6).tolist() == [0, 0, 0, 2, 2, 2]


def test_a_word_beside_itself_counts_in_both_directions():
  counts = count_pairs(*flat([[3, 3, 3]]), SIZE, Window(1))
  assert counts.keys.tolist() == [3 * SIZE + 3] and counts.counts.tolist() == [4]


@pytest.mark.parametrize("window", [Window(1), Window(5), Window(20), Window(5, True), Window(20, True)])
def test_counts_equal_those_of_a_dictionary(window):
  sentences = random_sentences(window.size)
  counts = count_pairs(*flat(sentences), SIZE, window)
  assert as_dictionary(counts, window.units) == dictionary_counts(sentences, window)
  assert (np.diff(counts.keys) > 0).all()


@pytest.mark.parametrize("window", [Window(3), Window(7, True)])
def test_parts_add_up_exactly(window, monkeypatch):
  sentences = random_sentences(3, 80)
  whole = count_pairs(*flat(sentences), SIZE, window)
  parts = [count_pairs(*flat(sentences[start : start + 9]), SIZE, window) for start in range(0, 80, 9)]
  for order in (parts, parts[::-1], [merge(parts[:4]), merge(parts[4:])]):
    merged = merge(order)
    assert merged.keys.tolist() == whole.keys.tolist()
    assert merged.counts.tolist() == whole.counts.tolist()
  # Few pairs at once, in blocks of sentences.
  monkeypatch.setattr(cooccurrence, "_PAIRS_AT_ONCE", 60)
  blocks = count_pairs(*flat(sentences), SIZE, window)
  assert blocks.keys.tolist() == whole.keys.tolist() and blocks.counts.tolist() == whole.counts.tolist()


def test_large_ids_are_told_apart():
  size = 1 << 28
  counts = count_pairs(np.array([size - 1, 3, size - 2], np.int32), np.array([3]), size, Window(20, True))
  found = dict(zip(counts.keys.tolist(), counts.counts.tolist(), strict=True))
  one = Window(20, True).units
  assert found[(size - 1) * size + 3] == one and found[(size - 1) * size + size - 2] == one // 2
  assert len(found) == 6


def test_nothing_to_count():
  for sentences in ([[]], [[3], [4]], [[0, 1, 2]]):
    counts = count_pairs(*flat(sentences), SIZE, Window())
    assert len(counts) == 0
    assert to_matrix(counts, SIZE, 1).nnz == 0
  empty = PairCounts(np.zeros(0, np.int64), np.zeros(0, np.int64))
  assert len(merge([])) == len(merge([empty, empty])) == 0


def test_what_cannot_be_counted_is_refused():
  for size in (0, 21):
    with pytest.raises(ValueError, match="from 1 to 20"):
      Window(size)
  with pytest.raises(ValueError, match="at most"):
    count_pairs(np.zeros(0, np.int32), np.zeros(0, np.int64), 1 << 30, Window())
