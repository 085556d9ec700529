"""Sections of the report on objects: what the data set has, and precision against recall on the test split."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tfx.utils import path_utils

from components.input import parse_raw
from components.metrics.coco import CocoAccumulator
from components.metrics.detection import picture_record
from components.picture_labels import BOXES
from components.report.raw_examples import serialized_batches
from components.task import SPLITS

_BATCH_SIZE = 16
# Curves that can still be told apart.
_MAX_CURVES = 8
_SIDE_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)


def objects_section(inputs: Mapping[str, Any]) -> dict[str, Any]:
  """Boxes by class and split, their sizes, and how many a picture has."""
  counts: dict[str, collections.Counter[str]] = {split: collections.Counter() for split in SPLITS}
  sides_px: dict[str, list[float]] = collections.defaultdict(list)
  per_picture: collections.Counter[int] = collections.Counter()
  for split in SPLITS:
    for batch in serialized_batches(inputs["examples"].uri, split, _BATCH_SIZE):
      raw = {name: value.numpy() for name, value in parse_raw(batch, BOXES).items()}
      for classes, boxes in zip(raw["classes"], raw["boxes"], strict=True):
        names = [name.decode("utf-8") for name in classes if name]
        counts[split].update(names)
        per_picture[len(names)] += 1
        corners = boxes.reshape(-1, 4)[: len(names)]
        sides = np.sqrt(np.prod(corners[:, 2:] - corners[:, :2], axis=1))
        for name, side in zip(names, sides.tolist(), strict=True):
          sides_px[name].append(side)
  names = sorted(sides_px, key=lambda name: -len(sides_px[name]))
  rows = [
    [name, *(counts[split][name] for split in SPLITS)]
    + [round(float(value), 1) for value in np.quantile(sides_px[name], _SIDE_SHARES)]
    for name in names
  ]
  columns = ["class", *SPLITS, *(f"{share:.0%} below" for share in _SIDE_SHARES)]
  numbers = sorted(per_picture)
  return {
    "title": "Objects",
    "tables": [
      {
        "title": "Boxes by class",
        "columns": columns,
        "rows": rows,
        "note": "Sizes: roots of the areas, in pixels.",
      }
    ],
    "charts": [
      {
        "title": "Objects a picture",
        "x_label": "objects",
        "y_label": "pictures",
        "series": [{"x": numbers, "y": [per_picture[number] for number in numbers]}],
      }
    ],
  }


def precision_section(inputs: Mapping[str, Any]) -> dict[str, Any] | None:
  """Curves of each class, and their average precisions, of the model that is pushed; None where there is none."""
  if "model" not in inputs:
    return None
  model = tf.saved_model.load(path_utils.serving_model_path(inputs["model"].uri))
  signature = model.signatures["evaluate_examples"]
  accumulator, names = CocoAccumulator(), []
  for batch in serialized_batches(inputs["examples"].uri, "test", _BATCH_SIZE):
    outputs = {name: value.numpy() for name, value in signature(examples=batch).items()}
    names = [name.decode("utf-8") for name in outputs["class_names"][0]]
    for place in range(len(batch)):
      one = {name: value[place] for name, value in outputs.items()}
      accumulator.add(int(one["example_id"]), picture_record(one))
  if not names:
    return None
  per_class = accumulator.figures(names)["per_class"]
  charts = [
    {
      "title": f"Precision against recall, IoU {threshold:g}",
      "x_label": "recall",
      "y_label": "precision",
      "series": [
        _curve(accumulator, class_id, name, threshold)
        for class_id, name in list(enumerate(names))[:_MAX_CURVES]
      ],
    }
    for threshold in (0.5, 0.75)
  ]
  rows = [
    [name, per_class[name], *(_average(accumulator, class_id, threshold) for threshold in (0.5, 0.75))]
    for class_id, name in enumerate(names)
  ]
  return {
    "title": "Precision and recall",
    "charts": charts,
    "tables": [
      {
        "title": "Average precision by class",
        "columns": ["class", "IoU 0.5 to 0.95", "IoU 0.5", "IoU 0.75"],
        "rows": rows,
      }
    ],
  }


def _curve(accumulator: CocoAccumulator, class_id: int, name: str, threshold: float) -> dict[str, Any]:
  recall, precision = accumulator.precision_recall(class_id, threshold)
  return {"name": name, "x": recall.tolist(), "y": precision.tolist()}


def _average(accumulator: CocoAccumulator, class_id: int, threshold: float) -> float:
  return float(np.mean(accumulator.precision_recall(class_id, threshold)[1]))
