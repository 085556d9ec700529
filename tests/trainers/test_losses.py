"""Token loss and perplexity, against values computed by hand."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.losses import Perplexity, TokenLoss

# Padded with 1. Anything may stand in the place of padding.
TOKEN_IDS = np.array([[5, 2, 1, 1], [7, 8, 9, 2]])
LOG_PROBABILITIES = np.array([[-1.0, -2.0, np.nan, -np.inf], [-3.0, -4.0, -5.0, -6.0]], np.float32)


def test_the_loss_is_the_mean_over_tokens():
  values = TokenLoss().call(TOKEN_IDS, LOG_PROBABILITIES)
  np.testing.assert_allclose(values, [3 * 2 / 6, 18 * 2 / 6], rtol=1e-6)
  assert float(TokenLoss()(TOKEN_IDS, LOG_PROBABILITIES)) == pytest.approx(21 / 6)


def test_the_loss_of_padding_alone_is_zero():
  assert float(TokenLoss()(np.ones((2, 3)), np.full((2, 3), -np.inf, np.float32))) == 0


def test_the_gradient_of_padding_is_zero():
  scores = tf.constant(np.nan_to_num(LOG_PROBABILITIES))
  with tf.GradientTape() as tape:
    tape.watch(scores)
    loss = TokenLoss()(TOKEN_IDS, scores)
  expected = np.where(TOKEN_IDS == 1, 0, -1 / 6)
  np.testing.assert_allclose(tape.gradient(loss, scores), expected, rtol=1e-6)


def test_perplexity_is_exact_over_batches_of_any_size():
  metric = Perplexity()
  assert metric.name == "perplexity"
  metric.update_state(TOKEN_IDS, LOG_PROBABILITIES)
  metric.update_state(np.array([[2]]), np.array([[-7.0]], np.float32))
  assert float(metric.result()) == pytest.approx(math.exp(28 / 7), rel=1e-6)
  metric.reset_state()
  assert float(metric.result()) == 1


def test_perplexity_keeps_its_digits_over_many_tokens():
  metric = Perplexity()
  for _ in range(200):
    metric.update_state(np.full((1, 100_000), 3), np.full((1, 100_000), -1.1, np.float32))
  assert float(metric.result()) == pytest.approx(math.exp(1.1), rel=1e-6)


def test_keras_finds_both_in_a_config():
  for made in (TokenLoss(), Perplexity()):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    assert type(again) is type(made) and again.name == made.name
