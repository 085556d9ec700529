"""Compressor: applies a recipe to the trained model and measures the base and every step."""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any

from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.components.base.base_executor import BaseExecutor
from tfx.dsl.components.base.executor_spec import ExecutorClassSpec
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.channel import Channel
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.utils import io_utils, path_utils

from components.artifacts import CompressionReport
from components.compression_measurement import Measurement, tflite_path
from components.compression_recipe import step_function
from components.compression_steps import Candidate, Setting, check_recipe
from components.config import RunConfig
from components.export import raw_batches
from components.input import count_examples, load_outputs, split_files
from components.task import Task, load_task
from components.trainer import load_trained
from serving.warmup import write_warmup_requests
from trainers.strategies import configure_devices, make_strategy

REPORT_FILE = "report.json"


class Executor(BaseExecutor):
  """Runs the recipe of `compression.recipe`."""

  def Do(self, input_dict: dict, output_dict: dict, exec_properties: dict) -> None:
    """Writes the last candidate to `model` and the measurements of all to `report`."""
    task, config = load_task(exec_properties["task"], exec_properties["config"])
    check_recipe(task, config)
    uris = {name: artifact_utils.get_single_uri(artifacts) for name, artifacts in input_dict.items()}
    target = path_utils.serving_model_dir(artifact_utils.get_single_uri(output_dict["model"]))
    with tempfile.TemporaryDirectory(prefix="compressor-") as workspace:
      setting = make_setting(task, config, uris, workspace)
      base_dir = path_utils.serving_model_path(uris["base_model"])
      base = base_candidate(setting, config, base_dir)
      last = base
      for step in config.compression.recipe:
        last = step_function(step.step)(setting, last, step)
      io_utils.copy_dir(last.directory, target)
      if last.directory == base.directory:
        _add_warmup_requests(task, config, target, setting.raw_files)
    for fmt, content in last.tflite.items():
      fileio.makedirs(os.path.dirname(tflite_path(target, fmt)))
      with fileio.open(tflite_path(target, fmt), "wb") as file:
        file.write(content)
    report_uri = artifact_utils.get_single_uri(output_dict["report"])
    fileio.makedirs(report_uri)
    with fileio.open(os.path.join(report_uri, REPORT_FILE), "w") as file:
      file.write(json.dumps({"steps": list(last.rows)}, indent=2) + "\n")


def make_setting(task: Task, config: RunConfig, uris: dict[str, str], workspace: str) -> Setting:
  """Opens the inputs of the stage.

  Args:
    task: the application.
    config: its configuration.
    uris: of the artifacts examples, raw_examples, transform_graph and model_run.
    workspace: an empty local directory.
  """
  train_files = split_files(uris["examples"], "train")
  validation_files = split_files(uris["examples"], "validation")
  training = config.training
  configure_devices(training.num_logical_cpus)
  outputs = load_outputs(uris["transform_graph"], train_files)
  return Setting(
    task=task,
    outputs=outputs,
    train_files=train_files,
    validation_files=validation_files,
    raw_files=split_files(uris["raw_examples"], "train"),
    num_examples=count_examples(train_files),
    strategy=make_strategy(training.strategy, training.num_logical_cpus, training.tpu_name),
    run_dir=uris["model_run"],
    workspace=workspace,
    measurement=Measurement(task, outputs, validation_files),
  )


def base_candidate(setting: Setting, config: RunConfig, directory: str) -> Candidate:
  """The trained model, loaded again and measured through its own export.

  Raises:
    ValueError: the training run left no weights.
  """
  model = load_trained(setting.task, config, setting.outputs, setting.run_dir)
  row = setting.measurement.saved_model("base", config, model, directory, seconds=0.0)
  return Candidate(config, model, directory, (row,))


def _add_warmup_requests(task: Task, config: RunConfig, directory: str, raw_files: list[str]) -> None:
  """The Trainer's own export comes without them."""
  batches = raw_batches(task, raw_files, 1).take(config.serving.warmup_requests)
  requests: list[tuple[str, Any]] = [
    ("serving_default", {name: value.numpy() for name, value in features.items()}) for _, features in batches
  ]
  write_warmup_requests(directory, task.name, requests)


class CompressorSpec(ComponentSpec):
  """Interface of the Compressor. TFX wants all names different: the model coming in is `base_model` here."""

  PARAMETERS = {
    "task": ExecutionParameter(type=str),
    "config": ExecutionParameter(type=str),
  }
  INPUTS = {
    "examples": ChannelParameter(type=standard_artifacts.Examples),
    "raw_examples": ChannelParameter(type=standard_artifacts.Examples),
    "transform_graph": ChannelParameter(type=standard_artifacts.TransformGraph),
    "base_model": ChannelParameter(type=standard_artifacts.Model),
    "model_run": ChannelParameter(type=standard_artifacts.ModelRun),
  }
  OUTPUTS = {
    "model": ChannelParameter(type=standard_artifacts.Model),
    "report": ChannelParameter(type=CompressionReport),
  }


class Compressor(BaseComponent):
  """Prunes, distills and quantizes the trained model as the configuration says.

  Outputs `model` (a SavedModel under Format-Serving; TFLite files and warm-up requests in its assets.extra)
  and `report` (report.json: {"steps": [row, ...]}, see `Measurement.saved_model`).

  Args:
    task: dotted path of the task (Task.path).
    config: JSON of the configuration with the sections that training reads, `compression` and `serving`.
    examples: transformed examples, splits train and validation.
    raw_examples: examples as ExampleGen wrote them, for the warm-up requests.
    transform_graph: of the Transform stage.
    model: the trained model's export.
    model_run: the Trainer's, with model.weights.h5.
  """

  SPEC_CLASS = CompressorSpec
  EXECUTOR_SPEC = ExecutorClassSpec(Executor)

  def __init__(
    self,
    task: str,
    config: str,
    examples: Channel,
    raw_examples: Channel,
    transform_graph: Channel,
    model: Channel,
    model_run: Channel,
  ):
    super().__init__(
      spec=CompressorSpec(
        task=task,
        config=config,
        examples=examples,
        raw_examples=raw_examples,
        transform_graph=transform_graph,
        base_model=model,
        model_run=model_run,
        model=Channel(type=standard_artifacts.Model),
        report=Channel(type=CompressionReport),
      )
    )
