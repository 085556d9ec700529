"""`deepline`: the command line. TensorFlow and TFX are imported inside the verbs, so that help answers at once."""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from typing import Annotated, Any

import typer

from pipeline.cli_options import (
  EXIT_DONE,
  EXIT_FAILED,
  EXIT_NOT_BLESSED,
  INTERRUPTED,
  ConfigFile,
  Data,
  Debug,
  Json,
  Overrides,
  TaskName,
  UserError,
  task_named,
)
from pipeline.cli_predict import predict

# Set before any verb imports TensorFlow: its start-up notes are not errors of the user's.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

app = typer.Typer(
  add_completion=False,
  no_args_is_help=True,
  pretty_exceptions_enable=False,
  context_settings={"help_option_names": ["-h", "--help"]},
  help="Turns a folder of images, audio or text into a trained, compressed, evaluated and served model.",
)


def main() -> None:
  """Entry point of the console script."""
  # Libraries' advice to developers is none for a user.
  warnings.simplefilter("ignore", FutureWarning)
  try:
    app(standalone_mode=True)
  except UserError as error:
    if "--debug" in sys.argv:
      traceback.print_exc()
    print(f"deepline: {error}", file=sys.stderr)
    sys.exit(error.status)
  except (KeyboardInterrupt, SystemExit) as end:
    # Typer makes Ctrl-C inside a verb a silent exit with 130.
    if isinstance(end, SystemExit) and end.code != INTERRUPTED:
      raise
    print("deepline: interrupted; the same command goes on from here", file=sys.stderr)
    sys.exit(EXIT_FAILED)
  except BrokenPipeError:
    sys.exit(EXIT_FAILED)


def _configured(
  name: str, config: str | None, overrides: list[str] | None, data: str | None, must_exist: bool = True
) -> Any:
  from pipeline.config import ConfigError, load_config

  task = task_named(name)
  try:
    return task, load_config(task, config, overrides or [], data, must_exist)
  except ConfigError as error:
    raise UserError(str(error)) from error


@app.command()
def tasks(as_json: Json = False) -> None:
  """List the applications."""
  from pipeline.tasks import TASKS

  for name, task in TASKS.items():
    summary = sys.modules[task.path.partition(":")[0]].__doc__.splitlines()[0]
    print(json.dumps({"task": name, "summary": summary}) if as_json else f"{name:24} {summary}")


@app.command()
def run(
  task_name: TaskName,
  config: ConfigFile = None,
  data: Data = None,
  output: Annotated[
    str | None, typer.Option("--output", metavar="DIR", help="Default: runs/TASK.", show_default=False)
  ] = None,
  overrides: Overrides = None,
  as_json: Json = False,
  debug: Debug = False,
) -> None:
  """Train, compress, evaluate and push a model from raw data."""
  del debug  # read from the command line by main(), which also sees errors of before
  task, settings = _configured(task_name, config, overrides, data)
  from pipeline.config import ConfigError
  from pipeline.local_runner import RunError
  from pipeline.local_runner import run as run_pipeline
  from pipeline.progress import StageDisplay

  folder = output or os.path.join("runs", task.name)
  try:
    summary = run_pipeline(task, settings, folder, StageDisplay())
  except RunError as error:
    if as_json:
      print(json.dumps({"task": task.name, "status": "failed", "error": str(error)}))
    raise UserError(str(error), EXIT_FAILED) from error
  except ConfigError as error:
    raise UserError(str(error)) from error
  _print_outcome(task.name, folder, summary)
  if as_json:
    print(json.dumps(summary))
  sys.exit(EXIT_DONE if summary["pushed_model"] else EXIT_NOT_BLESSED)


def _print_outcome(task_name: str, folder: str, summary: dict[str, Any]) -> None:
  """The last lines of a run: what came out, and the commands to go on with."""
  lines = [""]
  for model, metrics in summary["metrics"].items():
    shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float))
    lines.append(f"{model}: {shown}")
  lines += [f"not blessed: {failure}" for failure in summary["failures"]]
  lines.append(f"report: {summary['report']}")
  if summary["pushed_model"]:
    base = os.path.join(folder, "serving", task_name)
    lines += [
      f"pushed: {summary['pushed_model']}",
      "serve it: deepline serve " + f"--model_name={task_name} --model_base_path={base}",
      "ask it:   deepline predict " + f"{task_name} INPUT... --server localhost:8500",
    ]
  print("\n".join(lines), file=sys.stderr)


@app.command("compile")
def compile_pipeline(
  task_name: TaskName,
  output: Annotated[str, typer.Option("--output", metavar="FILE", help="The pipeline's YAML file.")],
  config: ConfigFile = None,
  data: Data = None,
  overrides: Overrides = None,
  debug: Debug = False,
) -> None:
  """Write the same graph as a Kubeflow pipeline (spec 2.1)."""
  del debug
  task, settings = _configured(task_name, config, overrides, data, must_exist=False)
  from pipeline.kubeflow_compiler import write_pipeline

  try:
    notes = write_pipeline(task, settings, output)
  except ValueError as error:
    raise UserError(str(error)) from error
  except OSError as error:
    raise UserError(f"{output}: cannot write it ({error.strerror})", EXIT_FAILED) from error
  for note in notes:
    print(f"note: {note}", file=sys.stderr)
  print(f"wrote {output}", file=sys.stderr)


@app.command(
  add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)
def serve(context: typer.Context, debug: Debug = False) -> None:
  """Serve models over TF Serving's gRPC and REST APIs; the flags are tensorflow_model_server's."""
  del debug
  from serving.errors import ServingError
  from serving.options import parse_flags

  options = parse_flags(context.args, "deepline serve")
  from serving.server import run_server

  try:
    run_server(options)
  except (ServingError, ValueError, OSError, RuntimeError) as error:
    raise UserError(str(error), EXIT_FAILED) from error


app.command()(predict)


@app.command()
def runs(
  output: Annotated[
    str, typer.Option("--output", metavar="DIR", help="A run's folder, or one of several.")
  ] = "runs",
  as_json: Json = False,
  debug: Debug = False,
) -> None:
  """List past runs from ML Metadata."""
  del debug
  from pipeline.runs import find_runs, run_table

  try:
    found = find_runs(output)
  except ValueError as error:
    raise UserError(str(error)) from error
  if as_json:
    for row in found:
      print(json.dumps(row))
  else:
    run_table(found)


if __name__ == "__main__":
  main()
