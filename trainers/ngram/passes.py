"""Counting and smoothing as passes over parts of the text and of the trie, which meet in files.

Each function does one piece of work and can run in any process: a pass is done when all its pieces are, and only then
may the next one begin. What a piece needs in memory is one chunk of text or one part of the trie; both are of
bounded size, however long the text is. Nothing depends on the order in which pieces are done, nor does the model
on how many parts there are.

    count_words(chunk) ─> part_ranges ─> write_windows(chunk) ─> build_part ─> all_discounts of all parts together
      ─> sum_contexts(part) ─> total_contexts(part) ─> part_sections(part)

Source: Heafield, Pouzyrevsky, Clark and Koehn 2013, "Scalable Modified Kneser-Ney Language Model Estimation"
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence

import numpy as np

from trainers.ngram.arpa import Section, keep, log10
from trainers.ngram.counting import SENTENCE_END, Level, build_levels, windows
from trainers.ngram.interpolation import Contexts, Totals, contexts, locate, probabilities
from trainers.ngram.kneser_ney import counts_of_counts, discounts
from trainers.ngram.smoothing import Smoothing


@dataclasses.dataclass(frozen=True)
class Plan:
  """What every piece of work has to know.

  Args:
    directory: where the pieces leave their files.
    order: words of the longest n-grams.
    vocabulary_size: number of ids, <unk>, <s> and </s> included.
    ranges: of last words, one a part of the trie, ascending; together they are all ids.
    num_chunks: of the text.
    smoothing: how, and what is left out.

  Raises:
    ValueError: there are more cut-offs than lengths.
  """

  directory: str
  order: int
  vocabulary_size: int
  ranges: tuple[range, ...]
  num_chunks: int
  smoothing: Smoothing = Smoothing()

  def __post_init__(self):
    if len(self.smoothing.cutoffs) > self.order:
      raise ValueError(
        f"{len(self.smoothing.cutoffs)} cut-offs for n-grams of up to {self.order} words: at most one for each length"
      )

  @property
  def prior(self) -> float:
    """See `Smoothing.prior`; the sentence start is no word that can follow."""
    return self.smoothing.prior(self.vocabulary_size - 1)

  def path(self, name: str) -> str:
    """Of one of the files."""
    return os.path.join(self.directory, name)


@dataclasses.dataclass(frozen=True)
class PartCounts:
  """Sums over one part of the trie, or over several.

  `counts_of_counts` int64 [order, 4], of all n-grams; `ngrams` int64 [order], those that are not left out;
  `unigrams`: the sum of the counts of all words that the smoothing is of.
  """

  counts_of_counts: np.ndarray
  ngrams: np.ndarray
  unigrams: int

  def __add__(self, other: PartCounts) -> PartCounts:
    return PartCounts(
      self.counts_of_counts + other.counts_of_counts,
      self.ngrams + other.ngrams,
      self.unigrams + other.unigrams,
    )


def count_words(ids: np.ndarray, lengths: np.ndarray, vocabulary_size: int) -> np.ndarray:
  """int64 [vocabulary]: how many windows of a chunk end in each word."""
  counts = np.bincount(ids, minlength=vocabulary_size)
  counts[SENTENCE_END] += len(lengths)
  return counts


def part_ranges(word_counts: np.ndarray, windows_per_part: int) -> tuple[range, ...]:
  """Ranges of last words with about as many windows each; a word that has more is a part of its own."""
  ends = np.cumsum(word_counts)
  num_parts = max(1, -(-int(ends[-1]) // windows_per_part))
  cuts = np.searchsorted(ends, ends[-1] * np.arange(1, num_parts) / num_parts)
  edges = [0, *(int(cut) for cut in np.unique(cuts) if 0 < cut < len(ends)), len(ends)]
  return tuple(range(start, stop) for start, stop in zip(edges[:-1], edges[1:], strict=True))


def write_windows(plan: Plan, chunk: int, ids: np.ndarray, lengths: np.ndarray) -> None:
  """The windows of a chunk of text, one file a part; see `counting.windows`."""
  columns = windows(ids, lengths, plan.order)
  starts = np.array([words.start for words in plan.ranges])
  # Few parts: numbers this small are sorted by counting.
  part_of = (np.searchsorted(starts, np.arange(plan.vocabulary_size), "right") - 1).astype(np.uint16)[
    columns[0]
  ]
  columns = columns[:, np.argsort(part_of, kind="stable")]
  edges = np.append(0, np.cumsum(np.bincount(part_of, minlength=len(plan.ranges))))
  for part in range(len(plan.ranges)):
    np.save(plan.path(f"windows-{chunk}-{part}.npy"), columns[:, edges[part] : edges[part + 1]])


def build_part(plan: Plan, part: int) -> PartCounts:
  """The trie of one part of all chunks' windows, which are not needed afterwards."""
  paths = [plan.path(f"windows-{chunk}-{part}.npy") for chunk in range(plan.num_chunks)]
  columns = np.concatenate([np.load(path) for path in paths], axis=1)
  levels = build_levels(columns, plan.ranges[part], plan.vocabulary_size)
  for path in paths:
    os.remove(path)
  for number, level in enumerate(levels):
    _save(plan, f"level-{part}-{number}", level, _LEVEL_COLUMNS)
  return PartCounts(
    np.stack([counts_of_counts(level) for level in levels]),
    np.array([plan.smoothing.is_kept(level, number).sum() for number, level in enumerate(levels)]),
    int(plan.smoothing.counts(levels[0], 0, plan.order).sum()),
  )


def all_discounts(counts: PartCounts) -> list[np.ndarray]:
  """`kneser_ney.discounts` for each length, from the sums over all parts."""
  return [discounts(row) for row in counts.counts_of_counts]


def sum_contexts(plan: Plan, part: int, taken: Sequence[np.ndarray]) -> float:
  """The part's contexts with their sums over this part's n-grams, in the order of their owners.

  Returns:
    The sum of the discounts of the part's words.
  """
  levels = _load_levels(plan, part)
  starts = np.array([words.start for words in plan.ranges] + [plan.vocabulary_size])
  discounted = plan.smoothing.discounted(levels, taken)
  found = contexts(levels, discounted, plan.vocabulary_size)
  edges = starts
  arrays = {}
  for number, context in enumerate(found):
    # Contexts are sorted by the shorter one that they end in, and those of one word by that word.
    edges = np.searchsorted(context.parent if number else context.word, edges)
    arrays |= {f"edges{number}": edges, f"of{number}": context.of}
    _save(plan, f"contexts-{part}-{number}", context, _CONTEXT_COLUMNS)
  np.savez(plan.path(f"edges-{part}.npz"), **arrays)
  return float(discounted[0].taken.sum())


def total_contexts(plan: Plan, owner: int) -> None:
  """Adds up what all parts say of the contexts that are n-grams of one part, and answers each of them."""
  levels = _load_levels(plan, owner)
  totals = [Totals.of_level(level) for level in levels[:-1]]
  all_rows = []
  for part in range(len(plan.ranges)):
    wanted = list(_wanted(plan, part, owner))
    rows = locate(
      levels, plan.ranges[owner], [(parent, word) for parent, word, _, _ in wanted], plan.vocabulary_size
    )
    for total, row, (_, _, count, discount) in zip(totals, rows, wanted, strict=True):
      total.add(row, count, discount)
    all_rows.append(rows)
  for number, total in enumerate(totals):
    total.add_prior(plan.prior)
    np.save(plan.path(f"backoff-{owner}-{number}.npy"), total.backoff)
    for part, rows in enumerate(all_rows):
      answer = np.stack([total.count[rows[number]], total.discount[rows[number]]])
      np.save(plan.path(f"totals-{part}-{owner}-{number}.npy"), answer)


def part_sections(
  plan: Plan, part: int, taken: Sequence[np.ndarray], unigram_count: int, unigram_discount: float
) -> list[Section]:
  """The smoothed n-grams of one part, without those left out.

  Args:
    taken: from `all_discounts`.
    unigram_count: `PartCounts.unigrams` of all parts together.
    unigram_discount: sum of what `sum_contexts` returned for all parts.
  """
  levels = _load_levels(plan, part)
  edges = np.load(plan.path(f"edges-{part}.npz"))
  totals = []
  for number in range(plan.order - 1):
    answers = [np.load(plan.path(f"totals-{part}-{owner}-{number}.npy")) for owner in range(len(plan.ranges))]
    totals.append(Totals(*np.concatenate(answers, axis=1)))
  unigrams = Totals(np.array([float(unigram_count)]), np.array([unigram_discount]))
  unigrams.add_prior(plan.prior)
  values = probabilities(
    levels,
    plan.smoothing.discounted(levels, taken),
    [edges[f"of{number}"] for number in range(plan.order - 1)],
    totals,
    unigrams,
    plan.vocabulary_size - 1,
  )
  backoffs = [np.load(plan.path(f"backoff-{part}-{number}.npy")) for number in range(plan.order - 1)]
  backoffs.append(np.ones(len(levels[-1])))
  sections = [
    Section(level.parent, level.word, log10(value), log10(backoff))
    for level, value, backoff in zip(levels, values, backoffs, strict=True)
  ]
  return keep(sections, [plan.smoothing.is_kept(level, number) for number, level in enumerate(levels)])


def _wanted(plan: Plan, part: int, owner: int) -> Iterator[tuple[np.ndarray, ...]]:
  """(parent, word, count, discount) of the contexts of one part that another one holds, for each length."""
  edges = np.load(plan.path(f"edges-{part}.npz"))
  shorter_start = 0
  for number in range(plan.order - 1):
    start, stop = edges[f"edges{number}"][owner : owner + 2]
    path = plan.path(f"contexts-{part}-{number}")
    parent, word, count, discount = (
      np.array(np.load(f"{path}-{name}.npy", mmap_mode="r")[start:stop]) for name in _CONTEXT_COLUMNS
    )
    yield (parent - shorter_start if number else parent), word, count, discount
    shorter_start = start


_CONTEXT_COLUMNS = ("parent", "word", "count", "discount")
_LEVEL_COLUMNS = ("parent", "word", "occurrences", "lefts")


def _save(plan: Plan, name: str, table: Contexts | Level, columns: Sequence[str]) -> None:
  """One file a column: contexts are read a slice at a time."""
  for column in columns:
    np.save(plan.path(f"{name}-{column}.npy"), getattr(table, column))


def _load_levels(plan: Plan, part: int) -> list[Level]:
  return [
    Level(*(np.load(plan.path(f"level-{part}-{number}-{column}.npy")) for column in _LEVEL_COLUMNS))
    for number in range(plan.order)
  ]
