"""Word vectors from what the TextCounter left: the first weights of a network, and what the report shows of them."""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any

import keras
import numpy as np
import scipy.sparse
import tensorflow as tf
from tfx.utils import io_utils

from components.cooccurrence_counting import load_cooccurrences
from components.language import TOKEN_IDS, vocabulary
from components.ngram_counting import count_all_words, read_tokens
from components.progress import report_progress
from components.text_counter import COOCCURRENCES
from components.trainer import TrainingRun
from trainers.embeddings.first_weights import first_weights
from trainers.embeddings.neighbours import content_words, neighbour_rows
from trainers.embeddings.ppmi import positive_pmi, word_vectors
from trainers.embeddings.projector import write_projector
from trainers.embeddings.skip_gram import SkipGramSettings, train_skip_gram

NEIGHBOURS_FILE = "neighbours.json"
# Below the training run's directory: files for TensorBoard's embedding projector.
FIRST_VECTORS = "first_vectors"
TRAINED_VECTORS = "trained_vectors"
_WORDS_SHOWN = 24


def count_occurrences(run: TrainingRun) -> np.ndarray:
  """int64 [vocabulary]: how often each word is in the training examples; </s> once a sentence."""
  return count_all_words(run.train_files, TOKEN_IDS, len(vocabulary(run.outputs)))


def first_vectors(run: TrainingRun, occurrences: np.ndarray) -> np.ndarray:
  """Vectors of all words, of the size of a network's first weights; `occurrences` is from `count_occurrences`.

  Writes them for TensorBoard's projector, and in `NEIGHBOURS_FILE` {"method", "queries": [word id], "first": rows of
  `neighbours.neighbour_rows`}, to the run's directory.

  Returns:
    float32 [vocabulary, embedding_dim].
  """
  settings, words = run.config.embeddings, vocabulary(run.outputs)
  counts = _read_counts(os.path.join(run.counts_dir, COOCCURRENCES))
  if settings.method == "ppmi":
    vectors = word_vectors(positive_pmi(counts), run.config.model.embedding_dim)
  else:
    chosen = SkipGramSettings(
      dim=run.config.model.embedding_dim,
      window=settings.window,
      epochs=settings.epochs,
      subsampling=settings.subsampling,
    )
    vectors, _ = train_skip_gram(
      lambda: read_tokens(run.train_files, TOKEN_IDS), occurrences, chosen, run.config.seed, report_progress
    )
  queries = content_words(counts, words, _WORDS_SHOWN)
  report_progress(
    f"word vectors by {settings.method}: {int(vectors.any(axis=1).sum())} of {len(words)} words"
  )
  if vectors.any():
    write_projector(os.path.join(run.run_dir, FIRST_VECTORS), words, vectors, occurrences, settings.method)
  found = {"method": settings.method, "queries": queries, "first": neighbour_rows(words, vectors, queries)}
  _write_neighbours(run, found)
  return first_weights(vectors, run.config.seed)


def add_trained_neighbours(run: TrainingRun, model: keras.Model, occurrences: np.ndarray) -> None:
  """Adds "trained" to what `first_vectors` wrote: the same of the network's embeddings; and their projector files."""
  words = vocabulary(run.outputs)
  with tf.io.gfile.GFile(os.path.join(run.run_dir, NEIGHBOURS_FILE)) as file:
    found = json.load(file)
  vectors = keras.ops.convert_to_numpy(model.embeddings)
  found["trained"] = neighbour_rows(words, vectors, found["queries"])
  _write_neighbours(run, found)
  write_projector(os.path.join(run.run_dir, TRAINED_VECTORS), words, vectors, occurrences, "trained")


def _read_counts(directory: str) -> scipy.sparse.csr_matrix:
  """Counts of pairs; a remote folder is copied first."""
  if "://" not in directory:
    return load_cooccurrences(directory)
  with tempfile.TemporaryDirectory(prefix="counts-") as folder:
    io_utils.copy_dir(directory, folder)
    return load_cooccurrences(folder)


def _write_neighbours(run: TrainingRun, found: dict[str, Any]) -> None:
  with tf.io.gfile.GFile(os.path.join(run.run_dir, NEIGHBOURS_FILE), "w") as file:
    file.write(json.dumps(found, ensure_ascii=False, indent=1) + "\n")
