"""Writes the graph as a Kubeflow pipeline."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import Any

import yaml

from components.config import KubeflowConfig, RunConfig
from components.task import Task
from pipeline.config import SAMPLES_DIR
from pipeline.graph import Locations, create_pipeline

# Every task of the pipeline runs this with its executor's name.
_COMMAND = ["python", "-m", "pipeline.kubeflow_stage"]
# Where kubeflow/Dockerfile puts the samples of tests/data.
_SAMPLES_IN_IMAGE = "/app/tests/data"
# A path's contents may have changed since the last run, and the cluster sees only the path.
_NEVER_CACHED = "ExampleGen"


def write_pipeline(task: Task, config: RunConfig, path: str) -> list[str]:
  """Compiles a task's graph to Kubeflow's pipeline spec 2.1.

  Args:
    task: the application.
    config: its configuration. `data.path` has to be a path that the cluster's pods see. Whatever is "auto" is
      looked up in the data, which then has to be here too.
    path: file to write: .yaml (the pipeline spec, and the volume that its pods mount) or .json (the whole
      job, for platforms that take one; it has no place for volumes).

  Returns:
    Notes for the user about what may not work in a pod.

  Raises:
    ValueError: the file's name ends otherwise, a resource names no stage, or something is "auto" and the data
      is not here.
  """
  if not path.endswith((".yaml", ".json")):
    raise ValueError(f"--output {path}: name it .yaml or .json")
  config = _in_pods(_resolved(task, config))
  with _quiet():
    job = _compile(task, config)
  spec = job["pipelineSpec"]
  spec["root"]["dag"]["tasks"][_NEVER_CACHED]["cachingOptions"] = {}
  if config.kubeflow.pipeline_root:
    spec["defaultPipelineRoot"] = config.kubeflow.pipeline_root
  if path.endswith(".json"):
    text = json.dumps(job, indent=2, sort_keys=True)
  else:
    documents = [spec, _platforms(spec, config.kubeflow)] if config.kubeflow.volume_claim else [spec]
    header = f"# PIPELINE DEFINITION\n# Name: {spec['pipelineInfo']['name']}\n"
    text = header + yaml.safe_dump_all(documents, sort_keys=True)
  _write(path, text)
  return _notes(config, path)


def _resolved(task: Task, config: RunConfig) -> RunConfig:
  """Nothing "auto" left."""
  data = config.data.path or ""
  unknown = [f"preprocessing.{name}" for name, value in config.preprocessing if value == "auto"]
  if unknown and not os.path.exists(data):
    raise ValueError(f"data.path={data}: no such file or folder here, so set {', '.join(unknown)} with --set")
  return task.resolve(config)


def _in_pods(config: RunConfig) -> RunConfig:
  """The sample of a task is part of the image."""
  path = pathlib.Path(config.data.path or "")
  samples = SAMPLES_DIR.resolve()
  if not path.is_relative_to(samples):
    return config
  inside = os.path.join(_SAMPLES_IN_IMAGE, path.relative_to(samples))
  return config.model_copy(update={"data": config.data.model_copy(update={"path": inside})})


def _compile(task: Task, config: RunConfig) -> dict[str, Any]:
  """The pipeline job of Kubeflow's spec, as plain values."""
  try:
    from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner
  except ImportError as error:
    raise ValueError(f"{error}: install Deepline with its extra kubeflow") from error

  settings = config.kubeflow
  locations = Locations(
    artifacts=settings.pipeline_root,
    serving=settings.serving_root or os.path.join(settings.volume_path, "serving"),
    checkpoints=settings.checkpoint_root or os.path.join(settings.volume_path, "checkpoints"),
  )
  pipeline = create_pipeline(task, config, locations, with_baseline=False)
  stages = [stage.id for stage in pipeline.components]
  for name in sorted(set(settings.resources) - set(stages)):
    raise ValueError(f"kubeflow.resources.{name}: no such stage; the stages are {', '.join(stages)}")
  runner = kubeflow_v2_dag_runner.KubeflowV2DagRunner(
    config=kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(
      default_image=settings.image, default_commands=_COMMAND, use_pipeline_spec_2_1=True
    )
  )
  return runner.run(pipeline, write_out=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """The libraries' own notes are not for who compiles. Has to come before they are imported."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  from absl import logging

  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      yield
  finally:
    logging.set_verbosity(verbosity)


def _platforms(spec: dict[str, Any], settings: KubeflowConfig) -> dict[str, Any]:
  """The second document of the file: the volume of every pod."""
  mount = {"constant": settings.volume_claim, "mountPath": settings.volume_path}
  executors = {label: {"pvcMount": [mount.copy()]} for label in spec["deploymentSpec"]["executors"]}
  return {"platforms": {"kubernetes": {"deploymentSpec": {"executors": executors}}}}


def _write(path: str, text: str) -> None:
  os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
  partial = f"{path}.partial"
  with open(partial, "w", encoding="utf-8") as file:
    file.write(text)
  os.replace(partial, path)


def _notes(config: RunConfig, path: str) -> list[str]:
  mounted = config.kubeflow.volume_path
  notes = []
  if config.kubeflow.volume_claim and path.endswith(".json"):
    notes.append(
      f"a .json has no place for volumes: mount {config.kubeflow.volume_claim} at {mounted} yourself"
    )
  data = pathlib.Path(config.data.path or "")
  if not any(data.is_relative_to(place) for place in (_SAMPLES_IN_IMAGE, mounted)):
    notes.append(f"data.path={data} is not under {mounted}: make sure that the pods see it")
  return notes
