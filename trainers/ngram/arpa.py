"""Backoff models as files in the ARPA format, which KenLM, SRILM and others read and write.

Source: "ngram-format(5)" of the SRI Language Modeling Toolkit (Stolcke 2002)
"""

from __future__ import annotations

import dataclasses
import gzip
import io
import os
from collections.abc import Iterator, Sequence
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainers.ngram.counting import Ngrams, find

SPECIAL_WORDS = ("<unk>", "<s>", "</s>")
# The format's way to write the logarithm of 0.
LOG10_OF_ZERO = -99.0
_LINES_AT_ONCE = 1 << 20
FOOTER = b"\n\\end\\\n"


@dataclasses.dataclass(frozen=True)
class Section(Ngrams):
  """N-grams with what a backoff model says of them: float32 [n-grams] each."""

  log10_probability: np.ndarray
  log10_backoff: np.ndarray


@dataclasses.dataclass(frozen=True)
class BackoffModel:
  """P(word | history) is that of the longest n-gram there is, times the backoffs of all longer histories.

  `vocabulary` begins with `SPECIAL_WORDS`; the row of a word in the first section is its id.
  """

  vocabulary: Sequence[str]
  sections: Sequence[Section]


def log10(values: np.ndarray) -> np.ndarray:
  """float32; `LOG10_OF_ZERO` for 0."""
  with np.errstate(divide="ignore"):
    return np.maximum(np.log10(values), LOG10_OF_ZERO).astype(np.float32)


def keep(sections: Sequence[Section], kept: Sequence[np.ndarray]) -> list[Section]:
  """Some of a model's n-grams, or of a part's; bool [n-grams] each, which hold with an n-gram what it ends in."""
  remaining = []
  rows = np.zeros(1, np.int64)
  for section, chosen in zip(sections, kept, strict=True):
    remaining.append(
      Section(
        rows[section.parent[chosen]],
        section.word[chosen],
        section.log10_probability[chosen],
        section.log10_backoff[chosen],
      )
    )
    # Of the n-grams longer by one word: where what they end in has gone.
    rows = np.cumsum(chosen) - 1
  return remaining


def write_arpa(path: str, model: BackoffModel) -> None:
  """Writes a file that appears whole or not at all."""
  partial = f"{path}.partial"
  with open(partial, "wb") as file:
    file.write(header([len(section) for section in model.sections]))
    words = pa.array(model.vocabulary, pa.string())
    for number in range(len(model.sections)):
      file.write(section_title(number))
      for lines in section_lines(model.sections, number, words):
        file.write(lines)
    file.write(FOOTER)
  os.replace(partial, path)


def header(counts: Sequence[int]) -> bytes:
  """The lines before the first section, from the number of n-grams of each length."""
  lines = [f"ngram {length}={count}" for length, count in enumerate(counts, 1)]
  return ("\\data\\\n" + "\n".join(lines) + "\n").encode()


def section_title(number: int) -> bytes:
  """The lines before the n-grams of `number` + 1 words."""
  return f"\n\\{number + 1}-grams:\n".encode()


def section_lines(sections: Sequence[Section], number: int, words: pa.StringArray) -> Iterator[pa.Buffer]:
  """The lines of one section, a million at a time: "log10 probability, n-gram, log10 backoff".

  Args:
    sections: of a whole model, or of a part that holds all n-grams with last words in a range.
    number: which section, from 0.
    words: the vocabulary.
  """
  section = sections[number]
  has_backoff = number + 1 < len(sections)
  for start in range(0, len(section), _LINES_AT_ONCE):
    rows = slice(start, start + _LINES_AT_ONCE)
    columns = [words.take(pa.array(ids)) for ids in _word_ids(sections, number, rows)]
    fields = [_texts(section.log10_probability[rows]), pc.binary_join_element_wise(*columns, " ")]
    if has_backoff:
      fields.append(_texts(section.log10_backoff[rows]))
    # An empty last field puts the end of the line behind the others.
    lines = pc.binary_join_element_wise(pc.binary_join_element_wise(*fields, "\t"), "", "\n")
    offsets = np.frombuffer(lines.buffers()[1], np.int32)
    yield lines.buffers()[2].slice(0, int(offsets[len(lines)]))


def _texts(values: np.ndarray) -> pa.StringArray:
  # The shortest digits that give the same float32 again.
  return pc.cast(pa.array(values + np.float32(0)), pa.string())


def _word_ids(sections: Sequence[Section], number: int, rows: slice) -> list[np.ndarray]:
  """The n-grams' words from first to last, int32 [rows] each."""
  parent, ids = sections[number].parent[rows], [sections[number].word[rows]]
  for section in reversed(sections[:number]):
    ids.append(section.word[parent])
    parent = section.parent[parent]
  return ids


def read_arpa(path: str) -> BackoffModel:
  """Reads a file, gzipped where its name ends in .gz.

  Words are numbered in the order of the file, after <unk>, <s> and </s>, which are added where they are missing,
  with a probability of 0. N-grams whose last words are no n-gram of their own, as pruned models of other programs
  have them, get those added, with the probability that backing off gives.

  Raises:
    ValueError: it is not in the ARPA format; one line that names the file and the line.
  """
  open_file = gzip.open if path.endswith(".gz") else open
  with open_file(path, "rb") as raw:
    return _Parser(path, io.TextIOWrapper(raw, encoding="utf-8", newline="\n")).parse()


class _Parser:
  """Reads one file line by line."""

  def __init__(self, path: str, lines: IO[str]):
    self._path = path
    self._lines = enumerate(lines, 1)
    self._number = 0
    self._ids = {word: number for number, word in enumerate(SPECIAL_WORDS)}

  def parse(self) -> BackoffModel:
    try:
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
    except UnicodeDecodeError as error:
      raise self._error(f"not UTF-8 ({error.reason})") from error
    return BackoffModel(tuple(self._ids), sections)

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
    self._number, line = next(self._lines, (self._number, ""))
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
    known = np.stack(_word_ids(sections, len(sections) - 1, slice(None)), axis=1)
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


def find_rows(sections: Sequence[Section], words: np.ndarray, vocabulary_size: int) -> np.ndarray:
  """Rows of n-grams, int [n, length], in the section of their length; -1 where there is no such n-gram."""
  rows = words[:, -1].astype(np.int64)
  for back in range(2, words.shape[1] + 1):
    found = find(sections[back - 1], np.maximum(rows, 0), words[:, -back], vocabulary_size)
    rows = np.where(rows < 0, -1, found)
  return rows


def backed_off(sections: Sequence[Section], words: np.ndarray, vocabulary_size: int) -> np.ndarray:
  """log10 probability of the last word of each n-gram after the others, float32 [n]; int [n, length] words."""
  rows = find_rows(sections, words, vocabulary_size)
  own = sections[words.shape[1] - 1].log10_probability[np.maximum(rows, 0)]
  if (rows >= 0).all():
    return own
  context = find_rows(sections, words[:, :-1], vocabulary_size)
  weight = np.where(context < 0, 0.0, sections[words.shape[1] - 2].log10_backoff[np.maximum(context, 0)])
  shorter = backed_off(sections, words[:, 1:], vocabulary_size)
  return np.where(rows >= 0, own, weight + shorter).astype(np.float32)
