"""A backoff n-gram model as a Keras model: look-ups in sorted tables, so that it is exported and served like any other.

Source: Katz 1987 (backing off); Heafield 2011, "KenLM: Faster and Smaller Language Model Queries" (tries, searched)
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainers.ngram.arpa import BackoffModel
from trainers.ngram.counting import SENTENCE_START

_LN_10 = float(np.log(10))
# Where there is no n-gram. Keys are not negative, so that nothing is found below it.
_NO_ROW = -1


@keras.saving.register_keras_serializable(package="deepline")
class NgramModel(keras.Model):
  """Scores sentences of token ids by the n-grams in its tables.

  Args:
    vocabulary_size: number of ids.
    lengths: n-grams of each length, from 1 word on.
    **kwargs: of keras.Model.
  """

  def __init__(self, vocabulary_size: int, lengths: tuple[int, ...], **kwargs: Any):
    super().__init__(**kwargs)
    self.vocabulary_size = vocabulary_size
    self.lengths = tuple(lengths)
    table = {"trainable": False, "initializer": "zeros"}
    self._keys, self._log_probability, self._log_backoff = [], [], []
    for number, count in enumerate(self.lengths, 1):
      # The ids of single words are their rows.
      if number > 1:
        self._keys.append(self.add_weight(name=f"keys_{number}", shape=(count,), dtype="int64", **table))
      # float32 whatever the precision policy is: sums of logarithms need their digits.
      self._log_probability.append(
        self.add_weight(name=f"log_probability_{number}", shape=(count,), dtype="float32", **table)
      )
      if number < len(self.lengths):
        self._log_backoff.append(
          self.add_weight(name=f"log_backoff_{number}", shape=(count,), dtype="float32", **table)
        )
    self.built = True

  @classmethod
  def from_backoff_model(cls, model: BackoffModel) -> NgramModel:
    """With the n-grams, probabilities and backoffs of a model as ARPA files have them."""
    size = len(model.vocabulary)
    made = cls(size, tuple(len(section) for section in model.sections), name="ngram")
    for number, section in enumerate(model.sections):
      if number:
        made._keys[number - 1].assign(section.keys(size))
      made._log_probability[number].assign(section.log10_probability * _LN_10)
      if number + 1 < len(model.sections):
        made._log_backoff[number].assign(section.log10_backoff * _LN_10)
    return made

  @property
  def order(self) -> int:
    """Words of the longest n-grams."""
    return len(self.lengths)

  def call(self, token_ids: Any) -> Any:
    """Log probability of every token after those before it.

    Args:
      token_ids: int64 [batch, length], sentences without their start, the end of the sentence included; what
        comes after it is scored as well and is for the caller to mask.

    Returns:
      float32 [batch, length], natural logarithms.
    """
    start = tf.fill([tf.shape(token_ids)[0], 1], tf.constant(SENTENCE_START, tf.int64))
    rows = self._rows(tf.concat([start, tf.cast(token_ids, tf.int64)], axis=1))
    return self._score(rows)

  def next_token_log_probabilities(self, token_ids: Any) -> Any:
    """Log probability of every word of the vocabulary as the next one.

    Args:
      token_ids: int64 [batch, length >= order - 1], the histories, from the start of the sentence on if it is within
        reach; -1 in front of that.

    Returns:
      float32 [batch, vocabulary]; that of the sentence start is no probability.
    """
    batch, length = tf.unstack(tf.shape(token_ids))
    history = tf.cast(token_ids, tf.int64)[:, length - (self.order - 1) :]
    # One more in front, so that there is a token before the scored one where no history is looked at.
    history = tf.pad(history, [[0, 0], [1, 0]], constant_values=_NO_ROW)
    histories = tf.repeat(history, self.vocabulary_size, axis=0)
    last = tf.tile(tf.range(self.vocabulary_size, dtype=tf.int64), [batch])[:, tf.newaxis]
    scores = self._score(self._rows(tf.concat([histories, last], axis=1)))
    return tf.reshape(scores[:, -1], [batch, self.vocabulary_size])

  def _rows(self, sequence: tf.Tensor) -> list[tf.Tensor]:
    """int64 [batch, length] for each n-gram length: the row of the n-gram that ends there, -1 for none."""
    rows = [sequence]
    for back, keys in enumerate(self._keys, 1):
      before = tf.pad(sequence, [[0, 0], [back, 0]], constant_values=_NO_ROW)[:, : tf.shape(sequence)[1]]
      wanted = rows[-1] * self.vocabulary_size + before
      row = tf.searchsorted(keys, tf.reshape(wanted, [-1]), out_type=tf.int64)
      row = tf.minimum(tf.reshape(row, tf.shape(wanted)), self.lengths[back] - 1)
      is_found = tf.equal(tf.gather(keys, row), wanted) & (rows[-1] >= 0) & (before >= 0)
      rows.append(tf.where(is_found, row, tf.constant(_NO_ROW, tf.int64)))
    return rows

  def _score(self, rows: list[tf.Tensor]) -> tf.Tensor:
    """float32 [batch, length - 1]: of every token but the first, from the rows of all tokens."""
    log_probability = _look_up(self._log_probability[0], rows[0][:, 1:])
    # From the shortest n-gram to the longest: one that exists takes the place of what backing off gave.
    for own, longer, backoff, context in zip(
      self._log_probability[1:], rows[1:], self._log_backoff, rows[:-1], strict=True
    ):
      backed_off = log_probability + _look_up(backoff, context[:, :-1])
      log_probability = tf.where(longer[:, 1:] >= 0, _look_up(own, longer[:, 1:]), backed_off)
    return log_probability

  def get_config(self) -> dict[str, Any]:
    """Arguments of the constructor."""
    return {**super().get_config(), "vocabulary_size": self.vocabulary_size, "lengths": list(self.lengths)}


def _look_up(table: Any, rows: tf.Tensor) -> tf.Tensor:
  """float32, 0 where there is no row."""
  values = tf.gather(tf.convert_to_tensor(table), tf.maximum(rows, 0))
  return tf.where(rows >= 0, values, tf.zeros_like(values))
