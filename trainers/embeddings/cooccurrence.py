"""How often words stand near each other, counted by sorting integers: no dictionary, no Python object for each pair.

Counts are whole numbers, also where near pairs weigh more (they are then in parts of one, see `Window`): they add up to
the same, in whatever order and in however many pieces.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import numpy as np
import scipy.sparse

from trainers.ngram.counting import SENTENCE_END

_MAX_WINDOW = 20
# A code is a pair of words and, in its lowest bits, their distance.
_DISTANCE_BITS = 5
_MAX_VOCABULARY = 1 << ((63 - _DISTANCE_BITS) // 2)
# Pairs that are sorted at once: bounds the memory, changes nothing.
_PAIRS_AT_ONCE = 1 << 23


@dataclasses.dataclass(frozen=True)
class Window:
  """Which words are near each other, and how much of a pair it makes.

  Args:
    size: words to either side, 1 to 20.
    by_distance: a pair at distance d counts 1 / d (Pennington, Socher and Manning 2014, "GloVe: Global Vectors for Word
      Representation"); otherwise 1 (Levy and Goldberg 2014, "Neural Word Embedding as Implicit Matrix Factorization").

  Raises:
    ValueError: another size.
  """

  size: int = 5
  by_distance: bool = False

  def __post_init__(self):
    if not 1 <= self.size <= _MAX_WINDOW:
      raise ValueError(f"a window of {self.size} words: from 1 to {_MAX_WINDOW}")

  @property
  def units(self) -> int:
    """What counts as one pair: the least number that all distances divide, where these matter."""
    return math.lcm(*range(1, self.size + 1)) if self.by_distance else 1

  @property
  def weights(self) -> np.ndarray:
    """int64 [size]: units of a pair at distance 1, 2, ..."""
    distances = np.arange(1, self.size + 1)
    return self.units // distances if self.by_distance else np.ones_like(distances)


@dataclasses.dataclass(frozen=True)
class PairCounts:
  """Counts of pairs of words, both (a, b) and (b, a).

  `keys` int64 [pairs], ascending, none twice: word * vocabulary size + word near it; `counts` int64 [pairs], in units
  of the window.
  """

  keys: np.ndarray
  counts: np.ndarray

  def __len__(self) -> int:
    return len(self.keys)


def count_pairs(ids: np.ndarray, lengths: np.ndarray, vocabulary_size: int, window: Window) -> PairCounts:
  """Counts the pairs of words that are near each other in the same sentence.

  Unknown words take no part, as they are many words in one, and neither do sentence starts and ends; but they keep
  their places, so that the words on their two sides are no nearer for it.

  Args:
    ids: int [tokens], the sentences one after the other.
    lengths: int [sentences], their numbers of tokens.
    vocabulary_size: ids are below it.
    window: what is near.

  Raises:
    ValueError: the vocabulary is too large for pairs to be single integers.
  """
  if vocabulary_size > _MAX_VOCABULARY:
    raise ValueError(f"{vocabulary_size} words: pairs are counted of at most {_MAX_VOCABULARY}")
  blocks = _blocks(ids, np.asarray(lengths, np.int64), max(1, _PAIRS_AT_ONCE // window.size))
  forward = merge([_count_forward(*block, vocabulary_size, window) for block in blocks])
  first, second = np.divmod(forward.keys, vocabulary_size)
  backward = second * vocabulary_size + first
  order = np.argsort(backward)
  return merge([forward, PairCounts(backward[order], forward.counts[order])])


def merge(parts: Sequence[PairCounts]) -> PairCounts:
  """The sums of counts, each of a part of the text."""
  keys = np.concatenate([np.zeros(0, np.int64), *(part.keys for part in parts)])
  counts = np.concatenate([np.zeros(0, np.int64), *(part.counts for part in parts)])
  if len(parts) < 2:
    return PairCounts(keys, counts)
  # The stable sort is one of merging, which is quick where sorted parts follow each other.
  order = np.argsort(keys, kind="stable")
  return _sum_runs(keys[order], counts[order])


def pairs_of_rows(counts: PairCounts, vocabulary_size: int) -> np.ndarray:
  """int64 [vocabulary]: with how many different words each word occurs."""
  return np.bincount(counts.keys // vocabulary_size, minlength=vocabulary_size)


def to_matrix(counts: PairCounts, vocabulary_size: int, units: int) -> scipy.sparse.csr_matrix:
  """float64 [vocabulary, vocabulary]: the counts of all pairs, in pairs; symmetric."""
  edges = np.searchsorted(counts.keys, np.arange(vocabulary_size + 1) * vocabulary_size)
  columns = counts.keys % vocabulary_size
  return scipy.sparse.csr_matrix(
    (counts.counts / units, columns, edges), shape=(vocabulary_size, vocabulary_size)
  )


def _blocks(ids: np.ndarray, lengths: np.ndarray, tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """(ids, lengths) of whole sentences, of about as many tokens each."""
  ends = np.cumsum(lengths)
  cuts = np.flatnonzero(np.diff(ends // tokens, prepend=0))
  start = 0
  for sentence in [*cuts.tolist(), len(lengths)]:
    if sentence > start:
      first = ends[start - 1] if start else 0
      yield ids[first : ends[sentence - 1]], lengths[start:sentence]
      start = sentence


def _count_forward(ids: np.ndarray, lengths: np.ndarray, vocabulary_size: int, window: Window) -> PairCounts:
  """Counts of pairs whose first word comes first in the text."""
  sentence = np.repeat(np.arange(len(lengths)), lengths)
  is_word = ids > SENTENCE_END
  codes = [np.zeros(0, np.int64)]
  for distance in range(1, min(window.size, len(ids) - 1) + 1):
    is_pair = (sentence[distance:] == sentence[:-distance]) & is_word[distance:] & is_word[:-distance]
    key = ids[:-distance][is_pair].astype(np.int64) * vocabulary_size + ids[distance:][is_pair]
    codes.append((key << _DISTANCE_BITS) | (distance - 1))
  codes = np.sort(np.concatenate(codes))
  return _sum_runs(codes >> _DISTANCE_BITS, window.weights[codes & ((1 << _DISTANCE_BITS) - 1)])


def _sum_runs(keys: np.ndarray, counts: np.ndarray) -> PairCounts:
  """Adds up the counts of equal keys, which follow each other."""
  if not len(keys):
    return PairCounts(keys, counts)
  first = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))
  return PairCounts(keys[first], np.add.reduceat(counts, first))
