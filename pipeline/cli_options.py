"""Options that several verbs of the command line share, and how a verb ends."""

from __future__ import annotations

from typing import Annotated, Any

import typer

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_NOT_BLESSED = 0, 1, 2, 3
INTERRUPTED = 130

TaskName = Annotated[str, typer.Argument(metavar="TASK", help="One of `deepline tasks`.")]
ConfigFile = Annotated[str | None, typer.Option("--config", metavar="F", help="YAML file of keys to change.")]
Data = Annotated[
  str | None,
  typer.Option(
    "--data", metavar="PATH", help="Folder or archive of raw data; without it, the task's sample."
  ),
]
Overrides = Annotated[
  list[str] | None,
  typer.Option("--set", metavar="KEY=VALUE", help="One key, for example training.epochs=20; repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print results as JSON on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


class UserError(Exception):
  """Something that the user can mend: one line, and the exit status to leave with."""

  def __init__(self, message: str, status: int = EXIT_USAGE):
    super().__init__(message)
    self.status = status


def task_named(name: str) -> Any:
  """The task of a name on the command line.

  Raises:
    UserError: there is none.
  """
  from pipeline.tasks import TASKS

  if name not in TASKS:
    raise UserError(f"no such task: {name}; choose from {', '.join(TASKS)}")
  return TASKS[name]
