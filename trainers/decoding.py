"""Generation of text from a language model, token by token, as a loop inside the graph.

Source: Fan, Lewis and Dauphin 2018, arXiv:1805.04833 (top-k); Holtzman et al. 2020, arXiv:1904.09751 (top-p)
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from trainers.ngram.counting import SENTENCE_END, SENTENCE_START, UNKNOWN


def generate(
  model: Any,
  prompt_ids: Any,
  max_length: Any,
  temperature: Any = 1.0,
  top_k: Any = 0,
  top_p: Any = 1.0,
  seed: Any = 0,
) -> Any:
  """Continues sentences.

  A row's text depends on nothing but its own prompt, settings and seed: it is the same alone and in a batch.

  Args:
    model: has `initial_state` and `step`; see `trainers.models.neural_language_model`.
    prompt_ids: int64 [batch, length], the first tokens of each sentence, without its start, then padding: 1.
      May be empty, [batch, 0].
    max_length: new tokens at most; int32 scalar or [batch].
    temperature: float32 scalar or [batch]; log probabilities are divided by it; 0: always the most likely token.
    top_k: int32 scalar or [batch]; only that many of the most likely tokens are drawn from; 0: all.
    top_p: float32 scalar or [batch]; only the fewest tokens that together have this probability; 1: all.
    seed: int64 scalar or [batch].

  Returns:
    int64 [batch, the largest max_length]: the new tokens, the end of the sentence included if it was reached, then
    padding: 1. Never an unknown word.
  """
  prompt_ids = tf.cast(prompt_ids, tf.int64)
  batch = tf.shape(prompt_ids)[0]
  max_length = _for_each_row(max_length, batch, tf.int32)
  settings = [
    _for_each_row(value, batch, dtype)
    for value, dtype in ((temperature, tf.float32), (top_k, tf.int32), (top_p, tf.float32))
  ]
  prompt_length = tf.math.count_nonzero(prompt_ids != SENTENCE_START, axis=1, dtype=tf.int32)
  num_new = tf.reduce_max(tf.concat([max_length, [0]], axis=0))
  draws = _uniform(_for_each_row(seed, batch, tf.int64), tf.maximum(num_new, 1))
  # A column more, so that a prompt can be empty.
  prompt = tf.pad(prompt_ids, [[0, 0], [0, 1]], constant_values=SENTENCE_START)
  columns = tf.range(num_new)

  def step(time: tf.Tensor, last: tf.Tensor, is_done: tf.Tensor, tokens: tf.Tensor, state: Any) -> Any:
    log_probabilities, state = model.step(last, state)
    # The number of the new token; the tokens of the prompt come before number 0.
    number = time - prompt_length
    draw = tf.gather(draws, tf.clip_by_value(number, 0, tf.shape(draws)[1] - 1), axis=1, batch_dims=1)
    chosen = choose(log_probabilities, draw, *settings)
    is_new = (number >= 0) & ~is_done
    is_here = is_new[:, tf.newaxis] & (columns == number[:, tf.newaxis])
    tokens = tf.where(is_here, chosen[:, tf.newaxis], tokens)
    is_done |= is_new & ((chosen == SENTENCE_END) | (number + 1 >= max_length))
    forced = tf.gather(prompt, tf.minimum(time, tf.shape(prompt)[1] - 1), axis=1)
    values = (time + 1, tf.where(is_new, chosen, forced), is_done, tokens, state)
    return tf.nest.map_structure(_with_shape_of, values, start)

  start = (
    tf.constant(0),
    tf.fill([batch], tf.constant(SENTENCE_START, tf.int64)),
    max_length <= 0,
    tf.fill([batch, num_new], tf.constant(SENTENCE_START, tf.int64)),
    model.initial_state(batch),
  )
  loop = tf.while_loop(lambda time, last, is_done, *_: ~tf.reduce_all(is_done), step, start)
  return loop[3]


def choose(log_probabilities: Any, draw: Any, temperature: Any, top_k: Any, top_p: Any) -> Any:
  """One token a row, never the sentence start or an unknown word.

  Args:
    log_probabilities: float32 [batch, vocabulary].
    draw: float32 [batch], uniform in [0, 1).
    temperature: float32 [batch]; 0: the most likely token.
    top_k: int32 [batch].
    top_p: float32 [batch].

  Returns:
    int64 [batch].
  """
  words, probabilities = ranked(log_probabilities, temperature, top_k, top_p)
  cumulative = tf.cumsum(probabilities, axis=1)
  # Zeros at the end are never reached, not even by rounding.
  last = tf.math.count_nonzero(probabilities, axis=1, dtype=tf.int32) - 1
  is_below = cumulative <= draw[:, tf.newaxis] * cumulative[:, -1:]
  place = tf.minimum(tf.math.count_nonzero(is_below, axis=1, dtype=tf.int32), last)
  place = tf.where(temperature > 0, place, 0)
  return tf.gather(words, place, axis=1, batch_dims=1)


def ranked(log_probabilities: Any, temperature: Any, top_k: Any, top_p: Any) -> tuple[Any, Any]:
  """The words to draw from, the most likely one first, and their probabilities.

  Temperature, top-k and top-p apply in this order, each to what the one before has left.

  Args:
    log_probabilities: float32 [batch, vocabulary].
    temperature: float32 [batch]; taken as 1 where it is 0.
    top_k: int32 [batch]; 0: all.
    top_p: float32 [batch]; 1: all.

  Returns:
    int64 [batch, vocabulary], and float32 of the same shape: probabilities that sum to one, 0 for what is left out.
  """
  vocabulary = tf.range(tf.shape(log_probabilities)[1])
  is_never = (vocabulary == UNKNOWN) | (vocabulary == SENTENCE_START)
  scores = tf.where(is_never, tf.constant(float("-inf")), log_probabilities)
  words = tf.argsort(scores, axis=1, direction="DESCENDING", stable=True)
  scores = tf.gather(scores, words, axis=1, batch_dims=1)
  scores /= tf.where(temperature > 0, temperature, 1.0)[:, tf.newaxis]
  is_left = (vocabulary < top_k[:, tf.newaxis]) | (top_k <= 0)[:, tf.newaxis]
  probabilities = tf.nn.softmax(tf.where(is_left, scores, tf.constant(float("-inf"))))
  before = tf.cumsum(probabilities, axis=1, exclusive=True)
  # The first one stays in any case.
  is_left = (before < top_p[:, tf.newaxis]) | (top_p >= 1)[:, tf.newaxis] | (vocabulary == 0)
  probabilities = tf.where(is_left, probabilities, 0.0)
  return tf.cast(words, tf.int64), probabilities / tf.reduce_sum(probabilities, axis=1, keepdims=True)


def _uniform(seeds: tf.Tensor, num_draws: tf.Tensor) -> tf.Tensor:
  """float32 [batch, draws] in [0, 1), of each row's own seed."""
  return tf.map_fn(
    lambda seed: tf.random.stateless_uniform([num_draws], tf.stack([seed, 0]), alg="philox"),
    seeds,
    fn_output_signature=tf.float32,
  )


def _for_each_row(value: Any, batch: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
  return tf.broadcast_to(tf.cast(value, dtype), [batch])


def _with_shape_of(value: tf.Tensor, before: tf.Tensor) -> tf.Tensor:
  """The loop's tensors keep the static shapes that they began with."""
  value.set_shape(before.shape)
  return value
