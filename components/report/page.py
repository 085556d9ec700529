"""report.html and report.json: one file each, nothing loaded from elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

from components.report import format as fmt

_TEMPLATES = Path(__file__).parent / "templates"
_STAGES_BEGIN, _STAGES_END = "<!-- stages -->", "<!-- /stages -->"


def write_report(directory: str, document: Mapping[str, Any], pictures: Any) -> None:
  """Writes report.json and report.html.

  Args:
    directory: where; made if it does not exist.
    document: what `components.report.content.collect` returns.
    pictures: `components.report.pictures.Pictures` of the same run.
  """
  os.makedirs(directory, exist_ok=True)
  _write(os.path.join(directory, "report.json"), _to_json(document))
  _write(os.path.join(directory, "report.html"), render_page(document, pictures))


def render_page(document: Mapping[str, Any], pictures: Any) -> str:
  """The page as HTML; sections without content are left out."""
  from components.report.sections import page_sections

  page = _environment().get_template("report.html.jinja")
  return page.render(
    document=document,
    css=markupsafe.Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
    stages_begin=markupsafe.Markup(_STAGES_BEGIN),
    stages_end=markupsafe.Markup(_STAGES_END),
    **page_sections(document, pictures),
  )


def add_stages(report_dir: str, stages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Puts the stages' times into a finished report; what an earlier call put there is replaced.

  Args:
    report_dir: directory with report.html and report.json.
    stages: {"id", "state", "seconds", "cached"} of every stage, in the order in which they ran.

  Returns:
    What report.json now holds.

  Raises:
    ValueError: the directory holds no report.
  """
  json_path, html_path = (os.path.join(report_dir, name) for name in ("report.json", "report.html"))
  try:
    with open(json_path, encoding="utf-8") as file:
      document = json.load(file)
    with open(html_path, encoding="utf-8") as file:
      page = file.read()
    head, rest = page.split(_STAGES_BEGIN, 1)
    tail = rest.split(_STAGES_END, 1)[1]
  except (FileNotFoundError, IndexError, ValueError) as error:
    raise ValueError(f"{report_dir}: no report here that stages could be added to ({error})") from error
  document["stages"] = [dict(stage) for stage in stages]
  document["totals"] = {
    "seconds": sum(stage["seconds"] or 0 for stage in stages),
    "cached": sum(bool(stage["cached"]) for stage in stages),
  }
  section = (
    _environment()
    .get_template("stages.html.jinja")
    .render(
      stages=document["stages"],
      totals=document["totals"],
      longest=max((stage["seconds"] or 0 for stage in stages), default=0) or 1,
    )
  )
  _write(html_path, f"{head}{_STAGES_BEGIN}{section}{_STAGES_END}{tail}")
  _write(json_path, _to_json(document))
  return document


def _environment() -> jinja2.Environment:
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(_TEMPLATES),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
  )
  filters = ("figure", "count", "size", "duration", "percent", "milliseconds", "title")
  environment.filters.update({name: getattr(fmt, name) for name in filters})
  return environment


def _to_json(document: Mapping[str, Any]) -> str:
  return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _write(path: str, text: str) -> None:
  """The file appears whole or stays as it was."""
  partial = f"{path}.partial"
  with open(partial, "w", encoding="utf-8", errors="backslashreplace") as file:
    file.write(text)
  os.replace(partial, path)
