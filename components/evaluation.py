"""What the Evaluator measures, what a blessing takes, and TFMA's output as plain JSON.

The Evaluator scores the exported model through a signature that takes serialized tf.Examples under the name
"examples". Which one, and what it has to answer, is said at each function that makes settings.

Imports of TFMA are late: the command line builds the settings, and TFMA takes seconds to import.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from components.config import EvaluationConfig

SERVING_SIGNATURE = "serve_examples"
LABELS_SIGNATURE = "transform_labels"
# What language models are scored through: numbers for each sentence, and none for single tokens.
SUMS_SIGNATURE = "evaluate_examples"
CANDIDATE = "candidate"
BASELINE = "baseline"

# Sections of EvaluationConfig that hold thresholds, by whether they are for metrics of which less is better.
THRESHOLD_SECTIONS = {"min_metrics": False, "max_drop": False, "max_metrics": True, "max_rise": True}
# TFMA computes some metrics in float32: an accuracy of 0.9 comes back as 0.89999998, which is no failure at 0.9.
TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Metric:
  """One metric as TFMA finds it; an empty module means TFMA's or tf_keras's own class.

  `lower_is_better` is None for what is no measure of quality: no threshold may name it.
  """

  name: str
  class_name: str
  module: str = ""
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  lower_is_better: bool | None = None


def label_id_key(label_key: str) -> str:
  """Name under which `transform_labels` returns the class id of the raw feature `label_key`."""
  return f"{label_key}_id"


def classification_eval_config(evaluation: EvaluationConfig, label_key: str, prediction_key: str) -> Any:
  """Settings of TFX's Evaluator for a model with one class an example.

  The exported model must have the signatures `serve_examples` with an output "probabilities" float32 [batch, classes],
  and `transform_labels` with an output "<label>_id" int64 [batch], -1 for a class that was not in the training
  data. TFMA calls the second one through ModelSpec.preprocessing_function_names: each model is scored on the class
  ids of its own vocabulary.

  Args:
    evaluation: thresholds, slices and k.
    label_key: the raw feature that holds the class name.
    prediction_key: the output of `serve_examples` that holds the probabilities.

  Returns:
    A tfma.EvalConfig for a candidate and a baseline. Without a baseline artifact TFX drops the second model and the
    thresholds against it by itself. Slices: all examples, each class, each feature of `slice_by`.

  Raises:
    ValueError: a threshold names a metric that there is not, or stands in a section for metrics of the other kind.
  """
  model = {
    "signature_name": SERVING_SIGNATURE,
    "prediction_key": prediction_key,
    "preprocessing_function_names": [LABELS_SIGNATURE],
    "label_key": label_id_key(label_key),
  }
  return _eval_config(
    evaluation, _classification_metrics(evaluation), model, (label_key, *evaluation.slice_by)
  )


def language_eval_config(
  evaluation: EvaluationConfig, top_k: int | None = None, signature_name: str = SUMS_SIGNATURE
) -> Any:
  """Settings of TFX's Evaluator for a language model. There is no label: the text itself is what is predicted.

  Args:
    evaluation: thresholds and slices.
    top_k: the k with which the signature's "top_k_hits" are counted; None: it counts none. Where the signature has no
      such output the metrics are left out all the same.
    signature_name: signature that answers, [batch] each: "log_prob", "num_tokens", "num_unknown", "unknown_log_prob",
      "num_characters"; see `components.metrics.language`.

  Returns:
    A tfma.EvalConfig as `classification_eval_config` makes it. Slices: all sentences, each feature of `slice_by`.

  Raises:
    ValueError: as `classification_eval_config`.
  """
  model = {"signature_name": signature_name}
  return _eval_config(evaluation, _language_metrics(top_k), model, evaluation.slice_by)


def detection_eval_config(evaluation: EvaluationConfig) -> Any:
  """Settings of TFX's Evaluator for object detection.

  The exported model must have the signature `evaluate_examples` that answers what is found beside what is there; see
  `components.metrics.detection`.

  Args:
    evaluation: thresholds and slices.

  Returns:
    A tfma.EvalConfig as `classification_eval_config` makes it. Slices: all pictures, each feature of `slice_by`.

  Raises:
    ValueError: as `classification_eval_config`.
  """
  return _eval_config(
    evaluation, _detection_metrics(), {"signature_name": SUMS_SIGNATURE}, evaluation.slice_by
  )


def segmentation_eval_config(evaluation: EvaluationConfig) -> Any:
  """The same for a class of each pixel; see `components.metrics.segmentation`."""
  return _eval_config(
    evaluation, _segmentation_metrics(), {"signature_name": SUMS_SIGNATURE}, evaluation.slice_by
  )


def _classification_metrics(evaluation: EvaluationConfig) -> list[Metric]:
  own = "components.metrics.classification"
  return [
    Metric("example_count", "ExampleCount"),
    Metric("accuracy", "SparseCategoricalAccuracy", lower_is_better=False),
    Metric(
      "top_k_accuracy",
      "SparseTopKCategoricalAccuracy",
      settings={"k": evaluation.top_k},
      lower_is_better=False,
    ),
    Metric("confusion_matrix", "MultiClassConfusionMatrixPlot"),
    Metric("macro_precision", "MacroPrecision", own, lower_is_better=False),
    Metric("macro_recall", "MacroRecall", own, lower_is_better=False),
    Metric("macro_f1", "MacroF1", own, lower_is_better=False),
    Metric("cross_entropy", "CrossEntropy", own, lower_is_better=True),
    Metric("expected_calibration_error", "ExpectedCalibrationError", own, lower_is_better=True),
    Metric("confidence_plot", "ConfidencePlot", own),
  ]


def _language_metrics(top_k: int | None) -> list[Metric]:
  own = "components.metrics.language"
  metrics = [
    Metric("example_count", "ExampleCount"),
    Metric("token_count", "TokenCount", own),
    Metric("perplexity", "Perplexity", own, lower_is_better=True),
    Metric("perplexity_without_unknown", "PerplexityWithoutUnknown", own, lower_is_better=True),
    Metric("bits_per_character", "BitsPerCharacter", own, lower_is_better=True),
    Metric("unknown_share", "UnknownShare", own, lower_is_better=True),
  ]
  if top_k is not None:
    for name, output, k in (("top_1_accuracy", "top_1_hits", 1), ("top_k_accuracy", "top_k_hits", top_k)):
      metrics.append(Metric(name, "TopKAccuracy", own, {"k": k, "output": output}, lower_is_better=False))
  return metrics


def _detection_metrics() -> list[Metric]:
  from components.metrics.coco import FIGURES

  own = "components.metrics.detection"
  return [
    Metric("example_count", "ExampleCount"),
    *(Metric(figure, "CocoFigure", own, {"figure": figure}, lower_is_better=False) for figure in FIGURES),
    Metric("average_precision", "AveragePrecisionPerClass", own),
  ]


def _segmentation_metrics() -> list[Metric]:
  from components.metrics.segmentation import FIGURES

  own = "components.metrics.segmentation"
  return [
    Metric("example_count", "ExampleCount"),
    *(
      Metric(figure, "SegmentationFigure", own, {"figure": figure}, lower_is_better=False)
      for figure in FIGURES
    ),
    Metric("iou", "IouPerClass", own),
  ]


def _eval_config(
  evaluation: EvaluationConfig, metrics: Sequence[Metric], model: Mapping[str, Any], slice_by: Iterable[str]
) -> Any:
  """tfma.EvalConfig of a candidate and a baseline, which `model` describes both."""
  import tensorflow_model_analysis as tfma

  _check_thresholds(evaluation, metrics)
  return tfma.EvalConfig(
    model_specs=[
      tfma.ModelSpec(name=name, is_baseline=name == BASELINE, **model) for name in (CANDIDATE, BASELINE)
    ],
    metrics_specs=[tfma.MetricsSpec(metrics=[_metric_config(evaluation, metric) for metric in metrics])],
    slicing_specs=[
      tfma.SlicingSpec(),
      *(tfma.SlicingSpec(feature_keys=[name]) for name in dict.fromkeys(slice_by)),
    ],
  )


def _check_thresholds(evaluation: EvaluationConfig, metrics: Sequence[Metric]) -> None:
  known = {metric.name: metric.lower_is_better for metric in metrics if metric.lower_is_better is not None}
  for section, for_lower in THRESHOLD_SECTIONS.items():
    for name in getattr(evaluation, section):
      if name not in known:
        allowed = ", ".join(other for other, lower in known.items() if lower == for_lower)
        raise ValueError(f"evaluation.{section}: there is no metric {name!r}; use one of {allowed}")
      if known[name] != for_lower:
        better, others = (
          ("lower", ("max_metrics", "max_rise")) if known[name] else ("higher", ("min_metrics", "max_drop"))
        )
        raise ValueError(
          f"evaluation.{section}: {better} is better for {name}; set evaluation.{' or evaluation.'.join(others)}"
        )


def _metric_config(evaluation: EvaluationConfig, metric: Metric) -> Any:
  import tensorflow_model_analysis as tfma

  name = metric.name
  config = tfma.MetricConfig(
    class_name=metric.class_name,
    module=metric.module,
    config=json.dumps({"name": name, **metric.settings}, sort_keys=True),
  )
  threshold = tfma.MetricThreshold()
  if name in evaluation.min_metrics:
    threshold.value_threshold.lower_bound.value = evaluation.min_metrics[name] - TOLERANCE
  if name in evaluation.max_metrics:
    threshold.value_threshold.upper_bound.value = evaluation.max_metrics[name] + TOLERANCE
  if name in evaluation.max_drop:
    threshold.change_threshold.direction = tfma.MetricDirection.HIGHER_IS_BETTER
    threshold.change_threshold.absolute.value = -evaluation.max_drop[name] - TOLERANCE
  if name in evaluation.max_rise:
    threshold.change_threshold.direction = tfma.MetricDirection.LOWER_IS_BETTER
    threshold.change_threshold.absolute.value = evaluation.max_rise[name] + TOLERANCE
  if threshold.ByteSize():
    # MetricConfig.threshold would hold for every slice; the empty SlicingSpec is "all examples together".
    config.per_slice_thresholds.add(slicing_specs=[tfma.SlicingSpec()], threshold=threshold)
  return config


def figure_text(value: float) -> str:
  """A metric's value in a line of text: four decimals, or two from 10 on."""
  return f"{value:.4f}" if abs(value) < 10 else f"{value:.2f}"


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
    thresholds: [{metric, kind ("min", "max", "max_drop" or "max_rise"), threshold, value, baseline, passed}].
    blessed: whether there are thresholds and all hold; failures: why not, in words.
    warnings: slices that were asked for and that no example has.

  Raises:
    ValueError: the directory holds no evaluation.
  """
  from components.evaluation_results import EvaluationResults

  return EvaluationResults(uri, class_names).to_json()
