"""Fits a small network in a process of its own, which may be killed in the middle."""

import json
import os
import pathlib
import signal

import keras
import numpy as np
import tensorflow as tf

from components.config import TrainingConfig
from trainers.fit import completed_epochs, fit

NUM_EXAMPLES, BATCH_SIZE, STEPS_PER_EPOCH = 28, 4, 7


def examples():
  generator = np.random.default_rng(5)
  inputs = generator.normal(size=(NUM_EXAMPLES, 6)).astype(np.float32)
  return inputs, (inputs @ generator.normal(size=(6, 2))).astype(np.float32)


def train_dataset(first_epoch):
  """Every epoch in an order of its own, which depends on the epoch's number alone."""

  def epoch_of(epoch):
    shuffled = tf.data.Dataset.from_tensor_slices(examples()).shuffle(NUM_EXAMPLES, seed=17 + epoch)
    return shuffled.batch(BATCH_SIZE, drop_remainder=True)

  return tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(epoch_of)


def validation_dataset(is_contrary):
  """The training examples; with opposite targets the validation loss grows from epoch to epoch."""
  inputs, targets = examples()
  return tf.data.Dataset.from_tensor_slices((inputs, -targets if is_contrary else targets)).batch(5)


def build_model():
  keras.utils.set_random_seed(3)
  return keras.Sequential(
    [
      keras.Input((6,)),
      keras.layers.Dense(8),
      keras.layers.BatchNormalization(momentum=0.9),
      keras.layers.ReLU(),
      keras.layers.Dense(2),
    ]
  )


class KillAtStep(keras.callbacks.Callback):
  """SIGKILL in the middle of an epoch."""

  def __init__(self, epoch, step):
    super().__init__()
    self.epoch, self.step = epoch, step

  def on_epoch_begin(self, epoch, logs=None):
    self.now = epoch + 1

  def on_train_batch_begin(self, batch, logs=None):
    if self.now == self.epoch and batch >= self.step:
      os.kill(os.getpid(), signal.SIGKILL)


def run(checkpoint_dir, early_stopping, kill_in_epoch=0, kill_after_history_of_epoch=0):
  first_epoch = completed_epochs(checkpoint_dir)
  lines = []

  def log(line):
    lines.append(line)
    if line.startswith(f"epoch {kill_after_history_of_epoch}/"):
      os.kill(os.getpid(), signal.SIGKILL)

  model = build_model()
  training = TrainingConfig(
    epochs=6,
    batch_size=BATCH_SIZE,
    learning_rate=0.05,
    steps_per_execution=3,
    early_stopping_patience=2 if early_stopping else 0,
  )
  history = fit(
    model,
    train_dataset(first_epoch),
    validation_dataset(is_contrary=early_stopping),
    loss=keras.losses.MeanSquaredError(),
    metrics=[],
    training=training,
    steps_per_epoch=STEPS_PER_EPOCH,
    seed=9,
    checkpoint_dir=checkpoint_dir,
    callbacks=[KillAtStep(kill_in_epoch, 3)],
    log=log,
  )
  inputs, _ = examples()
  return {
    "first_epoch": first_epoch,
    "lines": lines,
    "history": history,
    "files": sorted(os.listdir(checkpoint_dir)),
    "iterations": int(model.optimizer.iterations.numpy()),
    "weights": [weight.tolist() for weight in model.get_weights()],
    "outputs": model(inputs).numpy().tolist(),
  }


pathlib.Path(result_path).write_text(json.dumps([run(**each) for each in arguments["fits"]]))  # noqa: F821
