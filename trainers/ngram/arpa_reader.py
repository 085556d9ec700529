"""Reading ARPA files, whoever wrote them; see `trainers.ngram.arpa`."""

from __future__ import annotations

import contextlib
import gzip
import io
from collections.abc import Iterator
from typing import IO

import numpy as np

from trainers.ngram.arpa import (
  LOG10_OF_ZERO,
  SPECIAL_WORDS,
  BackoffModel,
  Section,
  backed_off,
  find_rows,
  section_word_ids,
)


def read_arpa(path: str) -> BackoffModel:
  """Reads a file, gzipped where its name ends in .gz.

  Words are numbered in the order of the file, after <unk>, <s> and </s>, which are added where they are missing,
  with a probability of 0. N-grams whose last words are no n-gram of their own, as pruned models of other programs
  have them, get those added, with the probability that backing off gives.

  Raises:
    ValueError: it is not in the ARPA format; one line that names the file and the line.
  """
  with _opened(path) as lines:
    return _Parser(path, lines).parse()


def read_arpa_words(path: str) -> tuple[int, tuple[str, ...]]:
  """The number of words of a file's longest n-grams, and its words as `read_arpa` numbers them.

  Raises:
    ValueError: see `read_arpa`; nothing behind the single words is looked at.
  """
  with _opened(path) as lines:
    return _Parser(path, lines).parse_words()


@contextlib.contextmanager
def _opened(path: str) -> Iterator[IO[str]]:
  with (gzip.open if path.endswith(".gz") else open)(path, "rb") as raw:
    yield io.TextIOWrapper(raw, encoding="utf-8", newline="\n")


class _Parser:
  """Reads one file line by line."""

  def __init__(self, path: str, lines: IO[str]):
    self._path = path
    self._lines = enumerate(lines, 1)
    self._number = 0
    self._ids = {word: number for number, word in enumerate(SPECIAL_WORDS)}

  def parse(self) -> BackoffModel:
    counts = self._counts()
    sections: list[Section] = []
    for length, count in enumerate(counts, 1):
      self._expect(f"\\{length}-grams:")
      if length == 1:
        sections.append(self._unigrams(count))
      else:
        words, probability, backoff = self._ngrams(length, count)
        sections = _with_ngrams(sections, words, probability, backoff, len(self._ids))
    self._expect("\\end\\")
    return BackoffModel(tuple(self._ids), sections)

  def parse_words(self) -> tuple[int, tuple[str, ...]]:
    counts = self._counts()
    self._expect("\\1-grams:")
    self._unigrams(counts[0])
    return len(counts), tuple(self._ids)

  def _error(self, what: str) -> ValueError:
    return ValueError(f"{self._path}, line {self._number}: {what}")

  def _next(self) -> str:
    """The next line that is not empty, without its end; "" at the end of the file."""
    line = self._line()
    while line and not line.strip():
      line = self._line()
    return line.rstrip("\r\n")

  def _line(self) -> str:
    """The next line with its end; "" at the end of the file."""
    try:
      self._number, line = next(self._lines, (self._number, ""))
    except UnicodeDecodeError as error:
      raise self._error(f"not UTF-8 ({error.reason})") from error
    return line

  def _expect(self, text: str) -> None:
    line = self._next()
    if line.strip() != text:
      raise self._error(f"expected {text}, found {line[:60]!r}")

  def _counts(self) -> list[int]:
    line = self._next()
    while line and line.strip() != "\\data\\":
      line = self._next()
    if not line:
      raise self._error("no \\data\\ section: this is no ARPA file")
    counts: list[int] = []
    while (line := self._line()).strip():
      name, _, count = line.partition("=")
      if name.split() != ["ngram", str(len(counts) + 1)] or not count.strip().isdigit():
        raise self._error(f"expected 'ngram {len(counts) + 1}=COUNT', found {line.strip()[:60]!r}")
      counts.append(int(count))
    if not counts:
      raise self._error("\\data\\ lists no n-grams")
    return counts

  def _fields(self, length: int) -> tuple[float, list[str], float]:
    line = self._next()
    fields = line.split()
    try:
      backoff = float(fields[length + 1]) if len(fields) == length + 2 else 0.0
      if len(fields) not in (length + 1, length + 2):
        raise ValueError
      return float(fields[0]), fields[1 : length + 1], backoff
    except (ValueError, IndexError):
      raise self._error(f"no probability with {length} words, found {line[:60]!r}") from None

  def _unigrams(self, count: int) -> Section:
    found = {}
    for _ in range(count):
      probability, (word,), backoff = self._fields(1)
      # Some programs write the unknown word in capitals.
      word = "<unk>" if word == "<UNK>" else word
      found[self._ids.setdefault(word, len(self._ids))] = (probability, backoff)
    values = np.full((len(self._ids), 2), (LOG10_OF_ZERO, 0.0), np.float32)
    values[list(found)] = list(found.values())
    ids = np.arange(len(values))
    return Section(
      np.zeros(len(values), np.int64), ids.astype(np.int32), values[:, 0].copy(), values[:, 1].copy()
    )

  def _ngrams(self, length: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int32 [n-grams, length], float32 [n-grams] and float32 [n-grams]."""
    words = np.empty((count, length), np.int32)
    values = np.empty((count, 2), np.float32)
    for row in range(count):
      probability, texts, backoff = self._fields(length)
      try:
        words[row] = [self._ids[text] for text in texts]
      except KeyError as error:
        raise self._error(f"{error.args[0]!r} is not among the words of length 1") from None
      values[row] = probability, backoff
    return words, values[:, 0].copy(), values[:, 1].copy()


def _with_ngrams(
  sections: list[Section],
  words: np.ndarray,
  probability: np.ndarray,
  backoff: np.ndarray,
  vocabulary_size: int,
) -> list[Section]:
  """Adds a section of n-grams longer by one word than the last one's; int32 [n-grams, length] words."""
  suffixes = words[:, 1:]
  parent = find_rows(sections, suffixes, vocabulary_size)
  if (parent < 0).any():
    missing = np.unique(suffixes[parent < 0], axis=0)
    estimate = backed_off(sections, missing, vocabulary_size)
    last = sections[-1]
    known = np.stack(section_word_ids(sections, len(sections) - 1, slice(None)), axis=1)
    sections = _with_ngrams(
      sections[:-1],
      np.concatenate([known, missing]).astype(np.int32),
      np.concatenate([last.log10_probability, estimate]),
      np.concatenate([last.log10_backoff, np.zeros(len(missing), np.float32)]),
      vocabulary_size,
    )
    parent = find_rows(sections, suffixes, vocabulary_size)
  order = np.argsort(parent * vocabulary_size + words[:, 0])
  return [*sections, Section(parent[order], words[order, 0], probability[order], backoff[order])]
