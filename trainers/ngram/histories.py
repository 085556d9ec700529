"""How often what stands before a word was never seen: the curse of dimensionality, counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainers.ngram.arpa import find_rows
from trainers.ngram.counting import Ngrams, windows


def count_unseen_histories(
  sections: Sequence[Ngrams], ids: np.ndarray, lengths: np.ndarray, vocabulary_size: int
) -> tuple[int, int]:
  """Counts the words of a text whose history is not among a model's n-grams.

  A word's history is the `len(sections)` - 1 words before it, fewer where the sentence begins within them.

  Args:
    sections: n-grams of 1, 2, ... words.
    ids: int [tokens], the sentences one after the other, without start and end.
    lengths: int [sentences], their numbers of tokens.
    vocabulary_size: ids are below it.

  Returns:
    Words whose history was never seen, and all words, the sentences' ends included.
  """
  columns = windows(ids, lengths, len(sections))
  total = columns.shape[1]
  if len(sections) == 1:
    return 0, total
  histories = columns[:0:-1]
  num_words = (histories >= 0).sum(axis=0)
  unseen = 0
  for length in range(1, len(sections)):
    chosen = histories[len(histories) - length :, num_words == length].T
    if len(chosen):
      unseen += int((find_rows(sections[:length], chosen, vocabulary_size) < 0).sum())
  return unseen, total
