"""A backoff model as files of arrays: pieces as parts of the trie leave them, and the whole, put together without ever
being in memory.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from trainers.ngram.arpa import BackoffModel, Section

VOCABULARY_FILE = "vocabulary.txt"
_COLUMNS = tuple(field.name for field in dataclasses.fields(Section))


def save_piece(prefix: str, section: Section) -> None:
  """Writes the n-grams that one part of the trie has of one length; their parents are rows of that part."""
  for column in _COLUMNS:
    np.save(f"{prefix}-{column}.npy", getattr(section, column))


def join_pieces(directory: str, number: int, prefixes: Sequence[str], shorter_counts: Sequence[int]) -> None:
  """Writes all n-grams of one length.

  Args:
    directory: of the model.
    number: of words less one.
    prefixes: of the pieces, in the order of their parts; their files are not needed afterwards.
    shorter_counts: of each part, its number of n-grams shorter by one word.
  """
  starts = np.concatenate([[0], np.cumsum(shorter_counts)]) if number else np.zeros(len(prefixes), np.int64)
  for column in _COLUMNS:
    pieces = [np.load(f"{prefix}-{column}.npy", mmap_mode="r") for prefix in prefixes]
    path = _path(directory, number, column)
    total = sum(len(piece) for piece in pieces)
    if not total:
      np.save(path, np.zeros(0, pieces[0].dtype))
    else:
      whole = np.lib.format.open_memmap(path, "w+", pieces[0].dtype, (total,))
      end = 0
      for piece, start in zip(pieces, starts, strict=False):
        whole[end : end + len(piece)] = piece + start if column == "parent" and number else piece
        end += len(piece)
      whole.flush()
    for prefix in prefixes:
      os.remove(f"{prefix}-{column}.npy")


def save_vocabulary(directory: str, words: Sequence[str]) -> None:
  """Writes the words, one a line, in the order of their ids."""
  with open(os.path.join(directory, VOCABULARY_FILE), "w", encoding="utf-8", newline="\n") as file:
    file.write("".join(f"{word}\n" for word in words))


def load_model(directory: str) -> BackoffModel:
  """The model whose sections `join_pieces` wrote.

  Raises:
    ValueError: there is none.
  """
  path = os.path.join(directory, VOCABULARY_FILE)
  if not os.path.exists(path):
    raise ValueError(f"{directory}: no n-gram model there")
  with open(path, encoding="utf-8", newline="\n") as file:
    words = file.read().split("\n")[:-1]
  sections = []
  while os.path.exists(_path(directory, len(sections), "word")):
    sections.append(Section(*(np.load(_path(directory, len(sections), column)) for column in _COLUMNS)))
  return BackoffModel(words, sections)


def _path(directory: str, number: int, column: str) -> str:
  return os.path.join(directory, f"{number + 1}-{column}.npy")
