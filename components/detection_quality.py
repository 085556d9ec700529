"""Mean average precision of a detector's raw output, for models that are measured outside of their exports."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from components.config import RunConfig
from components.detection import detect
from components.metrics.coco import CocoAccumulator, match_image


class MeanAveragePrecision:
  """COCO's, with Keras's methods for metrics; boxes are compared in pixels of the model's own pictures.

  Args:
    config: see `components.detection.detect`.
  """

  name = "mean_average_precision"

  def __init__(self, config: RunConfig):
    self._config = config
    self._accumulator = CocoAccumulator()
    self._num_pictures = 0
    self._num_classes = 0

  def update_state(self, targets: Any, outputs: Any) -> None:
    """Adds pictures.

    Args:
      targets: float32 [batch, boxes, 5], see `components.detection.parse`.
      outputs: of the model, float32 [batch, locations, classes + 5].
    """
    outputs = tf.convert_to_tensor(outputs)
    self._num_classes = outputs.shape[-1] - 5
    found = {name: value.numpy() for name, value in detect(outputs, self._config).items()}
    for place, rows in enumerate(np.asarray(targets)):
      rows = rows[rows[:, 4] >= 0]
      count = int(found["num_detections"][place])
      areas = (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1])
      record = match_image(
        *(found[name][place, :count] for name in ("boxes", "scores", "class_ids")),
        rows[:, :4],
        rows[:, 4].astype(np.int64),
        np.zeros(len(rows), np.int64),
        areas,
      )
      self._accumulator.add(self._num_pictures, record)
      self._num_pictures += 1

  def result(self) -> float:
    """In [0, 1]; 0 where there was no box."""
    names = [str(class_id) for class_id in range(self._num_classes)]
    return self._accumulator.figures(names)[self.name] or 0.0
