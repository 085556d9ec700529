"""Text as token ids and back: TensorFlow ops only, in tf.Transform's graph and so in serving too.

Ids 0 to 2 are <unk>, <s> and </s>; what was learned from the training split follows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf
import tensorflow_text as tf_text
import tensorflow_transform as tft
from tensorflow_text.python.ops.fast_sentencepiece_tokenizer import gen_fast_sentencepiece_tokenizer

from components.preprocessing.subword_models import JOINER
from components.preprocessing.tokenization import TokenizationConfig
from components.preprocessing.tokenizer_learning import (
  learn_sentencepieces,
  learn_tokens,
  learn_wordpieces,
)
from trainers.ngram.arpa import SPECIAL_WORDS
from trainers.ngram.counting import SENTENCE_START, UNKNOWN

# A space, in a file with one token a line (U+2581).
SPACE = "▁"
# Letters, marks and digits make words, with apostrophes and joiners (U+200C, U+200D) between them. RE2 cannot look
# around: a match is a whole word, or one character that is neither of a word nor blank.
_WORD_CHARACTER = r"[\p{L}\p{M}\p{N}]"
_WORD_OR_MARK = rf"{_WORD_CHARACTER}+(?:['’\x{{200C}}\x{{200D}}]{_WORD_CHARACTER}+)*|[^\s\p{{Z}}]"
# No space before the first ones and after the second ones.
_CLOSING = r" ([.,:;!?'\"%…、。，．：；！？]|\p{Pe}|\p{Pf})"
_OPENING = r"(\p{Ps}|\p{Pi}) "
# Bytes of text in one call of the op FastSentencepieceTokenize: TensorFlow 2.16 counts its tokens in 16 bits and aborts
# the process, or writes beyond its buffers, where they are more than 32,767.
_BYTES_PER_CALL = 16_000
_MAX_CHARS_PER_CALL = _BYTES_PER_CALL // 4


def tokenize(text: tf.Tensor, config: TokenizationConfig) -> tf.SparseTensor:
  """Cuts text into tokens and looks them up in what was learned from the training split; in a preprocessing_fn only.

  Args:
    text: string [batch], UTF-8. A line break in it is a space.
    config: how it is cut.

  Returns:
    int64 [batch, longest]: the ids of each text, none for an empty one.
  """
  text = normalize(text, config.lowercase)
  if config.kind == "words":
    ids = _look_up(split_words(text), config)
  elif config.kind == "characters":
    ids = _look_up(split_characters(text), config)
  elif config.kind == "wordpiece":
    words = split_words(text)
    _, model = learn_wordpieces(words.flat_values, config)
    ids = _cut(words, model, cut_to_wordpieces)
  else:
    _, model = learn_sentencepieces(single_spaced(text), config)
    ids = _cut(split_spaces(text), model, cut_to_sentencepieces)
  return ids.to_sparse()


def normalize(text: tf.Tensor, lowercase: bool) -> tf.Tensor:
  """Unicode's normal form C, in lower case if asked for; bytes that are no UTF-8 become U+FFFD.

  Args:
    text: string [batch].
    lowercase: whether to.

  Returns:
    string [batch].
  """
  if lowercase:
    text = tf.strings.lower(text, encoding="utf-8")
  else:
    text = tf.strings.unicode_transcode(text, "UTF-8", "UTF-8")
  return tf_text.normalize_utf8(text, "NFC")


def split_words(text: tf.Tensor) -> tf.RaggedTensor:
  """Words, and marks that are no part of words one by one; "don't" and "lord's" are words.

  Args:
    text: string [batch].

  Returns:
    string [batch, None].
  """
  spaced = tf.strings.regex_replace(text, _WORD_OR_MARK, r" \0 ")
  # Not tf.strings.split: it knows ASCII's blanks only.
  return tf_text.WhitespaceTokenizer().tokenize(spaced)


def single_spaced(text: tf.Tensor) -> tf.Tensor:
  """ASCII's blanks, and "▁" itself, as spaces."""
  return tf.strings.regex_replace(text, rf"[\t-\r{SPACE}]", " ")


def split_characters(text: tf.Tensor) -> tf.RaggedTensor:
  """Code points; a space is "▁".

  Args:
    text: string [batch].

  Returns:
    string [batch, None].
  """
  return tf.strings.unicode_split(tf.strings.regex_replace(single_spaced(text), " ", SPACE), "UTF-8")


def split_spaces(text: tf.Tensor) -> tf.RaggedTensor:
  """What stands between spaces, with "▁" in front: no piece of SentencePiece goes over a space.

  Args:
    text: string [batch].

  Returns:
    string [batch, None]: as many as there are spaces and one more; none for an empty text.
  """
  marked = tf.strings.join([SPACE, tf.strings.regex_replace(single_spaced(text), " ", f" {SPACE}")])
  return tf.strings.split(tf.where(text == "", "", marked))


def cut_to_wordpieces(words: tf.Tensor, model: tf.Tensor) -> tf.RaggedTensor:
  """Ids of the pieces of words; one `UNKNOWN` for a word that cannot be cut.

  Args:
    words: string [words].
    model: uint8 [bytes], from `learn_wordpieces`.

  Returns:
    int64 [words, None].
  """
  return tf_text.FastWordpieceTokenizer(model_buffer=model).tokenize(words)


def cut_to_sentencepieces(words: tf.Tensor, model: tf.Tensor) -> tf.RaggedTensor:
  """Ids of the pieces of words; neighbouring characters without a piece are one `UNKNOWN`.

  Args:
    words: string [words], from `split_spaces`. Words of more than 4,000 characters are cut there too.
    model: uint8 [bytes], from `learn_sentencepieces`.

  Returns:
    int64 [words, None].
  """
  num_parts = -(-tf.strings.length(words, unit="UTF8_CHAR") // _MAX_CHARS_PER_CALL)
  starts_of_parts = tf.ragged.range(num_parts) * _MAX_CHARS_PER_CALL
  words, starts = tf.repeat(words, num_parts), starts_of_parts.flat_values
  parts = tf.strings.substr(words, starts, tf.fill(tf.shape(starts), _MAX_CHARS_PER_CALL), unit="UTF8_CHAR")
  # Parts that begin in the same stretch of `_BYTES_PER_CALL` go together, and so less than twice as many bytes.
  num_bytes = tf.cast(tf.strings.length(parts), tf.int64)
  stretches = tf.cumsum(num_bytes, exclusive=True) // _BYTES_PER_CALL
  # One stretch at least: tf.map_fn over none has no shape to return.
  num_calls = tf.reduce_sum(num_bytes) // _BYTES_PER_CALL + 1
  calls = tf.RaggedTensor.from_value_rowids(parts, stretches, num_calls, validate=False)

  def call(texts: tf.Tensor) -> tf.RaggedTensor:
    ids, splits = gen_fast_sentencepiece_tokenizer.tf_text_fast_sentencepiece_tokenize(
      model, texts, 0, 0, False, False, False
    )
    return tf.RaggedTensor.from_row_splits(ids, tf.cast(splits, tf.int64), validate=False)

  spec = tf.RaggedTensorSpec([None, None], tf.int32, ragged_rank=1, row_splits_dtype=tf.int64)
  pieces = tf.map_fn(call, calls, fn_output_signature=spec).values
  return tf.cast(starts_of_parts.with_values(pieces).merge_dims(1, 2), tf.int64)


def decode(token_ids: tf.Tensor, vocabulary: Sequence[str], kind: str) -> tf.Tensor:
  """Text of token ids.

  Words are joined with spaces, but for punctuation that stands at the end or the start of words; quotation marks of
  ASCII count as closing.

  Args:
    token_ids: int64 [batch, length]. <s> and </s> are left out wherever they stand; <unk> is shown.
    vocabulary: all tokens in the order of their ids, `SPECIAL_WORDS` included.
    kind: of `TokenizationConfig`.

  Returns:
    string [batch].
  """
  is_shown = (token_ids == UNKNOWN) | (token_ids >= len(SPECIAL_WORDS))
  tokens = tf.ragged.boolean_mask(tf.gather(tf.constant(vocabulary), token_ids), is_shown)
  if kind in ("characters", "sentencepiece"):
    text = tf.strings.regex_replace(tf.strings.reduce_join(tokens, axis=1), SPACE, " ")
    # SentencePiece puts a space before the first word.
    return tf.strings.regex_replace(text, "^ ", "") if kind == "sentencepiece" else text
  text = tf.strings.reduce_join(tokens, axis=1, separator=" ")
  if kind == "wordpiece":
    text = tf.strings.regex_replace(text, f" {JOINER}", "")
  return tf.strings.regex_replace(tf.strings.regex_replace(text, _CLOSING, r"\1"), _OPENING, r"\1")


def token_strings(token_ids: tf.Tensor, vocabulary: Sequence[str]) -> tf.Tensor:
  """Each token as the vocabulary has it, "" where the id is that of <s>: padding.

  Args:
    token_ids: int64 [batch, length].
    vocabulary: all tokens in the order of their ids, `SPECIAL_WORDS` included.

  Returns:
    string [batch, length].
  """
  return tf.where(token_ids == SENTENCE_START, "", tf.gather(tf.constant(vocabulary), token_ids))


def _look_up(tokens: tf.RaggedTensor, config: TokenizationConfig) -> tf.RaggedTensor:
  """Ids by the vocabulary of frequent tokens."""
  path = learn_tokens(tokens.flat_values, config)
  first = len(SPECIAL_WORDS)
  return tokens.with_values(
    tft.apply_vocabulary(tokens.flat_values, path, default_value=UNKNOWN - first) + first
  )


def _cut(
  words: tf.RaggedTensor, model: tf.Tensor, cut: Callable[[tf.Tensor, tf.Tensor], tf.RaggedTensor]
) -> tf.RaggedTensor:
  """Ids of the words' pieces; a word that a batch holds many times is cut once."""
  distinct, index = tf.unique(words.flat_values, out_idx=tf.int64)

  def no_pieces() -> tf.RaggedTensor:
    return tf.RaggedTensor.from_row_lengths(tf.zeros([0], tf.int64), tf.zeros_like(distinct, tf.int64))

  # tf.Transform runs the graph while it learns, with one zero in the place of the model: the ops would read beyond it.
  pieces = tf.cond(tf.size(model) > 1, lambda: cut(distinct, model), no_pieces)
  return words.with_values(tf.gather(pieces, index)).merge_dims(1, 2)
