"""Bodies of neural language models: from the embeddings of the words so far to a state that predicts the next one.

A body is a layer with, besides `call` on whole sentences, `initial_state` and `step`, which reads one word and keeps of
the past a state of fixed size.

Source: Hochreiter and Schmidhuber 1997 (LSTM); Vaswani et al. 2017, arXiv:1706.03762 (Transformer)
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import layers

from trainers.models.recurrence import LstmLayer


@keras.saving.register_keras_serializable(package="deepline")
class Lstm(layers.Layer):
  """A stack of LSTM layers. What is dropped between them stays dropped for a whole sentence.

  Args:
    units: width of the state of every layer.
    num_layers: number of layers.
    dropout: share of the units dropped between two layers.
    recurrent_dropout: share of the recurrent weights that a training step leaves out.
    **kwargs: of keras.layers.Layer.

  Source: Gal and Ghahramani 2016, arXiv:1512.05287 (one mask for all steps)
  """

  def __init__(
    self, units: int, num_layers: int, dropout: float = 0.0, recurrent_dropout: float = 0.0, **kwargs: Any
  ):
    super().__init__(**kwargs)
    self._config = {
      "units": units, "num_layers": num_layers, "dropout": dropout, "recurrent_dropout": recurrent_dropout,
    }  # fmt: skip
    self.units = units
    self.lstm_layers = [LstmLayer(units, recurrent_dropout, name=f"lstm{i + 1}") for i in range(num_layers)]
    self.dropouts = [
      layers.Dropout(dropout, noise_shape=(1, None, None), name=f"dropout{i + 1}")
      for i in range(num_layers - 1)
    ]

  def build(self, input_shape: Any) -> None:
    """Makes the weights of all layers."""
    width = input_shape[-1]
    for layer in self.lstm_layers:
      layer.build((None, None, width))
      width = self.units

  def call(self, x: Any, training: bool | None = None) -> Any:
    """[batch, length, units] from [batch, length, width]."""
    x = tf.transpose(x, [1, 0, 2])
    for number, layer in enumerate(self.lstm_layers):
      x = layer(self.dropouts[number - 1](x, training=training) if number else x, training=training)
    return tf.transpose(x, [1, 0, 2])

  def initial_state(self, batch_size: Any) -> Any:
    """(hidden, cell) for each layer, float32 [batch, units]."""
    zeros = tf.zeros([batch_size, self.units])
    return tuple((zeros, zeros) for _ in self.lstm_layers)

  def step(self, x: Any, state: Any) -> tuple[Any, Any]:
    """[batch, units] and the new state, from [batch, width]."""
    new_state = []
    for layer, layer_state in zip(self.lstm_layers, state, strict=True):
      x, layer_state = layer.step(x, layer_state)
      new_state.append(layer_state)
    return x, tuple(new_state)

  def get_config(self) -> dict[str, Any]:
    """Arguments of the constructor."""
    return {**super().get_config(), **self._config}


class TransformerBlock(layers.Layer):
  """Causal self-attention and a feed-forward network, each on normalized inputs and added to them.

  Rows are [batch * length, width]: only attention needs to know which sentence they belong to.

  Args:
    num_heads: attention heads.
    context_length: how many words back attention reaches, the current one included.
    num_blocks: of the whole model; the more, the less each adds at first.
    dropout: share of the units dropped after attention and after the feed-forward network.
    **kwargs: of keras.layers.Layer.

  Source: Xiong et al. 2020, arXiv:2002.04745 (normalized inputs); Radford et al. 2019 (first weights)
  """

  def __init__(
    self, num_heads: int, context_length: int, num_blocks: int, dropout: float = 0.0, **kwargs: Any
  ):
    super().__init__(**kwargs)
    self.num_heads = num_heads
    self.context_length = context_length
    self.num_blocks = num_blocks
    self.attention_norm = layers.LayerNormalization(epsilon=1e-5, name="attention_norm")
    self.feed_forward_norm = layers.LayerNormalization(epsilon=1e-5, name="feed_forward_norm")
    self.attention_dropout = layers.Dropout(dropout, name="attention_dropout")
    self.feed_forward_dropout = layers.Dropout(dropout, name="feed_forward_dropout")

  def build(self, input_shape: Any) -> None:
    """Makes the weights for rows of the width of the input."""
    width = input_shape[-1]
    first = keras.initializers.RandomNormal(stddev=width**-0.5)
    last = keras.initializers.RandomNormal(stddev=(2 * self.num_blocks * width) ** -0.5)
    narrow = keras.initializers.RandomNormal(stddev=(8 * self.num_blocks * width) ** -0.5)
    self.query_key_value = layers.Dense(
      3 * width, use_bias=False, kernel_initializer=first, name="query_key_value"
    )
    self.attended = layers.Dense(width, use_bias=False, kernel_initializer=last, name="attended")
    self.widened = layers.Dense(
      4 * width, activation="gelu", kernel_initializer=first.clone(), name="widened"
    )
    self.narrowed = layers.Dense(width, kernel_initializer=narrow, name="narrowed")
    for layer in (
      self.attention_norm,
      self.feed_forward_norm,
      self.query_key_value,
      self.attended,
      self.widened,
    ):
      layer.build((None, width))
    self.narrowed.build((None, 4 * width))

  def call(self, x: Any, batch: Any, length: Any, training: bool | None = None) -> Any:
    """[batch * length, width] from rows of the same shape; each sees those of its sentence before it."""
    position = tf.range(length)[tf.newaxis, :]
    query, key, value = self._heads(x, batch, length, position)
    back = position[:, :, tf.newaxis] - position[:, tf.newaxis, :]
    return self._finish(x, query, key, value, (back >= 0) & (back < self.context_length), training)

  def step(self, x: Any, cache: Any, position: Any) -> tuple[Any, Any]:
    """[batch, width] and the new cache, from one row a sentence, its cache and int32 [batch], its position."""
    query, key, value = self._heads(x, tf.shape(x)[0], 1, position[:, tf.newaxis])
    # The cache is a ring: the newest word takes the place of the one that attention no longer reaches.
    slots = tf.range(self.context_length)[tf.newaxis, :]
    is_newest = (slots == (position % self.context_length)[:, tf.newaxis])[:, :, tf.newaxis, tf.newaxis]
    keys, values = (
      tf.where(is_newest, tf.cast(new, old.dtype), old) for new, old in zip((key, value), cache, strict=True)
    )
    is_filled = (slots <= position[:, tf.newaxis])[:, tf.newaxis, :]
    row = self._finish(x, query, tf.cast(keys, x.dtype), tf.cast(values, x.dtype), is_filled, False)
    return row, (keys, values)

  def _heads(self, x: tf.Tensor, batch: Any, length: Any, position: tf.Tensor) -> list[tf.Tensor]:
    """Query, key and value [batch, length, heads, width of a head], those that are compared rotated."""
    width = x.shape[-1]
    projected = self.query_key_value(self.attention_norm(x))
    shape = [batch, length, 3, self.num_heads, width // self.num_heads]
    query, key, value = tf.unstack(tf.reshape(projected, shape), axis=2)
    return [rotate(query, position), rotate(key, position), value]

  def _finish(self, x: Any, query: Any, key: Any, value: Any, is_seen: Any, training: Any) -> tf.Tensor:
    """Attention, then the feed-forward network; `is_seen`: bool [batch or 1, queries, keys]."""
    scores = tf.einsum("bihd,bjhd->bhij", query, key) * (query.shape[-1] ** -0.5)
    scores = tf.where(is_seen[:, tf.newaxis], tf.cast(scores, tf.float32), -1e9)
    weights = tf.cast(tf.nn.softmax(scores), value.dtype)
    seen = tf.reshape(tf.einsum("bhij,bjhd->bihd", weights, value), [-1, x.shape[-1]])
    x += self.attention_dropout(self.attended(seen), training=training)
    forward = self.narrowed(self.widened(self.feed_forward_norm(x)))
    return x + self.feed_forward_dropout(forward, training=training)


def rotate(x: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
  """Turns pairs of a head's numbers by angles in proportion to the position: products then tell distances.

  Args:
    x: [batch, length, heads, width], the width even.
    position: int32 [batch or 1, length].

  Source: Su et al. 2021, arXiv:2104.09864 (rotary position embedding)
  """
  half = x.shape[-1] // 2
  frequencies = tf.constant([10_000 ** (-i / half) for i in range(half)], tf.float32)
  angles = tf.cast(position, tf.float32)[:, :, tf.newaxis, tf.newaxis] * frequencies
  cosine, sine = tf.cast(tf.cos(angles), x.dtype), tf.cast(tf.sin(angles), x.dtype)
  first, second = x[..., :half], x[..., half:]
  return tf.concat([first * cosine - second * sine, first * sine + second * cosine], axis=-1)


@keras.saving.register_keras_serializable(package="deepline")
class TransformerDecoder(layers.Layer):
  """A stack of Transformer blocks with a projection in front where the embeddings have another width.

  Args:
    width: of the rows in all blocks.
    num_layers: number of blocks.
    num_heads: attention heads of each.
    context_length: how many words back attention reaches, the current one included; what `step` keeps.
    dropout: share of the units dropped after each half of a block.
    **kwargs: of keras.layers.Layer.
  """

  def __init__(
    self,
    width: int,
    num_layers: int,
    num_heads: int,
    context_length: int,
    dropout: float = 0.0,
    **kwargs: Any,
  ):
    super().__init__(**kwargs)
    self._config = {
      "width": width, "num_layers": num_layers, "num_heads": num_heads, "context_length": context_length,
      "dropout": dropout,
    }  # fmt: skip
    self.units = width
    self.num_heads = num_heads
    self.context_length = context_length
    self.widened = None
    self.blocks = [
      TransformerBlock(num_heads, context_length, num_layers, dropout, name=f"block{i + 1}")
      for i in range(num_layers)
    ]
    self.norm = layers.LayerNormalization(epsilon=1e-5, name="norm")

  def build(self, input_shape: Any) -> None:
    """Makes the weights of all blocks."""
    if input_shape[-1] != self.units:
      self.widened = layers.Dense(self.units, use_bias=False, name="widened")
      self.widened.build((None, input_shape[-1]))
    for layer in (*self.blocks, self.norm):
      layer.build((None, self.units))

  def call(self, x: Any, training: bool | None = None) -> Any:
    """[batch, length, width] from [batch, length, width of the embeddings]."""
    batch, length = tf.unstack(tf.shape(x)[:2])
    rows = self._widen(tf.reshape(x, [-1, x.shape[-1]]))
    for block in self.blocks:
      rows = block(rows, batch, length, training=training)
    return tf.reshape(self.norm(rows), [batch, length, self.units])

  def initial_state(self, batch_size: Any) -> Any:
    """The position, int32 [batch], and keys and values of each block, [batch, context, heads, width of a head]."""
    shape = [batch_size, self.context_length, self.num_heads, self.units // self.num_heads]
    empty = tf.zeros(shape, self.compute_dtype)
    return tf.zeros([batch_size], tf.int32), tuple((empty, empty) for _ in self.blocks)

  def step(self, x: Any, state: Any) -> tuple[Any, Any]:
    """[batch, width] and the new state, from [batch, width of the embeddings]."""
    position, caches = state
    rows, new_caches = self._widen(tf.cast(x, self.compute_dtype)), []
    for block, cache in zip(self.blocks, caches, strict=True):
      rows, cache = block.step(rows, cache, position)
      new_caches.append(cache)
    return self.norm(rows), (position + 1, tuple(new_caches))

  def _widen(self, rows: tf.Tensor) -> tf.Tensor:
    return self.widened(rows) if self.widened else rows

  def get_config(self) -> dict[str, Any]:
    """Arguments of the constructor."""
    return {**super().get_config(), **self._config}
