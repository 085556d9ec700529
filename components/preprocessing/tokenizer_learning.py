"""What tokenizers learn from the training split: analyzers of tf.Transform, full passes in Beam.

What is learned depends on which lines there are, and neither on their order nor on the number of workers.
"""

from __future__ import annotations

import collections
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
import tensorflow_transform.beam as tft_beam
from apache_beam.transforms.window import GlobalWindows
from apache_beam.utils.windowed_value import WindowedValue
from tensorflow_transform import analyzer_nodes, nodes

from components.preprocessing import subword_models
from components.preprocessing.tokenization import VOCABULARY_NAME, TokenizationConfig
from trainers.ngram.arpa import SPECIAL_WORDS
from trainers.ngram.arpa_reader import read_arpa_words

# Pieces of words, if the configuration does not say how many.
DEFAULT_NUM_PIECES = 8000
# Different tokens whose counts a worker holds before it hands them on.
_MAX_HELD_TOKENS = 1_000_000
# WordPiece's learner counts every substring of every word: the most frequent words are enough.
_MAX_WORDS = 100_000
# What SentencePiece learns from: its suffix array needs many times the memory of the text.
_MAX_LINES = 300_000
_MAX_BYTES = 30_000_000


def learn_tokens(tokens: tf.Tensor, config: TokenizationConfig) -> tf.Tensor:
  """The tokens seen at least `min_count` times, the most frequent first; equally frequent ones by their bytes.

  Args:
    tokens: string [tokens], those of a batch; none holds a line break.
    config: `min_count`, and `vocabulary_size` where there is a limit; or `vocabulary`, and nothing is learned.

  Returns:
    string [], path of the vocabulary file.
  """
  if config.vocabulary:
    learn = LearnFromCounts(_take_words_of, (config.vocabulary,), 1, 1)
  else:
    learn = LearnFromCounts(_take_tokens, (config.min_count,), config.min_count, config.vocabulary_size)
  path, _ = _analyze(_counted(tokens), learn, "learn_tokens")
  return path


def learn_wordpieces(words: tf.Tensor, config: TokenizationConfig) -> tuple[tf.Tensor, tf.Tensor]:
  """Pieces of words, see `subword_models.learn_wordpieces`.

  Args:
    words: string [words], those of a batch.
    config: `vocabulary_size`.

  Returns:
    string [], path of the vocabulary file; uint8 [bytes], the model.
  """
  num_pieces = config.vocabulary_size or DEFAULT_NUM_PIECES
  learn = LearnFromCounts(_take_wordpieces, (num_pieces,), 1, _MAX_WORDS)
  return _analyze(_counted(words), learn, "learn_wordpieces")


def learn_sentencepieces(lines: tf.Tensor, config: TokenizationConfig) -> tuple[tf.Tensor, tf.Tensor]:
  """Pieces of a unigram language model, see `subword_models.learn_sentencepieces`.

  Args:
    lines: string [batch].
    config: `vocabulary_size`.

  Returns:
    string [], path of the vocabulary file; uint8 [bytes], the model.
  """
  learn = LearnFromLines(config.vocabulary_size or DEFAULT_NUM_PIECES)
  return _analyze([lines], learn, "learn_sentencepieces")


def _counted(tokens: tf.Tensor) -> list[tf.Tensor]:
  """The different tokens of a batch and how often each occurs: far less to hand to Beam than all tokens."""
  distinct, _, counts = tf.unique_with_counts(tokens, out_idx=tf.int64)
  return [distinct, counts]


def _analyze(inputs: list[tf.Tensor], learn: tft_beam.experimental.PTransformAnalyzer, name: str) -> Any:
  """string [], path of the vocabulary file, and uint8 [bytes], model, both known once `learn` has run."""
  # What tft.experimental.ptransform_analyzer does, which in tf.Transform 1.16 takes all outputs for files if one is.
  file = analyzer_nodes.TemporaryAssetInfo(SPECIAL_WORDS[0].encode(), "text")
  with tf.name_scope(name):
    outputs = nodes.apply_multi_output_operation(
      analyzer_nodes.PTransform,
      analyzer_nodes.get_input_tensors_value_nodes(inputs),
      ptransform=learn,
      is_partitionable=False,
      output_tensor_info_list=[
        analyzer_nodes.TensorInfo(tf.string, [], file),
        analyzer_nodes.TensorInfo(tf.uint8, [None], None),
      ],
    )
    path, model = map(analyzer_nodes.wrap_as_tensor, outputs)
  tft.annotate_asset(VOCABULARY_NAME, VOCABULARY_NAME)
  return path, model


class LearnFromCounts(tft_beam.experimental.PTransformAnalyzer):
  """Counts tokens and learns from the counts.

  Args:
    learn: (list of (token, count), the most frequent first, *arguments) -> (entries, model).
    arguments: see `learn`.
    min_count: tokens seen less often are left out.
    max_tokens: so many of the most frequent ones; None: all.
  """

  def __init__(self, learn: Callable, arguments: tuple, min_count: int, max_tokens: int | None):
    super().__init__()
    self._learn = learn
    self._arguments = arguments
    self._min_count = min_count
    self._max_tokens = max_tokens

  def expand(self, batches: beam.PCollection) -> tuple[beam.PCollection, beam.PCollection]:
    """Batches of (tokens, counts) -> path, model."""
    frequent = (
      batches
      | "CountInBundle" >> beam.ParDo(_CountInBundle())
      | "Sum" >> beam.CombinePerKey(sum)
      | "Frequent" >> beam.Filter(_is_frequent, self._min_count)
    )
    if self._max_tokens:
      frequent |= "Most" >> beam.combiners.Top.Smallest(self._max_tokens, key=_rank)
    else:
      frequent |= "All" >> beam.combiners.ToList()
    learned = frequent | "Sort" >> beam.Map(_decoded) | "Learn" >> beam.Map(self._learn, *self._arguments)
    return _written(learned, self.base_temp_dir)


class _CountInBundle(beam.DoFn):
  """Adds up the counts of many batches, so that fewer are sorted by token."""

  def start_bundle(self) -> None:
    self._counts: collections.Counter = collections.Counter()

  def process(self, batch: tuple[np.ndarray, np.ndarray]) -> Iterator[tuple[bytes, int]]:
    tokens, counts = batch
    for token, count in zip(tokens.tolist(), counts.tolist(), strict=True):
      self._counts[token] += count
    if len(self._counts) > _MAX_HELD_TOKENS:
      yield from self._counts.items()
      self._counts.clear()

  def finish_bundle(self) -> Iterator[WindowedValue]:
    for item in self._counts.items():
      yield GlobalWindows.windowed_value(item)


def _is_frequent(item: tuple[bytes, int], min_count: int) -> bool:
  return item[1] >= min_count


def _rank(item: tuple[bytes, int]) -> tuple[int, bytes]:
  token, count = item
  return -count, token


def _decoded(counts: list[tuple[bytes, int]]) -> list[tuple[str, int]]:
  """The most frequent ones first."""
  return [(token.decode("utf-8"), count) for token, count in sorted(counts, key=_rank)]


def _take_tokens(counts: list[tuple[str, int]], min_count: int) -> tuple[list[str], bytes]:
  if not counts:
    raise ValueError(f"no token occurs {min_count} times in the training split (preprocessing.min_count)")
  return [token for token, _ in counts], b""


def _take_words_of(_: list[tuple[str, int]], path: str) -> tuple[list[str], bytes]:
  """The words of an ARPA file, whatever was counted."""
  _, words = read_arpa_words(path)
  return list(words[len(SPECIAL_WORDS) :]), b""


def _take_wordpieces(counts: list[tuple[str, int]], num_pieces: int) -> tuple[list[str], bytes]:
  if not counts:
    raise ValueError("the training split has no word")
  return subword_models.learn_wordpieces(counts, num_pieces)


class LearnFromLines(tft_beam.experimental.PTransformAnalyzer):
  """SentencePiece on a sample of the lines."""

  def __init__(self, num_pieces: int):
    super().__init__()
    self._num_pieces = num_pieces

  def expand(self, batches: beam.PCollection) -> tuple[beam.PCollection, beam.PCollection]:
    """Batches of (lines,) -> path, model."""
    learned = (
      batches
      | "Sample" >> beam.CombineGlobally(SampleLines(_MAX_LINES, _MAX_BYTES))
      | "Learn" >> beam.Map(_take_sentencepieces, self._num_pieces)
    )
    return _written(learned, self.base_temp_dir)


class SampleLines(beam.CombineFn):
  """The lines of the smallest hashes: a random sample, the same for every order of the input.

  It ends before the first line with which there are too many lines or bytes. A line that is left out of a part of the
  input is also left out of the whole, so parts can be cut before they are merged.

  An accumulator is a list of (hash, line) and the sum of the lines' bytes.
  """

  def __init__(self, max_lines: int, max_bytes: int):
    self._max_lines = max_lines
    self._max_bytes = max_bytes

  def create_accumulator(self) -> tuple[list[tuple[bytes, bytes]], int]:
    """No lines."""
    return [], 0

  def add_input(self, accumulator: Any, batch: tuple[np.ndarray]) -> Any:
    """Adds the lines of a batch that are not empty."""
    items, size = accumulator
    for line in filter(None, batch[0].tolist()):
      items.append((hashlib.blake2b(line, digest_size=8).digest(), line))
      size += len(line)
    is_large = len(items) > 2 * self._max_lines or size > 2 * self._max_bytes
    return self.compact((items, size)) if is_large else (items, size)

  def merge_accumulators(self, accumulators: Iterable[Any]) -> Any:
    """Joins the samples of several parts."""
    return self.compact(([item for items, _ in accumulators for item in items], 0))

  def compact(self, accumulator: Any) -> Any:
    """Sorts and leaves out what cannot be in the sample."""
    items = sorted(accumulator[0])[: self._max_lines]
    sizes = np.cumsum([len(line) for _, line in items], dtype=np.int64)
    items = items[: int(np.searchsorted(sizes, self._max_bytes, side="right"))]
    return items, sum(len(line) for _, line in items)

  def extract_output(self, accumulator: Any) -> list[bytes]:
    """The lines in the order of their hashes."""
    return [line for _, line in self.compact(accumulator)[0]]


def _take_sentencepieces(lines: list[bytes], num_pieces: int) -> tuple[list[str], bytes]:
  if not lines:
    raise ValueError("the training split has no text")
  return subword_models.learn_sentencepieces([line.decode("utf-8") for line in lines], num_pieces)


def _written(learned: beam.PCollection, directory: str) -> tuple[beam.PCollection, beam.PCollection]:
  """One (entries, model) -> path of a file with one entry a line; the model as uint8 [bytes]."""
  path = os.path.join(directory, VOCABULARY_NAME)
  return (
    learned | "WriteEntries" >> beam.Map(_write_entries, path),
    learned | "Model" >> beam.Map(_model_bytes),
  )


def _write_entries(learned: tuple[list[str], bytes], path: str) -> np.ndarray:
  entries, _ = learned
  tf.io.gfile.makedirs(os.path.dirname(path))
  with tf.io.gfile.GFile(path, "wb") as file:
    file.write("".join(f"{entry}\n" for entry in entries).encode("utf-8"))
  return np.array(path)


def _model_bytes(learned: tuple[list[str], bytes]) -> np.ndarray:
  return np.frombuffer(learned[1], np.uint8)
