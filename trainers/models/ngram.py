"""A backoff n-gram model as a Keras model: look-ups in sorted tables, so that it is exported and served like any other.

Source: Katz 1987 (backing off); Heafield 2011, "KenLM: Faster and Smaller Language Model Queries" (tries, searched)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainers.ngram.arpa import LOG10_OF_ZERO, BackoffModel, Section
from trainers.ngram.counting import SENTENCE_START, Ngrams, turned_round
from trainers.ngram.quantization import quantize

_LN_10 = float(np.log(10))
_LOG_OF_ZERO = np.float32(LOG10_OF_ZERO * _LN_10)
# Where there is no n-gram. Keys are not negative, so that nothing is found below it.
_NO_ROW = -1
# In states, before the start of the sentence.
_NOTHING = -1
# Keys that lie together in memory: a search ends with one look at a block, not with four in different places.
_BLOCK = 16


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
    self._keys = [_Keys(self, number) for number in range(1, len(self.lengths))]
    # The logarithms of single words are a small part of all.
    self._log_probability = [
      _Logarithms(self, f"log_probability_{number + 1}", count, bits if number else None)
      for number, count in enumerate(self.lengths)
    ]
    self._log_backoff = [
      _Logarithms(self, f"log_backoff_{number + 1}", count, bits if number else None)
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
      made._log_probability[number].assign(section.log10_probability[order] * _LN_10)
      if number + 1 < len(sections):
        made._log_backoff[number].assign(section.log10_backoff[order] * _LN_10)
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
    scores = self.next_token_log_probabilities(state)
    never = tf.fill([tf.shape(scores)[0], 1], -np.inf)
    return tf.concat([scores[:, :SENTENCE_START], never, scores[:, SENTENCE_START + 1 :]], axis=1), state

  def next_token_log_probabilities(self, token_ids: Any) -> Any:
    """Log probability of every word of the vocabulary as the next one.

    Args:
      token_ids: int64 [batch, length >= order - 1], the histories, from the start of the sentence on if it is within
        reach; -1 in front of that.

    Returns:
      float32 [batch, vocabulary]; that of the sentence start is no probability.
    """
    batch, length = tf.unstack(tf.shape(token_ids))
    scores = self._log_probability[0].look_up(tf.range(self.vocabulary_size))
    scores = tf.tile(scores[tf.newaxis], [batch, 1])
    if self.order == 1:
      return scores
    history = tf.cast(token_ids[:, length - (self.order - 1) :], tf.int32)
    # A start in the place of nothing: no n-gram goes on from it backwards either.
    history = tf.where(history == _NOTHING, SENTENCE_START, history)
    rows = [tf.reshape(row, [batch, -1])[:, -1] for row in self._rows(tf.reshape(history, [-1]))[:-1]]
    for number, context in enumerate(rows, 1):
      # Only the last word varies: the history is looked up once, and then what follows it lies in one piece.
      scores += self._log_backoff[number - 1].look_up(context)[:, tf.newaxis]
      places, following = self._keys[number - 1].followers(context)
      scores = tf.tensor_scatter_nd_update(scores, places, self._log_probability[number].look_up(following))
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


class _Keys:
  """The sorted keys of one length of n-grams in a model's weights: row of the history times vocabulary, plus word."""

  def __init__(self, model: NgramModel, number: int):
    self._vocabulary_size = model.vocabulary_size
    self._count = model.lengths[number]
    limit = model.lengths[number - 1] * model.vocabulary_size
    self._dtype = "int32" if limit <= np.iinfo(np.int32).max else "int64"
    num_blocks = -(-self._count // _BLOCK)
    self._blocks = _add_table(model, f"keys_{number + 1}", (num_blocks, _BLOCK), self._dtype)
    # The first key of each block: few enough to be kept in the processor's cache.
    self._firsts = _add_table(model, f"first_keys_{number + 1}", (num_blocks,), self._dtype)

  def assign(self, keys: np.ndarray) -> None:
    """int64 [count], ascending."""
    missing = -self._count % _BLOCK
    blocks = np.pad(keys.astype(self._dtype), (0, missing), constant_values=np.iinfo(self._dtype).max)
    blocks = blocks.reshape(-1, _BLOCK)
    self._blocks.assign(blocks)
    self._firsts.assign(blocks[:, 0])

  def values(self) -> np.ndarray:
    """int64 [count]."""
    return np.asarray(self._blocks).reshape(-1)[: self._count].astype(np.int64)

  def find(self, histories: tf.Tensor, words: tf.Tensor) -> tf.Tensor:
    """int32 [n]: rows of n-grams, -1 for none; `histories` int32 [n] are rows of the shorter ones, -1 for none."""
    blocks = tf.convert_to_tensor(self._blocks)
    wanted = tf.cast(histories, self._dtype) * self._vocabulary_size + tf.cast(words, self._dtype)
    block = tf.searchsorted(tf.convert_to_tensor(self._firsts), wanted, side="right") - 1
    block = tf.maximum(block, 0)
    is_before = tf.gather(blocks, block) < wanted[:, tf.newaxis]
    row = block * _BLOCK + tf.reduce_sum(tf.cast(is_before, tf.int32), axis=1)
    row = tf.minimum(row, self._count - 1)
    return tf.where(tf.gather(tf.reshape(blocks, [-1]), row) == wanted, row, _NO_ROW)

  def followers(self, histories: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """All n-grams with some histories.

    Args:
      histories: int32 [batch], rows of shorter n-grams, -1 for none.

    Returns:
      int32 [n-grams, 2], number in the batch and last word of each, and int32 [n-grams], their rows.
    """
    keys = tf.reshape(tf.convert_to_tensor(self._blocks), [-1])
    lowest = tf.cast(histories, self._dtype) * self._vocabulary_size
    starts = tf.searchsorted(keys, lowest)
    counts = tf.searchsorted(keys, lowest + self._vocabulary_size) - starts
    number = tf.repeat(tf.range(tf.size(histories)), counts)
    rows = tf.range(tf.size(number)) + tf.gather(starts - tf.cumsum(counts, exclusive=True), number)
    words = tf.cast(tf.gather(keys, rows) - tf.gather(lowest, number), tf.int32)
    return tf.stack([number, words], axis=1), rows


class _Logarithms:
  """A table of natural logarithms in a model's weights, or of codes for them."""

  def __init__(self, model: keras.Model, name: str, count: int, bits: int | None):
    self._bits = bits
    self._codes = _add_table(model, f"{name}_codes", (count,), "uint8") if bits else None
    self._values = _add_table(model, name, (2**bits if bits else count,), "float32")

  def assign(self, values: np.ndarray) -> None:
    """float32 [count]; they are quantized where the table is of codes."""
    if self._bits:
      codes, values = quantize(values, self._bits, exact=(0.0, _LOG_OF_ZERO))
      self._codes.assign(codes)
    self._values.assign(values)

  def values(self) -> np.ndarray:
    """float32 [count]."""
    values = np.asarray(self._values)
    return values[np.asarray(self._codes)] if self._bits else values

  def look_up(self, rows: tf.Tensor) -> tf.Tensor:
    """float32, 0 where the row is -1."""
    some_row = tf.maximum(rows, 0)
    if self._bits:
      some_row = tf.cast(tf.gather(tf.convert_to_tensor(self._codes), some_row), tf.int32)
    values = tf.gather(tf.convert_to_tensor(self._values), some_row)
    return tf.where(rows >= 0, values, 0.0)


def _shifted(rows: tf.Tensor) -> tf.Tensor:
  """What belongs to the word before each word; int32 [words]."""
  return tf.pad(rows, [[1, 0]], constant_values=_NO_ROW)[:-1]


def _add_table(model: keras.Model, name: str, shape: tuple[int, ...], dtype: str) -> Any:
  # Whatever the precision policy is: keys are not to be rounded, and sums of logarithms need their digits.
  return model.add_weight(
    name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False, autocast=False
  )


def _to_log10(values: np.ndarray) -> np.ndarray:
  return np.where(values <= _LOG_OF_ZERO, np.float32(LOG10_OF_ZERO), values / np.float32(_LN_10))
