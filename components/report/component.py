"""The Report component: every artifact of the run in, report.html and report.json out."""

from __future__ import annotations

from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.components.base.base_executor import BaseExecutor
from tfx.dsl.components.base.executor_spec import ExecutorClassSpec
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.channel import BaseChannel, Channel
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from components.artifacts import CompressionReport, Rejects, RunReport
from components.progress import report_progress
from components.task import load_task

_OPTIONAL_INPUTS = {
  "rejects": Rejects,
  "statistics": standard_artifacts.ExampleStatistics,
  "transformed_examples": standard_artifacts.Examples,
  "transform_graph": standard_artifacts.TransformGraph,
  "model": standard_artifacts.Model,
  "base_model": standard_artifacts.Model,
  "model_run": standard_artifacts.ModelRun,
  "compression_report": CompressionReport,
  "evaluation": standard_artifacts.ModelEvaluation,
  "blessing": standard_artifacts.ModelBlessing,
  "regression_evaluation": standard_artifacts.ModelEvaluation,
  "infra_blessing": standard_artifacts.InfraBlessing,
  "pushed_model": standard_artifacts.PushedModel,
}


class Executor(BaseExecutor):
  """Writes report.html and report.json."""

  def Do(self, input_dict, output_dict, exec_properties) -> None:
    """Gathers what the other stages left and writes the page; a missing input leaves its section out."""
    from components.report.content import collect
    from components.report.page import write_report
    from components.report.pictures import collect_pictures

    self._log_startup(input_dict, output_dict, exec_properties)
    task, config = load_task(exec_properties["task"], exec_properties["config"])
    inputs = {name: artifacts[0] for name, artifacts in input_dict.items() if artifacts}
    output = artifact_utils.get_single_instance(output_dict["report"])
    pictures = collect_pictures(task, config, inputs)
    document = collect(task, config, inputs, pictures)
    write_report(output.uri, document, pictures)
    report_progress(document["outcome"]["summary"])


class ReportSpec(ComponentSpec):
  """Everything but the raw examples may be missing."""

  PARAMETERS = {
    "task": ExecutionParameter(type=str),
    "config": ExecutionParameter(type=str),
  }
  INPUTS = {
    "examples": ChannelParameter(type=standard_artifacts.Examples),
    **{name: ChannelParameter(type=kind, optional=True) for name, kind in _OPTIONAL_INPUTS.items()},
  }
  OUTPUTS = {"report": ChannelParameter(type=RunReport)}


class Report(BaseComponent):
  """One self-contained HTML page and the same as JSON.

  Args:
    task: Task.path.
    config: JSON of the whole RunConfig.
    examples: raw Examples.
    **inputs: channels named as in `ReportSpec.INPUTS`: rejects, statistics, transformed_examples,
      transform_graph, model (the compressed one), base_model, model_run, compression_report, evaluation,
      blessing, regression_evaluation, infra_blessing, pushed_model.
  """

  SPEC_CLASS = ReportSpec
  EXECUTOR_SPEC = ExecutorClassSpec(Executor)

  def __init__(self, task: str, config: str, examples: BaseChannel, **inputs: BaseChannel):
    given = {name: channel for name, channel in inputs.items() if channel is not None}
    super().__init__(
      spec=ReportSpec(task=task, config=config, examples=examples, report=Channel(type=RunReport), **given)
    )
