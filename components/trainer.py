"""run_fn of TFX's Trainer: builds the task's model under a strategy, fits it, exports it."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import keras
import tensorflow as tf
from absl import logging

from components.export import export_model
from components.input import count_examples, eval_dataset, load_outputs, train_dataset
from components.progress import report_progress
from components.task import load_task
from trainers.fit import completed_epochs, remove_checkpoints, write_history
from trainers.strategies import configure_devices, make_strategy


def run_fn(fn_args: Any) -> None:
  """Trains a task's model.

  Args:
    fn_args: TFX's FnArgs. `custom_config` holds "task" (Task.path), "config" (JSON of the sections that training
      reads) and "checkpoint_root", a directory that outlives this execution: an interrupted training with the same
      configuration and the same examples is continued from there.
  """
  task, config = load_task(fn_args.custom_config["task"], fn_args.custom_config["config"])
  training = config.training
  train_files = _files(fn_args.train_files)
  validation_files = _files(fn_args.eval_files)
  num_examples = count_examples(train_files)
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
  outputs = load_outputs(fn_args.transform_output, train_files)
  checkpoint_dir = _checkpoint_dir(fn_args, train_files)
  first_epoch = completed_epochs(checkpoint_dir)
  if first_epoch:
    report_progress(f"continuing after epoch {first_epoch} of an interrupted training")

  keras.utils.set_random_seed(config.seed)
  keras.mixed_precision.set_global_policy(training.precision)
  try:
    with strategy.scope():
      model = task.build_model(config, outputs)
      history = task.fit(
        model,
        train_dataset(task, config, outputs, train_files, first_epoch),
        eval_dataset(task, config, outputs, validation_files),
        loss=task.loss(config),
        metrics=task.training_metrics(config),
        training=training,
        steps_per_epoch=steps_per_epoch,
        seed=config.seed,
        checkpoint_dir=checkpoint_dir,
        log_dir=os.path.join(fn_args.model_run_dir, "logs"),
        log=report_progress,
      )
  finally:
    keras.mixed_precision.set_global_policy("float32")
  tf.io.gfile.makedirs(fn_args.model_run_dir)
  model.save_weights(os.path.join(fn_args.model_run_dir, "model.weights.h5"))
  write_history(os.path.join(fn_args.model_run_dir, "history.jsonl"), history)
  export_model(task, config, model, outputs, fn_args.serving_model_dir)
  remove_checkpoints(checkpoint_dir)
  logging.info("Trained %s for %d epochs of %d steps", task.name, len(history), steps_per_epoch)


def _files(patterns: list[str]) -> list[str]:
  return sorted(path for pattern in patterns for path in tf.io.gfile.glob(pattern))


def _checkpoint_dir(fn_args: Any, train_files: list[str]) -> str:
  """A directory that the same training, started again, finds again, and no other training does."""
  identity = "\n".join([fn_args.custom_config["config"], fn_args.transform_output, *train_files])
  digest = hashlib.sha256(identity.encode("utf-8")).hexdigest()[:16]
  return os.path.join(fn_args.custom_config["checkpoint_root"], digest)
