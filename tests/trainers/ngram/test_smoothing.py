"""Smoothings against their formulas and the counts of a dictionary, and all of them as distributions."""

import collections

import numpy as np
import pytest

from trainers.ngram.arpa import LOG10_OF_ZERO, backed_off
from trainers.ngram.counting import SENTENCE_END, SENTENCE_START
from trainers.ngram.smoothing import Smoothing

#      <s> a a b </s>   <s> a b </s>   <s> b </s>, and a word c that does not occur
VOCABULARY = ("<unk>", "<s>", "</s>", "a", "b", "c")
IDS = np.array([3, 3, 4, 3, 4, 4], np.int32)
LENGTHS = np.array([3, 2, 1])


def counts(length):
  """{n-gram: occurrences} with the sentence start in front as often as it takes, and {history: its words}."""
  ngrams, histories = collections.Counter(), collections.Counter()
  for sentence in np.split(IDS, np.cumsum(LENGTHS)[:-1]):
    padded = [*[SENTENCE_START] * (length - 1), *sentence.tolist(), SENTENCE_END]
    for end in range(length - 1, len(padded)):
      ngram = tuple(padded[end - length + 1 : end + 1])
      ngrams[ngram] += 1
      histories[ngram[:-1]] += 1
  return ngrams, histories


def probability(model, ngram):
  """Without the sentence starts that are in front of the first one."""
  while ngram[:2] == (SENTENCE_START, SENTENCE_START):
    ngram = ngram[1:]
  return 10.0 ** float(backed_off(model.sections, np.array([ngram]), len(VOCABULARY))[0])


def all_histories(length):
  """Every one that a sentence can have."""
  for history in np.ndindex(*[len(VOCABULARY)] * length):
    is_start = [word == SENTENCE_START for word in history]
    if SENTENCE_END not in history and is_start == sorted(is_start, reverse=True):
      yield history


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("k", [1.0, 0.05])
def test_add_k_is_the_textbooks_after_every_history(estimate, tmp_path, order, k):
  model, _, _ = estimate(tmp_path, IDS, LENGTHS, VOCABULARY, order, Smoothing("add_k", k=k))
  ngrams, histories = counts(order)
  for history in all_histories(order - 1):
    for word in (0, 2, 3, 4, 5):
      ngram = (*history, word)
      expected = (ngrams[ngram] + k) / (histories[history] + 5 * k)
      assert probability(model, ngram) == pytest.approx(expected, rel=2e-6), ngram


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_maximum_likelihood_is_that_of_the_longest_history_seen(estimate, tmp_path, order):
  model, _, _ = estimate(tmp_path, IDS, LENGTHS, VOCABULARY, order, Smoothing("maximum_likelihood"))
  for history in all_histories(order - 1):
    for word in (0, 2, 3, 4, 5):
      for length in range(order, 0, -1):
        ngrams, histories = counts(length)
        shorter = history[order - length :]
        if histories[shorter]:
          expected = ngrams[(*shorter, word)] / histories[shorter]
          assert probability(model, (*history, word)) == pytest.approx(expected, rel=2e-6), (history, word)
          break


def test_zeros_are_written_as_the_format_has_them(estimate, tmp_path):
  model, _, _ = estimate(tmp_path, IDS, LENGTHS, VOCABULARY, 2, Smoothing("maximum_likelihood"))
  words, _ = model.sections
  assert words.log10_probability[[0, 5]].tolist() == [LOG10_OF_ZERO] * 2
  # Histories that were seen leave nothing; the sentence end is none.
  assert words.log10_backoff.tolist() == [0, LOG10_OF_ZERO, 0, LOG10_OF_ZERO, LOG10_OF_ZERO, 0]


def test_what_is_left_out_goes_to_the_shorter_history_by_hand(estimate, tmp_path):
  smoothing = Smoothing("maximum_likelihood", cutoffs=(0, 1))
  model, _, _ = estimate(tmp_path, IDS, LENGTHS, VOCABULARY, 2, smoothing)
  # Words: a 3, b 3, </s> 3 of 9. <s> a 2, a b 2 and b </s> 3 stay; <s> b 1 and a a 1 go.
  assert [len(section) for section in model.sections] == [6, 3]
  expected = {
    (1, 3): 2 / 3 + 1 / 9,
    (1, 4): 1 / 9,
    (1, 2): 1 / 9,
    (3, 4): 2 / 3 + 1 / 9,
    (3, 3): 1 / 9,
    (4, 2): 1,
  }
  for ngram, value in expected.items():
    assert probability(model, ngram) == pytest.approx(value, rel=1e-6), ngram


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("cutoffs", [(), (0, 0, 1), (0, 1, 1, 2)])
@pytest.mark.parametrize(
  "smoothing",
  [("kneser_ney",), ("maximum_likelihood",), ("add_k", 0.01)],
  ids=lambda value: value[0],
)
def test_probabilities_after_every_history_sum_to_one(small_model, sums, order, cutoffs, smoothing):
  model = small_model(order, Smoothing(*smoothing, cutoffs=cutoffs[:order]))
  totals = sums(model)
  assert len(totals) == 81 * order
  np.testing.assert_allclose(totals, 1, atol=1e-5)


@pytest.mark.parametrize(
  "arguments, message",
  [
    (
      {"kind": "good_turing"},
      "no smoothing 'good_turing': it is one of kneser_ney, add_k, maximum_likelihood",
    ),
    ({"kind": "add_k", "k": 0.0}, "k is 0.0, which is not above 0"),
    ({"kind": "add_k", "k": float("nan")}, "k is nan, which is not above 0"),
    ({"cutoffs": (1, 1)}, "cut-offs begin with 0 and do not decrease"),
    ({"cutoffs": (0, 2, 1)}, "cut-offs begin with 0 and do not decrease"),
  ],
)
def test_settings_that_make_no_model_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    Smoothing(**arguments)


def test_cutoffs_from_a_configuration_are_a_list():
  assert Smoothing(cutoffs=[0, 1]) == Smoothing(cutoffs=(0, 1))
