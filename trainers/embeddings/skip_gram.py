"""Skip-gram with negative sampling: word vectors that tell which words stand near each other from drawn ones.

Pairs are made by numpy in whole chunks of text, and the pairs of a group share the negative samples drawn for it: what
would be a look-up for each sample becomes a multiplication of matrices, several times as fast on a CPU. The expected
loss is the same.

Source: Mikolov, Sutskever, Chen, Corrado and Dean 2013, "Distributed Representations of Words and Phrases and their
Compositionality"; of shared samples Ji, Satish, Li and Dubey 2016, "Parallelizing Word2Vec in Shared and Distributed
Memory"
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainers.embeddings.pair_sampling import GROUP_PAIRS, GROUP_SAMPLES, Chunks, PairSampler
from trainers.ngram.counting import SENTENCE_END

# The learning rate ends at this share of its beginning, as in the authors' program.
_LAST_RATE = 1e-4
_BATCHES_AHEAD = 8
# Updates that an epoch has.
_UPDATES_AT_LEAST = 100


@dataclasses.dataclass(frozen=True)
class SkipGramSettings:
  """How word vectors are trained.

  Args:
    dim: of a vector.
    window: words to either side, at most; each word draws its own number up to it.
    negatives: negative samples a pair. Each one that a group shares counts as its part of them.
    subsampling: a word of this relative frequency begins to be left out at times. 0: none is.
    epochs: passes over the text.
    batch_pairs: pairs an update, a multiple of 32.
    learning_rate: of a single pair; falls linearly to almost nothing.

  Raises:
    ValueError: a number that is none of these.
  """

  dim: int = 256
  window: int = 5
  negatives: int = 5
  subsampling: float = 1e-4
  epochs: int = 5
  batch_pairs: int = 2048
  learning_rate: float = 0.05

  def __post_init__(self):
    if min(self.dim, self.window, self.negatives, self.epochs) < 1:
      raise ValueError(f"{self}: dim, window, negatives and epochs are at least 1")
    if self.subsampling < 0 or self.learning_rate <= 0:
      raise ValueError(f"{self}: subsampling is not below 0, learning_rate above 0")
    if self.batch_pairs < 1 or self.batch_pairs % GROUP_PAIRS:
      raise ValueError(f"{self}: batch_pairs is a multiple of {GROUP_PAIRS}")


class SkipGram(keras.Model):
  """Two vectors for each word: of itself, and of it as the context of others.

  Args:
    vocabulary_size: ids are below it.
    dim: of a vector.
    negatives: how much all samples of a pair weigh together.
    seed: of the initial vectors.
  """

  def __init__(self, vocabulary_size: int, dim: int, negatives: int, seed: int = 0):
    super().__init__()
    self._negatives = negatives
    shape = (vocabulary_size, dim)
    start = keras.initializers.RandomUniform(-0.5 / dim, 0.5 / dim, seed=seed)
    self.word_vectors = self.add_weight(shape=shape, initializer=start, name="word_vectors")
    self.context_vectors = self.add_weight(shape=shape, initializer="zeros", name="context_vectors")

  def call(self, inputs: dict[str, Any]) -> tf.Tensor:
    """The loss of each pair.

    Args:
      inputs: words and contexts int [groups, pairs], samples int [groups, samples].

    Returns:
      float32 [groups, pairs]: -log sigmoid(word . context) - the sum over samples of log sigmoid(-word . sample), the
      latter weighted to as many samples as `negatives`.
    """
    (words,) = _vectors(self.word_vectors, inputs["words"])
    contexts, samples = _vectors(self.context_vectors, inputs["contexts"], inputs["samples"])
    positive = tf.nn.softplus(-tf.reduce_sum(words * contexts, axis=-1))
    negative = tf.nn.softplus(tf.matmul(words, samples, transpose_b=True))
    return positive + self._negatives * tf.reduce_mean(negative, axis=-1)

  def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True) -> tf.Tensor:
    """The mean of the pairs' losses; there are no targets."""
    return tf.reduce_mean(y_pred)


def train_skip_gram(
  chunks: Chunks,
  word_counts: np.ndarray,
  settings: SkipGramSettings = SkipGramSettings(),
  seed: int = 0,
  log: Callable[[str], None] = print,
) -> tuple[np.ndarray, list[float]]:
  """Trains word vectors.

  Args:
    chunks: the text, read once an epoch, and once before. Pairs are shuffled within a chunk.
    word_counts: int [vocabulary], how often each word occurs.
    settings: see there.
    seed: of all that is drawn.
    log: called with one line of text an epoch.

  Returns:
    float32 [vocabulary, dim], zeros for <unk>, <s>, </s> and words that do not occur; and each epoch's mean loss.

  Raises:
    ValueError: the text has no pair of words.
  """
  sampler = PairSampler(word_counts, settings.window, settings.subsampling, seed)
  num_pairs = sampler.count(chunks)
  if not num_pairs:
    raise ValueError(
      "no two words are left near each other: the text is too short or unknown, or subsampling "
      f"({settings.subsampling:g}) takes all of it"
    )
  # A short text makes many updates of few pairs rather than few of many.
  groups = min(settings.batch_pairs, num_pairs // _UPDATES_AT_LEAST) // GROUP_PAIRS
  batch_pairs = max(groups, 1) * GROUP_PAIRS
  steps = max(1, num_pairs // batch_pairs)
  model = SkipGram(len(word_counts), settings.dim, settings.negatives, seed)
  # The loss is a mean, and the learning rate is of one pair.
  rate = settings.learning_rate * batch_pairs
  schedule = keras.optimizers.schedules.PolynomialDecay(rate, settings.epochs * steps, rate * _LAST_RATE)
  model.compile(keras.optimizers.SGD(schedule), jit_compile=False)
  lines = keras.callbacks.LambdaCallback(
    on_epoch_end=lambda epoch, logs: log(
      f"skip-gram epoch {epoch + 1}/{settings.epochs}: loss {logs['loss']:.4f}"
    )
  )
  history = model.fit(
    _endless_batches(sampler, chunks, batch_pairs),
    epochs=settings.epochs,
    steps_per_epoch=steps,
    callbacks=[lines],
    verbose=0,
  )
  vectors = keras.ops.convert_to_numpy(model.word_vectors).copy()
  vectors[: SENTENCE_END + 1] = 0
  vectors[np.asarray(word_counts) == 0] = 0
  return vectors, [float(loss) for loss in history.history["loss"]]


def _vectors(table: keras.Variable, *ids: tf.Tensor) -> list[tf.Tensor]:
  """The rows of a table for each of some tensors of ids.

  Each row is read once. Its gradients are then added up before it is updated, in an order that does not change; left
  to the update, they are added in the order in which threads come to it. And the table is never read as a whole, which
  the update would have to copy (V = 50,000: 113 ms of CPU a step instead of 13).
  """
  distinct, positions = tf.unique(tf.concat([tf.reshape(part, [-1]) for part in ids], axis=0))
  rows = tf.gather(table.value, distinct)
  parts = tf.split(positions, [tf.size(part) for part in ids])
  return [tf.gather(rows, tf.reshape(part, tf.shape(given))) for part, given in zip(parts, ids, strict=True)]


def _endless_batches(sampler: PairSampler, chunks: Chunks, batch_pairs: int) -> tf.data.Dataset:
  """What `PairSampler.batches` yields, epoch after epoch, some batches ahead."""

  def batches() -> Iterator[dict[str, np.ndarray]]:
    for epoch in itertools.count():
      yield from sampler.batches(chunks, epoch, batch_pairs)

  pairs, samples = (
    tf.TensorSpec([None, GROUP_PAIRS], tf.int32),
    tf.TensorSpec([None, GROUP_SAMPLES], tf.int32),
  )
  signature = {"words": pairs, "contexts": pairs, "samples": samples}
  return tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(_BATCHES_AHEAD)
