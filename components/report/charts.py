"""Charts of the report that every task has."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from components.report.svg import FAINT, FIRST, INK, PAPER, SECOND, STYLE, new_figure, set_log_scale, to_svg

# A quality that starts this many times above its end is drawn on a logarithmic axis, else only its start is seen.
_WIDE_RANGE = 20


def learning_curve(
  history: Sequence[Mapping[str, Any]], name: str, title: str, lower_is_better: bool = False
) -> str | None:
  """Training and validation values of one metric over the epochs.

  Args:
    history: rows with "epoch", `name` and "val_" + `name`; rows without them are left out.
    name: the metric, in Keras's name.
    title: what the chart is called to those who cannot see it.
    lower_is_better: whether it is a metric such as perplexity, which may fall from very high values.

  Returns:
    An <svg> element, None where there is nothing to draw.
  """
  curves = {
    label: [(row["epoch"], row[key]) for row in history if row.get(key) is not None]
    for label, key in (("training", name), ("validation", f"val_{name}"))
  }
  if not any(curves.values()):
    return None
  with matplotlib.rc_context(STYLE):
    figure, axes = new_figure(4.4, 2.9)
    for (label, points), colour in zip(curves.items(), (FIRST, SECOND), strict=True):
      if points:
        axes.plot(*zip(*points, strict=True), color=colour, label=label, marker="o")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    values = [value for points in curves.values() for _, value in points]
    if lower_is_better and 0 < min(values) * _WIDE_RANGE < max(values):
      set_log_scale(axes, "y")
    axes.margins(x=0.03)
    axes.legend(loc="best", handlelength=1.2)
    return to_svg(figure, title)


def reliability_diagram(bins: Sequence[Mapping[str, Any]]) -> str | None:
  """How often the chosen class is right against the confidence in it; the bars show where the examples lie.

  Args:
    bins: "calibration" of `components.evaluation.read_evaluation`.
  """
  filled = [row for row in bins if row["examples"] and row["accuracy"] is not None]
  if not filled:
    return None
  total = sum(row["examples"] for row in bins)
  with matplotlib.rc_context(STYLE):
    figure, axes = new_figure(4.4, 3.4)
    lows = [row["from"] for row in bins]
    widths = [(row["to"] - row["from"]) * 0.9 for row in bins]
    shares = [row["examples"] / total for row in bins]
    axes.bar(lows, shares, widths, align="edge", color=FAINT, label="share of the examples")
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=(0, (4, 4)), label="perfect calibration")
    confidence = [row["confidence"] for row in filled]
    axes.plot(confidence, [row["accuracy"] for row in filled], color=FIRST, marker="o", label="accuracy")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="confidence in the answer")
    for axis in (axes.xaxis, axes.yaxis):
      axis.set_major_formatter(PercentFormatter(1.0))
    # Above the axes: bins of few examples put the line anywhere inside them.
    axes.legend(
      loc="lower center",
      bbox_to_anchor=(0.5, 1),
      ncols=3,
      handlelength=1.2,
      columnspacing=1,
      fontsize="small",
    )
    return to_svg(figure, "Accuracy against confidence")


def size_against_quality(
  steps: Sequence[Mapping[str, Any]], metric: str, lower_is_better: bool = False
) -> str | None:
  """Every step of the compression recipe, by its number from 1 on: gzipped size across, the metric upwards.

  Args:
    steps: rows with "gzip_bytes" and "quality"; a row without them keeps its number and is left out.
    metric: which quality.
    lower_is_better: whether lower values of it are better.
  """
  points = [
    (number, row["gzip_bytes"] / 1e6, row["quality"][metric])
    for number, row in enumerate(steps, 1)
    if row.get("gzip_bytes") and (row.get("quality") or {}).get(metric) is not None
  ]
  if len(points) < 2:
    return None
  with matplotlib.rc_context(STYLE):
    figure, axes = new_figure(5.6, 3.0)
    _, sizes, qualities = zip(*points, strict=True)
    axes.plot(sizes, qualities, color=FAINT, linewidth=1.2)
    for number, size, quality in points:
      colour = SECOND if number == 1 else FIRST
      axes.scatter(size, quality, s=190, color=colour, zorder=3)
      axes.annotate(
        str(number), (size, quality), ha="center", va="center_baseline", color=PAPER, weight="bold", zorder=4
      )
    name = metric.replace("_", " ")
    axes.set(xlabel="size, gzipped [MB]", ylabel=f"{name} (lower is better)" if lower_is_better else name)
    axes.set_xlim(0, max(sizes) * 1.06)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    # Half a point of accuracy, or half a percent of a perplexity, is noise: it should not fill the chart.
    room = max(max(qualities) - min(qualities), 0.02 * max(1.0, *qualities)) * 0.35
    axes.set_ylim(min(qualities) - room, max(qualities) + room)
    return to_svg(figure, "Size against quality of each compression step")


def matrix_picture(matrix: Sequence[Sequence[int]]) -> str:
  """Data URI of a confusion matrix too large for a table: darker cells hold a larger share of their row."""
  counts = np.asarray(matrix, np.float64)
  shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
  figure = Figure(figsize=(6, 6), layout="constrained")
  axes = figure.add_subplot()
  axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
  axes.set(xlabel="predicted class id", ylabel="actual class id")
  encoded = io.BytesIO()
  figure.savefig(encoded, format="png", dpi=110)
  return f"data:image/png;base64,{base64.b64encode(encoded.getvalue()).decode('ascii')}"
