"""The mixture of two models: by hand, tuned, and as a language model of its own."""

import keras
import numpy as np
import pytest

from trainers.models.interpolated import InterpolatedModel, best_weight
from trainers.models.neural_language_model import build_language_model
from trainers.models.ngram import NgramModel
from trainers.ngram.arpa import SPECIAL_WORDS, BackoffModel, Section

WORDS = (*SPECIAL_WORDS, "a", "b", "c")


def ngram_model():
  """Unigrams alone, with these probabilities."""
  probabilities = np.array([0.1, 1.0, 0.2, 0.4, 0.2, 0.1])
  ids = np.arange(len(WORDS))
  section = Section(
    np.zeros(len(WORDS), np.int64),
    ids.astype(np.int32),
    np.log10(probabilities).astype(np.float32),
    np.zeros(len(WORDS), np.float32),
  )
  return NgramModel.from_backoff_model(BackoffModel(WORDS, [section]))


@pytest.fixture(scope="module")
def mixed():
  keras.utils.set_random_seed(1)
  neural = build_language_model(len(WORDS), embedding_dim=8, hidden_dim=8, softmax="full", dropout=0.0)
  return InterpolatedModel(neural, ngram_model(), weight=0.25)


SENTENCES = np.array([[3, 4, 2], [5, 2, 1]], np.int64)


def test_probabilities_are_mixed(mixed):
  first, second = (np.exp(np.asarray(model(SENTENCES))) for model in (mixed.first, mixed.second))
  found = np.exp(np.asarray(mixed(SENTENCES)))
  is_token = SENTENCES != 1
  np.testing.assert_allclose(found[is_token], (0.25 * first + 0.75 * second)[is_token], rtol=1e-5)


def test_steps_give_what_the_call_gives_and_sum_to_one(mixed):
  expected = np.asarray(mixed(SENTENCES))
  state, token_ids = mixed.initial_state(2), np.array([1, 1])
  for place in range(3):
    scores, state = mixed.step(token_ids, state)
    histories = [history[:, place] for history in mixed.histories(SENTENCES)]
    np.testing.assert_allclose(mixed.next_token_log_probabilities(histories), scores, rtol=1e-5)
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), [1, 1], rtol=1e-5)
    assert np.isneginf(np.asarray(scores)[:, 1]).all()
    token_ids = SENTENCES[:, place]
    own = np.asarray(scores)[np.arange(2), token_ids]
    is_token = token_ids != 1
    np.testing.assert_allclose(own[is_token], expected[is_token, place], rtol=1e-4)


def test_the_best_weight_is_that_of_a_search():
  random = np.random.default_rng(2)
  first, second = np.log(random.uniform(0.01, 1, (2, 500)))
  weights = np.linspace(0.001, 0.999, 999)[:, np.newaxis]
  likelihood = np.log(weights * np.exp(first) + (1 - weights) * np.exp(second)).sum(axis=1)
  assert best_weight(first, second) == pytest.approx(float(weights[likelihood.argmax(), 0]), abs=2e-3)


def test_a_model_that_is_always_better_gets_all_the_weight():
  assert best_weight(np.full(10, -1.0), np.full(10, -9.0)) > 0.99
  assert best_weight(np.full(10, -1.0), np.full(10, -np.inf)) == pytest.approx(1)


def test_tuning_uses_tokens_alone_and_stays_a_mixture():
  mixed = InterpolatedModel(ngram_model(), ngram_model())
  assert mixed.tune([SENTENCES]) == pytest.approx(0.5)
  assert np.isfinite(np.asarray(mixed(SENTENCES))[SENTENCES != 1]).all()
