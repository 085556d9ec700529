"""Runs the graph on this machine, stage by stage, in this process."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import json
import logging
import os
import pathlib
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Any

from components.config import RunConfig
from components.task import Task
from pipeline.config import ConfigError
from pipeline.graph import Locations, create_pipeline
from pipeline.progress import StageDisplay


class RunError(RuntimeError):
  """A stage failed; the message is one line for the user."""


@dataclasses.dataclass
class Stage:
  """What became of one stage. `state` is "done", "cached" or "failed"."""

  id: str
  state: str
  seconds: float

  def as_json(self) -> dict[str, Any]:
    return {**dataclasses.asdict(self), "cached": self.state == "cached"}


def run(task: Task, config: RunConfig, output: str, display: StageDisplay) -> dict[str, Any]:
  """Runs a task's pipeline; stages whose inputs have not changed are taken from the cache.

  Args:
    task: the application.
    config: its configuration.
    output: directory of the run: metadata.sqlite, artifacts/, serving/, report.html, report.json, run.log.
    display: where progress is shown.

  Returns:
    The summary that `deepline run --json` prints.

  Raises:
    RunError: a stage failed, or another run uses the same directory.
    ConfigError: settings that do not go together, or do not fit the data.
  """
  folder = pathlib.Path(output).resolve()
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise RunError(f"{output}: cannot make this folder ({error.strerror})") from error
  with _only_run_in(folder), _log_to(folder / "run.log"):
    run_id = datetime.datetime.now().astimezone().isoformat(timespec="microseconds")
    try:
      config = task.resolve(config)
    except ValueError as error:
      raise ConfigError(str(error)) from error
    stages = _run_stages(task, config, folder, run_id, display)
    return _finish(task, config, folder, run_id, stages)


def _run_stages(
  task: Task, config: RunConfig, folder: pathlib.Path, run_id: str, display: StageDisplay
) -> list[Stage]:
  """Launches every node as TFX's LocalDagRunner does, telling the display about each."""
  with display.note("loading TensorFlow and TFX"):
    from tfx.dsl.compiler import compiler, constants
    from tfx.orchestration.local import runner_utils
    from tfx.orchestration.portable import runtime_parameter_utils

    from trainers.strategies import configure_devices

    configure_devices(config.training.num_logical_cpus)
    locations = Locations(
      artifacts=str(folder / "artifacts"),
      serving=str(folder / "serving"),
      checkpoints=str(folder / "checkpoints"),
      metadata_path=str(folder / "metadata.sqlite"),
    )
    pipeline = compiler.Compiler().compile(create_pipeline(task, config, locations))
    runtime_parameter_utils.substitute_runtime_parameter(
      pipeline, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: run_id}
    )
    deployment = runner_utils.extract_local_deployment_config(pipeline)
  stages: list[Stage] = []
  # A resolver is a look-up in the metadata, no stage.
  num_stages = sum(_has_executor(node.pipeline_node, deployment) for node in pipeline.nodes)
  for node in pipeline.nodes:
    name = node.pipeline_node.node_info.id
    if not _has_executor(node.pipeline_node, deployment):
      _launch(pipeline, node.pipeline_node, deployment)
      continue
    started = time.monotonic()
    with display.stage(name, len(stages) + 1, num_stages) as shown:
      try:
        cached = _launch(pipeline, node.pipeline_node, deployment)
      except Exception as error:
        logging.getLogger(__name__).exception("%s failed", name)
        shown.end("failed", time.monotonic() - started)
        raise RunError(f"{name} failed: {one_line(error)} (log: {folder / 'run.log'})") from error
      stages.append(Stage(name, "cached" if cached else "done", round(time.monotonic() - started, 3)))
      shown.end(stages[-1].state, stages[-1].seconds)
  return stages


def _has_executor(node: Any, deployment: Any) -> bool:
  return node.node_info.id in deployment.executor_specs


def _launch(pipeline: Any, node: Any, deployment: Any) -> bool:
  """Runs one node; returns whether it was found in the cache."""
  from tfx.orchestration import metadata
  from tfx.orchestration.local import runner_utils
  from tfx.orchestration.portable import launcher

  name = node.node_info.id
  connection_config = deployment.metadata_connection_config
  connection = metadata.Metadata(
    getattr(connection_config, connection_config.WhichOneof("connection_config"))
  )
  executed = launcher.Launcher(
    pipeline_node=node,
    mlmd_connection=connection,
    pipeline_info=pipeline.pipeline_info,
    pipeline_runtime_spec=pipeline.runtime_spec,
    executor_spec=runner_utils.extract_executor_spec(deployment, name),
    custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, name),
  ).launch()
  with connection as handle:
    (execution,) = handle.store.get_executions_by_id([executed.execution_id])
  return execution.last_known_state == execution.CACHED


def one_line(error: BaseException) -> str:
  """The error's own words without Beam's "[while running ...]" and without line breaks."""
  text = str(error).split(" [while running")[0].strip() or type(error).__name__
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  return lines[-1] if lines[0].startswith("Traceback") else lines[0]


def _finish(
  task: Task, config: RunConfig, folder: pathlib.Path, run_id: str, stages: list[Stage]
) -> dict[str, Any]:
  """Puts the report beside the metadata and makes the summary."""
  from components.report import add_stages
  from pipeline.runs import REPORT_TYPE, run_outputs

  outputs = run_outputs(folder / "metadata.sqlite", run_id)
  report_uri = outputs[REPORT_TYPE][-1]
  for name in ("report.html", "report.json"):
    partial = folder / f".{name}"
    shutil.copyfile(os.path.join(report_uri, name), partial)
    os.replace(partial, folder / name)
  add_stages(str(folder), [stage.as_json() for stage in stages])
  report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
  return {
    "task": task.name,
    "run_id": run_id,
    "status": "done" if report["pushed_model"] else "not blessed",
    "blessed": report["blessed"],
    "pushed_model": report["pushed_model"],
    "report": str(folder / "report.html"),
    "metrics": report["metrics"],
    "examples": report["examples"],
    "failures": report["failures"],
    "stages": [stage.as_json() for stage in stages],
  }


@contextlib.contextmanager
def _only_run_in(folder: pathlib.Path) -> Iterator[None]:
  """Two runs that share metadata and artifacts would spoil each other. The lock goes with the process."""
  with open(folder / ".lock", "w", encoding="utf-8") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      raise RunError(f"{folder}: another run is under way there; wait, or choose another --output") from error
    yield


@contextlib.contextmanager
def _log_to(path: pathlib.Path) -> Iterator[None]:
  """Sends all that libraries log, warn and print to a file, TensorFlow's C++ parts included.

  The terminal is left to the display, which holds a copy of the standard error stream.
  """
  root = logging.getLogger()
  before = root.handlers[:], root.level
  with open(path, "a", encoding="utf-8", buffering=1) as file, _redirected((1, 2), file.fileno()):
    handler = logging.StreamHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    # Its own handler, made when TFX is imported, would write every line twice.
    logging.getLogger("absl").propagate = True
    try:
      yield
    finally:
      root.handlers, level = before
      root.setLevel(level)
      logging.captureWarnings(False)


@contextlib.contextmanager
def _redirected(descriptors: tuple[int, ...], target: int) -> Iterator[None]:
  """Points file descriptors of this process and of its future children at another file."""
  sys.stdout.flush()
  sys.stderr.flush()
  saved = [os.dup(descriptor) for descriptor in descriptors]
  try:
    for descriptor in descriptors:
      os.dup2(target, descriptor)
    yield
  finally:
    sys.stdout.flush()
    sys.stderr.flush()
    for descriptor, copy in zip(descriptors, saved, strict=True):
      os.dup2(copy, descriptor)
      os.close(copy)
