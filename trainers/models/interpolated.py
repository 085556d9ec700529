"""Two language models as one: the linear interpolation of their probabilities.

Source: Jelinek and Mercer 1980, "Interpolated estimation of Markov source parameters from sparse data"; Bengio,
Ducharme, Vincent and Jauvin 2003 (a neural model mixed with n-grams)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainers.ngram.counting import SENTENCE_START

_STEPS = 100
_TOLERANCE = 1e-6


class InterpolatedModel(keras.Model):
  """P = w P_first + (1 - w) P_second, as the language models that it is made of.

  Args:
    first: a language model.
    second: another one with the same vocabulary.
    weight: w, of the first one.
    **kwargs: of keras.Model.
  """

  def __init__(self, first: keras.Model, second: keras.Model, weight: float = 0.5, **kwargs: Any):
    super().__init__(**kwargs)
    self.first = first
    self.second = second
    self.vocabulary_size = first.vocabulary_size
    self.weight = self.add_weight(
      name="weight", shape=(), initializer=keras.initializers.Constant(weight), trainable=False
    )
    self.built = True

  @property
  def embeddings(self) -> Any:
    """The first model's word vectors, None where it has none."""
    return getattr(self.first, "embeddings", None)

  def call(self, token_ids: Any, training: bool | None = None) -> Any:
    """float32 [batch, length]: natural log probability of each token of int64 [batch, length]."""
    return self._mix(self.first(token_ids, training=training), self.second(token_ids))

  def initial_state(self, batch_size: Any) -> Any:
    """The states of both before the first token."""
    return self.first.initial_state(batch_size), self.second.initial_state(batch_size)

  def step(self, token_ids: Any, state: Any) -> tuple[Any, Any]:
    """Reads one token of each sentence, int64 [batch]; float32 [batch, vocabulary] of the next one, and the states."""
    first, first_state = self.first.step(token_ids, state[0])
    second, second_state = self.second.step(token_ids, state[1])
    return self._mix(first, second), (first_state, second_state)

  def histories(self, token_ids: Any) -> Any:
    """What both know before each token."""
    return self.first.histories(token_ids), self.second.histories(token_ids)

  def next_token_log_probabilities(self, histories: Any) -> Any:
    """float32 [batch, vocabulary] from a batch of `histories`; -inf for the sentence start."""
    scores = (
      model.next_token_log_probabilities(history)
      for model, history in zip((self.first, self.second), histories, strict=True)
    )
    return self._mix(*scores)

  def tune(self, sentences: Iterable[Any]) -> float:
    """Sets the weight under which sentences are most likely.

    Args:
      sentences: int64 [batch, length] each, padded with the sentence start.

    Returns:
      The weight of the first model.
    """
    pairs = []
    score = tf.function(lambda token_ids: (self.first(token_ids, training=False), self.second(token_ids)))
    for token_ids in sentences:
      is_token = np.asarray(token_ids) != SENTENCE_START
      pairs.append(np.stack([np.asarray(values)[is_token] for values in score(token_ids)]))
    self.weight.assign(best_weight(*np.concatenate(pairs, axis=1).astype(np.float64)))
    return float(self.weight)

  def _mix(self, first: Any, second: Any) -> Any:
    weight = tf.convert_to_tensor(self.weight)
    log_weights = tf.math.log(tf.stack([weight, 1 - weight]))
    return tf.reduce_logsumexp(tf.stack([first, second], axis=-1) + log_weights, axis=-1)


def best_weight(first: np.ndarray, second: np.ndarray) -> float:
  """The weight of the first of two distributions under which their mixture is most likely.

  Args:
    first: float64 [tokens], natural log probabilities.
    second: the same of the other model.

  Source: Dempster, Laird and Rubin 1977 (expectation maximization; the function is concave, with one maximum)
  """
  weight = 0.5
  ratio = np.exp(np.clip(second - first, -700, 700))
  for _ in range(_STEPS):
    shares = weight / (weight + (1 - weight) * ratio)
    weight, before = float(shares.mean()), weight
    if abs(weight - before) < _TOLERANCE:
      break
  return weight
