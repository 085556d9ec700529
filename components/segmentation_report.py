"""Sections of the report on masks: the classes' pixels, and what is taken for what on the test split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tfx.utils import path_utils

from components.config import RunConfig
from components.input import parse_raw
from components.metrics.segmentation import figures_of
from components.picture_labels import MASK
from components.report.raw_examples import serialized_batches
from components.task import SPLITS

_BATCH_SIZE = 8


def pixels_section(config: RunConfig, inputs: Mapping[str, Any]) -> dict[str, Any]:
  """The share of the pixels that each class has, and the share of the pictures that have it, by split."""
  names = config.preprocessing.classes
  columns, pixel_shares, picture_shares = [], [], []
  for split in SPLITS:
    pixels, pictures, num_pictures = np.zeros(len(names)), np.zeros(len(names)), 0
    for batch in serialized_batches(inputs["examples"].uri, split, _BATCH_SIZE):
      for mask in parse_raw(batch, MASK)["mask"]:
        ids = tf.io.decode_png(mask, channels=1).numpy().ravel()
        counts = np.bincount(ids, minlength=len(names))[: len(names)]
        pixels += counts
        pictures += counts > 0
        num_pictures += 1
    columns.append(split)
    pixel_shares.append(pixels / max(pixels.sum(), 1))
    picture_shares.append(pictures / max(num_pictures, 1))
  rows = [
    [name, *(f"{share[class_id]:.1%}" for share in (*pixel_shares, *picture_shares))]
    for class_id, name in enumerate(names)
  ]
  header = [f"{what}, {split}" for what in ("pixels", "pictures") for split in columns]
  note = "Shares of the pixels that have a class, and of the pictures that have any pixel of it."
  return {
    "title": "Classes",
    "tables": [{"title": "Balance", "columns": ["class", *header], "rows": rows, "note": note}],
  }


def confusion_section(config: RunConfig, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
  """Which share of each class's pixels is taken for which class, by the model that is pushed; [] without one."""
  if "model" not in inputs:
    return []
  names = config.preprocessing.classes
  model = tf.saved_model.load(path_utils.serving_model_path(inputs["model"].uri))
  signature = model.signatures["evaluate_examples"]
  confusion = np.zeros((len(names), len(names)), np.int64)
  for batch in serialized_batches(inputs["examples"].uri, "test", _BATCH_SIZE):
    confusion += signature(examples=batch)["confusion"].numpy().sum(axis=0)
  found = figures_of(confusion, names)
  rows = [
    [name, found["per_class"][name], *(f"{count / max(row.sum(), 1):.1%}" for count in row)]
    for name, row in zip(names, confusion, strict=True)
  ]
  table = {
    "title": "What is taken for what",
    "columns": ["class", "IoU", *names],
    "rows": rows,
    "note": f"A row: what the pixels of a class are taken for. Mean IoU {found['mean_iou'] or 0:.4f}.",
  }
  return [{"title": "Pixels of the test split", "tables": [table]}]
