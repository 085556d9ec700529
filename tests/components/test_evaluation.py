"""The Evaluator's settings and results, on two tiny Keras 3 exports scored by TFX's own Evaluator."""

import importlib.util
import json
import math
import os
import pathlib

import numpy as np
import pytest

from components.config import EvaluationConfig
from components.evaluation import classification_eval_config, language_eval_config, read_evaluation

_SPEC = importlib.util.spec_from_file_location(
  "evaluator_run", pathlib.Path(__file__).parent / "evaluator_run.py"
)
evaluator = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(evaluator)

CLASSES = ["boot", "<b>coat</b>", "été"]
UNSEEN = "scarf"  # in the test split only: the models never saw it
NUM_EXAMPLES = 60


def make_data(seed):
  """Labels int [examples] (-1: unseen), sources, and logits float32 [examples, 2 models, classes]."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, len(CLASSES), NUM_EXAMPLES)
  labels[3] = -1
  logits = rng.normal(size=(NUM_EXAMPLES, 2, len(CLASSES))).astype(np.float32)
  known = labels >= 0
  logits[known, 0, labels[known]] += 1.5  # the candidate
  logits[known, 1, labels[known]] += 3.0  # the better baseline
  sources = np.where(np.arange(NUM_EXAMPLES) % 3 == 0, "phone", "scanner")
  return labels, sources, logits


def export_model(directory, which):
  """A Keras 3 export whose logits are the example's own, those of the candidate (0) or the baseline (1)."""
  import keras
  import tensorflow as tf

  k = len(CLASSES)
  dense = keras.layers.Dense(k, use_bias=False)
  model = keras.Sequential([keras.Input((2 * k,)), dense])
  weights = np.zeros((2 * k, k), np.float32)
  weights[which * k : (which + 1) * k] = np.eye(k)
  dense.set_weights([weights])
  initializer = tf.lookup.KeyValueTensorInitializer(tf.constant(CLASSES), tf.range(k, dtype=tf.int64))
  table = tf.lookup.StaticHashTable(initializer, default_value=-1)

  @tf.function
  def serve_examples(examples):
    features = tf.io.parse_example(examples, {"logits": tf.io.FixedLenFeature([2 * k], tf.float32)})
    probabilities = tf.nn.softmax(model(features["logits"]))
    best = tf.argmax(probabilities, -1)
    names = tf.constant(CLASSES)
    return {
      "probabilities": probabilities,
      "probability": tf.reduce_max(probabilities, -1),
      "label": tf.gather(names, best),
      "classes": tf.tile(names[tf.newaxis], [tf.shape(probabilities)[0], 1]),
    }

  @tf.function
  def transform_labels(examples):
    features = tf.io.parse_example(examples, {"label": tf.io.FixedLenFeature([], tf.string)})
    return {"label_id": table.lookup(features["label"])}

  archive = keras.export.ExportArchive()
  archive.track(model)
  archive.track(table)
  spec = [tf.TensorSpec([None], tf.string, name="examples")]
  archive.add_endpoint("serve_examples", serve_examples, spec)
  archive.add_endpoint("transform_labels", transform_labels, spec)
  archive.write_out(os.path.join(directory, "Format-Serving"), verbose=False)


def write_examples(directory, labels, sources, logits):
  """Raw examples as an ExampleGen writes them, with picture bytes that are no UTF-8."""
  names = [CLASSES[label] if label >= 0 else UNSEEN for label in labels]
  rows = [
    {
      "image": b"\xff\xd8\xfe" * 20,
      "label": name.encode(),
      "source": str(source).encode(),
      "logits": row.ravel(),
    }
    for name, source, row in zip(names, sources, logits, strict=True)
  ]
  evaluator.write_split(directory, "test", rows)


@pytest.fixture(scope="module")
def data():
  return make_data(seed=5)


@pytest.fixture(scope="module")
def evaluate(tmp_path_factory, data):
  """Runs TFX's Evaluator; returns (evaluation directory, blessing's file names)."""
  root = tmp_path_factory.mktemp("evaluation")
  for which, name in enumerate(("candidate", "baseline")):
    export_model(str(root / name), which)
  write_examples(str(root / "examples"), *data)

  def run(name, evaluation, with_baseline):
    config = classification_eval_config(evaluation, "label", "probabilities")
    return evaluator.run_evaluator(root, name, config, with_baseline)

  return run


@pytest.fixture(scope="module")
def refused(evaluate):
  evaluation = EvaluationConfig(
    min_metrics={"accuracy": 0.95, "top_k_accuracy": 0.5},
    max_drop={"accuracy": 0.01, "top_k_accuracy": 0.9},
    slice_by=("source", "no_such_column"),
    top_k=2,
  )
  uri, blessing = evaluate("refused", evaluation, with_baseline=True)
  assert blessing == ["NOT_BLESSED"]
  return read_evaluation(uri)


def softmax(logits):
  powers = np.exp(logits.astype(np.float64))
  return powers / powers.sum(-1, keepdims=True)


def expected_metrics(labels, probabilities, top_k):
  """The same figures by numpy alone, one plain loop a figure."""
  predicted = probabilities.argmax(-1)
  ranks = [(p > p[label]).sum() if label >= 0 else 99 for p, label in zip(probabilities, labels, strict=True)]
  nats = [-math.log(p[y]) if y >= 0 else -math.log(1e-7) for p, y in zip(probabilities, labels, strict=True)]
  confidence = probabilities.max(-1)
  error = 0.0
  for low in np.arange(15) / 15:
    inside = (confidence >= low) & (confidence < low + 1 / 15)
    if inside.any():
      error += abs((predicted == labels)[inside].mean() - confidence[inside].mean()) * inside.mean()
  return {
    "example_count": len(labels),
    "accuracy": (predicted == labels).mean(),
    "top_k_accuracy": (np.array(ranks) < top_k).mean(),
    "cross_entropy": np.mean(nats),
    "expected_calibration_error": error,
  }


def test_metrics_equal_numpy(refused, data):
  labels, _, logits = data
  for which, name in enumerate(("candidate", "baseline")):
    for metric, value in expected_metrics(labels, softmax(logits[:, which]), top_k=2).items():
      assert refused[name][metric] == pytest.approx(value, abs=1e-6), (name, metric)


def test_confusion_and_classes(refused, data):
  labels, _, logits = data
  predicted = logits[:, 0].argmax(-1)
  matrix = np.zeros((3, 3), int)
  for actual, guess in zip(labels, predicted, strict=True):
    if actual >= 0:
      matrix[actual, guess] += 1
  assert refused["confusion"] == {
    "classes": CLASSES,
    "matrix": matrix.tolist(),
    "unseen_class_examples": 1,
  }
  f1_scores = []
  for class_id, name in enumerate(CLASSES):
    hits = matrix[class_id, class_id]
    row = refused["per_class"][name]
    assert row["recall"] == pytest.approx(hits / matrix[class_id].sum())
    assert row["precision"] == pytest.approx(hits / (predicted == class_id).sum())
    assert row["f1"] == pytest.approx(2 * hits / (matrix[class_id].sum() + (predicted == class_id).sum()))
    assert row["count"] == (labels == class_id).sum()
    mine = labels == class_id
    assert row["baseline_recall"] == pytest.approx((logits[mine, 1].argmax(-1) == class_id).mean(), abs=1e-6)
    f1_scores.append(row["f1"])
  assert refused["candidate"]["macro_f1"] == pytest.approx(np.mean(f1_scores))


def test_calibration_bins(refused, data):
  labels, _, logits = data
  probabilities = softmax(logits[:, 0])
  bins = refused["calibration"]
  assert sum(bin["examples"] for bin in bins) == NUM_EXAMPLES
  last = probabilities.max(-1) >= 14 / 15
  assert bins[-1]["examples"] == last.sum() > 0
  assert bins[-1]["accuracy"] == pytest.approx((probabilities.argmax(-1) == labels)[last].mean())
  assert bins[-1]["confidence"] == pytest.approx(probabilities.max(-1)[last].mean(), abs=1e-6)
  assert bins[0]["examples"] == 0 and bins[0]["accuracy"] is None


def test_slices(refused, data):
  labels, sources, logits = data
  phone = sources == "phone"
  found = refused["slices"]["source"]["phone"]
  assert found["example_count"] == phone.sum()
  assert found["accuracy"] == pytest.approx((logits[phone, 0].argmax(-1) == labels[phone]).mean(), abs=1e-6)
  assert set(refused["slices"]["label"]) == {*CLASSES, UNSEEN}
  assert refused["slices"]["label"][UNSEEN]["accuracy"] == 0
  assert refused["warnings"] == ["evaluation.slice_by: no example has the feature 'no_such_column'"]


def test_refusal_says_why(refused, data):
  labels, _, logits = data
  candidate, baseline = ((logits[:, i].argmax(-1) == labels).mean() for i in (0, 1))
  assert refused["blessed"] is False
  assert [(row["metric"], row["kind"], row["passed"]) for row in refused["thresholds"]] == [
    ("accuracy", "min", False),
    ("accuracy", "max_drop", False),
    ("top_k_accuracy", "min", True),
    ("top_k_accuracy", "max_drop", True),
  ]
  below, dropped = refused["failures"]
  assert below == f"accuracy {candidate:.4f} is below the threshold 0.9500"
  assert dropped == (
    f"accuracy {candidate:.4f} is {baseline - candidate:.4f} below the baseline's {baseline:.4f}; "
    "at most 0.0100 is allowed"
  )


def test_exact_threshold_passes_without_baseline(evaluate, data):
  labels, _, logits = data
  accuracy = float((logits[:, 0].argmax(-1) == labels).mean())
  assert float(np.float32(accuracy)) < accuracy  # else this would not test the tolerance for float32
  evaluation = EvaluationConfig(min_metrics={"accuracy": accuracy}, max_drop={"accuracy": 0.0})
  uri, blessing = evaluate("blessed", evaluation, with_baseline=False)
  assert blessing == ["BLESSED"]
  document = read_evaluation(uri, class_names=["a", "b", "c", "d"])
  assert document["blessed"] is True and document["failures"] == []
  assert document["baseline"] == {}
  assert [row["kind"] for row in document["thresholds"]] == ["min"]
  assert document["thresholds"][0]["threshold"] == pytest.approx(accuracy, abs=1e-8)
  assert document["confusion"]["classes"] == ["a", "b", "c", "d"]
  json.dumps(document, allow_nan=False)


@pytest.mark.parametrize("section", ["min_metrics", "max_drop"])
def test_unknown_metric_is_named(section):
  with pytest.raises(ValueError, match=rf"evaluation.{section}: .*'acuracy'.*accuracy, top_k_accuracy"):
    classification_eval_config(EvaluationConfig(**{section: {"acuracy": 0.9}}), "label", "probabilities")


@pytest.mark.parametrize("section", ["max_metrics", "max_rise"])
def test_unknown_metric_of_which_less_is_better_is_named(section):
  with pytest.raises(ValueError) as caught:
    language_eval_config(EvaluationConfig(**{section: {"perplexty": 90.0}}))
  assert str(caught.value) == (
    f"evaluation.{section}: there is no metric 'perplexty'; use one of perplexity, perplexity_without_unknown, "
    "bits_per_character, unknown_share"
  )


@pytest.mark.parametrize("section", ["min_metrics", "max_drop"])
def test_a_threshold_of_the_wrong_kind_is_named(section):
  with pytest.raises(ValueError) as caught:
    language_eval_config(EvaluationConfig(**{section: {"perplexity": 90.0}}))
  assert str(caught.value) == (
    f"evaluation.{section}: lower is better for perplexity; set evaluation.max_metrics or evaluation.max_rise"
  )
  other = section.replace("min", "max").replace("drop", "rise")
  with pytest.raises(
    ValueError, match=f"^evaluation.{other}: higher is better for accuracy; set evaluation.min_"
  ):
    classification_eval_config(EvaluationConfig(**{other: {"accuracy": 0.9}}), "label", "probabilities")


def test_top_k_accuracy_may_be_a_threshold_only_where_it_is_measured():
  evaluation = EvaluationConfig(min_metrics={"top_k_accuracy": 0.3})
  assert language_eval_config(evaluation, top_k=5).metrics_specs
  with pytest.raises(ValueError, match="there is no metric 'top_k_accuracy'"):
    language_eval_config(evaluation)


def test_no_evaluation_is_named(tmp_path):
  with pytest.raises(ValueError, match="no evaluation here"):
    read_evaluation(str(tmp_path))
