"""Backoff models as files in the ARPA format, which KenLM, SRILM and others read and write.

Source: "ngram-format(5)" of the SRI Language Modeling Toolkit (Stolcke 2002)
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence

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
    columns = [words.take(pa.array(ids)) for ids in section_word_ids(sections, number, rows)]
    fields = [_texts(section.log10_probability[rows]), pc.binary_join_element_wise(*columns, " ")]
    if has_backoff:
      # The same few backoffs over and over: each is written once, which probabilities would not gain by.
      distinct = pa.array(section.log10_backoff[rows] + np.float32(0)).dictionary_encode()
      fields.append(pc.cast(distinct.dictionary, pa.string()).take(distinct.indices))
    # An empty last field puts the end of the line behind the others.
    lines = pc.binary_join_element_wise(pc.binary_join_element_wise(*fields, "\t"), "", "\n")
    offsets = np.frombuffer(lines.buffers()[1], np.int32)
    yield lines.buffers()[2].slice(0, int(offsets[len(lines)]))


def _texts(values: np.ndarray) -> pa.StringArray:
  # The shortest digits that give the same float32 again.
  return pc.cast(pa.array(values + np.float32(0)), pa.string())


def section_word_ids(sections: Sequence[Section], number: int, rows: slice) -> list[np.ndarray]:
  """The n-grams' words from first to last, int32 [rows] each."""
  parent, ids = sections[number].parent[rows], [sections[number].word[rows]]
  for section in reversed(sections[:number]):
    ids.append(section.word[parent])
    parent = section.parent[parent]
  return ids


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
