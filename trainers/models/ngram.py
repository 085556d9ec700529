"""A backoff n-gram model as a Keras model: look-ups in sorted tables, so that it is exported and served like any other.

Source: Katz 1987 (backing off); Heafield 2011, "KenLM: Faster and Smaller Language Model Queries" (tries, searched)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainers.models.ngram_tables import LN_10, LOG_OF_ZERO, NO_ROW, Logarithms, SortedKeys
from trainers.ngram.arpa import LOG10_OF_ZERO, BackoffModel, Section
from trainers.ngram.counting import SENTENCE_START, Ngrams, turned_round

# In states, before the start of the sentence.
_NOTHING = -1


@keras.saving.register_keras_serializable(package="deepline")
class NgramModel(keras.Model):
  """Scores sentences of token ids by the n-grams in its tables, and says what may come next.

  The tables are the levels of a prefix trie: n-grams with the same history lie side by side. Nothing stands before a
  sentence start in an n-gram.

  Args:
    vocabulary_size: number of ids.
    lengths: n-grams of each length, from 1 word on; each at least one.
    bits: the logarithms of n-grams of 2 words and more are codes of as many bits; None: they are float32.
    **kwargs: of keras.Model.
  """

  def __init__(self, vocabulary_size: int, lengths: Sequence[int], bits: int | None = None, **kwargs: Any):
    super().__init__(**kwargs)
    self.vocabulary_size = vocabulary_size
    self.lengths = tuple(lengths)
    self.bits = bits
    # The ids of single words are their rows.
    self._keys = [SortedKeys(self, number) for number in range(1, len(self.lengths))]
    # The logarithms of single words are a small part of all.
    self._log_probability = [
      Logarithms(self, f"log_probability_{number + 1}", count, bits if number else None)
      for number, count in enumerate(self.lengths)
    ]
    self._log_backoff = [
      Logarithms(self, f"log_backoff_{number + 1}", count, bits if number else None)
      for number, count in enumerate(self.lengths[:-1])
    ]
    self.built = True

  @classmethod
  def from_backoff_model(cls, model: BackoffModel, bits: int | None = None) -> NgramModel:
    """With the n-grams, probabilities and backoffs of a model as ARPA files have them.

    Lengths of which there is no n-gram are left out: the order is that of the longest there are.

    Raises:
      ValueError: an n-gram is there without the one that it begins with.
    """
    size = len(model.vocabulary)
    sections = [section for section in model.sections if len(section)]
    made = cls(size, [len(section) for section in sections], bits, name="ngram")
    levels, orders = turned_round(sections, size)
    for number, (section, order) in enumerate(zip(sections, orders, strict=True)):
      if number:
        made._keys[number - 1].assign(levels[number].keys(size))
      made._log_probability[number].assign(section.log10_probability[order] * LN_10)
      if number + 1 < len(sections):
        made._log_backoff[number].assign(section.log10_backoff[order] * LN_10)
    return made

  def to_backoff_model(self, vocabulary: Sequence[str]) -> BackoffModel:
    """What `from_backoff_model` takes; the words in the order of their ids. Quantized logarithms stay so."""
    levels = [
      Ngrams(np.zeros(self.vocabulary_size, np.int64), np.arange(self.vocabulary_size, dtype=np.int32))
    ]
    for keys in self._keys:
      parent, word = np.divmod(keys.values(), self.vocabulary_size)
      levels.append(Ngrams(parent, word.astype(np.int32)))
    levels, orders = turned_round(levels, self.vocabulary_size)
    probability = [_to_log10(table.values()) for table in self._log_probability]
    backoff = [_to_log10(table.values()) for table in self._log_backoff]
    backoff.append(np.zeros(self.lengths[-1], np.float32))
    rows = zip(levels, orders, probability, backoff, strict=True)
    return BackoffModel(
      vocabulary,
      [Section(level.parent, level.word, own[order], off[order]) for level, order, own, off in rows],
    )

  def quantized(self, bits: int = 8) -> NgramModel:
    """The same n-grams with codes of 2 to 8 bits in the place of their logarithms; see trainers.ngram.quantization."""
    made = NgramModel(self.vocabulary_size, self.lengths, bits, name=self.name)
    tables = ((made._keys, self._keys), (made._log_probability, self._log_probability))
    for targets, sources in (*tables, (made._log_backoff, self._log_backoff)):
      for target, source in zip(targets, sources, strict=True):
        target.assign(source.values())
    return made

  @property
  def order(self) -> int:
    """Words of the longest n-grams."""
    return len(self.lengths)

  def call(self, token_ids: Any, training: bool | None = None) -> Any:
    """Log probability of every token after those before it.

    Args:
      token_ids: int64 [batch, length], sentences without their start, the end of the sentence included; what
        comes after it is scored as well, unless it is the sentence start, and is for the caller to mask.
      training: makes no difference.

    Returns:
      float32 [batch, length], natural logarithms.
    """
    sequence = tf.pad(tf.cast(token_ids, tf.int32), [[0, 0], [1, 0]], constant_values=SENTENCE_START)
    # All sentences as one, with a start each and no padding. No n-gram reaches back across a start.
    is_word = tf.not_equal(sequence, SENTENCE_START)
    is_start = tf.range(tf.shape(sequence)[1]) == 0
    places = tf.cast(tf.where(is_word | is_start), tf.int32)
    words = tf.gather_nd(sequence, places)
    rows = self._rows(words)
    scores = self._log_probability[0].look_up(words)
    for number in range(1, self.order):
      # From the shortest n-gram to the longest: one that exists takes the place of what backing off gives.
      scores += self._log_backoff[number - 1].look_up(_shifted(rows[number - 1]))
      scores = tf.where(rows[number] >= 0, self._log_probability[number].look_up(rows[number]), scores)
    return tf.scatter_nd(places, scores, tf.shape(sequence))[:, 1:]

  def initial_state(self, batch_size: Any) -> Any:
    """Before the sentence start is read: int64 [batch, order - 1], the last ids that were read; -1 for none."""
    return tf.fill([batch_size, self.order - 1], tf.constant(_NOTHING, tf.int64))

  def step(self, token_ids: Any, state: Any) -> tuple[Any, Any]:
    """Reads one token of each sentence.

    Args:
      token_ids: int64 [batch], at first the sentence start.
      state: from `initial_state` or the last step.

    Returns:
      log_probabilities: float32 [batch, vocabulary] of the next token, natural logarithms; -inf for the sentence start.
      state: after this token.
    """
    state = tf.concat([state, tf.cast(token_ids, tf.int64)[:, tf.newaxis]], axis=1)[:, 1:]
    return self.next_token_log_probabilities(state), state

  def histories(self, token_ids: Any) -> Any:
    """int64 [batch, length, order - 1]: the ids before each token of int64 [batch, length], as in `initial_state`."""
    nothing = self.order - 2
    ids = tf.pad(tf.cast(token_ids, tf.int64), [[0, 0], [1, 0]], constant_values=SENTENCE_START)
    ids = tf.pad(ids, [[0, 0], [max(nothing, 0), 0]], constant_values=_NOTHING)
    length = tf.shape(token_ids)[1]
    columns = [ids[:, place : place + length] for place in range(self.order - 1)]
    return tf.stack(columns, axis=-1) if columns else tf.zeros([tf.shape(ids)[0], length, 0], tf.int64)

  def next_token_log_probabilities(self, histories: Any) -> Any:
    """Log probability of every word of the vocabulary as the next one.

    Args:
      histories: int64 [batch, order - 1], from the start of the sentence on if it is within reach; -1 in front of that.

    Returns:
      float32 [batch, vocabulary]; -inf for the sentence start.
    """
    batch = tf.shape(histories)[0]
    # A start in the place of nothing: no n-gram goes on from it backwards either.
    history = tf.where(histories == _NOTHING, SENTENCE_START, tf.cast(histories, tf.int32))
    rows = []
    if self.order > 1:
      found = self._rows(tf.reshape(history, [-1]))[:-1]
      rows = [tf.reshape(row, [batch, self.order - 1])[:, -1] for row in found]
    backoffs = [table.look_up(row) for table, row in zip(self._log_backoff, rows, strict=True)]
    # What is left to back off to reach the n-grams of each length.
    left = tf.cumsum(tf.stack([*backoffs, tf.zeros([batch])]), reverse=True)
    scores = self._log_probability[0].look_up(tf.range(self.vocabulary_size))
    scores = tf.where(tf.range(self.vocabulary_size) == SENTENCE_START, -np.inf, scores)
    scores = scores[tf.newaxis] + left[0][:, tf.newaxis]
    for number, context in enumerate(rows, 1):
      # Only the last word varies: the history is looked up once, and then what follows it lies in one piece.
      places, following = self._keys[number - 1].followers(context)
      values = self._log_probability[number].look_up(following) + tf.gather(left[number], places[:, 0])
      scores = tf.tensor_scatter_nd_update(scores, places, values)
    return scores

  def _rows(self, words: tf.Tensor) -> list[tf.Tensor]:
    """int32 [words] for each n-gram length: the row of the n-gram that ends in each word, -1 for none.

    `words` int32 [words] are those of histories or sentences one after the other, which begin with a start or are as
    long as a history: so what is found for the last one of a history does not reach beyond it.
    """
    rows = [words]
    for keys in self._keys:
      rows.append(keys.find(_shifted(rows[-1]), words))
    return rows

  def get_config(self) -> dict[str, Any]:
    """Arguments of the constructor."""
    config = {"vocabulary_size": self.vocabulary_size, "lengths": list(self.lengths), "bits": self.bits}
    return {**super().get_config(), **config}


def _shifted(rows: tf.Tensor) -> tf.Tensor:
  """What belongs to the word before each word; int32 [words]."""
  return tf.pad(rows, [[1, 0]], constant_values=NO_ROW)[:-1]


def _to_log10(values: np.ndarray) -> np.ndarray:
  return np.where(values <= LOG_OF_ZERO, np.float32(LOG10_OF_ZERO), values / np.float32(LN_10))
