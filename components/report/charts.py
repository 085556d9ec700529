"""Charts of the report: matplotlib's SVG, made to take the page's fonts and its light or dark colours."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

# Stand-ins, replaced by the page's CSS variables in the finished SVG.
_INK, _FAINT = "#010101", "#020202"
_FIRST, _SECOND, _PAPER = "#030303", "#040404", "#050505"
_VARIABLES = {
  _INK: "var(--ink)",
  _FAINT: "var(--line)",
  _FIRST: "var(--first)",
  _SECOND: "var(--second)",
  _PAPER: "var(--paper)",
}
_STYLE = {
  "svg.fonttype": "none",
  "text.parse_math": False,
  "font.size": 10,
  "axes.edgecolor": _FAINT,
  "axes.labelcolor": _INK,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.grid.axis": "y",
  "axes.axisbelow": True,
  "grid.color": _FAINT,
  "grid.linewidth": 0.6,
  "text.color": _INK,
  "xtick.color": _INK,
  "ytick.color": _INK,
  "xtick.major.size": 0,
  "xtick.major.pad": 6,
  "ytick.major.size": 0,
  "lines.linewidth": 2,
  "lines.markersize": 4,
  "legend.frameon": False,
}


def learning_curve(history: Sequence[Mapping[str, Any]], name: str, title: str) -> str | None:
  """Training and validation values of one metric over the epochs.

  Args:
    history: rows with "epoch", `name` and "val_" + `name`; rows without them are left out.
    name: the metric, in Keras's name.
    title: what the chart is called to those who cannot see it.

  Returns:
    An <svg> element, None where there is nothing to draw.
  """
  curves = {
    label: [(row["epoch"], row[key]) for row in history if row.get(key) is not None]
    for label, key in (("training", name), ("validation", f"val_{name}"))
  }
  if not any(curves.values()):
    return None
  with matplotlib.rc_context(_STYLE):
    figure, axes = _figure(4.4, 2.9)
    for (label, points), colour in zip(curves.items(), (_FIRST, _SECOND), strict=True):
      if points:
        axes.plot(*zip(*points, strict=True), color=colour, label=label, marker="o")
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    axes.margins(x=0.03)
    axes.legend(loc="best", handlelength=1.2)
    return _svg(figure, title)


def reliability_diagram(bins: Sequence[Mapping[str, Any]]) -> str | None:
  """How often the chosen class is right against the confidence in it; the bars show where the examples lie.

  Args:
    bins: "calibration" of `components.evaluation.read_evaluation`.
  """
  filled = [row for row in bins if row["examples"] and row["accuracy"] is not None]
  if not filled:
    return None
  total = sum(row["examples"] for row in bins)
  with matplotlib.rc_context(_STYLE):
    figure, axes = _figure(4.4, 3.4)
    lows = [row["from"] for row in bins]
    widths = [(row["to"] - row["from"]) * 0.9 for row in bins]
    shares = [row["examples"] / total for row in bins]
    axes.bar(lows, shares, widths, align="edge", color=_FAINT, label="share of the examples")
    axes.plot([0, 1], [0, 1], color=_INK, linewidth=1, linestyle=(0, (4, 4)), label="perfect calibration")
    confidence = [row["confidence"] for row in filled]
    axes.plot(confidence, [row["accuracy"] for row in filled], color=_FIRST, marker="o", label="accuracy")
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
    return _svg(figure, "Accuracy against confidence")


def size_against_quality(steps: Sequence[Mapping[str, Any]], metric: str) -> str | None:
  """Every step of the compression recipe, by its number from 1 on: gzipped size across, quality upwards.

  Args:
    steps: rows with "gzip_bytes" and "quality"; a row without them keeps its number and is left out.
    metric: which quality.
  """
  points = [
    (number, row["gzip_bytes"] / 1e6, row["quality"][metric])
    for number, row in enumerate(steps, 1)
    if row.get("gzip_bytes") and (row.get("quality") or {}).get(metric) is not None
  ]
  if len(points) < 2:
    return None
  with matplotlib.rc_context(_STYLE):
    figure, axes = _figure(5.6, 3.0)
    _, sizes, qualities = zip(*points, strict=True)
    axes.plot(sizes, qualities, color=_FAINT, linewidth=1.2)
    for number, size, quality in points:
      colour = _SECOND if number == 1 else _FIRST
      axes.scatter(size, quality, s=190, color=colour, zorder=3)
      axes.annotate(
        str(number), (size, quality), ha="center", va="center_baseline", color=_PAPER, weight="bold", zorder=4
      )
    axes.set(xlabel="size, gzipped [MB]", ylabel=metric.replace("_", " "))
    axes.set_xlim(0, max(sizes) * 1.06)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    # Half a point of accuracy is noise: it should not fill the chart.
    room = max(max(qualities) - min(qualities), 0.02) * 0.35
    axes.set_ylim(min(qualities) - room, max(qualities) + room)
    return _svg(figure, "Size against quality of each compression step")


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


def _figure(width_inches: float, height_inches: float) -> tuple[Figure, Any]:
  figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
  return figure, figure.add_subplot()


def _svg(figure: Figure, title: str) -> str:
  """The figure as an <svg> element that scales with the page and follows its colours."""
  # Several charts share one page: their clip paths need ids of their own, the same in every run.
  with matplotlib.rc_context({**_STYLE, "svg.hashsalt": title}):
    written = io.StringIO()
    figure.savefig(written, format="svg", transparent=True)
  svg = written.getvalue()
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
  svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
  view_box = re.search(r'viewBox="([^"]+)"', svg).group(1)
  svg = re.sub(
    r"<svg[^>]*>", f'<svg viewBox="{view_box}" role="img" aria-label="{html.escape(title)}">', svg, count=1
  )
  svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
  svg = svg.replace("xlink:href", "href")
  # Only what is referred to keeps its id: matplotlib's other ids are the same in every chart.
  referred = set(re.findall(r"#([\w-]+)", svg))
  svg = re.sub(r' id="([^"]*)"', lambda found: found.group(0) if found.group(1) in referred else "", svg)
  for colour, variable in _VARIABLES.items():
    svg = svg.replace(colour, variable)
  return re.sub(r"\n\s*", "\n", svg)
