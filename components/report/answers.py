"""What the exported model answers on the test split: its worst mistakes, its surprises, or a few as they come."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from components.report.raw_examples import class_label, raw_examples, rows_of
from components.report.rendering import as_text, render_example
from components.report.shading import shade
from components.task import Task

MAX_SHOWN = 24
# Test examples asked about; the Evaluator's figures are over all of them.
MAX_SCORED = 20_000
# Of tasks that give each example a log probability.
MAX_SURPRISING = 10
MAX_TYPICAL = 8
# Of tasks that compare an answer with the truth.
MAX_COMPARED = 12
COMPARED_SIDE_PX = 420
_BATCH_SIZE = 64
# Whole pictures with an answer for each pixel are large.
_COMPARED_BATCH_SIZE = 8

Signature = Callable[..., Mapping[str, Any]]


@dataclasses.dataclass
class Answers:
  """Rows for the page; "raw" is a data URI, or None where the task renders text, which is in "text".

  mistakes: {"actual", "predicted", "probability", "raw"}, the most confident first, of tasks that name one class.
  surprising, typical: {"perplexity", "num_tokens", "raw", "text", and "shaded" where the decoded answer has "tokens"
    and "token_log_probs"; see `components.report.shading`}, of tasks that give a log probability: the least likely
    ones for a token, the worst first, and some of the middle half, the likelier first.
  compared: {"truth", "raw": data URIs, "score" in [0, 1], "note"}, the worst first, of tasks that compare an answer
    with the truth.
  predictions: {"output", "raw"} of all other tasks.
  """

  mistakes: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  surprising: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  typical: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  compared: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  predictions: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  num_scored: int = 0
  num_wrong: int = 0
  class_names: list[str] | None = None


def collect_answers(task: Task, model_uri: str, examples_uri: str) -> Answers:
  """Asks the exported signature about the test split, as a server would.

  Args:
    task: the application.
    model_uri: of the Model artifact.
    examples_uri: of the raw Examples artifact.
  """
  from tfx.utils import path_utils

  model = tf.saved_model.load(path_utils.serving_model_path(model_uri))
  signature = model.signatures["serve_examples"]
  names = set(signature.structured_outputs)
  if class_label(task) and {"label", "probability"} <= names:
    return _mistakes(task, signature, examples_uri)
  if {"log_prob", "num_tokens"} <= names:
    return _surprises(task, signature, examples_uri)
  if task.compare:
    return _compared(task, signature, examples_uri)
  return _first_answers(task, signature, examples_uri)


def _ask(signature: Signature, batch: Any) -> dict[str, np.ndarray]:
  return {name: value.numpy() for name, value in signature(examples=batch).items()}


def _mistakes(task: Task, signature: Signature, examples_uri: str) -> Answers:
  answers = Answers()
  label = class_label(task)
  worst: list[tuple[float, int, dict, dict]] = []
  for batch, features in raw_examples(task, examples_uri, "test", _BATCH_SIZE):
    outputs = _ask(signature, batch)
    if "classes" in outputs:
      answers.class_names = [as_text(name) for name in outputs["classes"][0]]
    wrong = np.flatnonzero(outputs["label"] != features[label])
    for i in wrong:
      row = {name: values[i] for name, values in features.items()}
      output = {name: values[i] for name, values in outputs.items()}
      entry = (float(outputs["probability"][i]), -(answers.num_scored + int(i)), row, output)
      (heapq.heappush if len(worst) < MAX_SHOWN else heapq.heappushpop)(worst, entry)
    answers.num_scored += len(batch)
    answers.num_wrong += len(wrong)
    if answers.num_scored >= MAX_SCORED:
      break
  for probability, _, row, output in sorted(worst, key=lambda entry: entry[:2], reverse=True):
    mistake = {
      "actual": as_text(row[label]),
      "predicted": as_text(output["label"]),
      "probability": probability,
    }
    answers.mistakes.append({**mistake, **render_example(task, row, None)})
  return answers


def _surprises(task: Task, signature: Signature, examples_uri: str) -> Answers:
  """One pass for the scores of all examples, which fit in memory, and one for the few that are shown."""
  # Log probability of a token, place in the split; an example that comes again is not shown twice.
  scores: list[tuple[float, int]] = []
  known = set()
  num_scored = 0
  for batch, features in raw_examples(task, examples_uri, "test", _BATCH_SIZE):
    outputs = _ask(signature, batch)
    # What is not a number is as bad as a probability of 0.
    per_token = np.nan_to_num(
      outputs["log_prob"] / np.maximum(outputs["num_tokens"], 1), nan=-np.inf, neginf=-np.inf
    )
    for place, (score, row) in enumerate(zip(per_token.tolist(), rows_of(features), strict=True), num_scored):
      content = hash(tuple(as_text(row[name]) for name in task.raw_features))
      if content not in known:
        known.add(content)
        scores.append((score, place))
    num_scored += len(batch)
    if num_scored >= MAX_SCORED:
      break
  order = [place for _, place in sorted(scores)]
  surprising, rest = order[:MAX_SURPRISING], order[MAX_SURPRISING:]
  spots = np.rint(np.linspace(0.75, 0.25, MAX_TYPICAL) * (len(rest) - 1)).astype(int).tolist() if rest else []
  typical = [rest[spot] for spot in dict.fromkeys(spots)]
  rows = _scored_rows(task, signature, examples_uri, {*surprising, *typical})
  return Answers(
    surprising=[rows[place] for place in surprising],
    typical=[rows[place] for place in typical],
    num_scored=num_scored,
  )


def _scored_rows(
  task: Task, signature: Signature, examples_uri: str, wanted: Iterable[int]
) -> dict[int, dict[str, Any]]:
  """{place of an example in the split: what the page shows of it}."""
  found: dict[int, dict[str, Any]] = {}
  remaining = set(wanted)
  start = 0
  for batch, features in raw_examples(task, examples_uri, "test", _BATCH_SIZE):
    if not remaining:
      break
    here = sorted(place for place in remaining if place < start + len(batch))
    if here:
      outputs = _ask(signature, batch)
      for place in here:
        row, output = (
          {name: values[place - start] for name, values in columns.items()} for columns in (features, outputs)
        )
        found[place] = _scored_row(task, row, output)
      remaining -= set(here)
    start += len(batch)
  return found


def _scored_row(task: Task, row: Mapping[str, Any], output: Mapping[str, Any]) -> dict[str, Any]:
  num_tokens = int(output["num_tokens"])
  with np.errstate(over="ignore"):
    perplexity = float(np.exp(-float(output["log_prob"]) / max(num_tokens, 1)))
  shown = {"perplexity": perplexity, "num_tokens": num_tokens, **render_example(task, row, None)}
  decoded = task.decode_output(output)
  if {"tokens", "token_log_probs"} <= set(decoded):
    shown["shaded"] = shade(decoded["tokens"], decoded["token_log_probs"])
  return shown


def _compared(task: Task, signature: Signature, examples_uri: str) -> Answers:
  answers = Answers()
  worst: list[tuple[float, int, str, dict, dict]] = []
  for batch, features in raw_examples(task, examples_uri, "test", _COMPARED_BATCH_SIZE):
    for row, output in zip(rows_of(features), rows_of(_ask(signature, batch)), strict=True):
      score, note = task.compare(row, output)
      entry = (-score, -answers.num_scored, note, row, output)
      (heapq.heappush if len(worst) < MAX_COMPARED else heapq.heappushpop)(worst, entry)
      answers.num_scored += 1
    if answers.num_scored >= MAX_SCORED:
      break
  for score, _, note, row, output in sorted(worst, key=lambda entry: entry[:2], reverse=True):
    # The same classes in the same colours on both sides, and in all pairs.
    named = {"class_names": output["class_names"], **row} if "class_names" in output else row
    truth = render_example(task, named, None, COMPARED_SIDE_PX)["raw"]
    answer = render_example(task, row, output, COMPARED_SIDE_PX)["raw"]
    answers.compared.append({"truth": truth, "raw": answer, "score": -score, "note": note})
  return answers


def _first_answers(task: Task, signature: Signature, examples_uri: str) -> Answers:
  answers = Answers()
  for batch, features in raw_examples(task, examples_uri, "test", MAX_SHOWN):
    outputs = _ask(signature, batch)
    for row, output in zip(rows_of(features), rows_of(outputs), strict=True):
      answers.predictions.append({"output": task.decode_output(output), **render_example(task, row, output)})
    break
  return answers
