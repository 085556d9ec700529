"""Charts that a task asks for in sections of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator

from components.report import format as fmt
from components.report.svg import FIRST, FOURTH, SECOND, STYLE, THIRD, new_figure, set_log_scale, to_svg

# One after the other for the curves of a chart: all colours, then all again in the next line style.
_COLOURS = (FIRST, SECOND, FOURTH, THIRD)
_LINE_STYLES = ("-", (0, (4, 2)), (0, (1, 1.5)))
# Above these, points of a curve and names under bars need more room than there is.
_MAX_MARKED_POINTS = 24
_MAX_LEVEL_NAMES = 6


def task_chart(chart: Mapping[str, Any], salt: str) -> str:
  """A chart that a task asks for.

  Args:
    chart: as `components.report.task_sections.Chart` has it; at least one series holds something.
    salt: a text that no other chart of the page has.
  """
  series = [row for row in chart["series"] if row["x"]]
  with matplotlib.rc_context(STYLE):
    figure, axes = new_figure(4.4, 2.9)
    if isinstance(series[0]["x"][0], str):
      _draw_bars(axes, series)
    else:
      _draw_curves(axes, series, chart["lower_is_better"])
      if chart["log_x"]:
        set_log_scale(axes, "x")
      elif all(float(x).is_integer() for row in series for x in row["x"]):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    if chart["log_y"]:
      set_log_scale(axes, "y")
    axes.set(xlabel=chart["x_label"], ylabel=chart["y_label"])
    if len(series) > 1:
      axes.legend(loc="best", handlelength=1.8, fontsize="small")
    return to_svg(figure, chart["title"], salt)


def _draw_curves(axes: Any, series: Sequence[Mapping[str, Any]], lower_is_better: bool | None) -> None:
  """A line each; None is a gap. The best point has a ring and its value where it is known what is better."""
  for place, row in enumerate(series):
    colour = _COLOURS[place % len(_COLOURS)]
    style = _LINE_STYLES[place // len(_COLOURS) % len(_LINE_STYLES)]
    y = [np.nan if value is None else value for value in row["y"]]
    marker = "o" if len(y) <= _MAX_MARKED_POINTS else None
    axes.plot(row["x"], y, color=colour, linestyle=style, marker=marker, label=row["name"])
    if lower_is_better is not None and not np.isnan(y).all():
      best = int(np.nanargmin(y) if lower_is_better else np.nanargmax(y))
      point = (row["x"][best], y[best])
      axes.scatter(*point, s=70, facecolors="none", edgecolors=colour, linewidths=1.5, zorder=3)
      axes.annotate(
        fmt.figure(y[best]),
        point,
        xytext=(0, 8),
        textcoords="offset points",
        ha="center",
        fontsize="small",
        color=colour,
      )
  axes.margins(x=0.06, y=0.14)


def _draw_bars(axes: Any, series: Sequence[Mapping[str, Any]]) -> None:
  """A group of bars for each name of all series, in the order in which the names come."""
  names = list(dict.fromkeys(name for row in series for name in row["x"]))
  width = 0.8 / len(series)
  for place, row in enumerate(series):
    heights = dict(zip(row["x"], row["y"], strict=True))
    lefts = [at - 0.4 + place * width for at in range(len(names))]
    values = [heights.get(name) or 0 for name in names]
    colour = _COLOURS[place % len(_COLOURS)]
    axes.bar(lefts, values, width * 0.92, align="edge", color=colour, label=row["name"])
  tilted = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
  axes.set_xticks(range(len(names)), names, **(tilted if len(names) > _MAX_LEVEL_NAMES else {}))
