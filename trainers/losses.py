"""Losses and metrics of sequences of tokens, padded with the sentence start, which is never predicted."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from trainers.ngram.counting import SENTENCE_START


@keras.saving.register_keras_serializable(package="deepline")
class TokenLoss(keras.losses.Loss):
  """Cross-entropy per token, in nats, of a model that gives each token's log probability.

  Every token of a batch counts the same, however long its sentence is: Keras takes the mean of the sentences' values.
  """

  def __init__(self, name: str = "token_loss", **kwargs: Any):
    super().__init__(name=name, **kwargs)

  def call(self, y_true: Any, y_pred: Any) -> Any:
    """Loss of each sentence.

    Args:
      y_true: token ids [batch, length].
      y_pred: log probabilities [batch, length], anything where there is padding.

    Returns:
      float32 [batch], scaled so that the mean of the sentences is that of the tokens.
    """
    is_token = ops.not_equal(y_true, SENTENCE_START)
    nats = ops.sum(ops.where(is_token, -y_pred, 0.0), axis=-1)
    num_tokens = ops.sum(ops.cast(is_token, nats.dtype))
    num_sentences = ops.cast(ops.shape(nats)[0], nats.dtype)
    return nats * num_sentences / ops.maximum(num_tokens, 1.0)


@keras.saving.register_keras_serializable(package="deepline")
class Perplexity(keras.metrics.Metric):
  """exp of the mean of -log probability over all tokens since the last reset, ends of sentences included."""

  def __init__(self, name: str = "perplexity", **kwargs: Any):
    super().__init__(name=name, **kwargs)
    # Millions of tokens: float32 would lose their digits.
    self._nats = self.add_variable(shape=(), initializer="zeros", name="nats", dtype="float64")
    self._num_tokens = self.add_variable(shape=(), initializer="zeros", name="num_tokens", dtype="float64")

  def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
    """Adds sentences.

    Args:
      y_true: token ids [batch, length].
      y_pred: log probabilities [batch, length], anything where there is padding.
      sample_weight: not used.
    """
    del sample_weight
    is_token = ops.not_equal(y_true, SENTENCE_START)
    nats = ops.where(is_token, -ops.cast(y_pred, "float64"), 0.0)
    self._nats.assign_add(ops.sum(nats))
    self._num_tokens.assign_add(ops.sum(ops.cast(is_token, "float64")))

  def result(self) -> Any:
    """float32; 1 where there was no token."""
    mean = self._nats / ops.maximum(self._num_tokens, 1.0)
    return ops.cast(ops.exp(mean), "float32")
