"""Figures of matplotlib as SVG elements that take the page's fonts and its light or dark colours."""

from __future__ import annotations

import html
import io
import re
import warnings
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from components.report import format as fmt

# Stand-ins, replaced by the page's CSS variables in the finished SVG.
INK, FAINT = "#010101", "#020202"
FIRST, SECOND, PAPER, THIRD, FOURTH = "#030303", "#040404", "#050505", "#060606", "#070707"
_VARIABLES = {
  INK: "var(--ink)",
  FAINT: "var(--line)",
  FIRST: "var(--first)",
  SECOND: "var(--second)",
  THIRD: "var(--third)",
  FOURTH: "var(--fourth)",
  PAPER: "var(--paper)",
}
STYLE = {
  "svg.fonttype": "none",
  "text.parse_math": False,
  "font.size": 10,
  "axes.edgecolor": FAINT,
  "axes.labelcolor": INK,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.grid.axis": "y",
  "axes.axisbelow": True,
  "grid.color": FAINT,
  "grid.linewidth": 0.6,
  "text.color": INK,
  "xtick.color": INK,
  "ytick.color": INK,
  "xtick.major.size": 0,
  "xtick.major.pad": 6,
  "ytick.major.size": 0,
  "lines.linewidth": 2,
  "lines.markersize": 4,
  "legend.frameon": False,
}


def new_figure(width_inches: float, height_inches: float) -> tuple[Figure, Any]:
  """A figure with one pair of axes."""
  figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
  return figure, figure.add_subplot()


def set_log_scale(axes: Any, direction: str) -> None:
  """With plain numbers at 1, 2 and 5 of each power of ten, or at the powers alone where there are many.

  Args:
    axes: with what is drawn in them; nothing is done where none of it lies above 0.
    direction: "x" or "y".
  """
  axis = axes.xaxis if direction == "x" else axes.yaxis
  low, high = axis.get_minpos(), axis.get_data_interval()[1]
  if not 0 < low <= high:
    return
  axes.set(**{f"{direction}scale": "log"})
  subdivisions = (1.0, 2.0, 5.0) if high < 1000 * low else (1.0,)
  axis.set_major_locator(LogLocator(subs=subdivisions, numticks=12))
  axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value < 1 else fmt.count(value)))
  axis.set_minor_formatter(NullFormatter())
  axis.set_tick_params(which="minor", size=0)


def to_svg(figure: Figure, title: str, salt: str = "") -> str:
  """The figure as an <svg> element that scales with the page and follows its colours."""
  # Several charts share one page: their clip paths need ids of their own, the same in every run.
  with matplotlib.rc_context({**STYLE, "svg.hashsalt": title + salt}), warnings.catch_warnings():
    # The page's fonts draw the text; matplotlib's own, which it measures with, may lack a script.
    warnings.filterwarnings("ignore", message="Glyph .* missing from")
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
