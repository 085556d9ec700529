"""Counting in Beam how often words stand near each other: chunks of text are counted, parts of the matrix put together.

Counts are whole numbers, and chunks and parts depend on the text alone: any number of workers writes the same files.
Both are of bounded size, however long the text is. What a chunk counts stays in the work folder, which all workers see,
sorted by rows, so that a part reads its own rows only.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import scipy.sparse
from apache_beam.pvalue import AsList, AsSingleton

from components.ngram_counting import Chunk
from trainers.embeddings.cooccurrence import PairCounts, Window, count_pairs, merge, pairs_of_rows, to_matrix
from trainers.ngram.passes import part_ranges

# Pairs that all chunks together have in a part; a row that has more is a part of its own.
_PAIRS_PER_PART = 1 << 22
_PART_FILE = re.compile(r"part-(\d{5})-of-(\d{5})\.npz")


@dataclasses.dataclass(frozen=True)
class _Plan:
  """Ranges of rows, one a part, and the chunks in their order."""

  ranges: tuple[range, ...]
  chunks: tuple[Chunk, ...]
  pairs_per_part: int


class CountCooccurrences(beam.PTransform):
  """(Chunk, anything) pairs, as `ngram_counting.WriteChunks` yields them -> (part, number of its pairs) of each part.

  The counts are in `directory`; `load_cooccurrences` reads them.

  Args:
    directory: for this alone; all workers see it.
    vocabulary_size: number of ids, <unk>, <s> and </s> included.
    window: what is near.
    pairs_per_part: bounds what is in memory at once, changes nothing but the number of files.
  """

  def __init__(
    self, directory: str, vocabulary_size: int, window: Window, pairs_per_part: int = _PAIRS_PER_PART
  ):
    super().__init__()
    self._pairs_per_part = pairs_per_part
    self._directory = directory
    self._vocabulary_size = vocabulary_size
    self._window = window

  def expand(self, counted: beam.PCollection) -> beam.PCollection:
    directory, size = self._directory, self._vocabulary_size
    chunks = counted | "Chunks" >> beam.Map(lambda pair: pair[0])
    rows = chunks | "Count" >> beam.Map(_count_chunk, directory, size, self._window)
    total = rows | "Rows" >> beam.CombineGlobally(_SumRows(size))
    start = counted.pipeline | "Start" >> beam.Create([None])
    plan = start | "Plan" >> beam.Map(_make_plan, self._pairs_per_part, AsSingleton(total), AsList(chunks))
    parts = plan | "Parts" >> beam.FlatMap(lambda made: range(len(made.ranges))) | beam.Reshuffle()
    merged = parts | "Merge" >> beam.Map(_merge_part, AsSingleton(plan), directory, size, self._window.units)
    # What a chunk has counted is not needed once all parts are there.
    _ = chunks | "Remove" >> beam.Map(_remove_chunk, directory, AsList(merged))
    return merged


def load_cooccurrences(directory: str) -> scipy.sparse.csr_matrix:
  """float64 [vocabulary, vocabulary]: what `CountCooccurrences` counted, in pairs; symmetric.

  Raises:
    ValueError: parts are missing.
  """
  found = sorted(name for name in os.listdir(directory) if _PART_FILE.fullmatch(name))
  expected = int(_PART_FILE.fullmatch(found[0])[2]) if found else 1
  if found != [_part_file(part, expected) for part in range(expected)]:
    raise ValueError(f"{directory}: {len(found)} of {expected} parts of the counts are there")
  parts = [np.load(os.path.join(directory, name)) for name in found]
  # Ranges of rows, in their order: nothing is left to merge.
  counts = PairCounts(
    np.concatenate([part["keys"] for part in parts]), np.concatenate([part["counts"] for part in parts])
  )
  return to_matrix(counts, int(parts[0]["vocabulary_size"]), int(parts[0]["units"]))


class _SumRows(beam.CombineFn):
  """Adds up int64 [vocabulary]; zeros for a text of no chunks."""

  def __init__(self, vocabulary_size: int):
    super().__init__()
    self._vocabulary_size = vocabulary_size

  def create_accumulator(self) -> np.ndarray:
    return np.zeros(self._vocabulary_size, np.int64)

  def add_input(self, accumulator: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return accumulator + rows

  def merge_accumulators(self, accumulators: Iterable[np.ndarray]) -> np.ndarray:
    return sum(accumulators, self.create_accumulator())

  def extract_output(self, accumulator: np.ndarray) -> np.ndarray:
    return accumulator


def _chunk_paths(directory: str, chunk: Chunk) -> tuple[str, str]:
  """Files of a chunk's keys and counts."""
  prefix = os.path.join(directory, f"pairs-{chunk.source}-{chunk.number}")
  return f"{prefix}-keys.npy", f"{prefix}-counts.npy"


def _part_file(part: int, num_parts: int) -> str:
  return f"part-{part:05d}-of-{num_parts:05d}.npz"


def _count_chunk(chunk: Chunk, directory: str, vocabulary_size: int, window: Window) -> np.ndarray:
  """Writes a chunk's counts; returns how many pairs each row has, int64 [vocabulary]."""
  with np.load(chunk.path) as arrays:
    counts = count_pairs(arrays["ids"], arrays["lengths"], vocabulary_size, window)
  for path, array in zip(_chunk_paths(directory, chunk), (counts.keys, counts.counts), strict=True):
    np.save(path, array)
  return pairs_of_rows(counts, vocabulary_size)


def _make_plan(_: None, pairs_per_part: int, rows: np.ndarray, chunks: Sequence[Chunk]) -> _Plan:
  return _Plan(part_ranges(rows, pairs_per_part), tuple(sorted(chunks)), pairs_per_part)


def _merge_part(part: int, plan: _Plan, directory: str, vocabulary_size: int, units: int) -> tuple[int, int]:
  """Adds up what all chunks have in a range of rows; returns the part and how many pairs it has."""
  rows = plan.ranges[part]
  edges = [rows.start * vocabulary_size, rows.stop * vocabulary_size]
  pieces, waiting = [], 0
  for chunk in plan.chunks:
    keys, counts = (np.load(path, mmap_mode="r") for path in _chunk_paths(directory, chunk))
    start, stop = np.searchsorted(keys, edges)
    pieces.append(PairCounts(np.array(keys[start:stop]), np.array(counts[start:stop])))
    waiting += int(stop - start)
    if waiting > plan.pairs_per_part:
      # A row of its own may be long in every chunk: what has been read is put together before more is.
      pieces, waiting = [merge(pieces)], 0
  total = merge(pieces)
  np.savez(
    os.path.join(directory, _part_file(part, len(plan.ranges))),
    keys=total.keys,
    counts=total.counts,
    vocabulary_size=vocabulary_size,
    units=units,
  )
  return part, len(total)


def _remove_chunk(chunk: Chunk, directory: str, _: Any) -> None:
  for path in _chunk_paths(directory, chunk):
    if os.path.exists(path):
      os.remove(path)
