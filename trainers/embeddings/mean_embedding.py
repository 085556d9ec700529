"""The embedding of a text as the mean of its words' vectors."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainers.embeddings.neighbours import unit_vectors


@keras.saving.register_keras_serializable(package="deepline")
class MeanEmbedding(keras.Model):
  """Token ids -> mean of the unit vectors of the words that have one; zeros for a text without any.

  Unknown words, sentence starts, ends and padding have none: their rows are zeros. Build it with `from_vectors`.

  Args:
    vocabulary_size, dim: of the matrix.
    **kwargs: of keras.Model.

  Source: the baseline in Wieting, Bansal, Gimpel and Livescu 2016, "Towards Universal Paraphrastic Sentence Embeddings"
  """

  def __init__(self, vocabulary_size: int, dim: int, **kwargs: Any):
    super().__init__(**kwargs)
    self.vocabulary_size = vocabulary_size
    self.dim = dim
    self.vectors = self.add_weight(
      shape=(vocabulary_size, dim), initializer="zeros", trainable=False, name="vectors"
    )
    self.built = True

  @classmethod
  def from_vectors(cls, vectors: np.ndarray) -> MeanEmbedding:
    """The model of float [vocabulary, dim], rows of zeros for what has no vector."""
    model = cls(*vectors.shape)
    model.vectors.assign(unit_vectors(vectors))
    return model

  def call(self, token_ids: tf.Tensor, training: bool | None = None) -> tf.Tensor:
    """int64 [batch, length] -> float32 [batch, dim]."""
    words = tf.gather(self.vectors.value, token_ids)
    is_word = tf.reduce_any(words != 0, axis=-1)
    count = tf.reduce_sum(tf.cast(is_word, words.dtype), axis=-1, keepdims=True)
    return tf.reduce_sum(words, axis=1) / tf.maximum(count, 1.0)

  def get_config(self) -> dict[str, Any]:
    """For Keras's own file format."""
    return {"vocabulary_size": self.vocabulary_size, "dim": self.dim, **super().get_config()}
