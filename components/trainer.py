"""run_fn of TFX's Trainer: trains the task's model, by gradient descent unless the task has its own way, exports it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from components.config import RunConfig
from components.export import export_model
from components.input import count_examples, eval_dataset, load_outputs, train_dataset
from components.progress import report_progress
from components.task import Task, TransformOutputs, load_task
from trainers.fit import completed_epochs, fit, remove_checkpoints, write_history
from trainers.strategies import configure_devices, make_strategy

MODEL_WEIGHTS = "model.weights.h5"


@dataclasses.dataclass(frozen=True)
class TrainingRun:
  """What a task is trained with.

  `run_dir` is the directory of the training run: whatever `Task.load_model` needs is written there; `checkpoint_dir` is
  one that the same training, started again after a kill, finds again; `counts_dir` is what the TextCounter left,
  None where it is not part of the graph.
  """

  task: Task
  config: RunConfig
  outputs: TransformOutputs
  train_files: Sequence[str]
  validation_files: Sequence[str]
  run_dir: str
  checkpoint_dir: str
  counts_dir: str | None


def run_fn(fn_args: Any) -> None:
  """Trains a task's model and exports it.

  Args:
    fn_args: TFX's FnArgs. `custom_config` holds "task" (Task.path), "config" (JSON of the sections that training
      reads) and "checkpoint_root", a directory that outlives this execution: an interrupted training with the same
      configuration and the same examples is continued from there.
  """
  task, config = load_task(fn_args.custom_config["task"], fn_args.custom_config["config"])
  train_files = _files(fn_args.train_files)
  outputs = load_outputs(fn_args.transform_output, train_files)
  run = TrainingRun(
    task=task,
    config=config,
    outputs=outputs,
    train_files=train_files,
    validation_files=_files(fn_args.eval_files),
    run_dir=fn_args.model_run_dir,
    checkpoint_dir=_checkpoint_dir(fn_args, train_files),
    counts_dir=fn_args.base_model,
  )
  tf.io.gfile.makedirs(run.run_dir)
  model, history = (task.train or descend)(run)
  write_history(os.path.join(run.run_dir, "history.jsonl"), history)
  export_model(task, config, model, outputs, fn_args.serving_model_dir)
  remove_checkpoints(run.checkpoint_dir)


def descend(
  run: TrainingRun, initialize: Callable[[keras.Model], Any] | None = None
) -> tuple[keras.Model, list[dict[str, float]]]:
  """Builds the task's model under a strategy and fits it by gradient descent.

  Args:
    run: what it is trained with.
    initialize: gives the built model other first weights.

  Returns:
    The model, whose weights are in the run's directory too, and one dict an epoch; see `trainers.fit.fit`.

  Raises:
    ValueError: there are fewer examples than a batch has, or a batch cannot be shared by the replicas.
  """
  task, config, outputs = run.task, run.config, run.outputs
  training = config.training
  num_examples = count_examples(run.train_files)
  steps_per_epoch = num_examples // training.batch_size
  if not steps_per_epoch:
    raise ValueError(
      f"{num_examples} training examples do not fill one batch: set training.batch_size={num_examples} or less"
    )
  configure_devices(training.num_logical_cpus)
  strategy = make_strategy(training.strategy, training.num_logical_cpus, training.tpu_name)
  if training.batch_size % strategy.num_replicas_in_sync:
    raise ValueError(
      f"training.batch_size={training.batch_size} cannot be shared by {strategy.num_replicas_in_sync} replicas"
    )
  first_epoch = completed_epochs(run.checkpoint_dir)
  if first_epoch:
    report_progress(f"continuing after epoch {first_epoch} of an interrupted training")

  keras.utils.set_random_seed(config.seed)
  keras.mixed_precision.set_global_policy(training.precision)
  try:
    with strategy.scope():
      model = task.build_model(config, outputs)
      if initialize:
        initialize(model)
      history = fit(
        model,
        train_dataset(task, config, outputs, run.train_files, first_epoch),
        eval_dataset(task, config, outputs, run.validation_files),
        loss=task.loss(config),
        metrics=task.training_metrics(config),
        training=training,
        steps_per_epoch=steps_per_epoch,
        seed=config.seed,
        checkpoint_dir=run.checkpoint_dir,
        log_dir=os.path.join(run.run_dir, "logs"),
        log=report_progress,
      )
  finally:
    keras.mixed_precision.set_global_policy("float32")
  model.save_weights(os.path.join(run.run_dir, MODEL_WEIGHTS))
  logging.info("Trained %s for %d epochs of %d steps", task.name, len(history), steps_per_epoch)
  return model, history


def load_trained(task: Task, config: RunConfig, outputs: TransformOutputs, run_dir: str) -> keras.Model:
  """The trained model, from the directory of its training run.

  Raises:
    ValueError: the training run left no weights.
  """
  if task.load_model:
    return task.load_model(config, outputs, run_dir)
  path = os.path.join(run_dir, MODEL_WEIGHTS)
  if not tf.io.gfile.exists(path):
    raise ValueError(f"{path} is missing: run the Trainer again, which writes the trained weights there")
  keras.utils.set_random_seed(config.seed)
  model = task.build_model(config, outputs)
  model.load_weights(path)
  return model


def _files(patterns: list[str]) -> list[str]:
  return sorted(path for pattern in patterns for path in tf.io.gfile.glob(pattern))


def _checkpoint_dir(fn_args: Any, train_files: list[str]) -> str:
  """A directory that the same training, started again, finds again, and no other training does."""
  identity = "\n".join([fn_args.custom_config["config"], fn_args.transform_output, *train_files])
  digest = hashlib.sha256(identity.encode("utf-8")).hexdigest()[:16]
  return os.path.join(fn_args.custom_config["checkpoint_root"], digest)
