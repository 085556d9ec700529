"""TFMA metrics of semantic segmentation, all drawn from one summed confusion matrix.

A mean of the pictures' IoUs is not the IoU of the whole, so every figure here comes from counts of pixels, which the
exported signature gives for each example: "confusion" int64 [batch, C, C] (rows: true class, columns: predicted; pixels
without a true class are not in it) and "class_names" bytes [batch, C]. Counts are summed as integers: exact. There is
no label. A metric whose outputs are missing, or of which no pixel says anything, is left out of the results.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types, metric_util

from components.metrics.shared_pass import shared_pass

OUTPUTS = ("confusion", "class_names")
FIGURES = ("mean_iou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "mean_dice")


def figures_of(confusion: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
  """The figures of a confusion matrix.

  Args:
    confusion: int [C, C], pixels; rows are the true classes, columns the predicted ones.
    class_names: [C], in the order of the class ids.

  Returns:
    mean_iou, mean_dice: means over the classes that occur in truth or prediction.
    pixel_accuracy: the share of the pixels that are right.
    mean_accuracy: mean of that share within each true class, over the classes that have true pixels.
    frequency_weighted_iou: mean of the classes' IoUs, weighted with their true pixels.
    per_class: {class name: IoU, None where the class occurs in neither}.
    All in [0, 1]; None where there are no pixels.

  Raises:
    ValueError: the matrix is not [C, C].
  """
  confusion = np.asarray(confusion)
  num_classes = len(class_names)
  if confusion.shape != (num_classes, num_classes):
    raise ValueError(
      f"confusion has the shape {confusion.shape} for {num_classes} class names; give one row and column a class"
    )
  hits, true, predicted = np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
  iou = _ratio(hits, true + predicted - hits)
  has_pixels = true.sum() > 0
  return {
    "mean_iou": _mean(iou),
    "pixel_accuracy": float(hits.sum() / true.sum()) if has_pixels else None,
    "mean_accuracy": _mean(_ratio(hits, true)),
    "frequency_weighted_iou": float(np.nansum(true * iou) / true.sum()) if has_pixels else None,
    "mean_dice": _mean(_ratio(2 * hits, true + predicted)),
    "per_class": {name: _mean(iou[class_id : class_id + 1]) for class_id, name in enumerate(class_names)},
  }


def _ratio(numerators: np.ndarray, denominators: np.ndarray) -> np.ndarray:
  """float64 [N]; not a number where the denominator is 0."""
  return np.divide(numerators, denominators, out=np.full(len(numerators), np.nan), where=denominators > 0)


def _mean(values: np.ndarray) -> float | None:
  """Over the values that are numbers."""
  known = values[~np.isnan(values)]
  return float(known.mean()) if len(known) else None


class SegmentationFigure(metric_types.Metric):
  """One of `FIGURES`.

  Args:
    figure: which one.
    name: of the metric; None: the figure's.

  Raises:
    ValueError: there is no such figure.
  """

  def __init__(self, figure: str, name: str | None = None):
    if figure not in FIGURES:
      raise ValueError(f"there is no segmentation figure {figure!r}; use one of {', '.join(FIGURES)}")
    super().__init__(
      metric_util.merge_per_key_computations(_from_confusion), name=name or figure, figure=figure
    )
    self._figure = figure

  def get_config(self) -> dict[str, Any]:
    return {"name": self.name, "figure": self._figure}


class IouPerClass(metric_types.Metric):
  """Intersection over union of each class, as metrics "<name>_<class name>"; of classes that occur."""

  def __init__(self, name: str = "iou"):
    super().__init__(metric_util.merge_per_key_computations(_from_confusion), name=name, figure="per_class")

  def get_config(self) -> dict[str, Any]:
    return {"name": self.name}


def _from_confusion(
  name: str, figure: str, model_name: str = "", example_weighted: bool = False
) -> metric_types.MetricComputations:
  """One pass over the examples serves all figures."""
  key = metric_types.MetricKey(
    name="_segmentation_figures", model_name=model_name, example_weighted=example_weighted
  )

  def values(figures: Mapping[str, Any]) -> dict[str, float | None]:
    if figure != "per_class":
      return {name: figures.get(figure)}
    return {f"{name}_{label}": iou for label, iou in figures.get(figure, {}).items()}

  return shared_pass(key, OUTPUTS, _ConfusionCombiner(key), name, values)


@dataclasses.dataclass
class ConfusionSum:
  """Pixels by class of all examples so far; the arrays are None before the first one."""

  class_names: list[str] | None = None
  confusion: np.ndarray | None = None

  def add(self, class_names: list[str], confusion: np.ndarray) -> None:
    """Adds the pixels of other examples.

    Args:
      class_names: [C].
      confusion: int64 [C, C].

    Raises:
      ValueError: the classes are not those of the examples before.
    """
    if self.class_names is None:
      self.class_names, self.confusion = class_names, confusion
    elif self.class_names != class_names:
      raise ValueError(
        f"class_names {class_names} are not {self.class_names}, as before; export the model again"
      )
    else:
      self.confusion = self.confusion + confusion


class _ConfusionCombiner(beam.CombineFn):
  """The figures of the sum of all confusion matrices; none where the signature gives no matrix."""

  def __init__(self, key: metric_types.MetricKey):
    self._key = key

  def create_accumulator(self) -> ConfusionSum:
    return ConfusionSum()

  def add_input(self, accumulator: ConfusionSum, element: metric_types.StandardMetricInputs) -> ConfusionSum:
    outputs = element.get_predictions(self._key.model_name or None) or {}
    if all(name in outputs for name in OUTPUTS):
      class_names = [name.decode("utf-8", "replace") for name in np.ravel(outputs["class_names"]).tolist()]
      confusion = np.asarray(outputs["confusion"], np.int64).reshape(len(class_names), len(class_names))
      accumulator.add(class_names, confusion)
    return accumulator

  def merge_accumulators(self, accumulators: Iterable[ConfusionSum]) -> ConfusionSum:
    merged = ConfusionSum()
    for accumulator in accumulators:
      if accumulator.class_names is not None:
        merged.add(accumulator.class_names, accumulator.confusion)
    return merged

  def extract_output(self, accumulator: ConfusionSum) -> dict[metric_types.MetricKey, dict[str, Any]]:
    if accumulator.class_names is None:
      return {self._key: {}}
    return {self._key: figures_of(accumulator.confusion, accumulator.class_names)}
