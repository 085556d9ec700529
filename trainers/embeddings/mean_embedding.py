"""The embedding of a text as the mean of its words' vectors."""

from __future__ import annotations

import tensorflow as tf

from trainers.ngram.counting import SENTENCE_END


def mean_embedding(vectors: tf.Tensor, token_ids: tf.Tensor) -> tf.Tensor:
  """The mean of the unit vectors of a text's words; zeros for a text without any.

  Unknown words, sentence starts, ends and padding take no part, nor do words of which the vector is zero.

  Args:
    vectors: float32 [vocabulary, dim].
    token_ids: int64 [batch, length].

  Returns:
    float32 [batch, dim].

  Source: the baseline in Wieting, Bansal, Gimpel and Livescu 2016, "Towards Universal Paraphrastic Sentence Embeddings"
  """
  words = tf.gather(vectors, token_ids)
  lengths = tf.norm(words, axis=-1, keepdims=True)
  has_vector = (token_ids > SENTENCE_END)[..., tf.newaxis] & (lengths > 0)
  # Not l2_normalize: its reciprocal square root is rounded by the place in the batch.
  units = tf.where(has_vector, tf.math.divide_no_nan(words, lengths), 0.0)
  count = tf.reduce_sum(tf.cast(has_vector, vectors.dtype), axis=1)
  return tf.reduce_sum(units, axis=1) / tf.maximum(count, 1.0)
