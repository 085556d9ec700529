"""Sections of the report that a task adds itself: what they may hold, and how the page shows them.

The report knows text, charts, tables and lines; what they are about is the task's affair, see `Task.report`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import markupsafe
import pydantic

from components.config import Section
from components.report import format as fmt
from components.report.shading import shade
from components.report.task_charts import task_chart

# Rows of a table that the page shows; report.json has all.
MAX_TABLE_ROWS = 300
_NUMBER_TEXT = re.compile(r"[-+−]?[\d.,\s]*\d\s*%?")


def _finite(value: Any) -> Any:
  """JSON has no NaN or infinity."""
  return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | int | None, pydantic.BeforeValidator(_finite)]
Cell = Annotated[str | bool | int | float | None, pydantic.BeforeValidator(_finite)]


class Series(Section):
  """One line of a chart, or its bars where `x` holds names."""

  name: str = ""
  x: list[int | float] | list[str]
  y: list[Number]

  @pydantic.model_validator(mode="after")
  def _same_length(self):
    if len(self.x) != len(self.y):
      raise ValueError(f"{len(self.x)} values of x and {len(self.y)} of y")
    return self


class Chart(Section):
  """Curves, or bars, in one pair of axes."""

  title: str
  x_label: str = ""
  y_label: str = ""
  log_x: bool = False
  log_y: bool = False
  # Where it is set, the best point of each curve is marked.
  lower_is_better: bool | None = None
  series: list[Series]

  @pydantic.model_validator(mode="after")
  def _numbers_or_names(self):
    if len({isinstance(value, str) for series in self.series for value in series.x}) > 1:
      raise ValueError("some x are numbers and some are names")
    return self


class Table(Section):
  """Rows under columns."""

  title: str = ""
  columns: list[str]
  rows: list[list[Cell]]
  note: str = ""

  @pydantic.model_validator(mode="after")
  def _rectangular(self):
    for number, row in enumerate(self.rows):
      if len(row) != len(self.columns):
        raise ValueError(f"row {number} has {len(row)} cells for {len(self.columns)} columns")
    return self


class NotedLine(Section):
  """A line of text with small print."""

  text: str
  note: str = ""


class TokenLine(Section):
  """A sentence whose tokens are shaded by their surprisal; `log_probs` may have one more for the sentence's end."""

  tokens: list[str]
  log_probs: list[Number]
  note: str = ""

  @pydantic.model_validator(mode="after")
  def _one_each(self):
    if len(self.log_probs) - len(self.tokens) not in (0, 1):
      raise ValueError(f"{len(self.tokens)} tokens and {len(self.log_probs)} log_probs")
    return self


class Text(Section):
  """Lines of text, such as generated sentences."""

  title: str = ""
  lines: list[str | NotedLine | TokenLine]


class TaskSection(Section):
  """One section of the page; in it text comes first, then charts, tables and texts."""

  title: str
  text: str = ""
  charts: list[Chart] = []
  tables: list[Table] = []
  texts: list[Text] = []


def check_sections(sections: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """The sections as plain JSON values, what may be left out filled in.

  Raises:
    ValueError: one of them is not as `TaskSection` says; names it, in one line.
  """
  checked = []
  for number, section in enumerate(sections, 1):
    try:
      checked.append(TaskSection.model_validate(section).model_dump(mode="json"))
    except pydantic.ValidationError as error:
      first = error.errors()[0]
      place = ".".join(str(part) for part in first["loc"])
      title = section.get("title") if isinstance(section, Mapping) else None
      raise ValueError(
        f"section {number} of the task's report ({title!r}): {place}: {first['msg']}"
      ) from error
  return checked


def drawn_sections(sections: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
  """What the template shows of `check_sections`' sections.

  Returns:
    [{"title", "paragraphs", "charts": [{"title", "svg"}], "tables": [{"title", "note", "columns": [{"name",
    "is_number"}], "rows": [[text]], "left_out"}], "texts": [{"title", "lines": [{"text" or "tokens", "note"}]}]}].
  """
  return [
    {
      "title": section["title"],
      "paragraphs": [line for line in section["text"].split("\n") if line.strip()],
      "charts": [
        {"title": chart["title"], "svg": _svg(task_chart(chart, f"{number}.{place}"))}
        for place, chart in enumerate(section["charts"])
        if any(series["x"] for series in chart["series"])
      ],
      "tables": [_table(table) for table in section["tables"]],
      "texts": [
        {"title": text["title"], "lines": [_line(line) for line in text["lines"]]}
        for text in section["texts"]
      ],
    }
    for number, section in enumerate(sections)
  ]


def _table(table: Mapping[str, Any]) -> dict[str, Any]:
  rows = table["rows"]
  columns = [
    {"name": name, "is_number": bool(rows) and all(_is_number(row[place]) for row in rows)}
    for place, name in enumerate(table["columns"])
  ]
  shown = [[_cell(value) for value in row] for row in rows[:MAX_TABLE_ROWS]]
  left_out = len(rows) - len(shown)
  return {**table, "columns": columns, "rows": shown, "left_out": left_out}


def _is_number(cell: Any) -> bool:
  """Whether a cell belongs flush right: a number, none at all, or a text such as "12.5%"."""
  if isinstance(cell, str):
    return bool(_NUMBER_TEXT.fullmatch(cell.strip()))
  return not isinstance(cell, bool)


def _cell(value: Any) -> str:
  if isinstance(value, bool):
    return "yes" if value else "no"
  return fmt.figure(value)


def _line(line: str | Mapping[str, Any]) -> dict[str, Any]:
  if isinstance(line, str):
    return {"text": line, "note": ""}
  if "tokens" in line:
    return {"tokens": shade(line["tokens"], line["log_probs"]), "note": line["note"]}
  return dict(line)


def _svg(svg: str) -> markupsafe.Markup:
  return markupsafe.Markup(svg)
