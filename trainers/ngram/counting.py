"""N-grams of token ids, counted by sorting: no dictionary, no Python object for each n-gram.

An n-gram is kept in a suffix trie. Level 1 holds words; a row of level n is a word in front of a row of level
n - 1, its `parent`. Rows are sorted by (parent, word), so that a look-up is a binary search. Everything that ends
in the same word is below the same row of level 1: a trie can be split by ranges of last words into parts that
are built one by one, in any process.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

# Ids as KenLM has them.
UNKNOWN, SENTENCE_START, SENTENCE_END = 0, 1, 2
# Before the start of the sentence.
_NOTHING = -1


@dataclasses.dataclass(frozen=True)
class Ngrams:
  """The n-grams of one length: a level of the trie.

  `parent` int64 [n-grams]: row of the n-gram without its first word, in the level below; `word` int32: its first word.
  """

  parent: np.ndarray
  word: np.ndarray

  def __len__(self) -> int:
    return len(self.word)

  def keys(self, vocabulary_size: int) -> np.ndarray:
    """int64 [n-grams], ascending: what `find` searches in."""
    return self.parent * vocabulary_size + self.word


@dataclasses.dataclass(frozen=True)
class Level(Ngrams):
  """N-grams with their counts.

  `occurrences` int64 [n-grams]: how often it was seen; `lefts` int64: the number of different words (or sentence
  starts) seen in front of it, in the highest order its occurrences.
  """

  occurrences: np.ndarray
  lefts: np.ndarray


def windows(ids: np.ndarray, lengths: np.ndarray, order: int) -> np.ndarray:
  """Every word of every sentence, its end included, with what stands before it.

  Args:
    ids: int [tokens], the sentences one after the other, without start and end.
    lengths: int [sentences], their numbers of tokens.
    order: words of a window.

  Returns:
    int32 [order, tokens + sentences]: row 0 the word, row k the word k places before it; -1 before the start.
  """
  lengths = np.asarray(lengths, np.int64)
  lead = order - 1
  ends = np.cumsum(lengths + lead + 1)
  starts = ends - (lengths + lead + 1)
  padded = np.full(int(ends[-1]) if len(ends) else 0, _NOTHING, np.int32)
  is_target = np.ones(len(padded), bool)
  for offset in range(lead):
    is_target[starts + offset] = False
  if lead:
    padded[starts + lead - 1] = SENTENCE_START
  is_word = is_target.copy()
  is_word[ends - 1] = False
  padded[ends - 1] = SENTENCE_END
  padded[is_word] = ids
  targets = np.flatnonzero(is_target)
  columns = np.empty((order, len(targets)), np.int32)
  for back in range(order):
    columns[back] = padded[targets - back]
  return columns


def sort_windows(columns: np.ndarray, vocabulary_size: int) -> np.ndarray:
  """The same windows, sorted by the last word, then the one before it, and so on.

  Several words are packed into one integer as far as 63 bits reach: two sorts of integers for five words of a
  large vocabulary, where a sort by columns would take five.
  """
  word_bits = (vocabulary_size + 1).bit_length()
  key = columns[0].astype(np.int64) + 1
  used_bits = word_bits
  for column in columns[1:]:
    if used_bits + word_bits > 63:
      distinct, key = np.unique(key, return_inverse=True)
      used_bits = len(distinct).bit_length()
    key = (key << word_bits) | (column + 1)
    used_bits += word_bits
  return columns[:, np.argsort(key)]


def build_levels(columns: np.ndarray, words: range, vocabulary_size: int) -> list[Level]:
  """The trie of all n-grams in windows whose last words are in one range.

  Args:
    columns: from `windows`, in any order.
    words: the range. Level 1 has a row for each of its words, seen or not: word - words.start.
    vocabulary_size: ids are below it.

  Returns:
    Levels 1 to the windows' order.
  """
  columns = sort_windows(columns, vocabulary_size)
  order, num_windows = columns.shape
  row = columns[0].astype(np.int64) - words.start
  levels = [
    (np.zeros(len(words), np.int64), np.asarray(words, np.int32), np.bincount(row, minlength=len(words)))
  ]
  is_new = np.ones(num_windows, bool)
  is_new[1:] = row[1:] != row[:-1]
  for column in columns[1:]:
    is_new[1:] |= column[1:] != column[:-1]
    first = np.flatnonzero(is_new)
    run_lengths = np.diff(np.append(first, num_windows))
    is_inside = column[first] != _NOTHING
    first, run_lengths = first[is_inside], run_lengths[is_inside]
    levels.append((row[first], column[first], run_lengths))
    is_first = np.zeros(num_windows, bool)
    is_first[first] = True
    # Rows of windows that begin before the sentence does are never looked at again.
    row = np.cumsum(is_first) - 1
  return [_with_lefts(levels, number) for number in range(order)]


def _with_lefts(levels: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], number: int) -> Level:
  parent, word, occurrences = levels[number]
  if number + 1 == len(levels):
    return Level(parent, word, occurrences, occurrences)
  lefts = np.bincount(levels[number + 1][0], minlength=len(word))
  # Nothing stands before the start of a sentence: as often as it occurs, it is a start of its own.
  lefts = np.where(word == SENTENCE_START, occurrences, lefts)
  return Level(parent, word, occurrences, lefts)


def find(level: Ngrams, parent: np.ndarray, word: np.ndarray, vocabulary_size: int) -> np.ndarray:
  """Rows of n-grams in a level above the first; -1 where there is no such n-gram.

  Args:
    level: of the n-grams' length.
    parent: int64 [n], rows of the n-grams without their first word, in the level below.
    word: int [n], their first words.
  """
  keys = level.keys(vocabulary_size)
  if not len(keys):
    return np.full(len(word), -1, np.int64)
  wanted = parent * vocabulary_size + word
  row = np.searchsorted(keys, wanted)
  row[row == len(keys)] = 0
  return np.where(keys[row] == wanted, row, -1)


def context_rows(levels: Sequence[Ngrams], vocabulary_size: int) -> list[np.ndarray]:
  """What each n-gram begins with: the row of all its words but the last, in the level below.

  Args:
    levels: of n-grams of 1, 2, ... words; those of one word are all ids.
    vocabulary_size: ids are below it.

  Returns:
    int64 [n-grams] for each level, 0 for single words.

  Raises:
    ValueError: an n-gram is there without the one that it begins with.
  """
  found = [np.zeros(len(levels[0]), np.int64)]
  for number, level in enumerate(levels[1:], 1):
    if number == 1:
      rows = level.word.astype(np.int64)
    else:
      # What the parent begins with, and the first word in front of it.
      rows = find(levels[number - 1], found[-1][level.parent], level.word, vocabulary_size)
    if (rows < 0).any():
      raise ValueError(f"n-grams of {number + 1} words without those of {number} words that they begin with")
    found.append(rows)
  return found


def turned_round(levels: Sequence[Ngrams], vocabulary_size: int) -> tuple[list[Ngrams], list[np.ndarray]]:
  """The trie of the same n-grams read in the other direction.

  Of a suffix trie, in which a row's `parent` is what it ends in, the prefix trie, in which `parent` is what it begins
  with and `word` its last word; of that one the suffix trie.

  Args:
    levels: of n-grams of 1, 2, ... words; those of one word are all ids.
    vocabulary_size: ids are below it.

  Returns:
    levels: in the other direction.
    order: int64 [n-grams] for each level: the row that each row of the new level was.

  Raises:
    ValueError: an n-gram is there without the one that it begins with (or ends in, in a prefix trie).
  """
  turned, orders = [Ngrams(levels[0].parent, levels[0].word)], [np.arange(len(levels[0]))]
  # Of each row of the last level: the row that it has become, and the word at its other end.
  new_row, far_word = orders[0], levels[0].word
  for level, rows in zip(levels[1:], context_rows(levels, vocabulary_size)[1:], strict=True):
    far_word = far_word[level.parent]
    order = np.argsort(new_row[rows] * vocabulary_size + far_word)
    turned.append(Ngrams(new_row[rows[order]], far_word[order]))
    orders.append(order)
    new_row = np.empty(len(level), np.int64)
    new_row[order] = np.arange(len(level))
  return turned, orders
