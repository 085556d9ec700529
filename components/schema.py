"""TFX's SchemaGen, told which features are lists of varying length."""

from __future__ import annotations

import os

import tensorflow_data_validation as tfdv
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.components.schema_gen import executor
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.components.base.executor_spec import ExecutorClassSpec
from tfx.types import artifact_utils, standard_artifacts, standard_component_specs
from tfx.types.channel import Channel
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.utils import json_utils

from components.task import Task, find_task


class Executor(executor.Executor):
  """Infers the schema as TFX does, from the training split alone."""

  def Do(self, input_dict: dict, output_dict: dict, exec_properties: dict) -> None:
    """Writes `schema`: a class that only the test split knows is then an anomaly."""
    task = find_task(exec_properties["task"])
    settings = {
      standard_component_specs.INFER_FEATURE_SHAPE_KEY: 1,
      standard_component_specs.EXCLUDE_SPLITS_KEY: json_utils.dumps(["validation", "test"]),
    }
    super().Do(input_dict, output_dict, settings)
    uri = artifact_utils.get_single_uri(output_dict["schema"])
    path = os.path.join(uri, executor.DEFAULT_FILE_NAME)
    schema = tfdv.load_schema_text(path)
    allow_empty_lists(schema, task)
    tfdv.write_schema_text(schema, path)


def allow_empty_lists(schema: schema_pb2.Schema, task: Task) -> None:
  """Lists of varying length may be of any length, and empty, even where the training split has no such example."""
  features = {**task.raw_features, **task.labels}
  for column in schema.feature:
    if column.name in features and features[column.name].is_list:
      column.ClearField("shape")
      column.value_count.min = 0
      column.value_count.ClearField("max")
      column.presence.min_fraction = 0
      column.presence.min_count = 0


class SchemaGenSpec(ComponentSpec):
  """Interface of SchemaGen."""

  PARAMETERS = {"task": ExecutionParameter(type=str)}
  INPUTS = {"statistics": ChannelParameter(type=standard_artifacts.ExampleStatistics)}
  OUTPUTS = {"schema": ChannelParameter(type=standard_artifacts.Schema)}


class SchemaGen(BaseComponent):
  """The schema of the raw examples.

  Args:
    task: Task.path.
    statistics: of StatisticsGen.
  """

  SPEC_CLASS = SchemaGenSpec
  EXECUTOR_SPEC = ExecutorClassSpec(Executor)

  def __init__(self, task: str, statistics: Channel):
    super().__init__(
      spec=SchemaGenSpec(task=task, statistics=statistics, schema=Channel(type=standard_artifacts.Schema))
    )
