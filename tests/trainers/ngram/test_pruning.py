"""Entropy pruning against sums over the whole vocabulary, and what remains as a distribution."""

import dataclasses

import numpy as np
import pytest

from trainers.ngram.arpa import BackoffModel, backed_off, keep, log10
from trainers.ngram.counting import SENTENCE_END, SENTENCE_START
from trainers.ngram.pruning import prune, prune_to
from trainers.ngram.smoothing import Smoothing


@pytest.fixture(scope="module")
def model(small_model):
  return small_model(3)


def num_ngrams(model):
  return sum(len(section) for section in model.sections)


def rows_of(model):
  """[the n-grams of each length in the order of their rows]."""
  rows = [[(int(word),) for word in model.sections[0].word]]
  for section in model.sections[1:]:
    pairs = zip(section.parent, section.word, strict=True)
    rows.append([(int(word), *rows[-1][parent]) for parent, word in pairs])
  return rows


def ngrams_of(model):
  """{n-gram} of all lengths."""
  return {ngram for level in rows_of(model) for ngram in level}


def probabilities(model, ngrams):
  return 10.0 ** backed_off(model.sections, np.array(ngrams), len(model.vocabulary)).astype(np.float64)


def without_one(model, row):
  """The model without one of its longest n-grams, its history's backoff from sums over all words, and the history."""
  size, longest = len(model.vocabulary), rows_of(model)[-1]
  history = longest[row][:-1]
  following = {ngram[-1] for ngram in longest if ngram[:-1] == history} - {longest[row][-1]}
  others = [word for word in range(size) if word != SENTENCE_START and word not in following]
  left = probabilities(model, [(*history, word) for word in others]).sum()
  left_shorter = probabilities(model, [(*history[1:], word) for word in others]).sum()
  kept = [np.ones(len(section), bool) for section in model.sections]
  kept[-1][row] = False
  sections = keep(model.sections, kept)
  log10_backoff = sections[-2].log10_backoff.copy()
  log10_backoff[rows_of(model)[-2].index(history)] = log10(left / left_shorter)
  sections[-2] = dataclasses.replace(sections[-2], log10_backoff=log10_backoff)
  return BackoffModel(model.vocabulary, sections), history


def relative_entropy(before, after, history):
  """Of all words after a history, times the history's probability: the rise of the text's entropy."""
  words = np.delete(np.arange(len(before.vocabulary)), SENTENCE_START)
  ngrams = [(*history, word) for word in words]
  old, new = probabilities(before, ngrams), probabilities(after, ngrams)
  of_history = 1.0
  for end in range(1, len(history) + 1):
    ngram = (SENTENCE_END,) if history[:end] == (SENTENCE_START,) else history[:end]
    of_history *= probabilities(before, [ngram])[0]
  return of_history * np.sum(old * np.log(old / new))


@pytest.mark.parametrize("smoothing", [Smoothing(), Smoothing(cutoffs=(0, 0, 1)), Smoothing("add_k", k=0.1)])
def test_an_ngram_goes_when_the_threshold_is_above_its_relative_entropy(small_model, smoothing):
  model = small_model(3, smoothing)
  generator = np.random.default_rng(2)
  longest = rows_of(model)[-1]
  for row in generator.choice(len(longest), 8, replace=False):
    changed, history = without_one(model, row)
    entropy = relative_entropy(model, changed, history)
    assert entropy > 1e-8
    assert longest[row] in ngrams_of(prune(model, np.expm1(entropy * 0.999)))
    assert longest[row] not in ngrams_of(prune(model, np.expm1(entropy * 1.001)))


def test_the_new_backoff_is_that_of_sums_over_all_words(model):
  one_less = prune_to(model, num_ngrams(model) - 1)
  gone = (ngrams_of(model) - ngrams_of(one_less)).pop()
  expected, _ = without_one(model, rows_of(model)[-1].index(gone))
  for section, other in zip(one_less.sections, expected.sections, strict=True):
    np.testing.assert_allclose(section.log10_probability, other.log10_probability)
    np.testing.assert_allclose(section.log10_backoff, other.log10_backoff, atol=1e-6)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize(
  "smoothing", [Smoothing(), Smoothing("maximum_likelihood"), Smoothing("add_k", k=0.1)]
)
def test_what_remains_sums_to_one(small_model, sums, order, smoothing):
  model = small_model(order, smoothing)
  np.testing.assert_allclose(sums(prune(model, 1e-5)), 1, atol=1e-5)
  half = (num_ngrams(model) + len(model.vocabulary)) // 2
  np.testing.assert_allclose(sums(prune_to(model, half)), 1, atol=1e-5)


def test_beginnings_and_ends_of_what_remains_remain(model):
  before, after = ngrams_of(model), ngrams_of(prune(model, 3e-4))
  assert 120 < len(after) < len(before) / 2
  for ngram in after:
    if len(ngram) > 1:
      assert ngram[:-1] in after and ngram[1:] in after
  assert {(word,) for word in range(120)} <= after
  assert max(map(len, after)) == 3


def test_more_goes_with_a_higher_threshold(model):
  remaining = [ngrams_of(prune(model, threshold)) for threshold in (1e-6, 1e-5, 1e-4, 1e-3, 1.0)]
  for more, fewer in zip(remaining[:-1], remaining[1:], strict=True):
    assert fewer < more
  assert len(remaining[-1]) == 120


def test_a_threshold_of_zero_leaves_the_model_as_it_is(small_model):
  for smoothing in (Smoothing(), Smoothing("maximum_likelihood")):
    model = small_model(4, smoothing)
    for section, other in zip(prune(model, 0.0).sections, model.sections, strict=True):
      for name in ("parent", "word", "log10_probability", "log10_backoff"):
        assert np.array_equal(getattr(section, name), getattr(other, name)), name


def test_a_number_of_ngrams_is_met(model):
  for wanted in (120, 121, 200, num_ngrams(model) - 1, num_ngrams(model)):
    assert num_ngrams(prune_to(model, wanted)) == wanted
  assert num_ngrams(prune_to(model, 10**6)) == num_ngrams(model)
  with pytest.raises(ValueError, match="119 n-grams are fewer than the 120 words, which all stay"):
    prune_to(model, 119)


def test_the_cheapest_go_first_whichever_way_they_are_chosen(model):
  by_threshold = prune(model, 1e-4)
  assert ngrams_of(prune_to(model, num_ngrams(by_threshold))) == ngrams_of(by_threshold)
