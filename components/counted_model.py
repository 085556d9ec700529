"""What the TextCounter left, as Keras models: the Trainer's part of tasks with n-grams."""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any

import keras
import tensorflow as tf
from tfx.utils import io_utils

from components.compression_measurement import Measurement
from components.language import TOKEN_IDS
from components.ngram_counting import read_tokens
from components.progress import report_progress
from components.text_counter import order_dir, orders_of
from components.trainer import TrainingRun
from trainers.models.ngram import NgramModel
from trainers.ngram.arpa import BackoffModel
from trainers.ngram.histories import count_unseen_histories
from trainers.ngram.tables import load_model

MODEL_FILE = "ngram.keras"
ORDERS_FILE = "orders.json"


def train_counted(run: TrainingRun) -> NgramModel:
  """The counted model of the highest order as a Keras model; all orders are measured on the validation split.

  Writes the model and, in `ORDERS_FILE`, [{"order", "ngrams", "perplexity", "unseen_histories": share of words}] to the
  run's directory.

  Raises:
    ValueError: the graph has no TextCounter.
  """
  if run.counts_dir is None:
    raise ValueError("there are no n-grams: set the section ngram")
  rows = []
  with tempfile.TemporaryDirectory(prefix="ngrams-") as folder:
    counts_dir = run.counts_dir
    if "://" in counts_dir:
      io_utils.copy_dir(counts_dir, folder)
      counts_dir = folder
    for order in orders_of(run.config.ngram):
      counted = load_model(order_dir(counts_dir, order))
      model = NgramModel.from_backoff_model(counted)
      rows.append(_measure(run, order, counted, model))
  with tf.io.gfile.GFile(os.path.join(run.run_dir, ORDERS_FILE), "w") as file:
    file.write(json.dumps(rows, indent=1) + "\n")
  save_counted(model, run.run_dir)
  return model


def save_counted(model: NgramModel, run_dir: str) -> None:
  """Writes the model where `load_counted` finds it."""
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, MODEL_FILE)
    keras.saving.save_model(model, path)
    tf.io.gfile.copy(path, os.path.join(run_dir, MODEL_FILE), overwrite=True)


def load_counted(run_dir: str) -> NgramModel:
  """The model that `train_counted` left.

  Raises:
    ValueError: there is none.
  """
  source = os.path.join(run_dir, MODEL_FILE)
  if not tf.io.gfile.exists(source):
    raise ValueError(f"{source} is missing: run the Trainer again, which writes the n-gram model there")
  with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, MODEL_FILE)
    tf.io.gfile.copy(source, path)
    return keras.saving.load_model(path)


def _measure(run: TrainingRun, order: int, counted: BackoffModel, model: NgramModel) -> dict[str, Any]:
  measurement = Measurement(run.task, run.outputs, run.validation_files)
  unseen = total = 0
  for ids, lengths in read_tokens(run.validation_files, TOKEN_IDS):
    found = count_unseen_histories(counted.sections, ids, lengths, len(counted.vocabulary))
    unseen, total = unseen + found[0], total + found[1]
  row = {
    "order": order,
    "ngrams": sum(len(section) for section in counted.sections),
    "perplexity": measurement.quality(run.config, tf.function(model))["perplexity"],
    "unseen_histories": unseen / max(total, 1),
  }
  report_progress(
    f"order {order}: perplexity {row['perplexity']:.2f}, {row['unseen_histories']:.1%} of the histories never seen"
  )
  return row
