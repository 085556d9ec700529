"""Past runs, read from ML Metadata."""

from __future__ import annotations

import datetime
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from components.evaluation import figure_text

# TFX's context type of a run, and the type of our report's artifact.
_RUN = "pipeline_run"
REPORT_TYPE = "deepline.RunReport"
# What ExampleGen writes on its examples.
DATA_PATH_PROPERTY = "data_path"
_FILE_WIDTH = 1000


def run_outputs(database: pathlib.Path, run_id: str) -> dict[str, list[str]]:
  """{artifact type: paths} of everything that one run made or found in the cache.

  Args:
    database: ML Metadata's SQLite file.
    run_id: name of the run.
  """
  store = _open(database)
  context = store.get_context_by_type_and_name(_RUN, run_id)
  found: dict[str, list[str]] = {}
  for artifact in _outputs(store, store.get_executions_by_context(context.id)):
    found.setdefault(artifact.type, []).append(artifact.uri)
  return found


def find_runs(output: str) -> list[dict[str, Any]]:
  """All runs of one run folder, or of all run folders in a folder; the newest first.

  Args:
    output: a folder with a metadata.sqlite, or one of such folders.

  Returns:
    One dict a run: "task", "run_id", "started", "state" ("done", "failed" or "unfinished"), "stages", "quality_metric",
    "lower_is_better" (of it), "metrics", "model_version", "data", "examples", "output".

  Raises:
    ValueError: there is no such folder, or its metadata cannot be read.
  """
  folder = pathlib.Path(output)
  if not folder.is_dir():
    raise ValueError(f"{output}: no such folder; name the --output of a run")
  own = folder / "metadata.sqlite"
  databases = [own] if own.exists() else sorted(folder.glob("*/metadata.sqlite"))
  rows = [row for database in databases for row in _runs_of(database)]
  return sorted(rows, key=lambda row: row["started"], reverse=True)


def _open(database: pathlib.Path) -> Any:
  from ml_metadata.metadata_store import metadata_store
  from ml_metadata.proto import metadata_store_pb2

  config = metadata_store_pb2.ConnectionConfig()
  config.sqlite.filename_uri = str(database)
  config.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE
  return metadata_store.MetadataStore(config)


def _runs_of(database: pathlib.Path) -> list[dict[str, Any]]:
  from ml_metadata.errors import StatusError

  try:
    store = _open(database)
    contexts = store.get_contexts_by_type(_RUN)
  # Opening raises RuntimeError, reading StatusError.
  except (RuntimeError, StatusError) as error:
    reason = str(error).partition(" query:")[0]
    raise ValueError(f"{database}: cannot be read as the metadata of runs ({reason})") from error
  return [_describe(store, context, database) for context in contexts]


def _describe(store: Any, context: Any, database: pathlib.Path) -> dict[str, Any]:
  """One run in plain values."""
  executions = store.get_executions_by_context(context.id)
  # The first of a type: ExampleGen's examples come before those that are made of them.
  artifacts = {artifact.type: artifact for artifact in reversed(_outputs(store, executions))}
  report = _read_report(artifacts.get(REPORT_TYPE))
  pushed = artifacts.get("PushedModel")
  return {
    "task": _stage_contexts(store, context),
    "run_id": context.name,
    "started": datetime.datetime.fromtimestamp(context.create_time_since_epoch / 1000)
    .astimezone()
    .isoformat(timespec="seconds"),
    "state": _state(executions, report),
    "stages": len(executions),
    "quality_metric": report.get("quality_metric"),
    "lower_is_better": report.get("lower_is_better", False),
    "metrics": report.get("metrics", {}),
    "model_version": _custom(pushed, "pushed_version"),
    "data": _custom(artifacts.get("Examples"), DATA_PATH_PROPERTY),
    "examples": report.get("examples", {}),
    "output": str(database.parent),
  }


def _state(executions: Sequence[Any], report: dict[str, Any]) -> str:
  states = {execution.State.Name(execution.last_known_state) for execution in executions}
  if "FAILED" in states:
    return "failed"
  # A run writes its report last. Without one it was killed, or is under way.
  return "done" if report and states <= {"COMPLETE", "CACHED"} else "unfinished"


def _stage_contexts(store: Any, context: Any) -> str:
  """The task's name: the pipeline's, of which the run is a child."""
  parents = store.get_parent_contexts_by_context(context.id)
  names = [parent.name for parent in parents]
  if not names:
    names = [
      other.name
      for execution in store.get_executions_by_context(context.id)[:1]
      for other in store.get_contexts_by_execution(execution.id)
      if other.type == "pipeline"
    ]
  return names[0].replace("-", "_") if names else ""


def _outputs(store: Any, executions: Sequence[Any]) -> list[Any]:
  """The artifacts that the executions made or found in the cache, in the order of their ids."""
  from ml_metadata.proto import metadata_store_pb2

  event_class = metadata_store_pb2.Event
  events = store.get_events_by_execution_ids([execution.id for execution in executions])
  made = [event for event in events if event.type in (event_class.OUTPUT, event_class.DECLARED_OUTPUT)]
  ids = sorted({event.artifact_id for event in made})
  return sorted(store.get_artifacts_by_id(ids), key=lambda artifact: artifact.id)


def _read_report(artifact: Any) -> dict[str, Any]:
  path = os.path.join(artifact.uri, "report.json") if artifact else ""
  if not os.path.exists(path):
    return {}
  with open(path, encoding="utf-8") as file:
    return json.load(file)


def _custom(artifact: Any, name: str) -> str | None:
  if artifact is None or name not in artifact.custom_properties:
    return None
  return artifact.custom_properties[name].string_value


def run_table(rows: Sequence[dict[str, Any]]) -> None:
  """Prints runs as a table."""
  from rich.console import Console
  from rich.table import Table

  table = Table("started", "task", "state", "metric", "base", "compressed", "version", "data", box=None)
  for row in rows:
    metric = row["quality_metric"]
    values = [row["metrics"].get(model, {}).get(metric) for model in ("base", "compressed")]
    table.add_row(
      row["started"][:16].replace("T", " "),
      row["task"],
      row["state"],
      metric or "",
      *("" if value is None else figure_text(value) for value in values),
      row["model_version"] or "",
      row["data"] or "",
    )
  # Where another program reads the table, its lines stay whole.
  console = Console(
    highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else _FILE_WIDTH
  )
  console.print(table)
