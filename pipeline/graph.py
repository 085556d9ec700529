"""The one TFX graph, the same for every task and every runner."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from components.config import BeamConfig, RunConfig
from components.task import Task

# Sections of the configuration that reach a stage; a change of another section leaves the stage's cache valid.
_DATA = ("data",)
_PREPROCESSING = ("preprocessing",)
_COUNTED = ("ngram", "embeddings")
_TRAINING = ("preprocessing", "augmentation", "model", "training", *_COUNTED, "answers")
_COMPRESSION = (*_TRAINING, "compression", "serving")


@dataclasses.dataclass(frozen=True)
class Locations:
  """Where a pipeline keeps what it makes.

  `metadata_path` is the SQLite file of ML Metadata, None where the platform has a metadata service of its own.
  `artifacts` is None where the platform knows the place.
  """

  artifacts: str | None
  serving: str
  checkpoints: str
  metadata_path: str | None = None


def beam_arguments(beam: BeamConfig) -> list[str]:
  """Beam's command line. Local runs ask for Beam's own in-memory runner: DirectRunner first looks for a download."""
  arguments = list(beam.args)
  if any(argument.startswith("--runner") for argument in arguments):
    return arguments
  arguments.append("--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner")
  # Without the name of an image TFX packs its own sources for remote workers, in each stage anew. There are none here.
  arguments.append("--sdk_container_image=local")
  if beam.num_workers > 1:
    arguments.append("--direct_running_mode=multi_processing")
    arguments.append(f"--direct_num_workers={beam.num_workers}")
  return arguments


def create_pipeline(task: Task, config: RunConfig, locations: Locations, with_baseline: bool = True) -> Any:
  """The graph of a task.

  Args:
    task: the application.
    config: its configuration, with everything "auto" resolved.
    locations: where artifacts, models and metadata go.
    with_baseline: whether the candidate also has to hold against the last blessed model. Kubeflow's open-source
      backend cannot look up artifacts of earlier runs, so the compiled graph is without.

  Returns:
    A tfx.dsl.Pipeline.
  """
  from tfx.orchestration import metadata
  from tfx.orchestration.pipeline import Pipeline

  stages = _stages(task, config, locations, with_baseline)
  for stage in stages:
    _place(stage, config)
  connection = None
  if locations.metadata_path:
    connection = metadata.sqlite_metadata_connection_config(locations.metadata_path)
  return Pipeline(
    pipeline_name=task.name.replace("_", "-"),
    pipeline_root=locations.artifacts,
    components=stages,
    metadata_connection_config=connection,
    beam_pipeline_args=beam_arguments(config.beam),
    enable_cache=True,
  )


def _stages(task: Task, config: RunConfig, locations: Locations, with_baseline: bool) -> list[Any]:
  """All stages in the order in which they run."""
  from components.compressor import Compressor
  from components.example_gen.component import ExampleGen
  from components.infra_validator import InfraValidator
  from components.report import Report

  example_gen = ExampleGen(task=task.path, config=config.only(*_DATA))
  data_stages, schema = _data_stages(task, example_gen)
  transform = _transform(task, config, example_gen, schema)
  stages = [example_gen, *data_stages, transform]
  transformed = transform.outputs["transformed_examples"]
  if getattr(config.augmentation, "copies", 0):
    from components.augmenter import Augmenter

    augmenter = Augmenter(
      task=task.path,
      config=config.only("preprocessing", "augmentation"),
      examples=transformed,
      transform_graph=transform.outputs["transform_graph"],
    )
    stages.append(augmenter)
    transformed = augmenter.outputs["examples"]
  counts = None
  if any(getattr(config, section, None) for section in _COUNTED):
    from components.text_counter import TextCounter

    counter = TextCounter(
      task=task.path,
      config=config.only(*_COUNTED),
      examples=transformed,
      transform_graph=transform.outputs["transform_graph"],
      work_dir=config.beam.work_dir,
    )
    stages.append(counter)
    counts = counter.outputs["model"]
  trainer = _trainer(task, config, locations, transform, transformed, schema, counts)
  compressor = Compressor(
    task=task.path,
    config=config.only(*_COMPRESSION),
    examples=transformed,
    raw_examples=example_gen.outputs["examples"],
    transform_graph=transform.outputs["transform_graph"],
    model=trainer.outputs["model"],
    model_run=trainer.outputs["model_run"],
  )
  evaluator = _evaluator(task, config, example_gen, compressor, trainer.outputs["model"])
  stages += [trainer, compressor, evaluator]
  blessings = {"blessing": evaluator.outputs["blessing"]}
  regression = {}
  if with_baseline:
    resolver = _last_blessed(compressor)
    regression_evaluator = _evaluator(
      task, config, example_gen, compressor, resolver.outputs["model"]
    ).with_id("Evaluator.last_blessed")
    stages += [resolver, regression_evaluator]
    blessings["regression_blessing"] = regression_evaluator.outputs["blessing"]
    regression["regression_evaluation"] = regression_evaluator.outputs["evaluation"]
  validator = InfraValidator(
    task=task.path,
    config=config.only("serving"),
    model=compressor.outputs["model"],
    examples=example_gen.outputs["examples"],
    **blessings,
  )
  pusher = _pusher(task, locations, compressor, evaluator, validator)
  report = Report(
    task=task.path,
    config=config.model_dump_json(),
    examples=example_gen.outputs["examples"],
    rejects=example_gen.outputs["rejects"],
    statistics=data_stages[0].outputs["statistics"],
    transformed_examples=transform.outputs["transformed_examples"],
    transform_graph=transform.outputs["transform_graph"],
    base_model=trainer.outputs["model"],
    model_run=trainer.outputs["model_run"],
    model=compressor.outputs["model"],
    compression_report=compressor.outputs["report"],
    evaluation=evaluator.outputs["evaluation"],
    blessing=evaluator.outputs["blessing"],
    infra_blessing=validator.outputs["blessing"],
    pushed_model=pusher.outputs["pushed_model"],
    **regression,
  )
  return [*stages, validator, pusher, report]


def _data_stages(task: Task, example_gen: Any) -> tuple[list[Any], Any]:
  """Statistics, schema and validation of the raw examples; and the schema's channel."""
  from tfx.components import StatisticsGen

  from components.example_validator import ExampleValidator
  from components.schema import SchemaGen
  from components.statistics import statistics_options

  statistics = StatisticsGen(examples=example_gen.outputs["examples"], stats_options=statistics_options(task))
  # The schema is the training split's: a class that only the test split knows is then an anomaly.
  schema = SchemaGen(task=task.path, statistics=statistics.outputs["statistics"])
  validator = ExampleValidator(statistics=statistics.outputs["statistics"], schema=schema.outputs["schema"])
  return [statistics, schema, validator], schema.outputs["schema"]


def _transform(task: Task, config: RunConfig, example_gen: Any, schema: Any) -> Any:
  from tfx.components import Transform
  from tfx.proto import transform_pb2

  return Transform(
    examples=example_gen.outputs["examples"],
    schema=schema,
    preprocessing_fn="components.transform.preprocessing_fn",
    splits_config=transform_pb2.SplitsConfig(analyze=["train"], transform=["train", "validation", "test"]),
    custom_config={"task": task.path, "config": config.only(*_PREPROCESSING)},
    disable_statistics=True,
  )


def _trainer(
  task: Task, config: RunConfig, locations: Locations, transform: Any, examples: Any, schema: Any, counts: Any
) -> Any:
  from tfx.components import Trainer
  from tfx.proto import trainer_pb2

  return Trainer(
    run_fn="components.trainer.run_fn",
    examples=examples,
    transform_graph=transform.outputs["transform_graph"],
    schema=schema,
    base_model=counts,
    train_args=trainer_pb2.TrainArgs(splits=["train"]),
    eval_args=trainer_pb2.EvalArgs(splits=["validation"]),
    custom_config={
      "task": task.path,
      "config": config.only(*_TRAINING),
      "checkpoint_root": locations.checkpoints,
    },
  )


def _evaluator(task: Task, config: RunConfig, example_gen: Any, compressor: Any, baseline: Any) -> Any:
  from tfx.components import Evaluator

  return Evaluator(
    examples=example_gen.outputs["examples"],
    example_splits=["test"],
    model=compressor.outputs["model"],
    baseline_model=baseline,
    eval_config=task.eval_config(config),
  )


def _last_blessed(compressor: Any) -> Any:
  from tfx.dsl.components.common.resolver import Resolver
  from tfx.types import standard_artifacts
  from tfx.types.channel import Channel

  from components.resolver import LastBlessedStrategy

  return Resolver(
    strategy_class=LastBlessedStrategy,
    candidate=compressor.outputs["model"],
    model=Channel(type=standard_artifacts.Model),
    blessing=Channel(type=standard_artifacts.InfraBlessing),
  ).with_id("LastBlessed")


def _pusher(task: Task, locations: Locations, compressor: Any, evaluator: Any, validator: Any) -> Any:
  from tfx.components import Pusher
  from tfx.dsl.components.base.executor_spec import ExecutorClassSpec
  from tfx.proto import pusher_pb2

  from components.pusher import AtomicPusherExecutor

  filesystem = pusher_pb2.PushDestination.Filesystem(
    base_directory=os.path.join(locations.serving, task.name)
  )
  return Pusher(
    model=compressor.outputs["model"],
    model_blessing=evaluator.outputs["blessing"],
    infra_blessing=validator.outputs["blessing"],
    push_destination=pusher_pb2.PushDestination(filesystem=filesystem),
    custom_executor_spec=ExecutorClassSpec(AtomicPusherExecutor),
  )


def _place(stage: Any, config: RunConfig) -> None:
  """Puts the resources that the configuration asks for a stage into the graph; only Kubeflow reads them."""
  resources = config.kubeflow.resources.get(stage.id)
  if resources is None:
    return
  from kfp.pipeline_spec import pipeline_spec_pb2

  spec = pipeline_spec_pb2.PipelineDeploymentConfig.PipelineContainerSpec.ResourceSpec()
  if resources.cpu_limit:
    spec.cpu_limit = resources.cpu_limit
  if resources.memory_limit_gib:
    # The pipeline spec counts in units of 10^9 bytes.
    spec.memory_limit = round(resources.memory_limit_gib * 2**30 / 1e9, 6)
  if resources.accelerator_type:
    spec.accelerator.type = resources.accelerator_type
    spec.accelerator.count = resources.accelerator_count
  stage.with_platform_config(spec)
