"""The steps of a compression recipe, each a function from one candidate to the next."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import pydantic
import tensorflow as tf

from components.compression_measurement import Measurement
from components.config import DistillStep, InterpolateStep, PruneStep, QuantizeStep, RunConfig
from components.export import export_model
from components.input import eval_dataset, train_dataset
from components.progress import report_progress
from components.task import Task, TransformOutputs
from trainers.compression.distillation import distill_model
from trainers.compression.pruning import PruningCallback, prunable_variables
from trainers.compression.quantization import export_network, to_tflite
from trainers.fit import fit


@dataclasses.dataclass(frozen=True)
class Setting:
  """What every step has at hand.

  `num_examples` counts those in `train_files`; `run_dir` is the directory of the training run; `workspace` one for
  exports between the steps.
  """

  task: Task
  outputs: TransformOutputs
  train_files: Sequence[str]
  validation_files: Sequence[str]
  raw_files: Sequence[str]
  num_examples: int
  strategy: tf.distribute.Strategy
  run_dir: str
  workspace: str
  measurement: Measurement


@dataclasses.dataclass(frozen=True)
class Candidate:
  """The model between two steps.

  `config` is the configuration it was built with (a student's `model` section is not the base's), `model` a
  float32 model on one device, `directory` its export, `tflite` {format: file} of what was quantized, `rows`
  the report so far.
  """

  config: RunConfig
  model: keras.Model
  directory: str
  rows: tuple[dict[str, Any], ...]
  tflite: dict[str, bytes] = dataclasses.field(default_factory=dict)


def check_recipe(task: Task, config: RunConfig) -> None:
  """Finds what is wrong with a recipe before an hour of training does.

  Raises:
    ValueError: a step is not for this task, a student's setting is unknown or out of range, or a step follows quantize.
  """
  recipe = config.compression.recipe
  for index, step in enumerate(recipe):
    where = f"compression.recipe[{index}]"
    if step.step not in task.compression_steps:
      known = ", ".join(task.compression_steps)
      raise ValueError(f"{where}: {task.name} has no step {step.step}; use {known}")
    if isinstance(step, DistillStep):
      config = student_config(config, step, where)
      if step.feature_weight and not task.feature_layers:
        raise ValueError(f"{where}.feature_weight: {task.name} names no features; leave it 0")
    if isinstance(step, QuantizeStep | InterpolateStep) and index + 1 < len(recipe):
      raise ValueError(
        f"{where}: {step.step} has to be the last step; move {recipe[index + 1].step} before it"
      )


def student_config(config: RunConfig, step: DistillStep, where: str = "compression.recipe") -> RunConfig:
  """The configuration with `step.student` put over its `model` section.

  Raises:
    ValueError: one line that names the first wrong key.
  """
  section = type(config.model)
  try:
    student = section.model_validate({**config.model.model_dump(), **step.student})
  except pydantic.ValidationError as error:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    known = ", ".join(section.model_fields)
    reason = f"unknown key; there are {known}" if first["type"] == "extra_forbidden" else first["msg"]
    raise ValueError(f"{where}.student.{key}: {reason}") from None
  return config.model_copy(update={"model": student})


def build(setting: Setting, config: RunConfig, weights: Sequence[Any] | None = None) -> keras.Model:
  """The task's model, from the same seed each time, with the given weights if there are any."""
  keras.utils.set_random_seed(config.seed)
  model = setting.task.build_model(config, setting.outputs)
  if weights is not None:
    model.set_weights(weights)
  return model


@contextlib.contextmanager
def _training_scope(setting: Setting, config: RunConfig) -> Iterator[None]:
  """The strategy and the precision that training asks for; outside of it models are float32 on one device."""
  keras.mixed_precision.set_global_policy(config.training.precision)
  try:
    with setting.strategy.scope():
      yield
  finally:
    keras.mixed_precision.set_global_policy("float32")


def _fit(
  setting: Setting, config: RunConfig, model: keras.Model, step: Any, callbacks: Sequence[Any] = ()
) -> None:
  """Fits with the epochs and learning rate of a step, all other settings as in training; never ends early."""
  training = config.training.model_copy(
    update={"epochs": step.epochs, "learning_rate": step.learning_rate, "early_stopping_patience": 0}
  )
  fit(
    model,
    train_dataset(setting.task, config, setting.outputs, setting.train_files),
    eval_dataset(setting.task, config, setting.outputs, setting.validation_files),
    loss=setting.task.loss(config),
    metrics=setting.task.training_metrics(config),
    training=training,
    steps_per_epoch=setting.num_examples // training.batch_size,
    seed=config.seed,
    callbacks=callbacks,
    log=lambda line: report_progress(f"{step.step}: {line}"),
  )


def prune(setting: Setting, candidate: Candidate, step: PruneStep) -> Candidate:
  """Fine-tunes while the smallest weights go, on the labels and, if asked, on the answers of the dense model."""
  started, config = time.monotonic(), candidate.config
  with _training_scope(setting, config):
    model = build(setting, config, candidate.model.get_weights())
    weights = prunable_variables(
      model, step.skip, step.skip_first_layer, step.skip_last_layer, step.skip_embeddings
    )
    callback = PruningCallback(weights, step.sparsity, step.pattern, step.schedule)
    learner = model
    if step.alpha:
      teacher = build(setting, config, candidate.model.get_weights())
      learner = _learner(setting, teacher, model, step)
    _fit(setting, config, learner, step, [callback])
    callback.apply_masks()
  return measured(setting, candidate, step.step, config, build(setting, config, model.get_weights()), started)


def _learner(
  setting: Setting,
  teacher: keras.Model,
  student: keras.Model,
  step: PruneStep | DistillStep,
  features: Sequence[str] = (),
  feature_weight: float = 0.0,
) -> keras.Model:
  task = setting.task
  soft_loss = task.soft_loss(step.temperature) if task.soft_loss else None
  return distill_model(
    teacher, student, step.temperature, step.alpha, task.logits, features, feature_weight, soft_loss
  )


def distill(setting: Setting, candidate: Candidate, step: DistillStep) -> Candidate:
  """Trains a student from scratch, with the candidate as its teacher."""
  started, config = time.monotonic(), student_config(candidate.config, step)
  with _training_scope(setting, config):
    teacher = build(setting, candidate.config, candidate.model.get_weights())
    student = build(setting, config)
    features = setting.task.feature_layers(candidate.config) if step.feature_weight else ()
    learner = _learner(setting, teacher, student, step, features, step.feature_weight)
    _fit(setting, config, learner, step)
  return measured(
    setting, candidate, step.step, config, build(setting, config, student.get_weights()), started
  )


def quantize(setting: Setting, candidate: Candidate, step: QuantizeStep) -> Candidate:
  """TFLite files of the candidate's network; the SavedModel stays as it is.

  A float32 file is measured besides, as what the others compare with, and not kept.
  """
  config, tflite, rows = candidate.config, {}, []
  network = os.path.join(setting.workspace, "network")
  export_network(candidate.model, setting.measurement.input_specs(config), network)
  for fmt in ("float32", *step.formats):
    started = time.monotonic()
    calibration = _calibration(setting, config, step.calibration_examples) if fmt == "int8" else None
    content = to_tflite(network, fmt, calibration)
    seconds = time.monotonic() - started
    name = "tflite_float32" if fmt == "float32" else fmt
    rows.append(setting.measurement.tflite(name, config, candidate.model, content, seconds))
    if fmt != "float32":
      tflite[fmt] = content
  return dataclasses.replace(candidate, tflite=tflite, rows=(*candidate.rows, *rows))


def measured(
  setting: Setting, candidate: Candidate, name: str, config: RunConfig, model: keras.Model, started: float
) -> Candidate:
  """The candidate that follows another one: a float32 model on one device, exported and measured.

  Args:
    setting: of the stage.
    candidate: the one before.
    name: of the step.
    config: with which the model was built.
    model: what the step has made.
    started: time.monotonic() when it began.
  """
  directory = os.path.join(setting.workspace, f"{len(candidate.rows)}-{name}")
  export_model(setting.task, config, model, setting.outputs, directory, setting.raw_files)
  row = setting.measurement.saved_model(name, config, model, directory, time.monotonic() - started)
  return Candidate(config, model, directory, (*candidate.rows, row))


def _calibration(setting: Setting, config: RunConfig, count: int) -> tf.data.Dataset:
  """Model inputs of `count` training examples spread over the whole split: files may be sorted by class."""
  dataset = eval_dataset(setting.task, config, setting.outputs, setting.train_files)
  stride = max(1, setting.num_examples // count)
  return dataset.unbatch().map(lambda inputs, _: inputs).shard(stride, 0).take(count)
