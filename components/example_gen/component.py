"""ExampleGen: raw data as it lies becomes tf.Examples, by any task's reader."""

from __future__ import annotations

from tfx.dsl.components.base import base_beam_component
from tfx.dsl.components.base.executor_spec import BeamExecutorSpec
from tfx.types import standard_artifacts
from tfx.types.channel import Channel
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.artifacts import Rejects
from components.example_gen.driver import Driver
from components.example_gen.executor import Executor


class ExampleGenSpec(ComponentSpec):
  """Interface of ExampleGen."""

  PARAMETERS = {
    "task": ExecutionParameter(type=str),
    "config": ExecutionParameter(type=str),
  }
  INPUTS = {}
  OUTPUTS = {
    "examples": ChannelParameter(type=standard_artifacts.Examples),
    "rejects": ChannelParameter(type=Rejects),
  }


class ExampleGen(base_beam_component.BaseBeamComponent):
  """Reads a data set with a task's reader.

  Outputs `examples` (splits train, validation and test) and `rejects` (what could not be read, and why).

  Args:
    task: dotted path of the task (Task.path).
    config: JSON of the task's configuration with its `data` section (RunConfig.only).
  """

  SPEC_CLASS = ExampleGenSpec
  EXECUTOR_SPEC = BeamExecutorSpec(Executor)
  DRIVER_CLASS = Driver

  def __init__(self, task: str, config: str):
    super().__init__(
      spec=ExampleGenSpec(
        task=task,
        config=config,
        examples=Channel(type=standard_artifacts.Examples),
        rejects=Channel(type=Rejects),
      )
    )
