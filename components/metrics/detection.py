"""TFMA metrics of object detection: COCO's average precision and recall, all drawn from one gathering of the pictures.

Average precision is no mean over batches, so what is gathered is the fate of each detection (see
`components.metrics.coco`), from what the exported signature answers for each example, [batch, ...] each:

  boxes float32 [D, 4] (x_min, y_min, x_max, y_max in pixels), scores float32 [D], class_ids int64 [D] and
  num_detections int64, how many of the D rows count; true_boxes float32 [G, 4], true_class_ids int64 [G],
  true_is_crowd int64 [G], true_areas float32 [G] in square pixels and num_true int64, how many of the G rows count;
  class_names bytes [C]; example_id int64, which orders equal scores, whatever the order of Beam's merges.

There is no label. A metric whose outputs are missing, or for which no true box counts, is left out of the results.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types, metric_util

from components.metrics.coco import FIGURES, CocoAccumulator, ImageRecord, match_image
from components.metrics.shared_pass import shared_pass

_DETECTED = ("boxes", "scores", "class_ids")
_TRUE = ("true_boxes", "true_class_ids", "true_is_crowd", "true_areas")
OUTPUTS = (*_DETECTED, "num_detections", *_TRUE, "num_true", "class_names", "example_id")


class CocoFigure(metric_types.Metric):
  """One of `components.metrics.coco.FIGURES`.

  Args:
    figure: which one.
    name: of the metric; None: the figure's.

  Raises:
    ValueError: there is no such figure.
  """

  def __init__(self, figure: str, name: str | None = None):
    if figure not in FIGURES:
      raise ValueError(f"there is no detection figure {figure!r}; use one of {', '.join(FIGURES)}")
    super().__init__(
      metric_util.merge_per_key_computations(_from_pictures), name=name or figure, figure=figure
    )
    self._figure = figure

  def get_config(self) -> dict[str, Any]:
    return {"name": self.name, "figure": self._figure}


class AveragePrecisionPerClass(metric_types.Metric):
  """Mean average precision of each class that has true boxes, as metrics named by `class_metric_name`."""

  def __init__(self, name: str = "average_precision"):
    super().__init__(metric_util.merge_per_key_computations(_from_pictures), name=name, figure="per_class")

  def get_config(self) -> dict[str, Any]:
    return {"name": self.name}


def class_metric_name(class_name: str, name: str = "average_precision") -> str:
  """Name of the metric of one class: "<name>_<class name>".

  A class called "small" would take the place of the figure average_precision_small, on which a threshold may stand:
  such classes get "<name>_class_<class name>".
  """
  plain = f"{name}_{class_name}"
  return f"{name}_class_{class_name}" if plain in FIGURES else plain


def _from_pictures(
  name: str, figure: str, model_name: str = "", example_weighted: bool = False
) -> metric_types.MetricComputations:
  """One pass over the pictures serves all figures."""
  key = metric_types.MetricKey(name="_coco_figures", model_name=model_name, example_weighted=example_weighted)

  def values(figures: Mapping[str, Any]) -> dict[str, float | None]:
    if figure != "per_class":
      return {name: figures.get(figure)}
    return {class_metric_name(label, name): value for label, value in figures.get(figure, {}).items()}

  return shared_pass(key, OUTPUTS, _CocoCombiner(key), name, values)


@dataclasses.dataclass
class _Pictures:
  """What is known of the pictures so far; there are no class names before the first one."""

  class_names: list[str] | None = None
  coco: CocoAccumulator = dataclasses.field(default_factory=CocoAccumulator)

  def name_classes(self, class_names: list[str]) -> None:
    if self.class_names not in (None, class_names):
      raise ValueError(
        f"class_names {class_names} are not {self.class_names}, as before; export the model again"
      )
    self.class_names = class_names


class _CocoCombiner(beam.CombineFn):
  """The figures of all pictures; none where the signature does not give all `OUTPUTS`."""

  def __init__(self, key: metric_types.MetricKey):
    self._key = key

  def create_accumulator(self) -> _Pictures:
    return _Pictures()

  def add_input(self, accumulator: _Pictures, element: metric_types.StandardMetricInputs) -> _Pictures:
    outputs = element.get_predictions(self._key.model_name or None) or {}
    if all(name in outputs for name in OUTPUTS):
      names = np.ravel(outputs["class_names"]).tolist()
      accumulator.name_classes([name.decode("utf-8", "replace") for name in names])
      accumulator.coco.add(np.asarray(outputs["example_id"]).item(), picture_record(outputs))
    return accumulator

  def merge_accumulators(self, accumulators: Iterable[_Pictures]) -> _Pictures:
    merged = _Pictures()
    for accumulator in accumulators:
      if accumulator.class_names is not None:
        merged.name_classes(accumulator.class_names)
        merged.coco.merge(accumulator.coco)
    return merged

  def compact(self, accumulator: _Pictures) -> _Pictures:
    accumulator.coco.compact()
    return accumulator

  def extract_output(self, accumulator: _Pictures) -> dict[metric_types.MetricKey, dict[str, Any]]:
    if accumulator.class_names is None:
      return {self._key: {}}
    return {self._key: accumulator.coco.figures(accumulator.class_names)}


def picture_record(outputs: Mapping[str, Any]) -> ImageRecord:
  """What one picture's answer of the signature, numpy arrays without the batch, adds to the figures."""
  detected = _unpadded(outputs, _DETECTED, "num_detections")
  return match_image(*detected, *_unpadded(outputs, _TRUE, "num_true"))


def _unpadded(outputs: Mapping[str, Any], names: Iterable[str], count_name: str) -> list[np.ndarray]:
  """One picture's boxes, the first of `names`, and what belongs to them, without the rows that do not count."""
  count = np.asarray(outputs[count_name]).item()
  boxes, *columns = (np.asarray(outputs[name]) for name in names)
  return [boxes.reshape(-1, 4)[:count], *(column.reshape(-1)[:count] for column in columns)]
