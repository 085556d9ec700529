"""Perplexity and its kin, by TFX's own Evaluator on exports that answer per sentence, against sums by hand."""

import importlib.util
import json
import math
import os
import pathlib

import numpy as np
import pytest

from components.config import EvaluationConfig
from components.evaluation import language_eval_config, read_evaluation
from components.evaluation_results import explain

_SPEC = importlib.util.spec_from_file_location(
  "evaluator_run", pathlib.Path(__file__).parent.parent / "evaluator_run.py"
)
evaluator = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(evaluator)

# Sentence and where it is from. The export gives each word the probability that stands here; x is unknown.
PROBABILITIES = {"a": 0.5, "bb": 0.25, "다람쥐": 0.125, "x": 0.0625, "</s>": 0.5}
SENTENCES = [
  *[("a bb", "play"), ("a", "play"), ("다람쥐 bb bb a x a", "news"), ("bb", "play"), ("x x", "news")],
  *[("a a a a a a a a a a a a 다람쥐", "news")] * 3,
]
NUM_EXAMPLES = 8 * 130  # more than one batch of the Evaluator, so that their lengths differ


def words_of(sentences):
  return [word for sentence, _ in sentences for word in [*sentence.split(), "</s>"]]


def log2_probability(words, sharper=1.0):
  """Of the words by hand: all the probabilities are powers of two."""
  return -sharper * sum({"a": 1, "bb": 2, "다람쥐": 3, "x": 4, "</s>": 1}[word] for word in words)


def export_model(directory, sharper, with_hits=True):
  """An export whose log probabilities are those of PROBABILITIES times `sharper`.

  Its `serve_examples` answers for every token too, [batch, length] with another length in each batch, and its
  `evaluate_examples` for sentences only.
  """
  import tensorflow as tf

  initializer = tf.lookup.KeyValueTensorInitializer(
    list(PROBABILITIES), [sharper * math.log(value) for value in PROBABILITIES.values()]
  )
  module = tf.Module()
  module.table = tf.lookup.StaticHashTable(initializer, default_value=math.nan)
  signature = [tf.TensorSpec([None], tf.string, name="examples")]

  def answer(examples):
    text = tf.io.parse_example(examples, {"text": tf.io.FixedLenFeature([], tf.string)})["text"]
    words = tf.strings.split(text)
    words = tf.concat([words, tf.fill([words.nrows(), 1], "</s>")], axis=1)
    scores = tf.ragged.map_flat_values(module.table.lookup, words)
    unknown = tf.ragged.map_flat_values(lambda values: tf.cast(values == "x", tf.int64), words)
    hits = tf.ragged.map_flat_values(lambda values: tf.cast(values == "a", tf.int64), words)
    outputs = {
      "log_prob": tf.reduce_sum(scores, axis=1),
      "num_tokens": words.row_lengths(),
      "num_unknown": tf.reduce_sum(unknown, axis=1),
      "unknown_log_prob": tf.reduce_sum(scores * tf.cast(unknown, tf.float32), axis=1),
      "num_characters": tf.cast(tf.strings.length(text, unit="UTF8_CHAR") + 1, tf.int64),
    }
    if with_hits:
      outputs["top_1_hits"] = tf.reduce_sum(hits, axis=1)
      outputs["top_k_hits"] = outputs["num_tokens"] - outputs["num_unknown"]
    return outputs, words.to_tensor(""), scores.to_tensor(0.0)

  @tf.function(input_signature=signature)
  def serve_examples(examples):
    outputs, tokens, log_probs = answer(examples)
    return {**outputs, "tokens": tokens, "token_log_probs": log_probs}

  @tf.function(input_signature=signature)
  def evaluate_examples(examples):
    return answer(examples)[0]

  path = os.path.join(directory, "Format-Serving")
  signatures = {"serve_examples": serve_examples, "evaluate_examples": evaluate_examples}
  tf.saved_model.save(module, path, signatures=signatures)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("language")
  export_model(str(root / "candidate"), sharper=1.5)
  export_model(str(root / "baseline"), sharper=1.0, with_hits=False)
  rows = [
    {"text": sentence.encode(), "source": source.encode()}
    for sentence, source in SENTENCES * (NUM_EXAMPLES // len(SENTENCES))
  ]
  evaluator.write_split(str(root / "examples"), "test", rows)
  return root


@pytest.fixture(scope="module")
def document(root):
  evaluation = EvaluationConfig(
    max_metrics={"perplexity": 3.0, "unknown_share": 0.5},
    max_rise={"perplexity": 0.5, "bits_per_character": 9.0},
    min_metrics={"top_k_accuracy": 0.5},
    max_drop={"top_k_accuracy": 0.1},
    slice_by=("source",),
  )
  config = language_eval_config(evaluation, top_k=3, signature_name="serve_examples")
  uri, blessing = evaluator.run_evaluator(root, "refused", config, with_baseline=True)
  assert blessing == ["NOT_BLESSED"]
  return read_evaluation(uri)


def expected_metrics(sentences, sharper):
  """By the definitions, from the words."""
  words = words_of(sentences)
  known = [word for word in words if word != "x"]
  characters = sum(len(sentence) + 1 for sentence, _ in sentences)
  return {
    "example_count": len(sentences),
    "token_count": len(words),
    "perplexity": 2 ** (-log2_probability(words, sharper) / len(words)),
    "perplexity_without_unknown": 2 ** (-log2_probability(known, sharper) / len(known)),
    "bits_per_character": -log2_probability(words, sharper) / characters,
    "unknown_share": words.count("x") / len(words),
  }


def test_values_by_hand():
  """The definitions above on one sentence: 2 + 4 + 1 bits on 3 tokens, 1 of them unknown, and 5 characters."""
  assert expected_metrics([("bb x", "")], 1.0) == {
    "example_count": 1,
    "token_count": 3,
    "perplexity": pytest.approx(2 ** (7 / 3)),
    "perplexity_without_unknown": pytest.approx(2**1.5),
    "bits_per_character": pytest.approx(7 / 5),
    "unknown_share": pytest.approx(1 / 3),
  }


def test_whole_split_though_lengths_differ_between_batches(document):
  hits = words_of(SENTENCES).count("a") / len(words_of(SENTENCES))
  for name, sharper in (("candidate", 1.5), ("baseline", 1.0)):
    found = dict(document[name])
    for metric, value in expected_metrics(SENTENCES * (NUM_EXAMPLES // len(SENTENCES)), sharper).items():
      assert found.pop(metric) == pytest.approx(value, rel=1e-6), (name, metric)
    if name == "candidate":
      assert found.pop("top_1_accuracy") == pytest.approx(hits)
      assert found.pop("top_k_accuracy") == pytest.approx(1 - document[name]["unknown_share"])
    assert found == {}, name  # the baseline counts no hits: its top-k metrics are left out
  assert isinstance(document["candidate"]["token_count"], int)


def test_sums_keep_the_digits_that_float32_would_lose():
  """A million tokens of -0.1: a sum in float32 is off in the fourth digit."""
  from tensorflow_model_analysis.metrics import metric_types

  from components.metrics.language import Perplexity

  sums, perplexity = Perplexity().computations()
  outputs = {"log_prob": np.float32([-0.1]), "num_tokens": np.int64([10])}
  element = metric_types.StandardMetricInputs(predictions=outputs)
  combiner = sums.combiner
  parts = [combiner.create_accumulator() for _ in range(2)]
  for part in parts:
    for _ in range(50_000):
      part = combiner.add_input(part, element)
  found = perplexity.result(combiner.extract_output(combiner.merge_accumulators(parts)))
  assert list(found.values()) == [pytest.approx(math.exp(float(np.float32(0.1)) / 10), rel=1e-12)]


def test_slices(document):
  times = NUM_EXAMPLES // len(SENTENCES)
  assert set(document["slices"]["source"]) == {"play", "news"}
  for source, found in document["slices"]["source"].items():
    own = [row for row in SENTENCES if row[1] == source] * times
    for metric, value in expected_metrics(own, 1.5).items():
      assert found[metric] == pytest.approx(value, rel=1e-6), (source, metric)
  assert document["warnings"] == []


def test_thresholds_in_words(document):
  value, baseline = (document[name]["perplexity"] for name in ("candidate", "baseline"))
  rows = {(row["metric"], row["kind"]): row for row in document["thresholds"]}
  assert {key: row["passed"] for key, row in rows.items()} == {
    ("perplexity", "max"): value <= 3.0,
    ("perplexity", "max_rise"): value - baseline <= 0.5,
    ("bits_per_character", "max_rise"): True,
    ("unknown_share", "max"): True,
    ("top_k_accuracy", "min"): True,
    ("top_k_accuracy", "max_drop"): False,  # the baseline has no such metric
  }
  assert rows["perplexity", "max"]["threshold"] == 3.0 and rows["perplexity", "max_rise"]["threshold"] == 0.5
  assert document["blessed"] is False
  assert document["failures"] == [explain(row) for row in rows.values() if not row["passed"]]
  assert (
    f"perplexity {value:.4f} is {value - baseline:.4f} above the baseline's {baseline:.4f}; at most 0.5000 is allowed"
    in document["failures"]
  )
  json.dumps(document, allow_nan=False)


def test_exact_upper_bound_passes_without_baseline_and_without_hits(root):
  exact = expected_metrics(SENTENCES, 1.5)["perplexity"]
  evaluation = EvaluationConfig(max_metrics={"perplexity": exact}, max_rise={"perplexity": 0.0})
  config = language_eval_config(evaluation)
  uri, blessing = evaluator.run_evaluator(root, "blessed", config, with_baseline=False)
  assert blessing == ["BLESSED"]
  document = read_evaluation(uri)
  assert document["blessed"] is True and document["failures"] == [] and document["baseline"] == {}
  assert [row["kind"] for row in document["thresholds"]] == ["max"]
  assert {"confusion", "per_class", "calibration"}.isdisjoint(document)
  assert document["candidate"]["perplexity"] == pytest.approx(exact, rel=1e-6)
  assert "top_k_accuracy" not in document["candidate"]
