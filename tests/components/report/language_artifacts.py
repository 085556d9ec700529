"""The artifacts of a language model's run, small but real: examples, exports that answer per sentence, evaluation."""

import collections
import dataclasses
import importlib.util
import json
import math
import os
import pathlib

import tensorflow as tf
from tfx.types import standard_artifacts

from components import artifacts
from components.config import RunConfig
from components.evaluation import language_eval_config
from components.task import Feature
from pipeline.tasks.image_classification import TASK as IMAGE_TASK

_SPEC = importlib.util.spec_from_file_location(
  "evaluator_run", pathlib.Path(__file__).parent.parent / "evaluator_run.py"
)
evaluator = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(evaluator)

TRAIN = [
  *["the dog sees the cat", "the cat sees the dog", "the cat sleeps", "a dog sleeps"] * 4,
  *["다람쥐 헌 쳇바퀴에 타고파", "그는 <b>나무</b> 위로 올라갔다"] * 3,
]
TEST = [
  ("the dog sees the cat", "animals"),
  ("the cat sleeps", "animals"),
  ("a cat sees a dog", "animals"),
  ("sleeps sees a", "animals"),
  ("다람쥐 헌 쳇바퀴에 타고파", "한국어"),
  ("그는 다람쥐 위로 <b>나무</b>", "한국어"),
  ("the zebra sleeps", "한국어"),
] * 2
HISTORY = [
  {"epoch": 1, "loss": 8.1, "perplexity": 3300.0, "val_loss": 5.2, "val_perplexity": 181.3, "seconds": 2.0},
  {"epoch": 2, "loss": 4.0, "perplexity": 54.6, "val_loss": 4.1, "val_perplexity": 60.34, "seconds": 2.5},
  {"epoch": 3, "loss": 3.5, "perplexity": 33.1, "val_loss": 4.3, "val_perplexity": 73.7, "seconds": 2.5},
]
# Share of the bigram's probability; the rest is the unigram's.
BIGRAM_SHARE = {"base_model": 0.7, "model": 0.0}


class WordModel:
  """Bigrams interpolated with unigrams; words not in the training text are <unk>."""

  def __init__(self, sentences, bigram_share):
    self.bigram_share = bigram_share
    self.contexts = collections.Counter()
    self.bigrams = collections.Counter()
    self.words = collections.Counter(["<unk>"])
    for sentence in sentences:
      tokens = ["<s>", *sentence.split(), "</s>"]
      self.words.update(tokens[1:])
      self.contexts.update(tokens[:-1])
      self.bigrams.update(zip(tokens, tokens[1:], strict=False))
    self.total = sum(self.words.values())

  def tokens(self, sentence):
    return [word if word in self.words else "<unk>" for word in [*sentence.split(), "</s>"]]

  def log_probs(self, sentence):
    tokens = self.tokens(sentence)
    return [self.log_prob(*pair) for pair in zip(["<s>", *tokens], tokens, strict=False)]

  def log_prob(self, before, word):
    bigram = self.bigrams[before, word] / self.contexts[before] if self.contexts[before] else 0.0
    return math.log(self.bigram_share * bigram + (1 - self.bigram_share) * self.words[word] / self.total)

  def export(self, directory):
    """The same in TensorFlow, with the signatures `serve_examples` and `evaluate_examples`."""
    module = tf.Module()
    module.unigrams = _table({word: count / self.total for word, count in self.words.items()})
    module.bigrams = _table(
      {" ".join(pair): count / self.contexts[pair[0]] for pair, count in self.bigrams.items()}
    )
    share = self.bigram_share

    def answer(examples):
      text = tf.io.parse_example(examples, {"text": tf.io.FixedLenFeature([], tf.string)})["text"]
      words = tf.strings.split(text)
      words = tf.concat([words, tf.fill([words.nrows(), 1], "</s>")], axis=1)
      known = tf.ragged.map_flat_values(
        lambda values: tf.where(module.unigrams.lookup(values) > 0, values, "<unk>"), words
      )
      before = tf.concat([tf.fill([words.nrows(), 1], "<s>"), known[:, :-1]], axis=1)
      pairs = tf.strings.join([before.flat_values, known.flat_values], " ")
      bigrams, unigrams = module.bigrams.lookup(pairs), module.unigrams.lookup(known.flat_values)
      log_probs = known.with_flat_values(tf.math.log(share * bigrams + (1 - share) * unigrams))
      is_unknown = known.with_flat_values(tf.cast(known.flat_values == "<unk>", tf.float32))
      outputs = {
        "log_prob": tf.reduce_sum(log_probs, axis=1),
        "num_tokens": known.row_lengths(),
        "num_unknown": tf.cast(tf.reduce_sum(is_unknown, axis=1), tf.int64),
        "unknown_log_prob": tf.reduce_sum(log_probs * is_unknown, axis=1),
        "num_characters": tf.cast(tf.strings.length(text, unit="UTF8_CHAR") + 1, tf.int64),
      }
      return outputs, known.to_tensor(""), log_probs.to_tensor(0.0)

    signature = [tf.TensorSpec([None], tf.string, name="examples")]

    @tf.function(input_signature=signature)
    def serve_examples(examples):
      outputs, tokens, log_probs = answer(examples)
      return {**outputs, "tokens": tokens, "token_log_probs": log_probs}

    @tf.function(input_signature=signature)
    def evaluate_examples(examples):
      return answer(examples)[0]

    signatures = {"serve_examples": serve_examples, "evaluate_examples": evaluate_examples}
    tf.saved_model.save(module, os.path.join(directory, "Format-Serving"), signatures=signatures)


def _table(values):
  initializer = tf.lookup.KeyValueTensorInitializer(list(values), [float(value) for value in values.values()])
  return tf.lookup.StaticHashTable(initializer, default_value=0.0)


def decode_output(outputs):
  """Without the sentence's end, whose log probability is there all the same."""
  count = int(outputs["num_tokens"])
  return {
    "tokens": [token.decode() for token in outputs["tokens"][: count - 1]],
    "token_log_probs": [float(value) for value in outputs["token_log_probs"][:count]],
  }


def render(features, output):
  return features["text"].decode()


def report(config, inputs):
  """Sections of the task's own."""
  assert "model" in inputs and config.task == "tiny_language_model"
  return [
    {
      "title": "Perplexity by order",
      "text": "What more words of history <i>bring</i>.\nMeasured on the validation split.",
      "charts": [
        {
          "title": "Validation split",
          "x_label": "order",
          "y_label": "perplexity",
          "lower_is_better": True,
          "series": [
            {"name": "Kneser-Ney", "x": [1, 2, 3, 4, 5], "y": [712.4, 198.8, 151.0, 146.2, 147.9]},
            {"name": "add-k", "x": [1, 2, 3, 4, 5], "y": [712.9, 305.1, None, 911.2, 1400.0]},
          ],
        },
        {
          "title": "Histories never seen",
          "y_label": "share of the words",
          "series": [{"name": "share", "x": ["1", "2", "3", "4"], "y": [0.0, 0.012, 0.21, 0.48]}],
        },
      ],
      "tables": [
        {
          "title": "Nearest neighbours",
          "columns": ["word", "neighbours", "cosine", "share"],
          "rows": [["king", "queen, prince", 0.7123, "12.5%"], ["다람쥐", "토끼", math.nan, None]],
          "note": "Cosine of the embeddings.",
        }
      ],
      "texts": [
        {
          "title": "Generated",
          "lines": [
            "the cat sees <the> dog",
            {"text": "다람쥐 헌 쳇바퀴에\n타고파", "note": "temperature 0.8"},
            {"tokens": ["▁un", "like", "ly", "▁words"], "log_probs": [-3.0, -8.5, -0.1, -11.2, -0.7]},
          ],
        }
      ],
    },
    {"title": "Nothing but a title"},
  ]


TASK = dataclasses.replace(
  IMAGE_TASK,
  name="tiny_language_model",
  config_class=RunConfig,
  raw_features={"text": Feature("bytes")},
  labels={},
  quality_metric="perplexity",
  lower_is_better=True,
  decode_output=decode_output,
  render=render,
  report=report,
)


def make_config():
  """Settings under which the compressed model fails on both thresholds."""
  evaluation = {"max_metrics": {"perplexity": 2}, "max_rise": {"perplexity": 1.5}, "slice_by": ["source"]}
  return RunConfig.model_validate({"task": TASK.name, "evaluation": evaluation})


def make_artifacts(root, train=TRAIN, test=TEST, config=None):
  """Writes everything below `root`; returns {input name of the Report: artifact}."""
  config = config or make_config()
  evaluator.write_split(root / "examples", "train", [{"text": text.encode()} for text in train])
  rows = [{"text": text.encode(), "source": source.encode()} for text, source in test]
  evaluator.write_split(root / "examples", "test", rows)
  models = {name: WordModel(train, share) for name, share in BIGRAM_SHARE.items()}
  for model, folder in (("model", "candidate"), ("base_model", "baseline")):
    models[model].export(str(root / folder))
  evaluation, _ = evaluator.run_evaluator(root, "run", language_eval_config(config.evaluation), True)
  os.makedirs(root / "model_run")
  lines = "".join(json.dumps(row) + "\n" for row in HISTORY)
  (root / "model_run" / "history.jsonl").write_text(lines)
  os.makedirs(root / "compression")
  steps = [compression_row("base", 2_400_000, 60.34), compression_row("unigrams only", 300_000, 96.7)]
  (root / "compression" / "report.json").write_text(json.dumps({"steps": steps}))
  kinds = {
    "examples": (standard_artifacts.Examples, root / "examples"),
    "model": (standard_artifacts.Model, root / "candidate"),
    "base_model": (standard_artifacts.Model, root / "baseline"),
    "model_run": (standard_artifacts.ModelRun, root / "model_run"),
    "compression_report": (artifacts.CompressionReport, root / "compression"),
    "evaluation": (standard_artifacts.ModelEvaluation, evaluation),
    "blessing": (standard_artifacts.ModelBlessing, root / "run" / "blessing"),
  }
  return {name: evaluator.artifact(kind, path) for name, (kind, path) in kinds.items()}


def compression_row(name, gzip_bytes, perplexity):
  """One row as the Compressor writes it."""
  latency = {"p50": 0.4, "p99": 0.9}
  return {
    "name": name,
    "format": "saved_model",
    "parameters": gzip_bytes // 8,
    "non_zero_parameters": gzip_bytes // 8,
    "sparsity": {},
    "bytes": 2 * gzip_bytes,
    "gzip_bytes": gzip_bytes,
    "latency_ms": {"batch_1": latency, "batch_32": latency},
    "quality": {"perplexity": perplexity, "loss": math.log(perplexity)},
    "seconds": 1.5,
  }
