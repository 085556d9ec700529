"""N-grams in Beam: the passes of `trainers.ngram.passes` over chunks of text and parts of the trie.

Chunks and parts depend on the text alone, so that any number of workers gives the same model. What one pass writes, the
next one reads from the work folder, which all workers see; a pass has the one before as a side input, which in Beam
means that it waits for all of it.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.pvalue import AsDict, AsList, AsSingleton

from trainers.ngram import passes
from trainers.ngram.arpa import section_lines
from trainers.ngram.passes import PartCounts, Plan
from trainers.ngram.smoothing import Smoothing
from trainers.ngram.tables import save_piece

# Bounds of what a worker has in memory. They show in the work folder only, never in the model.
_TOKENS_PER_CHUNK = 1 << 20
_WINDOWS_PER_PART = 1 << 21
_RECORDS_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True, order=True)
class Chunk:
  """Token ids of whole sentences, kept in a file; the `number`-th chunk of the `source`-th file of examples."""

  source: int
  number: int
  path: str


@dataclasses.dataclass(frozen=True)
class _Work:
  """The plan of a model's passes, and the chunks in the order of the numbers that they have in it."""

  plan: Plan
  chunks: tuple[Chunk, ...]
  with_arpa: bool


# The number of a model, and that of a part of its trie.
_Part = tuple[int, int]


def read_tokens(files: Iterable[str], feature: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Batches of sentences from materialised examples.

  Args:
    files: TFRecord files.
    feature: name of the int64 feature that holds a sentence's token ids.

  Yields:
    int32 [tokens], the sentences one after the other, and int64 [sentences], their lengths.
  """
  import tensorflow as tf

  spec = {feature: tf.io.RaggedFeature(tf.int64)}
  records = tf.data.TFRecordDataset(list(files), compression_type="GZIP").batch(_RECORDS_AT_ONCE)
  for batch in records:
    ragged = tf.io.parse_example(batch, spec)[feature]
    yield ragged.values.numpy().astype(np.int32), ragged.row_lengths().numpy()


def count_all_words(files: Iterable[str], feature: str, vocabulary_size: int) -> np.ndarray:
  """int64 [vocabulary]: `passes.count_words` of all sentences of materialised examples; see `read_tokens`."""
  counts = (passes.count_words(ids, lengths, vocabulary_size) for ids, lengths in read_tokens(files, feature))
  return sum(counts, np.zeros(vocabulary_size, np.int64))


class WriteChunks(beam.PTransform):
  """(number, TFRecord file) pairs -> (Chunk, words counted as `passes.count_words` does), written to `directory`."""

  def __init__(self, directory: str, feature: str, vocabulary_size: int):
    super().__init__()
    self._arguments = (directory, feature, vocabulary_size)

  def expand(self, files: beam.PCollection) -> beam.PCollection:
    return files | "ToChunks" >> beam.FlatMap(_write_chunks, *self._arguments) | beam.Reshuffle()


@dataclasses.dataclass(frozen=True)
class Estimate:
  """One model to estimate.

  `directory` is for the files of all its passes; `order` is the number of words of its longest n-grams; `with_arpa`
  says whether its n-grams are also written as lines of an ARPA file.
  """

  directory: str
  order: int
  smoothing: Smoothing
  with_arpa: bool = False


class EstimateNgrams(beam.PTransform):
  """(Chunk, word counts) pairs -> nothing: each model's n-grams are in its directory, in pieces.

  See `piece_path` for the arrays and the lines of the ARPA file, and `read_counts`.

  Args:
    estimates: the models; every pass is done for all of them at once.
    vocabulary: all words in the order of their ids.
  """

  def __init__(self, estimates: Sequence[Estimate], vocabulary: Sequence[str]):
    super().__init__()
    self._estimates = list(estimates)
    self._vocabulary = list(vocabulary)

  def expand(self, counted: beam.PCollection) -> beam.PCollection:
    chunks = counted | "Chunks" >> beam.Map(lambda pair: pair[0])
    total = counted | "Words" >> beam.Map(lambda pair: pair[1]) | beam.CombineGlobally(sum)
    works = AsSingleton(
      counted.pipeline
      | "Start" >> beam.Create([None])
      | "Plan" >> beam.Map(_make_works, self._estimates, AsSingleton(total), AsList(chunks))
    )
    written = chunks | "Windows" >> beam.Map(_write_windows, works)
    parts = (
      counted.pipeline
      | "Models" >> beam.Create(range(len(self._estimates)))
      | "Parts" >> beam.FlatMap(_parts, works)
      | beam.Reshuffle()
    )
    built = parts | "Build" >> beam.Map(_build, works, AsList(written))
    counts = AsDict(built | "Counts" >> beam.CombinePerKey(_sum_counts))
    # Each pass needs what the one before says of all parts.
    summed = parts | "Sums" >> beam.Map(_sum_contexts, works, counts)
    totals = parts | "Totals" >> beam.Map(_total_contexts, works, AsList(summed))
    return parts | "Pieces" >> beam.Map(
      _write_pieces, works, counts, AsList(summed), self._vocabulary, AsList(totals)
    )


def piece_path(directory: str, part: int, number: int) -> str:
  """Where a part's n-grams of `number` + 1 words are: `trainers.ngram.tables` has the endings, and .arpa."""
  return os.path.join(directory, f"piece-{part}-{number}")


def _write_chunks(
  numbered: tuple[int, str], directory: str, feature: str, vocabulary_size: int
) -> Iterator[tuple[Chunk, np.ndarray]]:
  source, file = numbered
  batches: list[tuple[np.ndarray, np.ndarray]] = []
  number = 0
  for batch in read_tokens([file], feature):
    batches.append(batch)
    if sum(len(ids) for ids, _ in batches) >= _TOKENS_PER_CHUNK:
      yield _write_chunk(directory, source, number, batches, vocabulary_size)
      batches, number = [], number + 1
  if batches:
    yield _write_chunk(directory, source, number, batches, vocabulary_size)


def _write_chunk(
  directory: str, source: int, number: int, batches: Sequence[tuple], vocabulary_size: int
) -> tuple[Chunk, np.ndarray]:
  ids, lengths = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
  path = os.path.join(directory, f"tokens-{source}-{number}.npz")
  np.savez(path, ids=ids, lengths=lengths)
  return Chunk(source, number, path), passes.count_words(ids, lengths, vocabulary_size)


def _sum_counts(counts: Iterable[PartCounts]) -> PartCounts:
  return functools.reduce(operator.add, counts)


def _make_works(
  _: None, estimates: Sequence[Estimate], word_counts: np.ndarray, chunks: Sequence[Chunk]
) -> list[_Work]:
  ranges = passes.part_ranges(word_counts, _WINDOWS_PER_PART)
  return [
    _Work(
      Plan(made.directory, made.order, len(word_counts), ranges, len(chunks), made.smoothing),
      tuple(sorted(chunks)),
      made.with_arpa,
    )
    for made in estimates
  ]


def _write_windows(chunk: Chunk, works: Sequence[_Work]) -> None:
  arrays = np.load(chunk.path)
  for work in works:
    passes.write_windows(work.plan, work.chunks.index(chunk), arrays["ids"], arrays["lengths"])


def _parts(model: int, works: Sequence[_Work]) -> list[_Part]:
  return [(model, part) for part in range(len(works[model].plan.ranges))]


def _build(place: _Part, works: Sequence[_Work], _: Any) -> tuple[int, PartCounts]:
  model, part = place
  return model, passes.build_part(works[model].plan, part)


def _sum_contexts(
  place: _Part, works: Sequence[_Work], counts: Mapping[int, PartCounts]
) -> tuple[int, int, float]:
  model, part = place
  return model, part, passes.sum_contexts(works[model].plan, part, passes.all_discounts(counts[model]))


def _total_contexts(place: _Part, works: Sequence[_Work], _: Any) -> None:
  model, part = place
  passes.total_contexts(works[model].plan, part)


def _write_pieces(
  place: _Part,
  works: Sequence[_Work],
  counts: Mapping[int, PartCounts],
  summed: Sequence[tuple[int, int, float]],
  vocabulary: Sequence[str],
  _: Any,
) -> None:
  """Writes what a part has of a model, and how much it is."""
  model, part = place
  plan, count = works[model].plan, counts[model]
  unigram_discount = sum(value for of, _, value in sorted(summed) if of == model)
  sections = passes.part_sections(plan, part, passes.all_discounts(count), count.unigrams, unigram_discount)
  texts = pa.array(vocabulary, pa.string())
  for number, section in enumerate(sections):
    path = piece_path(plan.directory, part, number)
    save_piece(path, section)
    if works[model].with_arpa:
      with open(f"{path}.arpa", "wb") as file:
        for lines in section_lines(sections, number, texts):
          file.write(lines)
  with open(_counts_path(plan.directory, part), "w") as file:
    json.dump([len(section) for section in sections], file)


def read_counts(directory: str) -> list[list[int]]:
  """The numbers of n-grams of 1, 2, ... words of each part of a model, in the order of the parts."""
  counts = []
  while os.path.exists(path := _counts_path(directory, len(counts))):
    with open(path) as file:
      counts.append(json.load(file))
  return counts


def _counts_path(directory: str, part: int) -> str:
  return os.path.join(directory, f"counts-{part}.json")
