"""A neural language model: the probability of each word from all those before it in its sentence.

Source: Bengio, Ducharme, Vincent and Jauvin 2003; Mikolov et al. 2010 (recurrent); Merity, Keskar and Socher 2018,
arXiv:1708.02182 (the regularization of the LSTM)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from trainers.models.adaptive_softmax import (
  AdaptiveSoftmax,
  FullSoftmax,
  SampledSoftmax,
  default_cutoffs,
  gather_rows,
)
from trainers.models.language_model_layers import Lstm, TransformerDecoder
from trainers.ngram.counting import SENTENCE_END, SENTENCE_START

ARCHITECTURES = ("lstm", "transformer")
SOFTMAXES = ("full", "adaptive", "sampled")


@keras.saving.register_keras_serializable(package="deepline")
class NeuralLanguageModel(keras.Model):
  """Embeddings, a body, and a softmax with the same embeddings. See `build_language_model`.

  Token ids are int64: 0 an unknown word, 1 the start of a sentence and padding, 2 its end, 3 and more the words.

  Args:
    vocabulary_size: number of ids.
    embedding_dim: width of the embeddings.
    body: layer with `call`, `initial_state` and `step`, and `units`, the width of what it gives.
    softmax: output layer of `trainers.models.adaptive_softmax`.
    dropout: share of the units dropped from the embeddings and from what the body gives, the same for all words of a
      sentence.
    static_shapes: let padding take part in the softmax, for XLA with static shapes (a TPU).
    **kwargs: of keras.Model.
  """

  def __init__(
    self,
    vocabulary_size: int,
    embedding_dim: int,
    body: keras.layers.Layer,
    softmax: keras.layers.Layer,
    dropout: float = 0.0,
    static_shapes: bool = False,
    **kwargs: Any,
  ):
    super().__init__(**kwargs)
    self.vocabulary_size = vocabulary_size
    self.embedding_dim = embedding_dim
    self.static_shapes = static_shapes
    # Tied embeddings: as inputs they are scaled up, as the softmax's weights their products have a variance of about 1.
    self.embeddings = self.add_weight(
      name="embeddings",
      shape=(vocabulary_size, embedding_dim),
      initializer=keras.initializers.RandomNormal(stddev=embedding_dim**-0.5),
    )
    self.body = body
    self.softmax = softmax
    self.input_dropout = layers.Dropout(dropout, noise_shape=(None, 1, None), name="input_dropout")
    self.output_dropout = layers.Dropout(dropout, noise_shape=(None, 1, None), name="output_dropout")
    self.narrowed = None
    # Keras has built them already where they come from a file.
    if not self.body.built:
      self.body.build((None, None, embedding_dim))
    if body.units != embedding_dim:
      self.narrowed = layers.Dense(embedding_dim, use_bias=False, name="narrowed")
      self.narrowed.build((None, body.units))
    if not self.softmax.built:
      self.softmax.build((None, embedding_dim))
    self.built = True

  def call(self, token_ids: Any, training: bool | None = None) -> Any:
    """Log probability of every token after those before it.

    Args:
      token_ids: int64 [batch, length], sentences without their start, with their end, then padding.
      training: as in Keras.

    Returns:
      float32 [batch, length], natural logarithms; 0 for padding, or anything with `static_shapes`. In training
      with a sampled softmax they are estimates.
    """
    token_ids = tf.cast(token_ids, tf.int64)
    hidden = self._hidden(token_ids, training)
    words = tf.reshape(token_ids, [-1])
    is_word = words != SENTENCE_START
    table = self._table()
    if self.static_shapes:
      words = tf.where(is_word, words, SENTENCE_END)
      scores = self.softmax(hidden, words, table, training=training)
    else:
      rows = tf.where(is_word)
      found = self.softmax(
        gather_rows(hidden, rows[:, 0]), tf.gather(words, rows[:, 0]), table, training=training
      )
      scores = tf.scatter_nd(rows, found, tf.shape(words, out_type=tf.int64))
    scores = tf.reshape(scores, tf.shape(token_ids))
    scores.set_shape(token_ids.shape)
    return scores

  def log_distribution(self, token_ids: Any, training: bool | None = None) -> Any:
    """Log probability of every word of the vocabulary in the place of each token.

    Args:
      token_ids: int64 [batch, length], as for `call`.
      training: as in Keras; the softmax is exact in any case.

    Returns:
      float32 [batch, length, vocabulary]; the sentence start, which is never predicted, has -1e9, padding anything.
    """
    token_ids = tf.cast(token_ids, tf.int64)
    scores = self.softmax.log_distribution(self._hidden(token_ids, training), self._table())
    scores = tf.reshape(scores, tf.concat([tf.shape(token_ids), [self.vocabulary_size]], axis=0))
    scores.set_shape([*token_ids.shape, self.vocabulary_size])
    return scores

  def assign_frequencies(self, word_counts: Any) -> None:
    """Makes words as likely as they are frequent, before anything is learned.

    Args:
      word_counts: int [vocabulary].
    """
    # Words that were never seen are as likely as half an occurrence.
    counts = np.maximum(np.asarray(word_counts, np.float64), 0.5)
    self.softmax.assign_frequencies(np.log(counts / counts.sum()))

  def initial_state(self, batch_size: Any) -> Any:
    """The state in which the sentence start is the next input; a nested tuple of tensors [batch, ...]."""
    return self.body.initial_state(batch_size)

  def step(self, token_ids: Any, state: Any) -> tuple[Any, Any]:
    """Reads one token of each sentence.

    Args:
      token_ids: int64 [batch].
      state: from `initial_state` or the last step.

    Returns:
      float32 [batch, vocabulary], natural log probabilities of the next token, -inf for the sentence start; and the new
      state.
    """
    hidden, state = self.body.step(self._embed(token_ids), state)
    return self.next_token_log_probabilities(self._narrow(hidden)), state

  def histories(self, token_ids: Any) -> Any:
    """[batch, length, embedding_dim]: what the model knows before each token of int64 [batch, length]."""
    hidden = self._hidden(tf.cast(token_ids, tf.int64), training=False)
    return tf.reshape(hidden, tf.concat([tf.shape(token_ids), [self.embedding_dim]], axis=0))

  def next_token_log_probabilities(self, histories: Any) -> Any:
    """float32 [batch, vocabulary] from [batch, embedding_dim] of `histories`; -inf for the sentence start."""
    scores = self.softmax.log_distribution(histories, self._table())
    is_start = tf.range(self.vocabulary_size) == SENTENCE_START
    return tf.where(is_start, tf.constant(-np.inf, scores.dtype), scores)

  def _hidden(self, token_ids: tf.Tensor, training: bool | None) -> tf.Tensor:
    """[batch * length, embedding_dim]: what the model knows before each token."""
    start = tf.fill([tf.shape(token_ids)[0], 1], tf.constant(SENTENCE_START, tf.int64))
    # What is read in the place of padding does not matter: no token comes after it.
    x = self._embed(tf.concat([start, token_ids[:, :-1]], axis=1))
    x.set_shape([*token_ids.shape, self.embedding_dim])
    hidden = self.body(self.input_dropout(x, training=training), training=training)
    narrow = tf.reshape(self._narrow(tf.reshape(hidden, [-1, self.body.units])), tf.shape(x))
    narrow.set_shape(x.shape)
    return tf.reshape(self.output_dropout(narrow, training=training), [-1, self.embedding_dim])

  def _embed(self, token_ids: tf.Tensor) -> tf.Tensor:
    """[..., embedding_dim], of variance 1 at first."""
    rows = gather_rows(self._table(), tf.reshape(tf.cast(token_ids, tf.int64), [-1]))
    return tf.reshape(rows, tf.concat([tf.shape(token_ids), [self.embedding_dim]], axis=0)) * (
      self.embedding_dim**0.5
    )

  def _narrow(self, hidden: tf.Tensor) -> tf.Tensor:
    return self.narrowed(hidden) if self.narrowed else tf.cast(hidden, self.compute_dtype)

  def _table(self) -> tf.Tensor:
    return tf.cast(tf.convert_to_tensor(self.embeddings), self.compute_dtype)

  def get_config(self) -> dict[str, Any]:
    """Arguments of the constructor."""
    return {
      **super().get_config(),
      "vocabulary_size": self.vocabulary_size,
      "embedding_dim": self.embedding_dim,
      "body": keras.saving.serialize_keras_object(self.body),
      "softmax": keras.saving.serialize_keras_object(self.softmax),
      "dropout": self.input_dropout.rate,
      "static_shapes": self.static_shapes,
    }

  @classmethod
  def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> NeuralLanguageModel:
    """The model of a config, with new weights."""
    parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in ("body", "softmax")}
    return cls(**{**config, **parts})


def build_language_model(
  vocabulary_size: int,
  architecture: str = "lstm",
  embedding_dim: int = 256,
  hidden_dim: int = 256,
  num_layers: int = 1,
  num_heads: int = 4,
  dropout: float = 0.2,
  recurrent_dropout: float = 0.0,
  softmax: str = "adaptive",
  adaptive_cutoffs: Sequence[int] | None = None,
  sampled_candidates: int = 1024,
  word_counts: Any = None,
  embeddings: np.ndarray | None = None,
  context_length: int = 256,
  static_shapes: bool = False,
) -> NeuralLanguageModel:
  """A built neural language model.

  Args:
    vocabulary_size: number of token ids: 0 an unknown word, 1 the sentence start, 2 its end, then the words by
      descending frequency.
    architecture: "lstm" or "transformer".
    embedding_dim: width of the embeddings, which are the weights of the softmax as well.
    hidden_dim: width of the body's layers; a projection follows where it is not embedding_dim.
    num_layers: of the body.
    num_heads: attention heads of the Transformer.
    dropout: share of the units dropped in training from the embeddings, within the body and before the softmax.
    recurrent_dropout: share of the LSTM's recurrent weights dropped in training.
    softmax: "full"; "adaptive": in two steps, exact, and fast with many words; "sampled": exact, but its sum estimated
      in training, for very many words.
    adaptive_cutoffs: ascending ids at which the clusters of rare words begin; by default those with the least work.
    sampled_candidates: words that the estimate looks at.
    word_counts: [vocabulary], how often each id occurs: the first biases of the softmax, and what the default cutoffs
      are chosen by. By default Zipf's law gives the cutoffs, and all biases are 0.
    embeddings: float [vocabulary, embedding_dim], first weights.
    context_length: how many words back the Transformer's attention reaches, and `step` keeps.
    static_shapes: for XLA with static shapes: a TPU, or jit_compile.

  Raises:
    ValueError: settings that do not go together.
  """
  if architecture == "lstm":
    body = Lstm(hidden_dim, num_layers, dropout, recurrent_dropout, name="body")
  elif architecture == "transformer":
    if hidden_dim % (2 * num_heads):
      raise ValueError(f"hidden_dim is {hidden_dim}; choose a multiple of {2 * num_heads}, twice num_heads")
    body = TransformerDecoder(hidden_dim, num_layers, num_heads, context_length, dropout, name="body")
  else:
    raise ValueError(f"architecture is {architecture!r}; choose from {', '.join(ARCHITECTURES)}")
  if softmax == "adaptive" and adaptive_cutoffs is None:
    adaptive_cutoffs = default_cutoffs(vocabulary_size, word_counts)
  if softmax == "full" or (softmax == "adaptive" and not adaptive_cutoffs):
    output = FullSoftmax(vocabulary_size, name="softmax")
  elif softmax == "adaptive":
    output = AdaptiveSoftmax(vocabulary_size, adaptive_cutoffs, static_shapes, name="softmax")
  elif softmax == "sampled":
    output = SampledSoftmax(vocabulary_size, sampled_candidates, name="softmax")
  else:
    raise ValueError(f"softmax is {softmax!r}; choose from {', '.join(SOFTMAXES)}")
  model = NeuralLanguageModel(
    vocabulary_size, embedding_dim, body, output, dropout, static_shapes, name="language_model"
  )
  if word_counts is not None:
    model.assign_frequencies(word_counts)
  if embeddings is not None:
    if np.shape(embeddings) != (vocabulary_size, embedding_dim):
      raise ValueError(f"embeddings are {np.shape(embeddings)}; expected {(vocabulary_size, embedding_dim)}")
    model.embeddings.assign(embeddings)
  return model
