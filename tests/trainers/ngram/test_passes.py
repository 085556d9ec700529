"""Kneser-Ney smoothing in passes: equal to KenLM's, the same for any number of parts, and a distribution."""

import functools
import pathlib

import numpy as np
import pytest

from trainers.ngram.arpa import SPECIAL_WORDS, BackoffModel, Section, backed_off, read_arpa, write_arpa
from trainers.ngram.kneser_ney import FALLBACK_DISCOUNTS, discounts
from trainers.ngram.passes import (
  Plan,
  all_discounts,
  build_part,
  count_words,
  part_ranges,
  part_sections,
  sum_contexts,
  total_contexts,
  write_windows,
)

DATA = pathlib.Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def kenlm():
  return read_arpa(str(DATA / "genesis.arpa"))


def read_text(vocabulary):
  """ids and lengths of the sentences."""
  ids = {word: number for number, word in enumerate(vocabulary)}
  sentences = [line.split() for line in (DATA / "genesis.txt").read_text(encoding="utf-8").splitlines()]
  flat = np.array([ids[word] for sentence in sentences for word in sentence], np.int32)
  return flat, np.array([len(sentence) for sentence in sentences])


def estimate(folder, ids, lengths, vocabulary, order, windows_per_part=10**9, num_chunks=1):
  """All passes, one piece after the other."""
  size = len(vocabulary)
  ranges = part_ranges(count_words(ids, lengths, size), windows_per_part)
  plan = Plan(str(folder), order, size, ranges, num_chunks)
  edges = np.linspace(0, len(lengths), num_chunks + 1).astype(int)
  tokens = np.append(0, np.cumsum(lengths))
  for chunk, (start, stop) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
    write_windows(plan, chunk, ids[tokens[start] : tokens[stop]], lengths[start:stop])
  parts = range(len(ranges))
  counts = functools.reduce(lambda a, b: a + b, [build_part(plan, part) for part in parts])
  taken = all_discounts(counts)
  unigram_discount = sum(sum_contexts(plan, part, taken) for part in parts)
  for part in parts:
    total_contexts(plan, part)
  sections = [part_sections(plan, part, taken, counts.unigrams, unigram_discount) for part in parts]
  return BackoffModel(vocabulary, [_joined(number, sections) for number in range(order)]), len(ranges)


def _joined(number, parts):
  """One section of all parts; rows of the level below count on."""
  shift, parents = 0, []
  for part in parts:
    parents.append(part[number].parent + (shift if number else 0))
    shift += len(part[number - 1]) if number else 0
  rest = ("word", "log10_probability", "log10_backoff")
  columns = [np.concatenate([getattr(part[number], name) for part in parts]) for name in rest]
  return Section(np.concatenate(parents), *columns)


def test_the_model_is_kenlms(kenlm, tmp_path):
  ours, _ = estimate(tmp_path, *read_text(kenlm.vocabulary), kenlm.vocabulary, 3)
  for section, reference in zip(ours.sections, kenlm.sections, strict=True):
    assert np.array_equal(section.parent, reference.parent)
    assert np.array_equal(section.word, reference.word)
    # KenLM writes the start of a sentence, which is never predicted, as log10 1.
    np.testing.assert_allclose(section.log10_probability, reference.log10_probability, atol=2e-6)
    np.testing.assert_allclose(section.log10_backoff, reference.log10_backoff, atol=2e-6)


@pytest.mark.parametrize("windows_per_part, num_chunks, parts", [(1000, 3, 3), (100, 8, 23)])
def test_parts_and_chunks_change_nothing(kenlm, tmp_path, windows_per_part, num_chunks, parts):
  files = []
  for number, settings in enumerate([{}, {"windows_per_part": windows_per_part, "num_chunks": num_chunks}]):
    folder = tmp_path / str(number)
    folder.mkdir()
    model, num_parts = estimate(folder, *read_text(kenlm.vocabulary), kenlm.vocabulary, 3, **settings)
    write_arpa(str(folder / "model.arpa"), model)
    files.append((folder / "model.arpa").read_bytes())
  assert num_parts == parts
  assert files[0] == files[1]


@pytest.mark.parametrize("order", [1, 2, 4, 6])
def test_probabilities_after_every_history_sum_to_one(kenlm, tmp_path, order):
  vocabulary = kenlm.vocabulary
  ids, lengths = read_text(vocabulary)
  model, _ = estimate(tmp_path, ids, lengths, vocabulary, order, windows_per_part=500)
  words = np.array([word for word in range(len(vocabulary)) if vocabulary[word] != "<s>"])
  generator = np.random.default_rng(5)
  starts = generator.integers(0, len(ids) - order, 40)
  seen = [ids[start : start + order - 1] for start in starts]
  unseen = generator.integers(0, len(vocabulary), (40, order - 1))
  for history in [*seen, *unseen]:
    ngrams = np.concatenate([np.tile(history, (len(words), 1)), words[:, None]], axis=1).astype(int)
    total = np.sum(10.0 ** backed_off(model.sections, ngrams, len(vocabulary)).astype(np.float64))
    assert total == pytest.approx(1, abs=1e-5)


def test_discounts_by_hand():
  # Y = 10 / (10 + 2 * 5) = 0.5: D1 = 1 - 2 * 0.5 * 5 / 10, D2 = 2 - 3 * 0.5 * 3 / 5, D3 = 3 - 4 * 0.5 * 2 / 3
  assert discounts(np.array([10, 5, 3, 2])) == pytest.approx([0, 0.5, 1.1, 5 / 3])


@pytest.mark.parametrize("counts", [(0, 5, 3, 2), (10, 0, 3, 2), (10, 5, 0, 2), (10, 1, 9, 1)])
def test_too_few_counts_fall_back(counts):
  assert discounts(np.array(counts)).tolist() == [0, *FALLBACK_DISCOUNTS]


def test_ranges_are_all_words_and_about_as_heavy():
  counts = np.array([0, 0, 50, 1, 1, 1, 500, 30, 30, 30])
  ranges = part_ranges(counts, 100)
  assert [word for words in ranges for word in words] == list(range(len(counts)))
  assert max(counts[list(words)].sum() for words in ranges if 6 not in words) <= 150
  assert SPECIAL_WORDS == ("<unk>", "<s>", "</s>")
