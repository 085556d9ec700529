"""What each section of the page shows, drawn from the document of report.json."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import markupsafe
import yaml

from components.evaluation_results import CHANGE_KINDS
from components.report import charts
from components.report import format as fmt
from components.report.task_sections import drawn_sections

# Above these, a table or a list of bars is no longer something to look at.
MAX_TABLE_CLASSES = 20
MAX_BARS = 30
MAX_ROWS = 40
MAX_CONFUSED_PAIRS = 8


def page_sections(document: Mapping[str, Any], pictures: Any) -> dict[str, Any]:
  """The template's variables besides the document itself."""
  evaluation = document.get("evaluation", {})
  return {
    "verdict": _verdict(document["outcome"]),
    "thresholds": _thresholds(document),
    "cards": _cards(document),
    "balance": _balance(document["data"].get("class_balance", {})),
    "pictures": pictures,
    "answers": pictures.answers,
    "task_sections": drawn_sections(document.get("sections", [])),
    "curves": _curves(document),
    "confusion": _confusion(evaluation.get("confusion")),
    "classes": _classes(evaluation.get("per_class", {})),
    "reliability": _svg(charts.reliability_diagram(evaluation.get("calibration", []))),
    "compression": _compression(document),
    "slices": _slices(document),
    "commands": _commands(document),
    "config": yaml.safe_dump(document["config"], sort_keys=False, allow_unicode=True),
  }


def _verdict(outcome: Mapping[str, Any]) -> dict[str, str]:
  """{"kind": "good", "bad" or "open", "title"}."""
  if outcome["pushed"]:
    return {"kind": "good", "title": f"Blessed and pushed as version {outcome['version']}"}
  if outcome["blessed"] is None and not outcome["reasons"]:
    return {"kind": "open", "title": "Not evaluated"}
  if outcome["blessed"] is not True:
    return {"kind": "bad", "title": "Not blessed"}
  if outcome["reasons"] or outcome["pushed"] is False:
    return {"kind": "bad", "title": "Not pushed"}
  return {"kind": "good", "title": "Blessed"}


def _thresholds(document: Mapping[str, Any]) -> list[dict[str, Any]]:
  """{"metric", "measured", "rule", "passed"} of every threshold that took part in the decision."""
  rows = [
    _threshold_row(row, "the uncompressed model")
    for row in document.get("evaluation", {}).get("thresholds", [])
  ]
  regression = document.get("regression_evaluation", {})
  if regression.get("baseline"):
    changes = [row for row in regression["thresholds"] if row["kind"] in CHANGE_KINDS]
    rows += [_threshold_row(row, "the last blessed model") for row in changes]
  return rows


def _threshold_row(row: Mapping[str, Any], reference: str) -> dict[str, Any]:
  limit, baseline = fmt.figure(float(row["threshold"])), fmt.figure(row["baseline"])
  rule = {
    "min": f"at least {limit}",
    "max": f"at most {limit}",
    "max_drop": f"at most {limit} below {reference}, which has {baseline}",
    "max_rise": f"at most {limit} above {reference}, which has {baseline}",
  }[row["kind"]]
  return {
    "metric": row["metric"],
    "measured": fmt.figure(row["value"]),
    "rule": rule,
    "passed": row["passed"],
  }


def _cards(document: Mapping[str, Any]) -> list[dict[str, Any]]:
  """{"name", "value", "note"}: what to see at a glance."""
  cards = []
  metric = document["quality_metric"]
  metrics = document["metrics"]
  if metrics["compressed"].get(metric) is not None:
    base = metrics["base"].get(metric)
    notes = [f"uncompressed {fmt.figure(base)}"] if base is not None else []
    note = "; ".join(notes + ["lower is better"] * document["lower_is_better"])
    value = fmt.figure(metrics["compressed"][metric])
    cards.append({"name": f"{fmt.title(metric)}, test split", "value": value, "note": note})
  steps = document.get("compression", {}).get("steps", [])
  if steps:
    base, last = steps[0], served_step(steps)
    cards += [
      _ratio_card("size, gzipped", *(step.get("gzip_bytes") for step in (base, last)), fmt.size, "smaller"),
      _ratio_card(
        "latency, one example", *(_latency(step) for step in (base, last)), fmt.milliseconds, "faster"
      ),
      _ratio_card(
        "weights not zero", *(step.get("non_zero_parameters") for step in (base, last)), fmt.count, "fewer"
      ),
    ]
  examples = document["examples"]
  written = examples.get("written") or sum(examples.get("splits", {}).values())
  if written:
    rejected = examples.get("rejected", 0)
    note = f"{fmt.count(rejected)} rejected" if rejected else "none rejected"
    cards.append({"name": "examples", "value": fmt.count(written), "note": note})
  return [card for card in cards if card]


def served_step(steps: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
  """The step whose model is evaluated and pushed: quantization only adds TFLite files beside it."""
  return [step for step in steps if step.get("format", "saved_model") == "saved_model"][-1]


def _latency(step: Mapping[str, Any]) -> float | None:
  return step.get("latency_ms", {}).get("batch_1", {}).get("p50")


def _ratio_card(
  name: str, base: float | None, value: float | None, form: Any, less: str
) -> dict[str, Any] | None:
  """A card of something of which less is better, with how much less it has become."""
  if value is None:
    return None
  note = ""
  if base and value:
    note = f"uncompressed {form(base)}"
    if base / value >= 1.05:
      note = f"{base / value:.1f} times {less} than {form(base)}"
  return {"name": name, "value": form(value), "note": note}


def _balance(balance: Mapping[str, Mapping[str, int]]) -> dict[str, Any] | None:
  """{"splits", "rows": [{"name", "total", "parts": [(split, count, width in percent)]}], "left_out"}."""
  names = list(next(iter(balance.values()), {}))
  if not names:
    return None
  totals = {name: sum(counts[name] for counts in balance.values()) for name in names}
  ordered = sorted(names, key=lambda name: (-totals[name], name))
  shown = ordered
  if len(ordered) > MAX_BARS:
    shown = ordered[: MAX_BARS // 2] + ordered[-MAX_BARS // 2 :]
  largest = max(totals.values()) or 1
  rows = [
    {
      "name": name,
      "total": totals[name],
      "parts": [(split, counts[name], 100 * counts[name] / largest) for split, counts in balance.items()],
    }
    for name in shown
  ]
  return {"splits": list(balance), "rows": rows, "left_out": len(ordered) - len(shown), "classes": len(names)}


def _curves(document: Mapping[str, Any]) -> dict[str, Any] | None:
  history = document.get("history")
  if not history:
    return None
  metric, lower_is_better = document["quality_metric"], document["lower_is_better"]
  titles = {"loss": "loss", metric: fmt.title(metric)}
  drawn = {
    title: _svg(charts.learning_curve(history, name, title, lower_is_better and name == metric))
    for name, title in titles.items()
  }
  known = [row for row in history if row.get(f"val_{metric}") is not None]
  best = (min if lower_is_better else max)(known, key=lambda row: row[f"val_{metric}"]) if known else None
  return {
    "charts": {title: svg for title, svg in drawn.items() if svg},
    "epochs": len(history),
    "seconds": sum(row.get("seconds") or 0 for row in history),
    "best": {"epoch": best["epoch"], "value": best[f"val_{metric}"], "metric": metric} if best else None,
  }


def _confusion(confusion: Mapping[str, Any] | None) -> dict[str, Any] | None:
  """{"names", "rows": a row of cells an actual class, or None and a "picture", "pairs", "unseen"}."""
  if not confusion or not any(map(any, confusion["matrix"])):
    return None
  names, matrix = confusion["classes"], confusion["matrix"]
  pairs = [
    {"actual": names[i], "predicted": names[j], "count": count, "share": count / sum(row)}
    for i, row in enumerate(matrix)
    for j, count in enumerate(row)
    if i != j and count
  ]
  pairs.sort(key=lambda pair: -pair["count"])
  result = {"names": names, "pairs": pairs[:MAX_CONFUSED_PAIRS], "unseen": confusion["unseen_class_examples"]}
  if len(names) > MAX_TABLE_CLASSES:
    return {**result, "rows": None, "picture": charts.matrix_picture(matrix)}
  rows = [
    {
      "name": names[i],
      "cells": [
        {"count": n, "share": n / max(sum(row), 1), "hit": i == j, "predicted": names[j]}
        for j, n in enumerate(row)
      ],
    }
    for i, row in enumerate(matrix)
  ]
  return {**result, "rows": rows, "picture": None}


def _classes(per_class: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
  """The classes, the weakest first."""
  if not per_class:
    return None
  rows = sorted(({"name": name, **row} for name, row in per_class.items()), key=lambda row: row["f1"])
  return {
    "rows": rows[:MAX_ROWS],
    "left_out": len(rows) - len(rows[:MAX_ROWS]),
    "with_baseline": any("baseline_recall" in row for row in rows),
  }


def _compression(document: Mapping[str, Any]) -> dict[str, Any] | None:
  steps = document.get("compression", {}).get("steps", [])
  if not steps:
    return None
  metric = document["quality_metric"]
  rows = [
    {**step, "latency_ms": step.get("latency_ms", {}), "metric": (step.get("quality") or {}).get(metric)}
    for step in steps
  ]
  return {
    "rows": rows,
    "base": rows[0],
    "metric": metric,
    "chart": _svg(charts.size_against_quality(steps, metric, document["lower_is_better"])),
    "layers": [row for row in rows if row.get("sparsity") and any(row["sparsity"].values())],
  }


def _slices(document: Mapping[str, Any]) -> list[dict[str, Any]]:
  """One table a feature, the weakest value first; the label's own slices are the table of classes.

  Bars: a share of 1 where the metric is one, else a share of the largest value.
  """
  metric, lower_is_better = document["quality_metric"], document["lower_is_better"]
  classes = set(document.get("evaluation", {}).get("per_class", {}))
  tables = []
  for feature, values in document.get("evaluation", {}).get("slices", {}).items():
    if classes and classes <= set(values):
      continue
    rows = [
      {"value": value, "count": metrics.get("example_count"), "metric": metrics.get(metric)}
      for value, metrics in values.items()
    ]
    sign = -1 if lower_is_better else 1
    rows.sort(key=lambda row: (row["metric"] is None, sign * (row["metric"] or 0)))
    largest = max((row["metric"] or 0 for row in rows), default=0)
    full = largest if lower_is_better or largest > 1 else 1
    for row in rows:
      row["width"] = 100 * max(row["metric"] or 0, 0) / (full or 1)
    tables.append({"feature": feature, "rows": rows[:MAX_ROWS], "left_out": len(rows) - len(rows[:MAX_ROWS])})
  return tables


def _commands(document: Mapping[str, Any]) -> list[str]:
  """How to serve the pushed model and how to ask it; nothing where none was pushed."""
  outcome = document["outcome"]
  if not outcome["pushed"]:
    return []
  base_path = shlex.quote(os.path.dirname(outcome["destination"].rstrip("/")))
  task = document["task"]
  return [
    f"deepline serve --model_name={task} --model_base_path={base_path}",
    f"deepline predict {task} INPUT --server localhost:8500",
  ]


def _svg(svg: str | None) -> markupsafe.Markup | None:
  return markupsafe.Markup(svg) if svg else None
