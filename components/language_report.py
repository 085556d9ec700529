"""Sections of the report that language models have: vocabulary, orders of n-grams, generated text."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from components.config import RunConfig
from components.counted_model import ORDERS_FILE
from components.counted_vectors import FIRST_VECTORS, NEIGHBOURS_FILE, TRAINED_VECTORS
from components.input import split_files
from components.language import TOKEN_IDS, vocabulary
from components.ngram_counting import count_all_words
from components.task import SPLITS, TransformOutputs
from trainers.ngram.counting import SENTENCE_END, UNKNOWN

_FREQUENT_WORDS = 12
_CURVE_POINTS = 60
_GENERATED = 6
_MAX_GENERATED_TOKENS = 40
_TEMPERATURES = (0.7, 1.0)


def vocabulary_section(config: RunConfig, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
  """What the vocabulary covers: unknown tokens of each split, and how often words of each rank occur."""
  if not {"transformed_examples", "transform_graph"} <= set(inputs):
    return None
  words = vocabulary(TransformOutputs(inputs["transform_graph"].uri))
  counts, rows = {}, []
  for split in SPLITS:
    files = split_files(inputs["transformed_examples"].uri, split)
    counts[split] = count_all_words(files, TOKEN_IDS, len(words))
    tokens, unknown = int(counts[split].sum()), int(counts[split][UNKNOWN])
    rows.append([split, int(counts[split][SENTENCE_END]), tokens, unknown, f"{unknown / max(tokens, 1):.2%}"])
  train = counts["train"].copy()
  train[: SENTENCE_END + 1] = 0
  order = np.argsort(-train, kind="stable")[:_FREQUENT_WORDS]
  ranked = np.sort(train[train > 0])[::-1]
  ranks = np.unique(np.geomspace(1, max(len(ranked), 1), _CURVE_POINTS).astype(int))[: len(ranked)]
  return {
    "title": "Vocabulary",
    "text": (
      f"{len(words) - SENTENCE_END - 1:,} entries ({config.preprocessing.kind}), learned from the training split. "
      "What it lacks is read as <unk>."
    ),
    "charts": [
      {
        "title": "Frequency by rank",
        "x_label": "rank",
        "y_label": "occurrences",
        "log_x": True,
        "log_y": True,
        "series": [{"name": "train", "x": ranks.tolist(), "y": ranked[ranks - 1].tolist()}],
      }
    ]
    if len(ranked)
    else [],
    "tables": [
      {"title": "Coverage", "columns": ["split", "sentences", "tokens", "unknown", "share"], "rows": rows},
      {
        "title": "Most frequent",
        "columns": ["entry", "occurrences"],
        "rows": [[words[i], int(train[i])] for i in order if train[i]],
      },
    ],
  }


def orders_section(inputs: Mapping[str, Any]) -> dict[str, Any] | None:
  """Perplexity by order, and the share of words whose history was never seen."""
  rows = _left_by_training(inputs, ORDERS_FILE)
  if rows is None:
    return None
  orders = [row["order"] for row in rows]
  return {
    "title": "N-grams by order",
    "text": (
      "By the chain rule a sentence's probability is the product of each word's after all words before it; a model of "
      "order n looks back n - 1 words. Longer histories say more, and ever more of them were never seen in training: "
      "there the model backs off to shorter ones."
    ),
    "charts": [
      {
        "title": "Perplexity on the validation split",
        "x_label": "order",
        "y_label": "perplexity",
        "lower_is_better": True,
        "series": [{"name": "validation", "x": orders, "y": [row["perplexity"] for row in rows]}],
      },
      {
        "title": "Histories never seen",
        "x_label": "order",
        "y_label": "share of words",
        "series": [{"name": "validation", "x": orders, "y": [row["unseen_histories"] for row in rows]}],
      },
    ],
    "tables": [
      {
        "columns": ["order", "n-grams", "perplexity", "histories never seen"],
        "rows": [
          [row["order"], row["ngrams"], round(row["perplexity"], 2), f"{row['unseen_histories']:.1%}"]
          for row in rows
        ],
      }
    ],
  }


def vectors_section(inputs: Mapping[str, Any]) -> dict[str, Any] | None:
  """Words and those nearest to them, before the network was trained and after."""
  found = _left_by_training(inputs, NEIGHBOURS_FILE)
  if found is None:
    return None
  rows = [
    [word, first, trained]
    for (word, first, _), (_, trained, _) in zip(found["first"], found["trained"], strict=True)
  ]
  return {
    "title": "Word vectors",
    "text": (
      "Each frequent word and those nearest to it by the cosine of their vectors: as they were before the network was "
      "trained, and as its embeddings are now. For TensorBoard's projector both are in the training run's folders "
      f"{FIRST_VECTORS} and {TRAINED_VECTORS}."
    ),
    "charts": [],
    "tables": [{"columns": ["word", found["method"], "after training"], "rows": rows}],
  }


def generated_section(config: RunConfig, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
  """Sentences that the exported model makes up from nothing."""
  from tfx.utils import path_utils

  if "model" not in inputs:
    return None
  model = tf.saved_model.load(path_utils.serving_model_path(inputs["model"].uri))
  lines = []
  for temperature in _TEMPERATURES:
    answer = model.signatures["generate"](
      text=tf.fill([_GENERATED], ""),
      max_length=tf.fill([_GENERATED], tf.constant(_MAX_GENERATED_TOKENS, tf.int64)),
      temperature=tf.fill([_GENERATED], temperature),
      top_k=tf.zeros([_GENERATED], tf.int64),
      top_p=tf.ones([_GENERATED]),
      seed=tf.range(config.seed, config.seed + _GENERATED, dtype=tf.int64),
    )
    for text in answer["text"].numpy():
      lines.append({"text": text.decode("utf-8", "replace"), "note": f"temperature {temperature:g}"})
  return {"title": "Generated text", "texts": [{"lines": lines}]}


def _left_by_training(inputs: Mapping[str, Any], name: str) -> Any:
  """What a JSON file of the training run holds; None where there is none."""
  if "model_run" not in inputs:
    return None
  path = os.path.join(inputs["model_run"].uri, name)
  if not tf.io.gfile.exists(path):
    return None
  with tf.io.gfile.GFile(path) as file:
    return json.loads(file.read())
