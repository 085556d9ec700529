"""What report.json holds: the figures and decisions of one run, gathered from the artifacts of its stages."""

from __future__ import annotations

import collections
import datetime
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from components.config import RunConfig
from components.evaluation import read_evaluation
from components.evaluation_results import CHANGE_KINDS, explain
from components.input import read_records
from components.report.answers import Answers
from components.report.pictures import Pictures
from components.report.raw_examples import class_label
from components.report.task_sections import check_sections
from components.task import SPLITS, Task

# Rejects named one by one; the rest is counted by reason.
MAX_REJECTS = 200


def collect(task: Task, config: RunConfig, inputs: Mapping[str, Any], pictures: Pictures) -> dict[str, Any]:
  """The document; a key is absent where the run has nothing to say on it.

  Args:
    task: the application.
    config: its whole configuration.
    inputs: input name of the Report component -> artifact.
    pictures: what `collect_pictures` found.

  Returns:
    task, created (UTC, ISO 8601), quality_metric, lower_is_better (of it), blessed (every gate said yes), failures
    (why not, in words), pushed_model (its directory, or None), examples {read, written, rejected, splits}, metrics
    {base, compressed}, outcome, data, history, evaluation, regression_evaluation, compression, mistakes or
    surprises, sections (the task's own, see `components.report.task_sections`), config: plain JSON values.

  Raises:
    ValueError: a section of the task's own is not as it has to be.
  """
  document: dict[str, Any] = {
    "task": task.name,
    "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    "quality_metric": task.quality_metric,
    "lower_is_better": task.lower_is_better,
  }
  evaluations = {}
  for name in ("evaluation", "regression_evaluation"):
    if name in inputs:
      evaluations[name] = read_evaluation(inputs[name].uri, pictures.answers.class_names)
  outcome = decide(inputs, evaluations)
  gates = (outcome["blessed"], outcome["holds_against_last_blessed"], outcome["servable"])
  document["blessed"] = outcome["blessed"] is True and False not in gates
  document["failures"] = outcome["reasons"]
  document["pushed_model"] = outcome["destination"]
  document["outcome"] = outcome
  evaluation = evaluations.get("evaluation", {})
  document["metrics"] = {
    "base": evaluation.get("baseline", {}),
    "compressed": evaluation.get("candidate", {}),
  }
  document["examples"], document["data"] = _data(task, inputs)
  document.update(evaluations)
  if "model_run" in inputs:
    document["history"] = _json_lines(os.path.join(inputs["model_run"].uri, "history.jsonl"))
  if "compression_report" in inputs:
    document["compression"] = _json(os.path.join(inputs["compression_report"].uri, "report.json")) or {}
  document.update(_answers(pictures.answers))
  if task.report:
    document["sections"] = check_sections(task.report(config, inputs))
  document["config"] = config.model_dump(mode="json")
  return document


def _answers(answers: Answers) -> dict[str, Any]:
  """{"mistakes": ...} or {"surprises": ...} of the test split, nothing where no answer was scored."""
  if not answers.num_scored:
    return {}
  if answers.surprising:
    surprises = [
      {"text": row.get("text"), **{key: row[key] for key in ("perplexity", "num_tokens")}}
      for row in answers.surprising
    ]
    for row in surprises:
      row["perplexity"] = row["perplexity"] if math.isfinite(row["perplexity"]) else None
    return {"surprises": {"scored": answers.num_scored, "worst": surprises}}
  keys = ("actual", "predicted", "probability")
  worst = [{key: row[key] for key in keys} for row in answers.mistakes]
  return {"mistakes": {"scored": answers.num_scored, "wrong": answers.num_wrong, "worst": worst}}


def decide(inputs: Mapping[str, Any], evaluations: Mapping[str, Any]) -> dict[str, Any]:
  """What the gates of the pipeline said.

  Args:
    inputs: input name of the Report component -> artifact.
    evaluations: "evaluation" and "regression_evaluation", where there are any, as `read_evaluation` has them.

  Returns:
    blessed, holds_against_last_blessed, servable, pushed: each None where that was not asked in this run;
    destination and version of the pushed model, or None; reasons in words; summary, one line.
  """
  outcome: dict[str, Any] = {
    "blessed": _decision(inputs.get("blessing"), "BLESSED", "NOT_BLESSED"),
    "holds_against_last_blessed": None,
    "servable": _decision(inputs.get("infra_blessing"), "INFRA_BLESSED", "INFRA_NOT_BLESSED"),
    "pushed": None,
    "destination": None,
    "version": None,
    "reasons": [],
  }
  reasons = outcome["reasons"]
  evaluation = evaluations.get("evaluation", {})
  if outcome["blessed"] is not True and evaluation:
    reasons += evaluation["failures"] or ["the Evaluator did not bless the model"]
  regression = evaluations.get("regression_evaluation", {})
  if regression.get("baseline"):
    failed = [row for row in regression["thresholds"] if not row["passed"] and row["kind"] in CHANGE_KINDS]
    outcome["holds_against_last_blessed"] = not failed
    reasons += [f"against the last blessed model: {explain(row)}" for row in failed]
  if outcome["servable"] is False:
    if reasons:
      outcome["servable"] = None  # a model that was refused before is not tried
    else:
      reasons += _infra_reasons(inputs["infra_blessing"].uri)
  if "pushed_model" in inputs:
    pushed = inputs["pushed_model"]
    outcome["pushed"] = bool(pushed.get_int_custom_property("pushed"))
    if outcome["pushed"]:
      outcome["destination"] = pushed.get_string_custom_property("pushed_destination")
      outcome["version"] = pushed.get_string_custom_property("pushed_version")
  outcome["summary"] = _summary(outcome)
  return outcome


def _summary(outcome: Mapping[str, Any]) -> str:
  if outcome["pushed"]:
    return f"blessed and pushed as version {outcome['version']}"
  if outcome["reasons"]:
    return "not pushed: " + "; ".join(outcome["reasons"])
  if outcome["blessed"]:
    return "blessed" if outcome["pushed"] is None else "blessed, but not pushed"
  return "not evaluated"


def _decision(artifact: Any, yes: str, no: str) -> bool | None:
  """TFX leaves a file of one of two names; neither file means that nothing was decided."""
  if artifact is None:
    return None
  if tf.io.gfile.exists(os.path.join(artifact.uri, yes)):
    return True
  return False if tf.io.gfile.exists(os.path.join(artifact.uri, no)) else None


def _infra_reasons(uri: str) -> list[str]:
  """Why the export cannot be served, as the InfraValidator wrote it down."""
  reasons = (_json(os.path.join(uri, "reasons.json")) or {}).get("reasons", [])
  return [f"cannot be served: {reason}" for reason in reasons] or ["the export could not be served"]


def _data(task: Task, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
  """Counts of the examples; and class balance and rejects."""
  examples: dict[str, Any] = {}
  data: dict[str, Any] = {}
  if "rejects" in inputs:
    uri = inputs["rejects"].uri
    examples.update(_json(os.path.join(uri, "counts.json")) or {})
    rejects = _json_lines(os.path.join(uri, "rejects.jsonl"))
    data["reject_reasons"] = dict(collections.Counter(row["reason"] for row in rejects).most_common())
    data["rejects"] = rejects[:MAX_REJECTS]
  label = class_label(task)
  if label:
    balance = _balance_from_statistics(label, inputs) or _balance_from_examples(label, inputs)
    names = sorted({name for counts in balance.values() for name in counts})
    data["class_balance"] = {
      split: {name: counts.get(name, 0) for name in names} for split, counts in balance.items()
    }
    examples.setdefault("splits", {split: sum(counts.values()) for split, counts in balance.items()})
  return examples, data


def _balance_from_statistics(label: str, inputs: Mapping[str, Any]) -> dict[str, dict[str, int]] | None:
  """Class counts of each split by StatisticsGen; None where it lacks them or has cut the list short."""
  from tensorflow_metadata.proto.v0 import statistics_pb2

  if "statistics" not in inputs:
    return None
  balance = {}
  for split in SPLITS:
    path = os.path.join(inputs["statistics"].uri, f"Split-{split}", "FeatureStats.pb")
    if not tf.io.gfile.exists(path):
      return None
    statistics = statistics_pb2.DatasetFeatureStatisticsList()
    with tf.io.gfile.GFile(path, "rb") as file:
      statistics.ParseFromString(file.read())
    for feature in statistics.datasets[0].features if statistics.datasets else ():
      if (feature.path.step[:] or [feature.name]) == [label]:
        buckets = feature.string_stats.rank_histogram.buckets
        if len(buckets) != feature.string_stats.unique:
          return None
        balance[split] = {bucket.label: int(bucket.sample_count) for bucket in buckets}
  return balance if len(balance) == len(SPLITS) else None


def _balance_from_examples(label: str, inputs: Mapping[str, Any]) -> dict[str, dict[str, int]]:
  balance = {}
  for split in SPLITS:
    counts: collections.Counter[bytes] = collections.Counter()
    files = tf.io.gfile.glob(os.path.join(inputs["examples"].uri, f"Split-{split}", "*"))
    for batch in read_records(sorted(files)).batch(256) if files else ():
      parsed = tf.io.parse_example(batch, {label: tf.io.FixedLenFeature([], tf.string)})
      counts.update(parsed[label].numpy().tolist())
    balance[split] = {name.decode("utf-8", "replace"): count for name, count in counts.items()}
  return balance


def _json(path: str) -> Any:
  """The file's JSON value, None where there is no such file."""
  if not tf.io.gfile.exists(path):
    return None
  with tf.io.gfile.GFile(path) as file:
    return json.loads(file.read())


def _json_lines(path: str) -> list[dict[str, Any]]:
  if not tf.io.gfile.exists(path):
    return []
  with tf.io.gfile.GFile(path) as file:
    return [json.loads(line) for line in file.read().splitlines() if line.strip()]
