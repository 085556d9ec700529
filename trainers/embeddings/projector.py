"""Word vectors as files for TensorBoard's embedding projector."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorboard.plugins import projector

VECTORS_FILE = "tensors.tsv"
WORDS_FILE = "metadata.tsv"
CONFIG_FILE = "projector_config.pbtxt"
# The projector draws more only slowly.
_MAX_WORDS = 10_000
_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r", "\v": r"\v", "\f": r"\f"})


def write_projector(
  directory: str,
  words: Sequence[str],
  vectors: np.ndarray,
  word_counts: np.ndarray,
  name: str = "word vectors",
  max_words: int = _MAX_WORDS,
) -> int:
  """Writes the vectors of the most frequent words: `tensorboard --logdir` of `directory`, or of any folder above it.

  Words without a vector (zeros) are left out. Control characters of words are escaped as in Python.

  Args:
    directory: for this alone; may be remote.
    words: the vocabulary.
    vectors: float [vocabulary, dim].
    word_counts: int [vocabulary].
    name: what the projector shows.
    max_words: how many, at most.

  Returns:
    The number of words written.

  Raises:
    ValueError: no word has a vector: the projector would not even list them.
  """
  vectors = np.asarray(vectors, np.float32)
  by_frequency = np.argsort(-np.asarray(word_counts), kind="stable")
  shown = by_frequency[vectors[by_frequency].any(axis=1)][:max_words]
  if not len(shown):
    raise ValueError("no word has a vector that is not zero")
  tf.io.gfile.makedirs(directory)
  with tf.io.gfile.GFile(os.path.join(directory, VECTORS_FILE), "w") as file:
    for row in vectors[shown].tolist():
      file.write("\t".join([f"{value:.6g}" for value in row]) + "\n")
  with tf.io.gfile.GFile(os.path.join(directory, WORDS_FILE), "w") as file:
    # Of two columns: a line that is blank but for its end would be passed over, and all labels after it be wrong.
    file.write("word\tcount\n")
    for i in shown.tolist():
      file.write(f"{_escape(words[i])}\t{int(word_counts[i])}\n")
  config = projector.ProjectorConfig()
  embedding = config.embeddings.add()
  embedding.tensor_name = name
  embedding.tensor_path, embedding.metadata_path = VECTORS_FILE, WORDS_FILE
  embedding.tensor_shape.extend([len(shown), vectors.shape[1]])
  with tf.io.gfile.GFile(os.path.join(directory, CONFIG_FILE), "w") as file:
    file.write(text_format.MessageToString(config))
  # TensorBoard looks for the files in its runs, and a run is a folder with events.
  tf.summary.create_file_writer(directory).close()
  return len(shown)


def _escape(word: str) -> str:
  return word.translate(_ESCAPES)
