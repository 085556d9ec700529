"""What the Evaluator is told of detection and segmentation; names and kinds of metrics that thresholds may have."""

import importlib
import json

import pytest

from components.config import EvaluationConfig
from components.evaluation import BASELINE, CANDIDATE, detection_eval_config, segmentation_eval_config
from pipeline.tasks import TASKS

MAKERS = {"object_detection": detection_eval_config, "semantic_segmentation": segmentation_eval_config}
FIGURES = {
  "object_detection": [
    "mean_average_precision",
    "average_precision_50",
    "average_precision_75",
    "average_precision_small",
    "average_precision_medium",
    "average_precision_large",
    "average_recall_1",
    "average_recall_10",
    "average_recall_100",
    "average_recall_small",
    "average_recall_medium",
    "average_recall_large",
  ],
  "semantic_segmentation": [
    "mean_iou",
    "pixel_accuracy",
    "mean_accuracy",
    "frequency_weighted_iou",
    "mean_dice",
  ],
}


def metrics_of(config):
  """{name: MetricConfig}."""
  return {json.loads(metric.config)["name"]: metric for metric in config.metrics_specs[0].metrics}


@pytest.mark.parametrize("name", MAKERS)
def test_both_models_are_asked_by_one_signature_and_there_is_no_label(name):
  config = MAKERS[name](EvaluationConfig(slice_by=["format", "format", "camera"]))
  specs = {spec.name: spec for spec in config.model_specs}
  assert set(specs) == {CANDIDATE, BASELINE}
  for spec in specs.values():
    assert (spec.signature_name, spec.label_key) == ("evaluate_examples", "")
    assert not spec.preprocessing_function_names
  assert [spec.is_baseline for spec in config.model_specs] == [False, True]
  assert [list(spec.feature_keys) for spec in config.slicing_specs] == [[], ["format"], ["camera"]]


@pytest.mark.parametrize("name", MAKERS)
def test_every_figure_is_a_metric_that_can_be_made(name):
  metrics = metrics_of(MAKERS[name](EvaluationConfig()))
  per_class = {"object_detection": "average_precision", "semantic_segmentation": "iou"}[name]
  assert list(metrics) == ["example_count", *FIGURES[name], per_class]
  for metric_name, metric in metrics.items():
    if metric.module:
      made = getattr(importlib.import_module(metric.module), metric.class_name)(**json.loads(metric.config))
      assert made.name == metric_name
      if metric_name in FIGURES[name]:
        assert made.get_config() == {"name": metric_name, "figure": metric_name}


@pytest.mark.parametrize("name", MAKERS)
def test_more_is_better_for_every_figure(name):
  figure, other = FIGURES[name][:2]
  metrics = metrics_of(MAKERS[name](EvaluationConfig(min_metrics={figure: 0.5}, max_drop={other: 0.02})))
  (threshold,) = metrics[figure].per_slice_thresholds
  assert threshold.threshold.value_threshold.lower_bound.value == pytest.approx(0.5, abs=2e-6)
  assert [list(spec.feature_keys) for spec in threshold.slicing_specs] == [[]]
  (change,) = metrics[other].per_slice_thresholds
  assert change.threshold.change_threshold.absolute.value == pytest.approx(-0.02, abs=2e-6)
  for metric_name in set(metrics) - {figure, other}:
    assert not metrics[metric_name].per_slice_thresholds
  for section in ("max_metrics", "max_rise"):
    with pytest.raises(ValueError, match=rf"^evaluation.{section}: higher is better for {figure}; set "):
      MAKERS[name](EvaluationConfig(**{section: {figure: 0.5}}))


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("metric", ["accuracy", "example_count", "iou", "average_precision"])
def test_thresholds_on_what_there_is_not_are_refused(name, metric):
  with pytest.raises(ValueError, match=rf"there is no metric '{metric}'; use one of {FIGURES[name][0]}, "):
    MAKERS[name](EvaluationConfig(min_metrics={metric: 0.5}))


@pytest.mark.parametrize("name", MAKERS)
def test_the_tasks_own_settings_are_these(name):
  task = TASKS[name]
  evaluation = {"min_metrics": {FIGURES[name][0]: 0.1}}
  assert task.eval_config(task.config_class(evaluation=evaluation)) == MAKERS[name](
    EvaluationConfig(**evaluation)
  )
