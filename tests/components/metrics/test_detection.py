"""COCO's figures by TFX's own Evaluator on exports that answer for pictures, against one accumulator's."""

import importlib.util
import json
import math
import os
import pathlib

import numpy as np
import pytest

from components.evaluation import read_evaluation
from components.metrics.coco import FIGURES, CocoAccumulator, match_image

_SPEC = importlib.util.spec_from_file_location(
  "evaluator_run", pathlib.Path(__file__).parent.parent / "evaluator_run.py"
)
evaluator = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(evaluator)

# One class has a figure's name, one is not ASCII, one has no true boxes.
CLASS_NAMES = ["small", "다람쥐", "traffic light", "never there"]
NUM_PICTURES = 300
SOURCES = ("street", "forest")


def answers(seed, noise_px):
  """What a signature answers for all pictures, padded with rows that would be right if they counted."""
  rng, truth = np.random.default_rng(seed), np.random.default_rng(0)
  num_true = truth.integers(0, 5, NUM_PICTURES)
  corners = truth.uniform(0, 100, (NUM_PICTURES, 4, 2))
  true_boxes = np.concatenate([corners, corners + truth.uniform(5, 150, (NUM_PICTURES, 4, 2))], axis=2)
  true_class_ids = truth.integers(0, 3, (NUM_PICTURES, 4))
  num_detections = rng.integers(0, 9, NUM_PICTURES)
  return {
    "boxes": np.float32(np.tile(true_boxes, (1, 2, 1)) + rng.normal(0, noise_px, (NUM_PICTURES, 8, 4))),
    "scores": np.float32(np.round(rng.random((NUM_PICTURES, 8)), 1)),
    "class_ids": np.where(rng.random((NUM_PICTURES, 8)) < 0.8, np.tile(true_class_ids, (1, 2)), 3),
    "num_detections": num_detections,
    "true_boxes": np.float32(true_boxes),
    "true_class_ids": true_class_ids,
    "true_is_crowd": np.int64(truth.random((NUM_PICTURES, 4)) < 0.1),
    "true_areas": np.float32((true_boxes[..., 2:] - true_boxes[..., :2]).prod(axis=2)),
    "num_true": num_true,
    # Hashes: in another order than the pictures.
    "example_id": truth.integers(-(2**63), 2**63 - 1, NUM_PICTURES),
  }


ANSWERS = {"candidate": answers(1, noise_px=2), "baseline": answers(2, noise_px=5)}


def expected_figures(name, places):
  """One accumulator over the pictures, without Beam and TFMA."""
  accumulator = CocoAccumulator()
  for place in places:
    one = {output: values[place] for output, values in ANSWERS[name].items()}
    detected = [one[output][: one["num_detections"]] for output in ("boxes", "scores", "class_ids")]
    names = ("true_boxes", "true_class_ids", "true_is_crowd", "true_areas")
    true = [one[output][: one["num_true"]] for output in names]
    accumulator.add(int(one["example_id"]), match_image(*detected, *true))
  return accumulator.figures(CLASS_NAMES)


def export_model(directory, outputs):
  """An export that looks its answers up; there are as many rows of boxes as the batch needs."""
  import tensorflow as tf

  module = tf.Module()
  module.outputs = {name: tf.constant(values) for name, values in outputs.items()}

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
  def serve_examples(examples):
    place = tf.io.parse_example(examples, {"place": tf.io.FixedLenFeature([], tf.float32)})["place"]
    found = {name: tf.gather(values, tf.cast(place, tf.int32)) for name, values in module.outputs.items()}
    for name in ("boxes", "scores", "class_ids"):
      found[name] = found[name][:, : tf.reduce_max(found["num_detections"])]
    names = tf.constant([name.encode() for name in CLASS_NAMES])
    return {**found, "class_names": tf.tile(names[None], [tf.size(place), 1])}

  tf.saved_model.save(
    module, os.path.join(directory, "Format-Serving"), signatures={"serve_examples": serve_examples}
  )


def eval_config():
  import tensorflow_model_analysis as tfma

  module = "components.metrics.detection"
  metrics = [
    tfma.MetricConfig(
      class_name="CocoFigure", module=module, config=json.dumps({"figure": name, "name": name})
    )
    for name in FIGURES
  ]
  # The mean of the small boxes must not be taken for that of the class that is called so.
  threshold = tfma.MetricThreshold(value_threshold={"lower_bound": {"value": 0.999}})
  metrics[3].per_slice_thresholds.add(slicing_specs=[tfma.SlicingSpec()], threshold=threshold)
  metrics.append(
    tfma.MetricConfig(
      class_name="AveragePrecisionPerClass", module=module, config=json.dumps({"name": "average_precision"})
    )
  )
  return tfma.EvalConfig(
    model_specs=[
      tfma.ModelSpec(name=name, is_baseline=name == "baseline", signature_name="serve_examples")
      for name in ANSWERS
    ],
    metrics_specs=[tfma.MetricsSpec(metrics=metrics)],
    slicing_specs=[tfma.SlicingSpec(), tfma.SlicingSpec(feature_keys=["source"])],
  )


@pytest.fixture(scope="module")
def document(tmp_path_factory):
  root = tmp_path_factory.mktemp("detection")
  for name, outputs in ANSWERS.items():
    export_model(str(root / name), outputs)
  rows = [{"place": [float(i)], "source": SOURCES[i % 3 == 0].encode()} for i in range(NUM_PICTURES)]
  evaluator.write_split(str(root / "examples"), "test", rows)
  uri, _ = evaluator.run_evaluator(root, "evaluation", eval_config(), with_baseline=True)
  return read_evaluation(uri)


def as_metrics(figures):
  """The names that the Evaluator writes: without what no true box counts for."""
  per_class = figures.pop("per_class")
  assert per_class.pop("never there") is None
  return {
    **figures,
    "average_precision_class_small": per_class["small"],
    "average_precision_다람쥐": per_class["다람쥐"],
    "average_precision_traffic light": per_class["traffic light"],
  }


@pytest.mark.parametrize("name", ANSWERS)
def test_evaluator_equals_one_accumulator(document, name):
  found = document[name]
  assert found == pytest.approx(as_metrics(expected_figures(name, range(NUM_PICTURES))), abs=1e-12)
  assert 0.1 < found["mean_average_precision"] < 0.9
  assert found["average_precision_class_small"] != pytest.approx(found["average_precision_small"], abs=1e-3)


def test_baseline_is_worse(document):
  for name in ("mean_average_precision", "average_precision_다람쥐"):
    assert document["baseline"][name] < document["candidate"][name] - 0.05


def test_slices(document):
  assert set(document["slices"]["source"]) == set(SOURCES)
  for source, found in document["slices"]["source"].items():
    places = [i for i in range(NUM_PICTURES) if SOURCES[i % 3 == 0] == source]
    assert found == pytest.approx(as_metrics(expected_figures("candidate", places)), abs=1e-12)


def test_threshold(document):
  (row,) = document["thresholds"]
  assert row["metric"] == "average_precision_small" and row["passed"] is False
  assert row["value"] == document["candidate"]["average_precision_small"]


def computed(metric, pictures, num_parts=2):
  """A metric's values, through its combiner as Beam runs it. `pictures`: outputs of one example each."""
  from tensorflow_model_analysis.metrics import metric_types

  shared, derived = metric.computations()
  parts = [shared.combiner.create_accumulator() for _ in range(num_parts)]
  for place, outputs in enumerate(pictures):
    element = metric_types.StandardMetricInputs(predictions=outputs)
    parts[place % num_parts] = shared.combiner.add_input(parts[place % num_parts], element)
  merged = shared.combiner.merge_accumulators([shared.combiner.compact(part) for part in parts])
  return {key.name: value for key, value in derived.result(shared.combiner.extract_output(merged)).items()}


def picture(**changes):
  """One box that is found, as TFMA hands it to a combiner: numbers as arrays of one."""
  return {
    "boxes": np.float32([[0, 0, 10, 10], [0, 0, 0, 0]]),
    "scores": np.float32([0.5, 0.0]),
    "class_ids": np.int64([1, 0]),
    "num_detections": np.int64([1]),
    "true_boxes": np.float32([[0, 0, 10, 10]]),
    "true_class_ids": np.int64([1]),
    "true_is_crowd": np.int64([0]),
    "true_areas": np.float32([100]),
    "num_true": np.int64([1]),
    "class_names": np.array([b"cat", b"dog"], object),
    "example_id": np.int64([-5]),
    **changes,
  }


def test_pictures_without_rows():
  from components.metrics.detection import AveragePrecisionPerClass, CocoFigure

  nothing = {
    **{name: np.zeros((0, 4), np.float32) for name in ("boxes", "true_boxes")},
    **{name: np.zeros(0, np.float32) for name in ("scores", "true_areas")},
    **{name: np.zeros(0, np.int64) for name in ("class_ids", "true_class_ids", "true_is_crowd")},
    **{name: np.int64([0]) for name in ("num_detections", "num_true")},
  }
  pictures = [picture(), picture(**nothing)]
  assert computed(AveragePrecisionPerClass(), pictures) == {"average_precision_dog": pytest.approx(1.0)}
  assert computed(CocoFigure("average_recall_1", name="ar"), pictures) == {"ar": 1.0}
  assert computed(CocoFigure("average_precision_large"), pictures) == {}
  assert computed(AveragePrecisionPerClass(), [picture(**nothing)]) == {}


def test_not_finite_scores_give_no_number():
  from components.metrics.detection import CocoFigure

  pictures = [picture(), picture(scores=np.float32([np.nan, 0]))]
  assert math.isnan(computed(CocoFigure("mean_average_precision"), pictures)["mean_average_precision"])


def test_metrics_are_left_out_where_an_output_is_missing():
  from components.metrics.detection import AveragePrecisionPerClass, CocoFigure

  for missing in ("true_areas", "num_true", "class_names"):
    outputs = picture()
    del outputs[missing]
    for metric in (CocoFigure("mean_average_precision"), AveragePrecisionPerClass()):
      assert computed(metric, [outputs]) == {}


def test_errors():
  from components.metrics.detection import CocoFigure

  with pytest.raises(ValueError, match="no detection figure 'map'; use one of mean_average_precision, "):
    CocoFigure("map")
  others = picture(class_names=np.array([b"cat", b"cow"], object))
  with pytest.raises(ValueError, match=r"\['cat', 'cow'\] are not \['cat', 'dog'\]"):
    computed(CocoFigure("mean_average_precision"), [picture(), others])
