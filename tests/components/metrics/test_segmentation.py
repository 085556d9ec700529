"""Figures of semantic segmentation: against counts on masks, by hand, and by TFX's own Evaluator."""

import importlib.util
import json
import os
import pathlib

import numpy as np
import pytest

from components.evaluation import read_evaluation
from components.metrics.segmentation import FIGURES, IouPerClass, SegmentationFigure, figures_of

_SPEC = importlib.util.spec_from_file_location(
  "evaluator_run", pathlib.Path(__file__).parent.parent / "evaluator_run.py"
)
evaluator = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(evaluator)

CLASS_NAMES = ["sky", "길", "never there", "tree"]
NUM_PICTURES = 200
SOURCES = ("street", "forest")


def masks(seed, error_share):
  """True and predicted class ids [pictures, 12, 9]; -1 has no true class, and class 2 does not occur."""
  rng, truth = np.random.default_rng(seed), np.random.default_rng(0)
  shape = (NUM_PICTURES, 12, 9)
  true = truth.choice([0, 1, 3, -1], shape, p=[0.6, 0.25, 0.1, 0.05])
  wrong = rng.choice([0, 1, 3], shape)
  return true, np.where((rng.random(shape) < error_share) | (true < 0), wrong, true)


def confusions(true, predicted, num_classes):
  """int64 [pictures, classes, classes], pixel by pixel."""
  found = np.zeros((len(true), num_classes, num_classes), np.int64)
  for picture, (true_ids, predicted_ids) in enumerate(zip(true, predicted, strict=True)):
    for true_id, predicted_id in zip(true_ids.ravel(), predicted_ids.ravel(), strict=True):
      if true_id >= 0:
        found[picture, true_id, predicted_id] += 1
  return found


def counted_figures(true, predicted, class_names=CLASS_NAMES):
  """By the definitions, from sets of pixels and not from a matrix."""
  true, predicted = np.ravel(true)[np.ravel(true) >= 0], np.ravel(predicted)[np.ravel(true) >= 0]
  ious, recalls, dices, weighted = {}, [], [], 0.0
  for class_id, name in enumerate(class_names):
    is_true, is_predicted = true == class_id, predicted == class_id
    either, both = np.sum(is_true | is_predicted), np.sum(is_true & is_predicted)
    ious[name] = both / either if either else None
    if either:
      dices.append(2 * both / (is_true.sum() + is_predicted.sum()))
    if is_true.any():
      recalls.append(np.mean(is_predicted[is_true]))
      weighted += is_true.mean() * both / either
  return {
    "mean_iou": np.mean([iou for iou in ious.values() if iou is not None]),
    "pixel_accuracy": np.mean(true == predicted),
    "mean_accuracy": np.mean(recalls),
    "frequency_weighted_iou": weighted,
    "mean_dice": np.mean(dices),
    "per_class": ious,
  }


def assert_same(found, expected, tolerance=1e-12):
  found, expected = dict(found), dict(expected)
  assert found.pop("per_class") == pytest.approx(expected.pop("per_class"), abs=tolerance)
  assert list(found) == list(FIGURES)
  assert found == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("seed", range(5))
def test_random_masks_equal_a_direct_count(seed):
  rng = np.random.default_rng(seed)
  names = [f"class {class_id}" for class_id in range(seed + 1)]
  true = rng.integers(-1, seed + 1, (3, 20, 15))
  predicted = np.where(rng.random(true.shape) < 0.5, true, rng.integers(0, seed + 1, true.shape))
  confusion = confusions(true, np.maximum(predicted, 0), seed + 1).sum(axis=0)
  assert_same(figures_of(confusion, names), counted_figures(true, np.maximum(predicted, 0), names))


def test_by_hand():
  """8 pixels: 4 of a, 3 of them found; 3 of b, 2 found; 1 of c, not found; d is predicted once, e does not occur."""
  confusion = np.array(
    [[3, 1, 0, 0, 0], [0, 2, 0, 1, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]], np.int64
  )
  expected = {
    "mean_iou": (3 / 4 + 2 / 5 + 0 + 0) / 4,
    "pixel_accuracy": 5 / 8,
    "mean_accuracy": (3 / 4 + 2 / 3 + 0) / 3,
    "frequency_weighted_iou": 4 / 8 * 3 / 4 + 3 / 8 * 2 / 5,
    "mean_dice": (6 / 7 + 4 / 7 + 0 + 0) / 4,
    "per_class": {"a": 3 / 4, "b": 2 / 5, "c": 0.0, "d": 0.0, "e": None},
  }
  assert_same(figures_of(confusion, list("abcde")), expected)


def test_no_pixels():
  found = figures_of(np.zeros((2, 2), np.int64), ["a", "b"])
  assert found.pop("per_class") == {"a": None, "b": None}
  assert found == dict.fromkeys(FIGURES)


def test_errors():
  with pytest.raises(ValueError, match=r"shape \(2, 2\) for 3 class names"):
    figures_of(np.zeros((2, 2), np.int64), ["a", "b", "c"])
  with pytest.raises(ValueError, match="no segmentation figure 'miou'; use one of mean_iou, "):
    SegmentationFigure("miou")
  with pytest.raises(ValueError, match=r"\['b'\] are not \['a'\]"):
    computed(IouPerClass(), [outputs_of([[1]], [b"a"]), outputs_of([[1]], [b"b"])])


def outputs_of(confusion, names):
  return {"confusion": np.array(confusion, np.int64), "class_names": np.array(names, object)}


def computed(metric, examples, num_parts=2):
  """A metric's values, through its combiner as Beam runs it."""
  from tensorflow_model_analysis.metrics import metric_types

  shared, derived = metric.computations()
  parts = [shared.combiner.create_accumulator() for _ in range(num_parts)]
  for place, outputs in enumerate(examples):
    element = metric_types.StandardMetricInputs(predictions=outputs)
    parts[place % num_parts] = shared.combiner.add_input(parts[place % num_parts], element)
  merged = shared.combiner.merge_accumulators(parts)
  return {key.name: value for key, value in derived.result(shared.combiner.extract_output(merged)).items()}


def test_sums_are_exact_and_inputs_stay_as_they_are():
  """2**53 + 1 pixels are no float64."""
  large, one = outputs_of([[2**53, 1], [0, 0]], [b"a", b"b"]), outputs_of([[1, 0], [0, 0]], [b"a", b"b"])
  shared, _ = SegmentationFigure("pixel_accuracy").computations()
  merged = shared.combiner.create_accumulator()
  for outputs in (large, one, one, one):
    merged.add(["a", "b"], outputs["confusion"])
  assert merged.confusion.dtype == np.int64 and merged.confusion.tolist() == [[2**53 + 3, 1], [0, 0]]
  assert large["confusion"].tolist() == [[2**53, 1], [0, 0]]


def test_metrics_are_left_out_where_outputs_or_pixels_are_missing():
  names = [b"a", b"b"]
  for metric in (SegmentationFigure("mean_iou"), IouPerClass()):
    assert computed(metric, [{"confusion": np.eye(2, dtype=np.int64)}]) == {}
    assert computed(metric, [outputs_of(np.zeros((2, 2)), names)]) == {}
  assert computed(IouPerClass(name="class_iou"), [outputs_of([[3, 0], [0, 0]], names)]) == {
    "class_iou_a": 1.0
  }


MASKS = {"candidate": masks(1, error_share=0.2), "baseline": masks(2, error_share=0.5)}


def export_model(directory, confusion):
  """An export that looks its answers up."""
  import tensorflow as tf

  module = tf.Module()
  module.confusion = tf.constant(confusion)

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
  def serve_examples(examples):
    place = tf.io.parse_example(examples, {"place": tf.io.FixedLenFeature([], tf.float32)})["place"]
    names = tf.tile(tf.constant([[name.encode() for name in CLASS_NAMES]]), [tf.size(place), 1])
    return {"confusion": tf.gather(module.confusion, tf.cast(place, tf.int32)), "class_names": names}

  tf.saved_model.save(
    module, os.path.join(directory, "Format-Serving"), signatures={"serve_examples": serve_examples}
  )


def eval_config():
  import tensorflow_model_analysis as tfma

  module = "components.metrics.segmentation"
  settings = [("SegmentationFigure", {"figure": name, "name": name}) for name in FIGURES]
  settings.append(("IouPerClass", {"name": "iou"}))
  return tfma.EvalConfig(
    model_specs=[
      tfma.ModelSpec(name=name, is_baseline=name == "baseline", signature_name="serve_examples")
      for name in MASKS
    ],
    metrics_specs=[
      tfma.MetricsSpec(
        metrics=[
          tfma.MetricConfig(class_name=name, module=module, config=json.dumps(config))
          for name, config in settings
        ]
      )
    ],
    slicing_specs=[tfma.SlicingSpec(), tfma.SlicingSpec(feature_keys=["source"])],
  )


def test_evaluator_equals_a_direct_count(tmp_path):
  for name, pair in MASKS.items():
    export_model(str(tmp_path / name), confusions(*pair, len(CLASS_NAMES)))
  rows = [{"place": [float(i)], "source": SOURCES[i % 3 == 0].encode()} for i in range(NUM_PICTURES)]
  evaluator.write_split(str(tmp_path / "examples"), "test", rows)
  uri, _ = evaluator.run_evaluator(tmp_path, "evaluation", eval_config(), with_baseline=True)
  document = read_evaluation(uri)
  for name, pair in MASKS.items():
    assert document[name] == pytest.approx(as_metrics(counted_figures(*pair)), abs=1e-12)
  assert set(document["slices"]["source"]) == set(SOURCES)
  for source, found in document["slices"]["source"].items():
    places = [i for i in range(NUM_PICTURES) if SOURCES[i % 3 == 0] == source]
    true, predicted = (values[places] for values in MASKS["candidate"])
    assert found == pytest.approx(as_metrics(counted_figures(true, predicted)), abs=1e-12)


def as_metrics(figures):
  """The names that the Evaluator writes: without classes that do not occur."""
  per_class = figures.pop("per_class")
  assert per_class.pop("never there") is None
  return {**figures, **{f"iou_{name}": iou for name, iou in per_class.items()}}
