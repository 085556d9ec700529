"""Pictures with boxes for people, and how far an answer is from the truth."""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from components.example_gen.drawing import draw_boxes
from components.metrics.coco import match_boxes

# Less certain boxes are in the answer, for precision and recall, and not drawn.
SHOWN_SCORE = 0.4


def draw_truth(features: Mapping[str, Any]) -> bytes:
  """PNG of the picture, with the labelled boxes where `features` has them: arrays as they lie in an example.

  Colours follow the order of `class_names` where `features` has them, bytes, else that of the picture's own classes.
  """
  if "boxes" not in features:
    return draw_boxes(features["image"], [], [])
  labels = [name.decode("utf-8") for name in features["classes"] if name]
  known = [name.decode("utf-8") for name in features.get("class_names", ())]
  names = [*known, *sorted(set(labels) - set(known))]
  return draw_boxes(features["image"], _true_boxes(features), labels, class_names=names)


def draw_answer(image: bytes, output: Mapping[str, Any]) -> bytes:
  """PNG of the picture with the boxes of a decoded answer whose score is at least `SHOWN_SCORE`."""
  rows = zip(output["boxes"], output["labels"], output["scores"], strict=True)
  shown = [row for row in rows if row[2] >= SHOWN_SCORE]
  boxes, labels, scores = (list(column) for column in zip(*shown, strict=True)) if shown else ([], [], [])
  return draw_boxes(image, boxes, labels, scores, output["classes"])


def draw_boxes_by_id(png: bytes, targets: np.ndarray, names: Sequence[str]) -> bytes:
  """PNG of a picture with targets, float32 [boxes, 5]: corners in pixels and class id, -1 for padding."""
  rows = targets[targets[:, 4] >= 0]
  labels = [names[class_id] for class_id in rows[:, 4].astype(int)]
  return draw_boxes(png, rows[:, :4], labels, class_names=names)


def count_objects(output: Mapping[str, Any]) -> str:
  """ "12 RBC, 1 WBC": the boxes of a decoded answer that are drawn."""
  shown = [
    label for label, score in zip(output["labels"], output["scores"], strict=True) if score >= SHOWN_SCORE
  ]
  return _counted(shown) or "nothing"


def _true_boxes(features: Mapping[str, Any]) -> np.ndarray:
  """float32 [boxes, 4], without what fills the batch up."""
  return np.reshape(features["boxes"], [-1, 4])[np.asarray(features["classes"]) != b""]


def compare_boxes(features: Mapping[str, Any], output: Mapping[str, Any]) -> tuple[float, str]:
  """F1 of the boxes that are shown, at an overlap of one half, and in words what is missed and what is wrong.

  Args:
    features: image, boxes, classes and is_crowd of an example.
    output: of the signature, numpy arrays of the example.
  """
  shown = np.arange(len(output["scores"])) < output["num_detections"]
  shown &= output["scores"] >= SHOWN_SCORE
  names = list(output["class_names"])
  labels = [name for name in features["classes"] if name]
  true_ids = np.array([names.index(name) if name in names else -1 for name in labels], np.int64)
  crowd = np.asarray(features["is_crowd"])[: len(labels)]
  boxes, scores, ids = output["boxes"][shown], output["scores"][shown], output["class_ids"][shown]
  matches = match_boxes(boxes, scores, ids, _true_boxes(features), true_ids, crowd)
  is_found = np.isin(np.arange(len(labels)), matches)
  missed = [
    name for name, found, is_crowd in zip(labels, is_found, crowd, strict=True) if not (found or is_crowd)
  ]
  # A box of a crowd is neither right nor wrong.
  hits = int(np.sum((matches >= 0) & (crowd[matches] == 0))) if len(crowd) else 0
  wrong = [names[class_id] for class_id, match in zip(ids, matches, strict=True) if match < 0]
  total = 2 * hits + len(missed) + len(wrong)
  score = 2 * hits / total if total else 1.0
  parts = [f"{hits} of {hits + len(missed)} found"]
  for kind, found in (("missed", missed), ("wrong", wrong)):
    if found:
      parts.append(f"{kind}: {_counted(name.decode('utf-8') for name in found)}")
  return score, "; ".join(parts)


def _counted(names: Iterable[str]) -> str:
  """ "2 WBC, 1 RBC"."""
  return ", ".join(f"{count} {name}" for name, count in collections.Counter(names).most_common())


def coco_results(answers: Sequence[tuple[str, Mapping[str, Any]]]) -> bytes:
  """Decoded answers as COCO's results: a JSON list of boxes as x, y, width and height.

  `image_id` is the number that the picture's file is named by where each has one of its own, as COCO's have, else its
  place among the answers, from 1; `category_id` the class's place, from 1. `file_name` and `category` say the same in
  words.
  """
  rows = []
  for image_id, (path, output) in zip(_image_ids([path for path, _ in answers]), answers, strict=True):
    for box, label, score in zip(output["boxes"], output["labels"], output["scores"], strict=True):
      x_min, y_min, x_max, y_max = box
      rows.append(
        {
          "image_id": image_id,
          "category_id": output["classes"].index(label) + 1,
          "bbox": [x_min, y_min, x_max - x_min, y_max - y_min],
          "score": score,
          "file_name": os.path.basename(path),
          "category": label,
        }
      )
  return json.dumps(rows).encode("utf-8")


def _image_ids(paths: Sequence[str]) -> list[int]:
  stems = [os.path.splitext(os.path.basename(path))[0] for path in paths]
  if all(stem.isascii() and stem.isdigit() for stem in stems):
    numbers = [int(stem) for stem in stems]
    if len(set(numbers)) == len(numbers):
      return numbers
  return list(range(1, len(paths) + 1))
