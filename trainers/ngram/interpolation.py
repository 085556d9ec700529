"""Interpolation with shorter histories, in passes over parts of a trie that need not be in memory together.

Source: Heafield, Pouzyrevsky, Clark and Koehn 2013, "Scalable Modified Kneser-Ney Language Model Estimation" (the
passes, and what is done with <s>, </s> and <unk>)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from trainers.ngram.counting import SENTENCE_START, Level, find
from trainers.ngram.smoothing import Discounted


@dataclasses.dataclass(frozen=True)
class Contexts:
  """What precedes the last words of one part's n-grams of one length, each once, sorted as a trie level is.

  `parent` int64 [contexts]: row of the context without its first word, among those of the shorter n-grams; `word`
  int32: its first word; `of` int64 [n-grams]: the row of each n-gram's context; `count`, `discount` float64
  [contexts]: sums over the n-grams of this part.
  """

  parent: np.ndarray
  word: np.ndarray
  of: np.ndarray
  count: np.ndarray
  discount: np.ndarray


def contexts(
  levels: Sequence[Level], discounted: Sequence[Discounted], vocabulary_size: int
) -> list[Contexts]:
  """The contexts of a part's n-grams of 2, 3, ... words.

  Args:
    levels: the part's trie.
    discounted: the n-grams of each level, from `Smoothing.discounted`.
  """
  found = []
  of = np.zeros(len(levels[0]), np.int64)
  for level, own in zip(levels[1:], discounted[1:], strict=True):
    keys, of = np.unique(of[level.parent] * vocabulary_size + level.word, return_inverse=True)
    counts = np.bincount(of, own.count, len(keys))
    taken = np.bincount(of, own.taken, len(keys))
    found.append(
      Contexts(keys // vocabulary_size, (keys % vocabulary_size).astype(np.int32), of, counts, taken)
    )
  return found


def locate(
  levels: Sequence[Level], words: range, wanted: Sequence[tuple[np.ndarray, np.ndarray]], vocabulary_size: int
) -> list[np.ndarray]:
  """Where contexts stand as n-grams in the part that holds their last words.

  Args:
    levels: that part's trie.
    words: its range of last words.
    wanted: (parent, word) of the contexts of 1, 2, ... words, `parent` a row among those one word shorter.

  Returns:
    int64 [contexts] for each length: rows in `levels`.
  """
  rows: list[np.ndarray] = []
  for length, (parent, word) in enumerate(wanted):
    if not length:
      rows.append(word.astype(np.int64) - words.start)
    else:
      rows.append(find(levels[length], rows[-1][parent], word, vocabulary_size))
  return rows


@dataclasses.dataclass
class Totals:
  """Sums over all n-grams that continue a context, for the contexts that one part holds as n-grams of one length.

  `count`, `discount` float64 [n-grams of the level]; 0 where nothing follows.
  """

  count: np.ndarray
  discount: np.ndarray

  @classmethod
  def of_level(cls, level: Level) -> Totals:
    """Nothing added yet."""
    return cls(np.zeros(len(level)), np.zeros(len(level)))

  def add(self, rows: np.ndarray, count: np.ndarray, discount: np.ndarray) -> None:
    """Adds the sums of one part's contexts; `rows` int64 are from `locate`, each once."""
    self.count[rows] += count
    self.discount[rows] += discount

  def add_prior(self, prior: float) -> None:
    """Adds what a smoothing has for every history, seen or not."""
    self.count += prior
    self.discount += prior

  @property
  def backoff(self) -> np.ndarray:
    """Share of the probability that the lower order distributes; 1 where nothing follows."""
    return np.divide(self.discount, self.count, out=np.ones_like(self.count), where=self.count > 0)


def probabilities(
  levels: Sequence[Level],
  discounted: Sequence[Discounted],
  context_rows: Sequence[np.ndarray],
  context_totals: Sequence[Totals],
  unigrams: Totals,
  num_words: int,
) -> list[np.ndarray]:
  """Probability of the last word of each n-gram after the others.

  Args:
    levels: a part's trie.
    discounted: the n-grams of each level, from `Smoothing.discounted`.
    context_rows: `Contexts.of` for n-grams of 2, 3, ... words.
    context_totals: of those contexts.
    unigrams: sums over all words, arrays of one element.
    num_words: of the vocabulary, the unknown word and the sentence end included, the sentence start not.

  Returns:
    float64 [n-grams] for each level, those left out among them; 1 for the sentence start, which is never predicted.
  """
  found = []
  for number, (level, counted) in enumerate(zip(levels, discounted, strict=True)):
    own = counted.count - counted.taken
    if not number:
      probability = own / unigrams.count + unigrams.backoff / num_words
      probability[level.word == SENTENCE_START] = 1.0
    else:
      totals, of = context_totals[number - 1], context_rows[number - 1]
      probability = own / totals.count[of] + totals.backoff[of] * found[-1][level.parent]
    found.append(probability)
  return found
