"""Sentences as token ids, what a served language model says of them, and its signatures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from components.language import TOKEN_IDS
from components.preprocessing.text import decode, token_strings, tokenize
from components.preprocessing.tokenization import TokenizationConfig
from trainers.decoding import generate
from trainers.embeddings.mean_embedding import mean_embedding
from trainers.ngram.counting import SENTENCE_END, SENTENCE_START, UNKNOWN

# A position that holds the sentence start is no token: it is never predicted.
PADDING = SENTENCE_START
_MAX_GENERATED = 1024
_TOKENS_AT_ONCE = 128


def preprocess_text(text: tf.Tensor, config: TokenizationConfig) -> dict[str, Any]:
  """Token ids by a vocabulary of the training split, and the number of characters with one for the sentence's end.

  Args:
    text: string [batch].
    config: how it is cut into tokens.
  """
  return {
    TOKEN_IDS: tokenize(text, config),
    "num_characters": tf.cast(tf.strings.length(text, unit="UTF8_CHAR"), tf.int64) + 1,
  }


def parse_sentences(features: Mapping[str, Any]) -> tf.Tensor:
  """int64 [batch, length]: the sentences with their ends, filled up with `PADDING`; one column at least."""
  ids = features[TOKEN_IDS]
  if isinstance(ids, tf.SparseTensor):
    ids = tf.RaggedTensor.from_sparse(ids)
  end = tf.fill([ids.nrows(), 1], tf.constant(SENTENCE_END, tf.int64))
  return tf.concat([ids, end], axis=1).to_tensor(PADDING)


def score_sentences(
  model: Any, token_ids: tf.Tensor, features: Mapping[str, Any], words: list[str]
) -> dict[str, Any]:
  """What a language model says of sentences.

  Args:
    model: token ids -> natural log probability of each.
    token_ids: int64 [batch, length], from `parse_sentences`.
    features: may hold "num_characters".
    words: the vocabulary.

  Returns:
    tokens string, token_log_probs float32 [batch, length]: "" and 0 where there is none; and `_sums`.
  """
  scores = tf.cast(model(token_ids, training=False), tf.float32)
  log_probs = tf.where(token_ids != PADDING, scores, 0.0)
  tokens = token_strings(token_ids, words)
  return {**_sums(log_probs, token_ids, features), "tokens": tokens, "token_log_probs": log_probs}


def evaluation_sums(
  model: Any, token_ids: tf.Tensor, features: Mapping[str, Any], top_k: int
) -> dict[str, Any]:
  """What the Evaluator's metrics add up: `score_sentences` without its values for single tokens.

  Besides them top_1_hits and top_k_hits int64 [batch]: tokens that are the most likely one, or among the `top_k` most
  likely ones, of those that could stand in their place.
  """
  log_probs, ranks = score_and_rank(model, token_ids)
  sums = _sums(log_probs, token_ids, features)
  for name, k in (("top_1_hits", 1), ("top_k_hits", top_k)):
    is_hit = (token_ids != PADDING) & (ranks < k)
    sums[name] = tf.reduce_sum(tf.cast(is_hit, tf.int64), axis=1)
  return sums


def _sums(log_probs: tf.Tensor, token_ids: tf.Tensor, features: Mapping[str, Any]) -> dict[str, tf.Tensor]:
  """Of sentences of which the tokens have natural log probabilities float32 [batch, length], 0 where there is none.

  log_prob float32 [batch], the sentence's end included; num_tokens int64; perplexity float32; num_unknown int64,
  unknown_log_prob float32: the part of it that falls on unknown words; num_characters int64 where known.
  """
  is_unknown = token_ids == UNKNOWN
  log_prob = tf.reduce_sum(log_probs, axis=1)
  num_tokens = tf.math.count_nonzero(token_ids != PADDING, axis=1)
  sums = {
    "log_prob": log_prob,
    "perplexity": tf.exp(-log_prob / tf.cast(tf.maximum(num_tokens, 1), tf.float32)),
    "num_tokens": num_tokens,
    "num_unknown": tf.math.count_nonzero(is_unknown, axis=1),
    "unknown_log_prob": tf.reduce_sum(tf.where(is_unknown, log_probs, 0.0), axis=1),
  }
  if "num_characters" in features:
    sums["num_characters"] = tf.reshape(tf.cast(features["num_characters"], tf.int64), [-1])
  return sums


def score_and_rank(model: Any, token_ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
  """Each token's log probability, float32, and how many tokens are more likely in its place, int32; [batch, length].

  Both are 0 where there is no token.
  """
  places = tf.where(token_ids != PADDING)
  words = tf.gather_nd(token_ids, places)
  histories = model.histories(token_ids)
  count = tf.size(words)

  def read(start: tf.Tensor, scores: tf.TensorArray, ranks: tf.TensorArray) -> tuple[Any, ...]:
    # All words for all tokens of a batch at once would be gigabytes.
    rows = slice(start, tf.minimum(start + _TOKENS_AT_ONCE, count))
    histories_of_rows = tf.nest.map_structure(lambda values: tf.gather_nd(values, places[rows]), histories)
    log_probs = tf.cast(model.next_token_log_probabilities(histories_of_rows), tf.float32)
    own = tf.gather(log_probs, words[rows], batch_dims=1)
    higher = tf.reduce_sum(tf.cast(log_probs > own[:, tf.newaxis], tf.int32), axis=1)
    number = start // _TOKENS_AT_ONCE
    return start + _TOKENS_AT_ONCE, scores.write(number, own), ranks.write(number, higher)

  def rows_of(dtype: tf.DType) -> tf.TensorArray:
    # One element, of nothing: an array without any could not be joined.
    rows = tf.TensorArray(dtype, size=1, dynamic_size=True, infer_shape=False, element_shape=[None])
    return rows.write(0, tf.zeros([0], dtype))

  start = (tf.constant(0), rows_of(tf.float32), rows_of(tf.int32))
  _, *found = tf.while_loop(lambda start, *_: start < count, read, start, parallel_iterations=1)
  scores, ranks = (tf.scatter_nd(places, rows.concat(), tf.shape(token_ids, tf.int64)) for rows in found)
  return scores, ranks


def token_distributions(model: Any, token_ids: tf.Tensor, training: bool) -> tf.Tensor:
  """float32 [batch, length, vocabulary]: log probability of every word in the place of each token.

  Padding has the same value for all words, whatever the model: nothing is learned from it.
  """
  is_token = (token_ids != PADDING)[..., tf.newaxis]
  return tf.where(is_token, tf.cast(model.log_distribution(token_ids, training=training), tf.float32), 0.0)


def next_token_log_probabilities(model: Any, prompt_ids: tf.Tensor) -> tf.Tensor:
  """float32 [batch, vocabulary]: what follows int64 [batch, length], filled up with `PADDING`."""
  prompt_length = tf.math.count_nonzero(prompt_ids != PADDING, axis=1)
  histories = model.histories(tf.pad(prompt_ids, [[0, 0], [0, 1]], constant_values=PADDING))
  ends = tf.nest.map_structure(lambda values: tf.gather(values, prompt_length, batch_dims=1), histories)
  return model.next_token_log_probabilities(ends)


def language_signatures(
  model: Any, to_token_ids: Any, words: list[str], kind: str, settings: Any
) -> dict[str, tuple[Any, dict[str, tf.TensorSpec]]]:
  """The signatures `next_token`, `generate` and `evaluate_examples`.

  `next_token` takes text string [batch] and returns tokens string and log_probs float32 [batch, next_tokens]: what
  most likely follows, </s> for the end of the sentence. `generate` takes text (what to go on from, "" for nothing),
  max_length int64 (tokens, at most 1024), temperature float32 (0: always the most likely token), top_k int64 (0: all),
  top_p float32 (1: all) and seed int64, [batch] each, and returns text string and tokens string [batch, length].
  `evaluate_examples` takes serialized tf.Examples and returns `evaluation_sums`.

  Args:
    model: a language model with `histories`, `next_token_log_probabilities`, `initial_state` and `step`.
    to_token_ids: (text=string [batch]) -> (`parse_sentences`, transformed features).
    words: the vocabulary.
    kind: of `TokenizationConfig`, says how tokens make a text.
    settings: object with the numbers `next_tokens` and `top_k`.
  """

  def prompt(text: tf.Tensor) -> tf.Tensor:
    token_ids, _ = to_token_ids(text=text)
    return tf.where(token_ids == SENTENCE_END, tf.constant(PADDING, tf.int64), token_ids)

  def next_token(text: tf.Tensor) -> dict[str, tf.Tensor]:
    count = min(settings.next_tokens, len(words) - 1)
    log_probs, ids = tf.math.top_k(next_token_log_probabilities(model, prompt(text)), count)
    return {"tokens": tf.gather(tf.constant(words), ids), "log_probs": log_probs}

  def generate_text(text, max_length, temperature, top_k, top_p, seed) -> dict[str, tf.Tensor]:
    longest = tf.minimum(max_length, _MAX_GENERATED)
    ids = generate(model, prompt(text), longest, temperature, top_k, top_p, seed)
    return {"text": decode(ids, words, kind), "tokens": token_strings(ids, words)}

  def evaluate_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
    raw = tf.io.parse_example(examples, {"text": tf.io.FixedLenFeature([], tf.string)})
    token_ids, features = to_token_ids(**raw)
    return evaluation_sums(model, token_ids, features, settings.top_k)

  dtypes = {
    "text": tf.string,
    "max_length": tf.int64,
    "temperature": tf.float32,
    "top_k": tf.int64,
    "top_p": tf.float32,
    "seed": tf.int64,
  }
  specs = {name: tf.TensorSpec([None], dtype, name=name) for name, dtype in dtypes.items()}
  return {
    "next_token": (next_token, {"text": specs["text"]}),
    "generate": (generate_text, specs),
    "evaluate_examples": (evaluate_examples, {"examples": tf.TensorSpec([None], tf.string, name="examples")}),
  }


def embed_signature(vectors: Any, to_token_ids: Any) -> tuple[Any, dict[str, tf.TensorSpec]]:
  """The signature `embed`: text string [batch] -> embedding float32 [batch, dim], see `mean_embedding`.

  Args:
    vectors: [vocabulary, dim], a model's weights.
    to_token_ids: as for `language_signatures`.
  """

  def embed(text: tf.Tensor) -> dict[str, tf.Tensor]:
    token_ids, _ = to_token_ids(text=text)
    return {"embedding": mean_embedding(tf.convert_to_tensor(vectors), token_ids)}

  return embed, {"text": tf.TensorSpec([None], tf.string, name="text")}
