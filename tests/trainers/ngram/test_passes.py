"""Smoothing in passes: Kneser-Ney equal to KenLM's, every smoothing the same for any number of parts."""

import pathlib

import numpy as np
import pytest

from trainers.ngram.arpa import SPECIAL_WORDS, write_arpa
from trainers.ngram.arpa_reader import read_arpa
from trainers.ngram.kneser_ney import FALLBACK_DISCOUNTS, discounts
from trainers.ngram.passes import Plan, part_ranges, part_sections
from trainers.ngram.smoothing import Smoothing

DATA = pathlib.Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def kenlm():
  return read_arpa(str(DATA / "genesis.arpa"))


@pytest.mark.parametrize(
  "file, cutoffs",
  # lmplz -o 3 < genesis.txt, and the same with --prune 0 1 2.
  [("genesis.arpa", ()), ("genesis.arpa", (0,)), ("genesis_pruned.arpa", (0, 1, 2))],
)
def test_the_model_is_kenlms(read_text, estimate, tmp_path, file, cutoffs):
  reference = read_arpa(str(DATA / file))
  text = read_text(reference.vocabulary)
  ours, _, counts = estimate(tmp_path, *text, reference.vocabulary, 3, Smoothing(cutoffs=cutoffs))
  assert counts.ngrams.tolist() == [len(section) for section in ours.sections]
  for section, expected in zip(ours.sections, reference.sections, strict=True):
    assert np.array_equal(section.parent, expected.parent)
    assert np.array_equal(section.word, expected.word)
    # KenLM writes the start of a sentence, which is never predicted, as log10 1.
    np.testing.assert_allclose(section.log10_probability, expected.log10_probability, atol=2e-6)
    np.testing.assert_allclose(section.log10_backoff, expected.log10_backoff, atol=2e-6)


@pytest.mark.parametrize(
  "smoothing, windows_per_part, num_chunks, parts",
  [
    (Smoothing(), 1000, 3, 3),
    (Smoothing(), 100, 8, 23),
    (Smoothing(cutoffs=(0, 1, 2)), 400, 3, 7),
    (Smoothing("add_k", k=0.3), 400, 3, 7),
    (Smoothing("maximum_likelihood", cutoffs=(0, 0, 1)), 400, 3, 7),
  ],
)
def test_parts_and_chunks_change_nothing(
  kenlm, read_text, estimate, tmp_path, smoothing, windows_per_part, num_chunks, parts
):
  files = []
  for number, settings in enumerate([{}, {"windows_per_part": windows_per_part, "num_chunks": num_chunks}]):
    folder = tmp_path / str(number)
    model, plan, _ = estimate(
      folder, *read_text(kenlm.vocabulary), kenlm.vocabulary, 3, smoothing, **settings
    )
    write_arpa(str(folder / "model.arpa"), model)
    files.append((folder / "model.arpa").read_bytes())
  assert len(plan.ranges) == parts
  assert files[0] == files[1]


def test_the_counts_of_a_part_are_those_of_its_sections(kenlm, read_text, estimate, tmp_path):
  smoothing = Smoothing("maximum_likelihood", cutoffs=(0, 1))
  _, plan, counts = estimate(
    tmp_path, *read_text(kenlm.vocabulary), kenlm.vocabulary, 3, smoothing, windows_per_part=1000
  )
  nothing = [np.zeros(4)] * 3
  parts = [part_sections(plan, part, nothing, counts.unigrams, 0.0) for part in range(3)]
  assert counts.ngrams.tolist() == [sum(len(part[number]) for part in parts) for number in range(3)]
  for part, words in zip(parts, plan.ranges, strict=True):
    assert part[0].word.tolist() == list(words)
    for shorter, longer in zip(part[:-1], part[1:], strict=True):
      assert longer.parent.max() < len(shorter)


def test_more_cutoffs_than_lengths_are_refused():
  with pytest.raises(ValueError, match="3 cut-offs for n-grams of up to 2 words"):
    Plan("", 2, 10, (range(10),), 1, Smoothing(cutoffs=(0, 1, 1)))


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
