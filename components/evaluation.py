"""What the Evaluator measures, what a blessing takes, and TFMA's output as plain JSON.

The exported model must offer two signatures that take serialized tf.Examples under the name "examples":
`serve_examples` with an output "probabilities" float32 [batch, classes], and `transform_labels` with an
output "<label>_id" int64 [batch], -1 for a class that was not in the training data. TFMA calls the second one
through ModelSpec.preprocessing_function_names: each model is scored on the class ids of its own vocabulary.

Imports of TFMA are late: the command line builds the settings, and TFMA takes seconds to import.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from components.config import EvaluationConfig

SERVING_SIGNATURE = "serve_examples"
LABELS_SIGNATURE = "transform_labels"
CANDIDATE = "candidate"
BASELINE = "baseline"

# Metrics that a threshold may name: higher is better in all of them.
THRESHOLD_METRICS = ("accuracy", "top_k_accuracy", "macro_precision", "macro_recall", "macro_f1")
# TFMA computes the first two in float32: 0.9 comes back as 0.89999998, which is no failure at 0.9.
TOLERANCE = 1e-6


def label_id_key(label_key: str) -> str:
  """Name under which `transform_labels` returns the class id of the raw feature `label_key`."""
  return f"{label_key}_id"


def classification_eval_config(evaluation: EvaluationConfig, label_key: str, prediction_key: str) -> Any:
  """Settings of TFX's Evaluator for a model with one class an example.

  Args:
    evaluation: thresholds, slices and k.
    label_key: the raw feature that holds the class name.
    prediction_key: the output of `serve_examples` that holds the probabilities.

  Returns:
    A tfma.EvalConfig for a candidate and a baseline. Without a baseline artifact TFX drops the second model
    and the `max_drop` thresholds by itself. Slices: all examples, each class, each feature of `slice_by`.

  Raises:
    ValueError: a threshold names a metric that is not among THRESHOLD_METRICS.
  """
  import tensorflow_model_analysis as tfma

  _check_names(evaluation)
  models = [
    tfma.ModelSpec(
      name=name,
      is_baseline=name == BASELINE,
      signature_name=SERVING_SIGNATURE,
      prediction_key=prediction_key,
      preprocessing_function_names=[LABELS_SIGNATURE],
      label_key=label_id_key(label_key),
    )
    for name in (CANDIDATE, BASELINE)
  ]
  metrics = [_metric_config(evaluation, *metric) for metric in _classification_metrics(evaluation)]
  slices = dict.fromkeys((label_key, *evaluation.slice_by))
  return tfma.EvalConfig(
    model_specs=models,
    metrics_specs=[tfma.MetricsSpec(metrics=metrics)],
    slicing_specs=[tfma.SlicingSpec(), *(tfma.SlicingSpec(feature_keys=[name]) for name in slices)],
  )


def _check_names(evaluation: EvaluationConfig) -> None:
  for section in ("min_metrics", "max_drop"):
    for name in getattr(evaluation, section):
      if name not in THRESHOLD_METRICS:
        allowed = ", ".join(THRESHOLD_METRICS)
        raise ValueError(f"evaluation.{section}: there is no metric {name!r}; use one of {allowed}")


def _classification_metrics(evaluation: EvaluationConfig) -> list[tuple[str, str, str, dict[str, Any]]]:
  """(metric name, class, module, further settings); an empty module means TFMA's or tf_keras's own class."""
  own = "components.metrics.classification"
  return [
    ("example_count", "ExampleCount", "", {}),
    ("accuracy", "SparseCategoricalAccuracy", "", {}),
    ("top_k_accuracy", "SparseTopKCategoricalAccuracy", "", {"k": evaluation.top_k}),
    ("confusion_matrix", "MultiClassConfusionMatrixPlot", "", {}),
    ("macro_precision", "MacroPrecision", own, {}),
    ("macro_recall", "MacroRecall", own, {}),
    ("macro_f1", "MacroF1", own, {}),
    ("cross_entropy", "CrossEntropy", own, {}),
    ("expected_calibration_error", "ExpectedCalibrationError", own, {}),
    ("confidence_plot", "ConfidencePlot", own, {}),
  ]


def _metric_config(
  evaluation: EvaluationConfig, name: str, class_name: str, module: str, settings: dict
) -> Any:
  import tensorflow_model_analysis as tfma

  metric = tfma.MetricConfig(
    class_name=class_name, module=module, config=json.dumps({"name": name, **settings}, sort_keys=True)
  )
  threshold = tfma.MetricThreshold()
  if name in evaluation.min_metrics:
    threshold.value_threshold.lower_bound.value = evaluation.min_metrics[name] - TOLERANCE
  if name in evaluation.max_drop:
    threshold.change_threshold.direction = tfma.MetricDirection.HIGHER_IS_BETTER
    threshold.change_threshold.absolute.value = -evaluation.max_drop[name] - TOLERANCE
  if threshold.ByteSize():
    # MetricConfig.threshold would hold for every slice; the empty SlicingSpec is "all examples together".
    metric.per_slice_thresholds.add(slicing_specs=[tfma.SlicingSpec()], threshold=threshold)
  return metric


def read_evaluation(uri: str, class_names: Sequence[str] | None = None) -> dict[str, Any]:
  """TFMA's output directory as plain JSON values; figures that are not finite become None.

  Args:
    uri: directory of a ModelEvaluation artifact.
    class_names: names in the order of the class ids. Without them the names come from the slices by class,
      and a class without examples is called "class <id>".

  Returns:
    candidate, baseline: {metric: value} on all examples; baseline is empty where there was none.
    slices: {feature: {value: {metric: value}}}, of the candidate.
    per_class: {class: {precision, recall, f1, count, baseline_recall where there is a baseline}},
    confusion: {classes, matrix (rows are actual, columns predicted), unseen_class_examples},
    calibration: [{from, to, examples, confidence, accuracy}]: of the candidate, absent where not measured.
    thresholds: [{metric, kind ("min" or "max_drop"), threshold, value, baseline, passed}].
    blessed: whether there are thresholds and all hold; failures: why not, in words.
    warnings: slices that were asked for and that no example has.

  Raises:
    ValueError: the directory holds no evaluation.
  """
  from components.evaluation_results import EvaluationResults

  return EvaluationResults(uri, class_names).to_json()
