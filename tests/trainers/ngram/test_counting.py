"""Windows and the trie of their n-grams, against counting with a dictionary."""

import collections

import numpy as np
import pytest

from trainers.ngram.counting import (
  SENTENCE_END,
  SENTENCE_START,
  Ngrams,
  build_levels,
  context_rows,
  find,
  sort_windows,
  turned_round,
  windows,
)


def random_sentences(seed, vocabulary_size, count=60, longest=9):
  generator = np.random.default_rng(seed)
  return [
    generator.integers(3, vocabulary_size, generator.integers(0, longest)).tolist() for _ in range(count)
  ]


def flat(sentences):
  return np.concatenate([np.array(s, np.int32) for s in sentences]), np.array([len(s) for s in sentences])


def dictionary_counts(sentences, order):
  """[{n-gram: (occurrences, different left neighbours)}] for each length."""
  found = []
  for length in range(1, order + 1):
    occurrences, lefts = collections.Counter(), collections.defaultdict(set)
    for sentence in sentences:
      padded = [SENTENCE_START, *sentence, SENTENCE_END]
      for end in range(1, len(padded)):
        start = end - length + 1
        if start >= 0:
          ngram = tuple(padded[start : end + 1])
          occurrences[ngram] += 1
          lefts[ngram].add(padded[start - 1] if start else None)
    found.append({ngram: (count, len(lefts[ngram])) for ngram, count in occurrences.items()})
  return found


def trie_counts(levels):
  """The same from a trie."""
  found, columns = [], []
  for level in levels:
    columns = [level.word, *(column[level.parent] for column in columns)]
    ngrams = zip(*(column.tolist() for column in columns), strict=True)
    found.append(
      dict(zip(ngrams, zip(level.occurrences.tolist(), level.lefts.tolist(), strict=True), strict=True))
    )
  return found


def test_windows_by_hand():
  assert windows(np.array([5, 6, 7], np.int32), np.array([2, 0, 1]), 3).tolist() == [
    [5, 6, SENTENCE_END, SENTENCE_END, 7, SENTENCE_END],
    [SENTENCE_START, 5, 6, SENTENCE_START, SENTENCE_START, 7],
    [-1, SENTENCE_START, 5, -1, -1, SENTENCE_START],
  ]
  assert windows(np.array([5], np.int32), np.array([1]), 1).tolist() == [[5, SENTENCE_END]]
  assert windows(np.zeros(0, np.int32), np.zeros(0, int), 2).shape == (2, 0)


@pytest.mark.parametrize("vocabulary_size", [12, 40_000, 2**30])
def test_windows_are_sorted_however_many_words_fit_into_an_integer(vocabulary_size):
  ids, lengths = flat(random_sentences(1, vocabulary_size))
  columns = windows(ids, lengths, 5)
  assert sort_windows(columns, vocabulary_size).T.tolist() == sorted(columns.T.tolist())


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_counts_equal_those_of_a_dictionary(order):
  sentences = random_sentences(2, 9)
  levels = build_levels(windows(*flat(sentences), order), range(9), 9)
  for number, (ours, theirs) in enumerate(
    zip(trie_counts(levels), dictionary_counts(sentences, order), strict=True)
  ):
    if not number:
      assert ours.pop((SENTENCE_START,)) == (0, 0)
      ours = {ngram: counts for ngram, counts in ours.items() if counts != (0, 0)}
    for ngram, (occurrences, lefts) in theirs.items():
      # The highest order and what begins a sentence count how often they occur.
      by_occurrence = number + 1 == order or ngram[0] == SENTENCE_START
      assert ours.pop(ngram) == (occurrences, occurrences if by_occurrence else lefts), ngram
    assert not ours


def test_keys_ascend_and_are_found():
  sentences = random_sentences(3, 30)
  levels = build_levels(windows(*flat(sentences), 3), range(30), 30)
  for level in levels[1:]:
    assert (np.diff(level.keys(30)) > 0).all()
    assert find(level, level.parent, level.word, 30).tolist() == list(range(len(level)))
    assert find(level, np.array([0]), np.array([29]), 30).tolist() == [-1]


def ngram_rows(levels, is_prefix_trie=False):
  """[the n-grams of each length in the order of their rows], first word first."""
  found = [[(int(word),) for word in levels[0].word]]
  for level in levels[1:]:
    pairs = [(found[-1][parent], int(word)) for parent, word in zip(level.parent, level.word, strict=True)]
    found.append([(*parent, word) if is_prefix_trie else (word, *parent) for parent, word in pairs])
  return found


def test_contexts_are_the_ngrams_without_their_last_words():
  levels = build_levels(windows(*flat(random_sentences(4, 9)), 4), range(9), 9)
  ngrams = ngram_rows(levels)
  for number, rows in enumerate(context_rows(levels, 9)[1:], 1):
    assert [ngrams[number - 1][row] for row in rows] == [ngram[:-1] for ngram in ngrams[number]]


def test_a_trie_turned_round_has_the_same_ngrams_and_turned_again_is_the_same():
  levels = build_levels(windows(*flat(random_sentences(5, 9)), 4), range(9), 9)
  turned, orders = turned_round(levels, 9)
  for before, after, order in zip(ngram_rows(levels), ngram_rows(turned, True), orders, strict=True):
    assert after == [before[row] for row in order] == sorted(before)
  again, _ = turned_round(turned, 9)
  for level, other in zip(levels, again, strict=True):
    assert np.array_equal(level.parent, other.parent) and np.array_equal(level.word, other.word)


def test_an_ngram_without_its_context_is_refused():
  words = Ngrams(np.zeros(5, np.int64), np.arange(5, dtype=np.int32))
  # "3 4", and "4 3 4" without "4 3".
  levels = [words, Ngrams(np.array([4]), np.array([3])), Ngrams(np.array([0]), np.array([4]))]
  with pytest.raises(ValueError, match="n-grams of 3 words without those of 2 words that they begin with"):
    turned_round(levels, 5)
