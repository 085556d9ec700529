"""Gradient descent with Keras's fit: optimizer, schedule, a checkpoint each epoch, early stopping, logs."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

_CHECKPOINT = re.compile(r"epoch-(\d+)\.weights\.h5")


def completed_epochs(checkpoint_dir: str | None) -> int:
  """Number of epochs that an earlier, interrupted fit in this directory has finished."""
  found = _checkpoints(checkpoint_dir) if checkpoint_dir else {}
  return max(found, default=0)


def make_optimizer(training: Any, num_steps: int, num_replicas: int = 1) -> keras.optimizers.Optimizer:
  """Optimizer with a linear warm-up and a cosine decay to zero.

  `clip_norm` bounds the norm of all gradients together. Keras clips in each replica, before it adds the
  replicas' gradients up: there the bound is a replica's share of it.

  Args:
    training: object with the fields of components.config.TrainingConfig.
    num_steps: optimizer steps of the whole training.
    num_replicas: of the strategy.

  Source: Loshchilov and Hutter 2017, arXiv:1608.03983 (schedule), arXiv:1711.05101 (AdamW).
  """
  warmup_steps = int(training.warmup_fraction * num_steps)
  schedule = keras.optimizers.schedules.CosineDecay(
    initial_learning_rate=training.learning_rate * 0.01 if warmup_steps else training.learning_rate,
    warmup_target=training.learning_rate if warmup_steps else None,
    warmup_steps=warmup_steps,
    decay_steps=max(1, num_steps - warmup_steps),
  )
  clip_norm = training.clip_norm / num_replicas if training.clip_norm else None
  settings = {"weight_decay": training.weight_decay or None, "global_clipnorm": clip_norm}
  if training.optimizer == "sgd":
    optimizer = keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, **settings)
  else:
    optimizer = keras.optimizers.AdamW(schedule, **settings)
  if training.precision == "mixed_float16":
    optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
  return optimizer


def fit(
  model: keras.Model,
  train: tf.data.Dataset,
  validation: tf.data.Dataset,
  *,
  loss: Any,
  metrics: Sequence[Any],
  training: Any,
  steps_per_epoch: int,
  seed: int,
  checkpoint_dir: str | None = None,
  log_dir: str | None = None,
  callbacks: Sequence[keras.callbacks.Callback] = (),
  log: Callable[[str], None] = print,
) -> list[dict[str, float]]:
  """Fits a built model, going on from the last epoch of an interrupted fit in the same `checkpoint_dir`.

  Args:
    model: a built Keras model; it is compiled here. Build it under `training`'s strategy.
    train: endless dataset of (inputs, targets) batches, starting at epoch `completed_epochs(checkpoint_dir)`.
    validation: dataset of (inputs, targets) batches, read once an epoch.
    loss: loss of (targets, outputs); None where the model computes its own.
    metrics: Keras metrics of (targets, outputs).
    training: object with the fields of components.config.TrainingConfig.
    steps_per_epoch: optimizer steps an epoch.
    seed: seed of dropout and the like.
    checkpoint_dir: directory for one checkpoint an epoch; None: no checkpoints.
    log_dir: directory for TensorBoard; None: no logs.
    callbacks: further Keras callbacks.
    log: called with one line of text an epoch.

  Returns:
    One dict an epoch: "epoch" (from 1), "loss", "val_loss", metrics, "learning_rate", "seconds", and "steps",
    the optimizer's steps since the beginning.

  Raises:
    ValueError: settings of `training` that do not go together.
  """
  if training.jit_compile and isinstance(model.distribute_strategy, tf.distribute.MirroredStrategy):
    raise ValueError(
      "training.jit_compile does not work with training.strategy=mirrored: turn one of them off"
    )
  keras.utils.set_random_seed(seed)
  model.compile(
    make_optimizer(
      training, training.epochs * steps_per_epoch, model.distribute_strategy.num_replicas_in_sync
    ),
    loss,
    metrics=list(metrics),
    steps_per_execution=min(training.steps_per_execution, steps_per_epoch),
    jit_compile=training.jit_compile,
  )
  if model.steps_per_execution > 1:
    model.train_function = _make_train_function(model, steps_per_epoch)
  history = _History(checkpoint_dir, training.epochs, log)
  stopper = _EarlyStopping(training.early_stopping_patience, checkpoint_dir, history.rows)
  # In this order: the stopper reads the history's rows, and a checkpoint must not be ahead of either.
  active = [*callbacks, history, stopper, _EpochCheckpoint(checkpoint_dir)]
  if log_dir:
    active.append(keras.callbacks.TensorBoard(log_dir, write_graph=False))
  if not stopper.is_finished():
    model.fit(
      train,
      validation_data=validation,
      epochs=training.epochs,
      initial_epoch=_restore(model, checkpoint_dir),
      steps_per_epoch=steps_per_epoch,
      callbacks=active,
      verbose=0,
    )
  stopper.restore_best(model)
  return history.rows


def _make_train_function(model: keras.Model, steps_per_epoch: int) -> Callable[[Any], dict[str, Any]]:
  """What Keras calls for each execution, in the place of its own.

  Keras only makes whole executions, so 80 steps of 75 where an execution has 10; and with several replicas
  its loop of steps fails ("You must feed a value for placeholder tensor", Keras 3.12 on TensorFlow 2.16).
  """
  strategy = model.distribute_strategy
  size = model.steps_per_execution
  remainder = steps_per_epoch % size
  lengths = itertools.cycle([size] * (steps_per_epoch // size) + [remainder] * bool(remainder))

  def one_step(data: Any) -> dict[str, Any]:
    logs = strategy.run(model.train_step, args=(data,))
    return {name: strategy.reduce("MEAN", value, axis=None) for name, value in logs.items()}

  one_step = tf.function(one_step, autograph=False, reduce_retracing=True, jit_compile=model.jit_compile)

  @tf.function(reduce_retracing=True)
  def execution(iterator: Any, steps: tf.Tensor) -> dict[str, Any]:
    for _ in tf.range(steps - 1):
      one_step(next(iterator))
    return one_step(next(iterator))

  def train_function(iterator: Any) -> dict[str, Any]:
    if strategy.num_replicas_in_sync > 1:
      # Read when the evaluation starts, which uses Keras's own loop.
      model.steps_per_execution = 1
    return execution(iterator, tf.constant(next(lengths)))

  return train_function


def _checkpoints(directory: str) -> dict[int, str]:
  """{epochs finished: file} of the complete checkpoints in a directory."""
  if not tf.io.gfile.isdir(directory):
    return {}
  names = ((name, _CHECKPOINT.fullmatch(name)) for name in tf.io.gfile.listdir(directory))
  return {int(match.group(1)): os.path.join(directory, name) for name, match in names if match}


def _restore(model: keras.Model, directory: str | None) -> int:
  """Loads the newest checkpoint, optimizer included, and returns its number of finished epochs."""
  found = _checkpoints(directory) if directory else {}
  if not found:
    return 0
  epoch = max(found)
  # The optimizer's slots have to exist before their values can be loaded.
  model.optimizer.build(model.trainable_variables)
  model.load_weights(found[epoch])
  return epoch


def _save_weights(model: keras.Model, path: str) -> None:
  """Writes weights and optimizer under a temporary name first: a file with the final name is always whole."""
  temporary = os.path.join(os.path.dirname(path), "partial." + os.path.basename(path))
  model.save_weights(temporary, overwrite=True)
  tf.io.gfile.rename(temporary, path, overwrite=True)


class _EpochCheckpoint(keras.callbacks.Callback):
  """Keeps the state after the last finished epoch; the file's name holds its number: both appear at once."""

  def __init__(self, directory: str | None):
    super().__init__()
    self._directory = directory

  def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
    if not self._directory:
      return
    older = _checkpoints(self._directory)
    _save_weights(self.model, os.path.join(self._directory, f"epoch-{epoch + 1:05d}.weights.h5"))
    for path in older.values():
      tf.io.gfile.remove(path)


class _History(keras.callbacks.Callback):
  """One row an epoch, kept in history.jsonl beside the checkpoints."""

  def __init__(self, directory: str | None, epochs: int, log: Callable[[str], None]):
    super().__init__()
    self._path = os.path.join(directory, "history.jsonl") if directory else None
    self._epochs = epochs
    self._log = log
    self.rows: list[dict[str, float]] = []
    if directory:
      tf.io.gfile.makedirs(directory)
      self.rows = read_history(self._path)[: completed_epochs(directory)]

  def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
    self._started = time.monotonic()

  def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
    optimizer = self.model.optimizer
    row = {"epoch": epoch + 1, **{name: float(value) for name, value in (logs or {}).items()}}
    row["learning_rate"] = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
    row["seconds"] = round(time.monotonic() - self._started, 3)
    row["steps"] = int(keras.ops.convert_to_numpy(optimizer.iterations))
    self.rows.append(row)
    if self._path:
      write_history(self._path, self.rows)
    shown = ", ".join(f"{name} {row[name]:.4f}" for name in row if name not in _NOT_SHOWN)
    self._log(f"epoch {epoch + 1}/{self._epochs}: {shown} ({row['seconds']:.0f} s)")


_NOT_SHOWN = ("epoch", "steps", "seconds", "learning_rate")


def read_history(path: str) -> list[dict[str, float]]:
  """Rows of a history.jsonl; none if there is no such file."""
  if not tf.io.gfile.exists(path):
    return []
  with tf.io.gfile.GFile(path) as file:
    return [json.loads(line) for line in file.read().splitlines() if line]


def write_history(path: str, rows: Sequence[dict[str, float]]) -> None:
  """Writes history.jsonl, replacing it in one step."""
  with tf.io.gfile.GFile(path + ".partial", "w") as file:
    file.write("".join(json.dumps(row) + "\n" for row in rows))
  tf.io.gfile.rename(path + ".partial", path, overwrite=True)


class _EarlyStopping(keras.callbacks.Callback):
  """Ends training after `patience` epochs without a lower validation loss; survives a kill."""

  def __init__(self, patience: int, directory: str | None, rows: Sequence[dict[str, float]]):
    super().__init__()
    if patience and not directory:
      raise ValueError(
        "training.early_stopping_patience needs a checkpoint directory to keep the best weights in"
      )
    self._patience = patience
    self._rows = rows
    self._path = os.path.join(directory, "best.weights.h5") if patience else None

  def _best_epoch(self) -> int:
    return min(self._rows, key=lambda row: row["val_loss"])["epoch"]

  def is_finished(self) -> bool:
    """Whether the rows so far say that training is over."""
    return (
      bool(self._patience and self._rows) and self._rows[-1]["epoch"] - self._best_epoch() >= self._patience
    )

  def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
    if not self._patience:
      return
    if self._best_epoch() == epoch + 1:
      _save_weights(self.model, self._path)
    self.model.stop_training = self.is_finished()

  def restore_best(self, model: keras.Model) -> None:
    """Loads the weights of the best epoch where early stopping was asked for."""
    if self._patience and self._rows:
      model.optimizer.build(model.trainable_variables)
      model.load_weights(self._path)


def remove_checkpoints(checkpoint_dir: str) -> None:
  """Removes the state of a fit whose result has been written elsewhere."""
  shutil.rmtree(checkpoint_dir, ignore_errors=True)
