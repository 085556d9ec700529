"""TFMA's output directory, read: metrics, slices, confusion, calibration, thresholds and why they failed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.writers.eval_config_writer import load_eval_run

from components.evaluation import BASELINE, CANDIDATE, THRESHOLD_SECTIONS, TOLERANCE
from components.metrics.classification import scores_by_class

# ((feature, value), ...) of a slice; () is all examples together.
SliceKey = tuple[tuple[str, str], ...]
ALL: SliceKey = ()
# Thresholds against another model.
CHANGE_KINDS = ("max_drop", "max_rise")
# Metrics that TFMA gives as floats and that are whole numbers.
_COUNTS = ("example_count", "token_count")


class EvaluationResults:
  """One ModelEvaluation directory.

  Args:
    uri: the directory.
    class_names: see `components.evaluation.read_evaluation`.

  Raises:
    ValueError: the directory holds no evaluation.
  """

  def __init__(self, uri: str, class_names: Sequence[str] | None = None):
    self._eval_config = load_eval_run(uri)[0] if os.path.isdir(uri) else None
    if self._eval_config is None:
      raise ValueError(f"{uri}: no evaluation here (eval_config.json is missing); run the Evaluator again")
    self._models = {spec.name or CANDIDATE for spec in self._eval_config.model_specs}
    self._metrics = _read_metrics(tfma.load_metrics(uri))
    self._plots = _read_plots(tfma.load_plots(uri))
    self._validation = tfma.load_validation_result(uri)
    self._class_names = list(class_names or [])

  def to_json(self) -> dict[str, Any]:
    """The document that `components.evaluation.read_evaluation` describes."""
    slices: dict[str, dict[str, Any]] = {}
    for key, metrics in sorted(self._metrics.get(CANDIDATE, {}).items()):
      for feature, value in key:
        slices.setdefault(feature, {})[value] = metrics
    document = {
      "candidate": self._metrics.get(CANDIDATE, {}).get(ALL, {}),
      "baseline": self._metrics.get(BASELINE, {}).get(ALL, {}),
      "slices": slices,
      **self._confusion_tables(),
      **self._calibration(),
      "thresholds": self._thresholds(),
    }
    document["failures"] = self._failures(document)
    document["blessed"] = self._validation.validation_ok and not document["failures"]
    document["warnings"] = [
      f"evaluation.slice_by: no example has the feature {name!r}"
      for spec in self._eval_config.slicing_specs
      for name in spec.feature_keys
      if name not in slices
    ]
    return document

  def _confusion_tables(self) -> dict[str, Any]:
    counts = self._confusion_counts(ALL)
    if counts is None:
      return {}
    names = self._names_by_id(max((max(pair) for pair in counts), default=-1) + 1)
    matrix = [[0] * len(names) for _ in names]
    for (actual_id, predicted_id), count in counts.items():
      if actual_id >= 0 and predicted_id >= 0:
        matrix[actual_id][predicted_id] = int(count)
    unseen = sum(int(count) for (actual_id, _), count in counts.items() if actual_id < 0)
    return {
      "confusion": {"classes": names, "matrix": matrix, "unseen_class_examples": unseen},
      "per_class": {
        names[class_id]: self._class_row(names[class_id], scores)
        for class_id, scores in scores_by_class(counts).items()
      },
    }

  def _class_row(self, name: str, scores: Any) -> dict[str, Any]:
    row = {"precision": scores.precision, "recall": scores.recall, "f1": scores.f1, "count": scores.count}
    baseline = self._metrics.get(BASELINE, {}).get(((self._label_feature, name),), {})
    if "accuracy" in baseline:
      row["baseline_recall"] = baseline["accuracy"]
    return row

  @property
  def _label_feature(self) -> str:
    return self._eval_config.model_specs[0].label_key.removesuffix("_id")

  def _confusion_counts(self, key: SliceKey) -> dict[tuple[int, int], float] | None:
    for plot in self._plots.get(CANDIDATE, {}).get(key, []):
      if plot.HasField("multi_class_confusion_matrix_at_thresholds"):
        matrices = plot.multi_class_confusion_matrix_at_thresholds.matrices
        return {
          (entry.actual_class_id, entry.predicted_class_id): entry.num_weighted_examples
          for matrix in matrices
          for entry in matrix.entries
        }
    return None

  def _names_by_id(self, num_classes: int) -> list[str]:
    names = dict(enumerate(self._class_names))
    if names:
      return [names.get(class_id, f"class {class_id}") for class_id in range(max(num_classes, len(names)))]
    for key in self._plots.get(CANDIDATE, {}):
      if len(key) == 1 and key[0][0] == self._label_feature:
        for actual_id, _ in self._confusion_counts(key) or {}:
          names[actual_id] = key[0][1]
    return [names.get(class_id, f"class {class_id}") for class_id in range(num_classes)]

  def _calibration(self) -> dict[str, Any]:
    for plot in self._plots.get(CANDIDATE, {}).get(ALL, []):
      if plot.HasField("calibration_histogram_buckets"):
        return {"calibration": [_bin(bucket) for bucket in plot.calibration_histogram_buckets.buckets]}
    return {}

  def _thresholds(self) -> list[dict[str, Any]]:
    candidate = self._metrics.get(CANDIDATE, {}).get(ALL, {})
    baseline = self._metrics.get(BASELINE, {}).get(ALL, {})
    failed = {
      (failure.metric_key.name, kind)
      for validation in self._validation.metric_validations_per_slice
      for failure in validation.failures
      for kind in _bounds(failure.metric_threshold)
    }
    rows = []
    for name, threshold in _configured(self._eval_config):
      for kind, bound in threshold.items():
        rows.append(
          {
            "metric": name,
            "kind": kind,
            "threshold": bound,
            "value": candidate.get(name),
            "baseline": baseline.get(name),
            # TFMA reports nothing at all about thresholds where there was not one example.
            "passed": name in candidate and (name, kind) not in failed,
          }
        )
    return rows

  def _failures(self, document: dict[str, Any]) -> list[str]:
    if not document["candidate"]:
      return ["there was not one example to evaluate"]
    if not document["thresholds"]:
      sections = ", ".join(f"evaluation.{name}" for name in THRESHOLD_SECTIONS)
      return [f"no threshold is set: fill one of {sections} to bless models"]
    failures = [explain(row) for row in document["thresholds"] if not row["passed"]]
    if not failures and not self._validation.validation_ok:
      failures.append("TFMA refused the model without naming a threshold")
    return failures


def explain(threshold: dict[str, Any]) -> str:
  """One sentence on a threshold that does not hold; `threshold` as in `read_evaluation`'s "thresholds"."""
  name, value, bound, baseline = (threshold[key] for key in ("metric", "value", "threshold", "baseline"))
  kind = threshold["kind"]
  if value is None:
    return f"{name} is not a number: the model's outputs hold values that are not finite, or are missing"
  if kind in ("min", "max"):
    shown, limit = _figures(value, bound)
    return f"{name} {shown} is {'below' if kind == 'min' else 'above'} the threshold {limit}"
  if baseline is None:
    return (
      f"{name} of the baseline is not a number: its outputs hold values that are not finite, or are missing"
    )
  shown, reference = _figures(value, baseline)
  worse, limit = _figures(baseline - value if kind == "max_drop" else value - baseline, bound)
  side = "below" if kind == "max_drop" else "above"
  return f"{name} {shown} is {worse} {side} the baseline's {reference}; at most {limit} is allowed"


def _figures(*values: float) -> list[str]:
  """The values with as few decimals, from two on, as show each one well and tell them apart."""
  for decimals in range(2, 10):
    texts = [f"{value:.{decimals}f}" for value in values]
    exact = all(
      abs(float(text) - value) < (5e-5 if abs(value) < 10 else 5.001e-3)
      for text, value in zip(texts, values, strict=True)
    )
    if exact and (len(set(texts)) == len(texts) or decimals >= 6):
      break
  return texts


def _configured(eval_config: Any) -> Iterable[tuple[str, dict[str, float]]]:
  """(metric, {kind: bound}) of each metric that has thresholds on all examples together."""
  for spec in eval_config.metrics_specs:
    for metric in spec.metrics:
      for sliced in metric.per_slice_thresholds:
        yield json.loads(metric.config)["name"], _bounds(sliced.threshold)


def _bounds(threshold: Any) -> dict[str, float]:
  """{"min", "max", "max_drop" or "max_rise": the bound as the configuration has it} of a tfma.MetricThreshold."""
  bounds = {}
  value, change = threshold.value_threshold, threshold.change_threshold
  if value.HasField("lower_bound"):
    bounds["min"] = value.lower_bound.value + TOLERANCE
  if value.HasField("upper_bound"):
    bounds["max"] = value.upper_bound.value - TOLERANCE
  if change.HasField("absolute"):
    if change.direction == tfma.MetricDirection.LOWER_IS_BETTER:
      bounds["max_rise"] = change.absolute.value - TOLERANCE
    else:
      bounds["max_drop"] = -change.absolute.value - TOLERANCE
  return {kind: round(bound, 9) for kind, bound in bounds.items()}


def _slice_key(proto: Any) -> SliceKey:
  return tuple((part.column, _slice_value(part)) for part in proto.single_slice_keys)


def _slice_value(part: Any) -> str:
  kind = part.WhichOneof("kind")
  value = getattr(part, kind)
  return value.decode("utf-8", "replace") if kind == "bytes_value" else f"{value:g}"


def _read_metrics(records: Iterable[Any]) -> dict[str, dict[SliceKey, dict[str, Any]]]:
  """model -> slice -> metric -> value, without the differences to the baseline: they follow from the rest."""
  models: dict[str, dict[SliceKey, dict[str, Any]]] = {}
  for record in records:
    for item in record.metric_keys_and_values:
      if not item.key.is_diff and item.value.HasField("double_value"):
        value = item.value.double_value.value
        name = item.key.name
        if item.key.HasField("sub_key") and item.key.sub_key.HasField("class_id"):
          name += f"@class_{item.key.sub_key.class_id.value}"
        metrics = models.setdefault(item.key.model_name or CANDIDATE, {}).setdefault(
          _slice_key(record.slice_key), {}
        )
        metrics[name] = _plain(int(value) if name in _COUNTS and math.isfinite(value) else value)
  return models


def _read_plots(records: Iterable[Any]) -> dict[str, dict[SliceKey, list[Any]]]:
  models: dict[str, dict[SliceKey, list[Any]]] = {}
  for record in records:
    for item in record.plot_keys_and_values:
      slices = models.setdefault(item.key.model_name or CANDIDATE, {})
      slices.setdefault(_slice_key(record.slice_key), []).append(item.value)
  return models


def _bin(bucket: Any) -> dict[str, Any]:
  examples = bucket.num_weighted_examples.value
  return {
    "from": bucket.lower_threshold_inclusive,
    "to": bucket.upper_threshold_exclusive,
    "examples": int(examples),
    "confidence": _plain(bucket.total_weighted_refined_prediction.value / examples) if examples else None,
    "accuracy": _plain(bucket.total_weighted_label.value / examples) if examples else None,
  }


def _plain(value: float) -> float | None:
  """JSON has no NaN or infinity."""
  return value if math.isfinite(value) else None
