"""The tables of an n-gram model, in its Keras weights: sorted keys to search, and logarithms or codes for them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainers.ngram.arpa import LOG10_OF_ZERO
from trainers.ngram.quantization import quantize

LN_10 = float(np.log(10))
LOG_OF_ZERO = np.float32(LOG10_OF_ZERO * LN_10)
# Where there is no n-gram. Keys are not negative, so that nothing is found below it.
NO_ROW = -1
# Keys that lie together in memory: a search ends with one look at a block, not with four in different places.
_BLOCK = 16


class SortedKeys:
  """The sorted keys of one length of n-grams in a model's weights: row of the history times vocabulary, plus word."""

  def __init__(self, model: keras.Model, number: int):
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
    return tf.where(tf.gather(tf.reshape(blocks, [-1]), row) == wanted, row, NO_ROW)

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


class Logarithms:
  """A table of natural logarithms in a model's weights, or of codes for them."""

  def __init__(self, model: keras.Model, name: str, count: int, bits: int | None):
    self._bits = bits
    self._codes = _add_table(model, f"{name}_codes", (count,), "uint8") if bits else None
    self._values = _add_table(model, name, (2**bits if bits else count,), "float32")

  def assign(self, values: np.ndarray) -> None:
    """float32 [count]; they are quantized where the table is of codes."""
    if self._bits:
      codes, values = quantize(values, self._bits, exact=(0.0, LOG_OF_ZERO))
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


def _add_table(model: keras.Model, name: str, shape: tuple[int, ...], dtype: str) -> Any:
  # Whatever the precision policy is: keys are not to be rounded, and sums of logarithms need their digits.
  return model.add_weight(
    name=name, shape=shape, dtype=dtype, initializer="zeros", trainable=False, autocast=False
  )
