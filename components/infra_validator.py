"""InfraValidator: whether a model can be served, tried with real requests and no Docker."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from tfx.components.util import model_utils
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.components.base.base_executor import BaseExecutor
from tfx.dsl.components.base.executor_spec import ExecutorClassSpec
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.artifact import Artifact
from tfx.types.channel import Channel
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.utils import io_utils, path_utils

from components.task import Task, load_task
from serving.trial import Request, TrialFailed, try_export

# As TFX's own InfraValidator has them: its Pusher looks for the property, people look for the file.
BLESSED_FILE = "INFRA_BLESSED"
NOT_BLESSED_FILE = "INFRA_NOT_BLESSED"
BLESSED_KEY = "blessed"
REASONS_FILE = "reasons.json"
# Inputs that say what the stages before thought of the model.
_VERDICTS = {
  "model_blessing": "the Evaluator did not bless the model",
  "regression_blessing": "the model does not hold against the last blessed one",
}


class Executor(BaseExecutor):
  """Declines what was not blessed before; serves the rest and asks it."""

  def Do(self, input_dict: dict, output_dict: dict, exec_properties: dict) -> None:
    """Writes the verdict to `blessing`."""
    task, config = load_task(exec_properties["task"], exec_properties["config"])
    model = artifact_utils.get_single_instance(input_dict["model"])
    blessing = artifact_utils.get_single_instance(output_dict["blessing"])
    blessing.set_int_custom_property("current_model_id", model.id)
    refused = [
      reason
      for name, reason in _VERDICTS.items()
      if input_dict.get(name)
      and not model_utils.is_model_blessed(artifact_utils.get_single_instance(input_dict[name]))
    ]
    if refused:
      _decide(blessing, refused)
      return
    examples_uri = artifact_utils.get_single_uri(input_dict["examples"])
    requests = build_requests(task, examples_uri, config.serving.infra_validation_requests)
    with tempfile.TemporaryDirectory(prefix="infra-validator-") as directory:
      export_dir = _local_export(model, directory)
      try:
        try_export(export_dir, task.name, requests, config.serving.infra_validation_timeout_s)
      except TrialFailed as error:
        refused = [str(error)]
    _decide(blessing, refused)


def build_requests(task: Task, examples_uri: str, count: int) -> list[Request]:
  """Requests from the first raw examples of the test split.

  Args:
    task: its raw features are what clients send.
    examples_uri: of the raw examples.
    count: number of examples taken.

  Returns:
    (signature name, {input name: array [batch, ...]}): for every example one request with its features to
    serving_default and one with it serialized to serve_examples; then the same two with all as one batch.

  Raises:
    ValueError: the test split is empty or missing.
  """
  from components.export import raw_batches
  from components.input import split_files

  files = split_files(examples_uri, "test")
  singles = [
    (serialized.numpy(), {name: value.numpy() for name, value in features.items()})
    for serialized, features in raw_batches(task, files, 1).take(count)
  ]
  if not singles:
    raise ValueError(f"the test split of {examples_uri} is empty; give it examples, or a larger share")
  requests = [request for single in singles for request in _both_signatures(*single)]
  if len(singles) > 1:
    together = {
      name: np.concatenate([features[name] for _, features in singles]) for name in task.raw_features
    }
    requests += _both_signatures(np.concatenate([serialized for serialized, _ in singles]), together)
  return requests


def _both_signatures(serialized: np.ndarray, features: Mapping[str, np.ndarray]) -> Iterator[Request]:
  yield "serving_default", features
  yield "serve_examples", {"examples": serialized}


def _local_export(model: Artifact, directory: str) -> str:
  """The export's directory; a copy in `directory` where the artifact lies on remote storage."""
  export_dir = path_utils.serving_model_path(model.uri, path_utils.is_old_model_artifact(model))
  if "://" not in export_dir:
    return export_dir
  copy = os.path.join(directory, "export")
  io_utils.copy_dir(export_dir, copy)
  return copy


def _decide(blessing: Artifact, refused: Sequence[str]) -> None:
  """Marks the artifact as TFX's InfraValidator does, and leaves the reasons beside."""
  reason = "; ".join(refused)
  if refused:
    logging.warning("the model is not fit to be served: %s", reason)
  io_utils.write_string_file(os.path.join(blessing.uri, NOT_BLESSED_FILE if refused else BLESSED_FILE), "")
  io_utils.write_string_file(
    os.path.join(blessing.uri, REASONS_FILE), json.dumps({"reasons": list(refused)}, indent=2) + "\n"
  )
  blessing.set_int_custom_property(BLESSED_KEY, 0 if refused else 1)
  blessing.set_string_custom_property("reason", reason)


class InfraValidatorSpec(ComponentSpec):
  """Interface of the InfraValidator. TFX wants all names different: `blessing` is the output."""

  PARAMETERS = {
    "task": ExecutionParameter(type=str),
    "config": ExecutionParameter(type=str),
  }
  INPUTS = {
    "model": ChannelParameter(type=standard_artifacts.Model),
    "examples": ChannelParameter(type=standard_artifacts.Examples),
    "model_blessing": ChannelParameter(type=standard_artifacts.ModelBlessing, optional=True),
    "regression_blessing": ChannelParameter(type=standard_artifacts.ModelBlessing, optional=True),
  }
  OUTPUTS = {"blessing": ChannelParameter(type=standard_artifacts.InfraBlessing)}


class InfraValidator(BaseComponent):
  """Serves a model to itself before anyone else gets it.

  Output `blessing`: INFRA_BLESSED or INFRA_NOT_BLESSED, and reasons.json ({"reasons": [line, ...]}); custom
  properties `blessed`, `reason` and `current_model_id`.

  Args:
    task: dotted path of the task (Task.path).
    config: JSON of the configuration's `serving` section (RunConfig.only).
    model: the export.
    examples: raw examples, of which the test split is asked.
    blessing: the Evaluator's verdict; a model without is declined and not tried.
    regression_blessing: the verdict against the last blessed model, likewise.
  """

  SPEC_CLASS = InfraValidatorSpec
  EXECUTOR_SPEC = ExecutorClassSpec(Executor)

  def __init__(
    self,
    task: str,
    config: str,
    model: Channel,
    examples: Channel,
    blessing: Channel | None = None,
    regression_blessing: Channel | None = None,
  ):
    verdicts: dict[str, Any] = {"model_blessing": blessing, "regression_blessing": regression_blessing}
    super().__init__(
      spec=InfraValidatorSpec(
        task=task,
        config=config,
        model=model,
        examples=examples,
        blessing=Channel(type=standard_artifacts.InfraBlessing),
        **{name: channel for name, channel in verdicts.items() if channel is not None},
      )
    )
