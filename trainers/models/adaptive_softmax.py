"""Output layers of neural language models: a softmax over the vocabulary whose weights are the input embeddings.

All take hidden states as rows, float32 [tokens, embedding_dim], so that the caller decides which tokens are worth
the work, and the table of embeddings, float32 [vocabulary, embedding_dim]. The start of the sentence, which is never
predicted, has log probability `NEVER`. Logits and biases are float32 whatever the precision policy.

Source: Press and Wolf 2017, arXiv:1608.05859, and Inan, Khosravi and Socher 2017, arXiv:1611.01462 (tied embeddings)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainers.ngram.counting import SENTENCE_END, SENTENCE_START

# Finite, so that its product with a probability of 0 is 0 in a divergence between two distributions.
NEVER = -1e9


@tf.custom_gradient
def gather_rows(table: tf.Tensor, rows: tf.Tensor) -> Any:
  """Rows of a matrix: [n, width] from [height, width] and int64 [n].

  The gradient is dense: a sparse one, added to that of the same table in the softmax, becomes rows of the whole table
  which the optimizer would have to sort.
  """
  height = tf.shape(table)[0]

  def gradient(upstream: tf.Tensor) -> Any:
    return tf.math.unsorted_segment_sum(upstream, rows, height), None

  return tf.gather(table, rows), gradient


@keras.saving.register_keras_serializable(package="deepline")
class FullSoftmax(keras.layers.Layer):
  """The softmax over all words.

  Args:
    vocabulary_size: number of words.
    **kwargs: of keras.layers.Layer.
  """

  def __init__(self, vocabulary_size: int, **kwargs: Any):
    super().__init__(**kwargs)
    self.vocabulary_size = vocabulary_size

  def build(self, input_shape: Any) -> None:
    """Makes the bias of each word; the kernel is the table of embeddings."""
    self.bias = self.add_weight(
      name="bias", shape=(self.vocabulary_size,), initializer="zeros", autocast=False
    )

  def assign_frequencies(self, log_frequencies: np.ndarray) -> None:
    """Biases under which words are as likely as they are frequent, before anything is learned."""
    self.bias.assign(log_frequencies)

  def call(self, hidden: Any, token_ids: Any, table: Any, training: bool | None = None) -> Any:
    """Log probability of one word a row.

    Args:
      hidden: [tokens, embedding_dim].
      token_ids: int64 [tokens], never the start of the sentence.
      table: [vocabulary, embedding_dim].
      training: as in Keras.

    Returns:
      float32 [tokens].
    """
    del training
    return _log_probabilities(self._logits(hidden, table), token_ids)

  def log_distribution(self, hidden: Any, table: Any) -> Any:
    """Log probability of every word: float32 [tokens, vocabulary]."""
    return tf.nn.log_softmax(self._logits(hidden, table))

  def _logits(self, hidden: tf.Tensor, table: tf.Tensor) -> tf.Tensor:
    return _product(hidden, table) + _without_start(tf.convert_to_tensor(self.bias))

  def get_config(self) -> dict[str, Any]:
    """Arguments of the constructor."""
    return {**super().get_config(), "vocabulary_size": self.vocabulary_size}


@keras.saving.register_keras_serializable(package="deepline")
class SampledSoftmax(FullSoftmax):
  """The softmax over all words, whose sum is estimated in training from a sample of them.

  One sample serves a whole batch. It is drawn without replacement by adding Gumbel noise to the logarithms of Zipf's
  law; a word is then in it with a known probability, by whose inverse it is weighted, and the estimate of the sum
  is unbiased. (Log-uniform, as in tf.nn.sampled_softmax_loss, but with static shapes and seeds of Keras.)

  Args:
    vocabulary_size: number of words, sorted by descending frequency.
    num_candidates: words in a sample.
    **kwargs: of keras.layers.Layer.

  Source: Jean et al. 2015, arXiv:1412.2007 (importance sampling); Kool, van Hoof and Welling 2019, arXiv:1903.06059,
  section 4.1 (the sample and its weights)
  """

  def __init__(self, vocabulary_size: int, num_candidates: int, **kwargs: Any):
    super().__init__(vocabulary_size, **kwargs)
    if not 0 < num_candidates < vocabulary_size:
      raise ValueError(
        f"sampled_candidates is {num_candidates}; choose from 1 to {vocabulary_size - 1}, one less than the words"
      )
    self.num_candidates = num_candidates
    self._seeds = keras.random.SeedGenerator()

  def call(self, hidden: Any, token_ids: Any, table: Any, training: bool | None = None) -> Any:
    """As that of FullSoftmax; in training with the estimated sum."""
    if not training:
      return super().call(hidden, token_ids, table)
    candidates, log_inclusion = self._sample()
    bias = _without_start(tf.convert_to_tensor(self.bias))
    logits = _product(hidden, gather_rows(table, candidates)) + tf.gather(bias, candidates) - log_inclusion
    # The word itself is in the sum once, and surely.
    is_word = token_ids[:, tf.newaxis] == candidates
    logits = tf.where(is_word, tf.constant(NEVER, logits.dtype), logits)
    rows = tf.cast(hidden, tf.float32) * tf.cast(gather_rows(table, token_ids), tf.float32)
    own = tf.reduce_sum(rows, axis=1) + tf.gather(bias, token_ids)
    return own - tf.reduce_logsumexp(tf.concat([own[:, tf.newaxis], logits], axis=1), axis=1)

  def _sample(self) -> tuple[tf.Tensor, tf.Tensor]:
    """int64 [candidates], and float32 [candidates]: the logarithms of the probabilities that they are in a sample."""
    ranks = np.arange(1, self.vocabulary_size + 1, dtype=np.float64)
    log_weights = tf.constant(np.log(np.log1p(1 / ranks)), tf.float32)
    uniform = keras.random.uniform((self.vocabulary_size,), minval=1e-7, maxval=1.0, seed=self._seeds)
    noisy, words = tf.math.top_k(log_weights - tf.math.log(-tf.math.log(uniform)), self.num_candidates + 1)
    words = words[:-1]
    # P(noise > threshold - log weight), the threshold being that of the first word left out.
    rate = tf.exp(tf.gather(log_weights, words) - noisy[-1])
    return tf.cast(words, tf.int64), tf.math.log(-tf.math.expm1(-rate))

  def get_config(self) -> dict[str, Any]:
    """Arguments of the constructor."""
    return {**super().get_config(), "num_candidates": self.num_candidates}


@keras.saving.register_keras_serializable(package="deepline")
class AdaptiveSoftmax(keras.layers.Layer):
  """An exact softmax in two steps: a frequent word or a cluster of rare ones; then the word within the cluster.

  A cluster's logits are only computed for the tokens that lie in it. All clusters keep the whole width of the
  hidden state, so that every word's weights can be those of its embedding: with the work for a cluster done where it
  is needed only, a narrower one would save little.

  Args:
    vocabulary_size: number of words, sorted by descending frequency.
    cutoffs: ascending; the head ends before the first one, each cluster before the next, the last one
      with the vocabulary.
    static_shapes: compute every cluster for every token, for XLA with static shapes (a TPU).
    **kwargs: of keras.layers.Layer.

  Source: Grave, Joulin, Cissé, Grangier and Jégou 2017, arXiv:1609.04309
  """

  def __init__(
    self, vocabulary_size: int, cutoffs: Sequence[int], static_shapes: bool = False, **kwargs: Any
  ):
    super().__init__(**kwargs)
    edges = [SENTENCE_END, *cutoffs, vocabulary_size]
    if len(edges) < 3 or any(low >= high for low, high in zip(edges[:-1], edges[1:], strict=True)):
      raise ValueError(
        f"adaptive_cutoffs are {list(cutoffs)}; they must ascend from {SENTENCE_END + 1} or more"
        f" to less than {vocabulary_size}, the number of words"
      )
    self.vocabulary_size = vocabulary_size
    self.cutoffs = tuple(int(cutoff) for cutoff in cutoffs)
    self.static_shapes = static_shapes
    self._sizes = [self.cutoffs[0], *np.diff([*self.cutoffs, vocabulary_size]).tolist()]

  def build(self, input_shape: Any) -> None:
    """Makes a vector for each cluster, and the bias of each word and cluster."""
    num_clusters = len(self.cutoffs)
    self.kernel = self.add_weight(name="kernel", shape=(num_clusters, input_shape[-1]), initializer="zeros")
    self.bias = self.add_weight(
      name="bias", shape=(self.vocabulary_size,), initializer="zeros", autocast=False
    )
    self.cluster_bias = self.add_weight(
      name="cluster_bias", shape=(num_clusters,), initializer="zeros", autocast=False
    )

  def assign_frequencies(self, log_frequencies: np.ndarray) -> None:
    """Biases under which words are as likely as they are frequent, before anything is learned."""
    self.bias.assign(log_frequencies)
    clusters = np.split(np.asarray(log_frequencies, np.float64), self.cutoffs)[1:]
    self.cluster_bias.assign([np.logaddexp.reduce(cluster) for cluster in clusters])

  def call(self, hidden: Any, token_ids: Any, table: Any, training: bool | None = None) -> Any:
    """Log probability of one word a row; see FullSoftmax."""
    del training
    head, clusters = self._weights(table)
    # The cluster of a word, counted from 1; 0 for the head's.
    cluster = tf.searchsorted(tf.constant(self.cutoffs, tf.int64), token_ids, side="right", out_type=tf.int64)
    in_head = tf.where(cluster == 0, token_ids, self.cutoffs[0] - 1 + cluster)
    log_probability = _log_probabilities(_product(hidden, head[0]) + head[1], in_head)
    for number, (kernel, bias) in enumerate(clusters, 1):
      is_inside = cluster == number
      word = tf.where(is_inside, token_ids - self.cutoffs[number - 1], 0)
      if self.static_shapes:
        inside = _log_probabilities(_product(hidden, kernel) + bias, word)
        log_probability += tf.where(is_inside, inside, 0.0)
      else:
        rows = tf.where(is_inside)
        inside = _product(gather_rows(hidden, rows[:, 0]), kernel) + bias
        inside = _log_probabilities(inside, tf.gather(word, rows[:, 0]))
        log_probability = tf.tensor_scatter_nd_add(log_probability, rows, inside)
    return log_probability

  def log_distribution(self, hidden: Any, table: Any) -> Any:
    """Log probability of every word: float32 [tokens, vocabulary]."""
    (kernel, bias), clusters = self._weights(table)
    head = tf.nn.log_softmax(_product(hidden, kernel) + bias)
    parts = [head[:, : self.cutoffs[0]]]
    for number, (kernel, bias) in enumerate(clusters):
      of_cluster = head[:, self.cutoffs[0] + number, tf.newaxis]
      parts.append(of_cluster + tf.nn.log_softmax(_product(hidden, kernel) + bias))
    return tf.concat(parts, axis=1)

  def _weights(
    self, table: tf.Tensor
  ) -> tuple[tuple[tf.Tensor, tf.Tensor], list[tuple[tf.Tensor, tf.Tensor]]]:
    """(kernel, bias) of the head, its words before its clusters, and of each cluster."""
    # Split, not sliced: the gradient of slices is as many whole tables, added up.
    kernels = tf.split(table, self._sizes)
    biases = tf.split(_without_start(tf.convert_to_tensor(self.bias)), self._sizes)
    own_kernel = tf.cast(tf.convert_to_tensor(self.kernel), table.dtype)
    head_kernel = tf.concat([kernels[0], own_kernel], axis=0)
    head_bias = tf.concat([biases[0], tf.convert_to_tensor(self.cluster_bias)], axis=0)
    return (head_kernel, head_bias), list(zip(kernels[1:], biases[1:], strict=True))

  def get_config(self) -> dict[str, Any]:
    """Arguments of the constructor."""
    own = ("vocabulary_size", "cutoffs", "static_shapes")
    return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def default_cutoffs(vocabulary_size: int, word_counts: Any = None) -> tuple[int, ...]:
  """The edges of one or two clusters under which the least logits are computed; none where that saves nothing.

  Args:
    vocabulary_size: number of words, sorted by descending frequency.
    word_counts: [vocabulary], how often they occur; by default by Zipf's law.
  """
  counts = 1 / np.arange(1.0, vocabulary_size + 1) if word_counts is None else np.asarray(word_counts, float)
  # Share of the tokens from each word on.
  rest = np.append(np.cumsum(counts[::-1])[::-1] / counts.sum(), 0.0)
  lowest = SENTENCE_END + 1
  steps = max(2, round(16 * math.log2(max(2, vocabulary_size / lowest))))
  grid = np.unique(np.geomspace(lowest, vocabulary_size, steps).astype(int))
  grid = grid[grid < vocabulary_size]
  choices = [(), *((one,) for one in grid), *((one, two) for one in grid for two in grid if one < two)]

  def num_logits(cutoffs: tuple[int, ...]) -> float:
    edges = [*cutoffs, vocabulary_size]
    tails = sum(rest[low] * (high - low) for low, high in zip(edges[:-1], edges[1:], strict=True))
    # A cluster costs a matrix product and its overhead besides: worth some hundred logits.
    return edges[0] + tails + 300 * len(cutoffs)

  return tuple(int(cutoff) for cutoff in min(choices, key=num_logits))


def _product(hidden: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
  return tf.cast(tf.matmul(hidden, kernel, transpose_b=True), tf.float32)


def _log_probabilities(logits: tf.Tensor, token_ids: tf.Tensor) -> tf.Tensor:
  return -tf.nn.sparse_softmax_cross_entropy_with_logits(token_ids, logits)


def _without_start(bias: tf.Tensor) -> tf.Tensor:
  """The biases, with the start of the sentence made impossible."""
  is_start = tf.range(tf.shape(bias)[0]) == SENTENCE_START
  return tf.where(is_start, tf.constant(NEVER, bias.dtype), bias)
