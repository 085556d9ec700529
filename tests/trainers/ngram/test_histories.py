"""Histories never seen, counted by hand."""

import numpy as np

from trainers.ngram.counting import build_levels, windows
from trainers.ngram.histories import count_unseen_histories

SIZE = 6


def levels(order):
  """Of the sentences "3 4 5" and "3 5"."""
  columns = windows(np.array([3, 4, 5, 3, 5]), np.array([3, 2]), order)
  return build_levels(columns, range(SIZE), SIZE)


def test_words_after_a_history_that_was_never_seen():
  # "4 5 4": the histories of one word are <s>, 4, 5, 4: all seen.
  ids, lengths = np.array([4, 5, 4]), np.array([3])
  assert count_unseen_histories(levels(1), ids, lengths, SIZE) == (0, 4)
  assert count_unseen_histories(levels(2), ids, lengths, SIZE) == (0, 4)
  # Of two words: <s>; <s> 4 (never); 4 5 (seen); 5 4 (never).
  assert count_unseen_histories(levels(3), ids, lengths, SIZE) == (2, 4)
  # Of three words: <s>; <s> 4 (never); <s> 4 5 (never); 4 5 4 (never).
  assert count_unseen_histories(levels(4), ids, lengths, SIZE) == (3, 4)


def test_an_unknown_word_is_a_history_never_seen_and_an_empty_sentence_has_a_start():
  assert count_unseen_histories(levels(3), np.array([0]), np.array([1, 0]), SIZE) == (1, 3)
