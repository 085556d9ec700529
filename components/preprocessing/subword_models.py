"""Pieces of words, learned from counted words or from lines, and the models that cut text into them."""

from __future__ import annotations

import io
import struct
from collections.abc import Container, Sequence

import sentencepiece
from tensorflow_text.core.pybinds import (
  pywrap_fast_wordpiece_tokenizer_model_builder as wordpiece_builder,
)
from tensorflow_text.core.pybinds import pywrap_model_converter
from tensorflow_text.tools.wordpiece_vocab import wordpiece_tokenizer_learner_lib as wordpiece_learner

from trainers.ngram.arpa import SPECIAL_WORDS

# What a piece begins with that is not the start of a word.
JOINER = "##"
MAX_CHARS_PER_PIECE = 50
# A longer word is unknown.
MAX_BYTES_PER_WORD = 400


def learn_wordpieces(counts: Sequence[tuple[str, int]], num_pieces: int) -> tuple[list[str], bytes]:
  """Pieces of words, those that the words are cut into most often first.

  Args:
    counts: words and how often they occur, in a fixed order; at least one.
    num_pieces: at most so many pieces, as many as occur more than once.

  Returns:
    The pieces; the model for tf_text.FastWordpieceTokenizer, whose ids count `SPECIAL_WORDS` too.

  Source: Schuster and Nakajima, 2012, "Japanese and Korean voice search", doi:10.1109/ICASSP.2012.6289079; the
  learner is TensorFlow Text's.
  """
  num_characters = sum(len(word) * count for word, count in counts)
  pieces = wordpiece_learner.learn(
    dict(counts),
    vocab_size=num_pieces,
    reserved_tokens=[],
    # The learner searches for the number of occurrences that leaves `num_pieces`. At each place in a word it counts one
    # piece only, so with an average above this there cannot be so many; and a piece seen once says nothing.
    upper_thresh=max(2, num_characters // num_pieces),
    lower_thresh=2,
    max_token_length=MAX_CHARS_PER_PIECE,
    # Each character is there twice, at the start of words and after it: half of the pieces at most.
    max_unique_chars=max(1, num_pieces // 4),
    joiner=JOINER,
  )
  entries = _most_used(pieces, counts, num_pieces)
  # The vocabulary, bytes of the longest word, joiner, unknown, whether the input is single words, detokenizer.
  model = wordpiece_builder.build_fast_wordpiece_model(
    [*SPECIAL_WORDS, *entries], MAX_BYTES_PER_WORD, JOINER, SPECIAL_WORDS[0], True, False
  )
  return entries, model


def _most_used(pieces: Sequence[str], counts: Sequence[tuple[str, int]], num_pieces: int) -> list[str]:
  """Pieces by their use. Single characters stay in any case, so that words not seen yet can be cut."""
  use = dict.fromkeys(pieces, 0)
  for word, count in counts:
    for piece in cut(word, use):
      use[piece] += count
  ranked = sorted(pieces, key=lambda piece: (-use[piece], piece.encode("utf-8")))
  room = num_pieces - sum(map(_is_character, ranked))
  kept = []
  for piece in ranked:
    if _is_character(piece):
      kept.append(piece)
    elif room > 0:
      kept.append(piece)
      room -= 1
  return kept


def _is_character(piece: str) -> bool:
  return len(piece.removeprefix(JOINER)) == 1 if piece != JOINER else False


def cut(word: str, pieces: Container[str]) -> list[str]:
  """The longest piece that the word begins with, then the same for the rest; [] if that does not reach the end."""
  found: list[str] = []
  start = 0
  while start < len(word):
    prefix = JOINER if start else ""
    for stop in range(min(len(word), start + MAX_CHARS_PER_PIECE), start, -1):
      if prefix + word[start:stop] in pieces:
        break
    else:
      return []
    found.append(prefix + word[start:stop])
    start = stop
  return found


def learn_sentencepieces(lines: Sequence[str], num_pieces: int) -> tuple[list[str], bytes]:
  """Pieces of a unigram language model, in the model's order. "▁" stands for a space.

  Args:
    lines: text, in a fixed order; at least one line. All white space in it is spaces.
    num_pieces: at most so many pieces.

  Returns:
    The pieces; the model for TensorFlow Text's op FastSentencepieceTokenize, whose ids count `SPECIAL_WORDS` too. The
    op takes its input as it is: the spaces, and one before each line, have to be "▁" already.

  Raises:
    ValueError: see `train_sentencepiece`.
  """
  model = train_sentencepiece(lines, num_pieces)
  processor = sentencepiece.SentencePieceProcessor(model_proto=model)
  numbers = range(len(SPECIAL_WORDS), processor.get_piece_size())
  return [processor.id_to_piece(number) for number in numbers], _flatbuffer(model)


def train_sentencepiece(lines: Sequence[str], num_pieces: int) -> bytes:
  """SentencePiece's own model, with the ids of `SPECIAL_WORDS` before those of the pieces.

  Args:
    lines: see `learn_sentencepieces`.
    num_pieces: at most so many pieces; fewer where there is little text.

  Raises:
    ValueError: there are more different characters than pieces.

  Source: Kudo, 2018, "Subword Regularization", arXiv:1804.10959.
  """
  writer = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(lines),
      model_writer=writer,
      model_type="unigram",
      vocab_size=num_pieces + len(SPECIAL_WORDS),
      hard_vocab_limit=False,
      # The text is normalised already.
      normalization_rule_name="identity",
      remove_extra_whitespaces=False,
      max_sentence_length=1 << 30,
      num_threads=1,
      minloglevel=2,
    )
  except RuntimeError as error:
    raise ValueError(
      f"SentencePiece cannot learn {num_pieces} pieces (preprocessing.vocabulary_size): {error}"
    ) from error
  return writer.getvalue()


def _flatbuffer(model: bytes) -> bytes:
  """TensorFlow Text's form of a SentencePiece model, with a normalizer that changes nothing.

  TensorFlow Text 2.16 reads beyond the empty table of SentencePiece's "identity", so the model gets a table with a trie
  of one node and no replacements. Messages of protocol buffers merge when they are concatenated: the field
  normalizer_spec (3) is appended, with precompiled_charsmap (2), add_dummy_prefix (3), remove_extra_whitespaces (4) and
  escape_whitespaces (5), the last three false. SentencePiece's own module for its messages needs a newer protobuf than
  TFX has.
  """
  table = struct.pack("<II", 4, 0)
  normalizer = bytes([2 << 3 | 2, len(table)]) + table + bytes([3 << 3, 0, 4 << 3, 0, 5 << 3, 0])
  return pywrap_model_converter.convert_sentencepiece_model(
    model + bytes([3 << 3 | 2, len(normalizer)]) + normalizer
  )
