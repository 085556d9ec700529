"""TFMA metrics of single-label classification that TFMA lacks: macro averages, calibration, cross-entropy.

TFMA's own CategoricalCrossEntropy expects one-hot labels and silently misreads class ids, and its calibration
looks at one class at a time. Each metric here is a Beam combiner, so slices, baselines and thresholds work.

Labels are class ids; -1 stands for a class that the model never saw in training: it is always a mistake.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types, metric_util
from tensorflow_model_analysis.metrics.multi_class_confusion_matrix_metrics import (
  multi_class_confusion_matrices,
)
from tensorflow_model_analysis.proto import metrics_for_slice_pb2

NUM_CONFIDENCE_BINS = 15
# A probability of 0 for the true class costs -ln(1e-7) = 16.1 and not infinity, as in Keras.
MIN_PROBABILITY = 1e-7


@dataclasses.dataclass(frozen=True)
class ClassScores:
  """Precision, recall and F1 of one class under "the most probable class wins"."""

  precision: float
  recall: float
  f1: float
  count: int


def scores_by_class(confusion: Mapping[tuple[int, int], float]) -> dict[int, ClassScores]:
  """Scores of each class that has examples.

  Args:
    confusion: (actual class id, predicted class id) -> number of examples.

  Returns:
    class id -> scores, in the order of the ids. A class that is never predicted has precision 0.
  """
  actual: dict[int, float] = {}
  predicted: dict[int, float] = {}
  for (actual_id, predicted_id), count in confusion.items():
    actual[actual_id] = actual.get(actual_id, 0) + count
    predicted[predicted_id] = predicted.get(predicted_id, 0) + count
  scores = {}
  for class_id in sorted(key for key, count in actual.items() if key >= 0 and count > 0):
    hits = confusion.get((class_id, class_id), 0)
    precision = hits / predicted[class_id] if predicted.get(class_id) else 0.0
    recall = hits / actual[class_id]
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    scores[class_id] = ClassScores(precision, recall, f1, int(actual[class_id]))
  return scores


class _MacroAverage(metric_types.Metric):
  """Mean over the classes of one score; every class counts the same, however rare it is."""

  score = ""

  def __init__(self, name: str | None = None):
    super().__init__(
      metric_util.merge_per_key_computations(_macro_average),
      name=name or f"macro_{self.score}",
      score=self.score,
    )

  def get_config(self) -> dict[str, Any]:
    return {"name": self.name}


class MacroPrecision(_MacroAverage):
  """Of the examples called a class, the share that are one; mean over the classes."""

  score = "precision"


class MacroRecall(_MacroAverage):
  """Of the examples of a class, the share that are found; mean over the classes."""

  score = "recall"


class MacroF1(_MacroAverage):
  """Harmonic mean of precision and recall; mean over the classes."""

  score = "f1"


def _macro_average(
  name: str, score: str, eval_config=None, model_name="", output_name="", example_weighted=False
) -> metric_types.MetricComputations:
  """Derives one macro average from TFMA's confusion counts, which all such metrics and the matrix share."""
  computations = multi_class_confusion_matrices(
    thresholds=[0.0],
    eval_config=eval_config,
    model_name=model_name,
    output_name=output_name,
    example_weighted=example_weighted,
  )
  counts_key = computations[-1].keys[-1]

  def mean_score(matrices: Any) -> float:
    counts = {(key.actual_class_id, key.predicted_class_id): n for key, n in matrices[0.0].items()}
    values = [getattr(scores, score) for scores in scores_by_class(counts).values()]
    return float(np.mean(values)) if values else 0.0

  return [*computations, _derived(metric_types.MetricKey, name, counts_key, mean_score)]


class _FromProbabilities(metric_types.Metric):
  """A figure drawn from the shared sums over the predicted probabilities."""

  figure = ""

  def __init__(self, name: str | None = None):
    super().__init__(
      metric_util.merge_per_key_computations(_from_probabilities),
      name=name or self.figure,
      figure=self.figure,
    )

  def get_config(self) -> dict[str, Any]:
    return {"name": self.name}


class CrossEntropy(_FromProbabilities):
  """Mean of -ln(probability of the true class), in nats."""

  figure = "cross_entropy"


class ExpectedCalibrationError(_FromProbabilities):
  """How far the confidence in the chosen class lies from how often that class is right.

  Mean over the examples of |accuracy - mean confidence| of their bin, in bins of equal width.

  Source: Guo, Pleiss, Sun and Weinberger, 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599.
  """

  figure = "expected_calibration_error"


class ConfidencePlot(_FromProbabilities):
  """Reliability diagram: per bin of confidence, the examples, the right ones and the summed confidence."""

  figure = "confidence_plot"


def _from_probabilities(
  name: str, figure: str, eval_config=None, model_name="", output_name="", example_weighted=False
) -> metric_types.MetricComputations:
  """One pass over the examples serves all figures: TFMA drops computations of equal keys."""
  key = metric_types.MetricKey(
    name="_probability_sums",
    model_name=model_name,
    output_name=output_name,
    example_weighted=example_weighted,
  )
  combiner = _ProbabilitySumsCombiner(key, eval_config)
  computation = metric_types.MetricComputation(keys=[key], preprocessors=None, combiner=combiner)
  key_type, fn = {
    "cross_entropy": (metric_types.MetricKey, _mean_nats),
    "expected_calibration_error": (metric_types.MetricKey, _calibration_error),
    "confidence_plot": (metric_types.PlotKey, _to_buckets),
  }[figure]
  return [computation, _derived(key_type, name, key, fn)]


def _mean_nats(sums: ProbabilitySums) -> float:
  return sums.nats / sums.count


def _calibration_error(sums: ProbabilitySums) -> float:
  return float(np.abs(sums.correct - sums.confidence).sum() / sums.count)


def _to_buckets(sums: ProbabilitySums) -> metrics_for_slice_pb2.CalibrationHistogramBuckets:
  buckets = metrics_for_slice_pb2.CalibrationHistogramBuckets()
  for i in range(NUM_CONFIDENCE_BINS):
    buckets.buckets.add(
      lower_threshold_inclusive=i / NUM_CONFIDENCE_BINS,
      upper_threshold_exclusive=(i + 1) / NUM_CONFIDENCE_BINS,
      num_weighted_examples={"value": sums.examples[i]},
      total_weighted_label={"value": sums.correct[i]},
      total_weighted_refined_prediction={"value": sums.confidence[i]},
    )
  return buckets


def _derived(
  key_type: type, name: str, source: metric_types.MetricKey, fn: Callable[[Any], Any]
) -> metric_types.DerivedMetricComputation:
  """A metric or plot computed from the value found under `source`, of the same model and output."""
  key = key_type(
    name=name,
    model_name=source.model_name,
    output_name=source.output_name,
    example_weighted=source.example_weighted,
  )
  return metric_types.DerivedMetricComputation(keys=[key], result=lambda metrics: {key: fn(metrics[source])})


@dataclasses.dataclass
class ProbabilitySums:
  """Sums over examples; the arrays are float64 [NUM_CONFIDENCE_BINS]."""

  count: int = 0
  nats: float = 0.0
  examples: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(NUM_CONFIDENCE_BINS))
  correct: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(NUM_CONFIDENCE_BINS))
  confidence: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(NUM_CONFIDENCE_BINS))

  def add(self, label: int, probabilities: np.ndarray) -> None:
    """Adds one example. `probabilities`: float [classes]."""
    best = int(np.argmax(probabilities))
    confidence = float(probabilities[best])
    # Not a number lands in the last bin and makes every figure not a number, which no threshold lets pass.
    place = confidence * NUM_CONFIDENCE_BINS if math.isfinite(confidence) else NUM_CONFIDENCE_BINS
    bin_index = min(max(int(place), 0), NUM_CONFIDENCE_BINS - 1)
    true_probability = float(probabilities[label]) if 0 <= label < len(probabilities) else 0.0
    if not math.isnan(true_probability):
      true_probability = max(true_probability, MIN_PROBABILITY)
    self.count += 1
    self.nats -= math.log(true_probability)
    self.examples[bin_index] += 1
    self.correct[bin_index] += best == label
    self.confidence[bin_index] += confidence

  def merge(self, other: ProbabilitySums) -> None:
    """Adds the sums of other examples."""
    for field in dataclasses.fields(self):
      setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


class _ProbabilitySumsCombiner(beam.CombineFn):
  def __init__(self, key: metric_types.MetricKey, eval_config: Any):
    self._key = key
    self._eval_config = eval_config

  def create_accumulator(self) -> ProbabilitySums:
    return ProbabilitySums()

  def add_input(
    self, accumulator: ProbabilitySums, element: metric_types.StandardMetricInputs
  ) -> ProbabilitySums:
    label, probabilities, _ = next(
      metric_util.to_label_prediction_example_weight(
        element,
        eval_config=self._eval_config,
        model_name=self._key.model_name,
        output_name=self._key.output_name,
        flatten=False,
      )
    )
    accumulator.add(int(np.asarray(label).item()), np.asarray(probabilities, np.float64))
    return accumulator

  def merge_accumulators(self, accumulators: Iterable[ProbabilitySums]) -> ProbabilitySums:
    result = ProbabilitySums()
    for accumulator in accumulators:
      result.merge(accumulator)
    return result

  def extract_output(self, accumulator: ProbabilitySums) -> dict[metric_types.MetricKey, ProbabilitySums]:
    return {self._key: accumulator}
