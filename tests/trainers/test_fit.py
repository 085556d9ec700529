"""Schedules, exact numbers of steps, and fits that are killed and started again."""

import json
import math
import os
import pathlib
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.config import TrainingConfig
from trainers import fit as fit_module

SCRIPT = pathlib.Path(__file__).with_name("fit_run.py")
EPOCHS, STEPS_PER_EPOCH = 6, 7


def learning_rates(steps, num_steps, **settings):
  optimizer = fit_module.make_optimizer(TrainingConfig(**settings), num_steps)
  rates = []
  for step in steps:
    optimizer.iterations.assign(step)
    rates.append(float(optimizer.learning_rate))
  return rates


def test_warm_up_then_cosine():
  rates = learning_rates([0, 5, 10, 20, 30, 40, 50], 50, learning_rate=0.1, warmup_fraction=0.2)
  quarter = 0.05 * (1 + math.cos(math.pi / 4))
  expected = [0.001, 0.001 + 0.099 / 2, 0.1, quarter, 0.05, 0.1 - quarter, 0.0]
  np.testing.assert_allclose(rates, expected, atol=1e-7)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_without_warm_up_it_begins_at_the_top(optimizer):
  rates = learning_rates([0, 20, 40, 400], 40, learning_rate=0.1, warmup_fraction=0.0, optimizer=optimizer)
  np.testing.assert_allclose(rates, [0.1, 0.05, 0.0, 0.0], atol=1e-7)


def test_warm_up_to_the_very_end():
  rates = learning_rates([0, 5, 10], 10, learning_rate=0.1, warmup_fraction=1.0)
  np.testing.assert_allclose(rates, [0.001, 0.0505, 0.1], atol=1e-7)


def test_clip_norm_bounds_the_norm_of_all_gradients_together():
  training = TrainingConfig(
    optimizer="sgd", learning_rate=1.0, warmup_fraction=0.0, weight_decay=0, clip_norm=0.5
  )
  for num_replicas in (1, 2):
    optimizer = fit_module.make_optimizer(training, 100, num_replicas)
    variables = [keras.Variable([0.0, 0.0]), keras.Variable([0.0, 0.0])]
    optimizer.apply([tf.constant([3.0, 4.0]), tf.constant([0.0, 12.0])], variables)
    # The gradients' norm is 13; Nesterov's first step with momentum 0.9 is 1.9 gradients long.
    scale = -1.9 * 0.5 / num_replicas / 13
    np.testing.assert_allclose(variables[0].numpy(), [3 * scale, 4 * scale], rtol=1e-5)
    np.testing.assert_allclose(variables[1].numpy(), [0, 12 * scale], rtol=1e-5)


def fit_line(tmp_path, steps_per_epoch, **settings):
  """Fits y = 2x with one weight, on x = 0.01, 0.02, ...; the first three are the validation set."""
  keras.utils.set_random_seed(1)
  model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
  numbers = tf.data.Dataset.range(1, 10**6).map(lambda number: tf.cast(number, tf.float32)[None, None] / 100)
  train = numbers.map(lambda number: (number, 2 * number))
  history = fit_module.fit(
    model,
    train,
    train.take(3),
    loss=keras.losses.MeanSquaredError(),
    metrics=[keras.metrics.MeanAbsoluteError(name="mae")],
    training=TrainingConfig(**{"epochs": 2, "learning_rate": 0.01, **settings}),
    steps_per_epoch=steps_per_epoch,
    seed=1,
    checkpoint_dir=str(tmp_path / "checkpoints"),
    log_dir=str(tmp_path / "logs"),
    log=lambda line: None,
  )
  return model, history


@pytest.mark.parametrize("steps_per_epoch, steps_per_execution", [(7, 3), (6, 3), (7, 10)])
def test_an_epoch_has_the_steps_asked_for(tmp_path, steps_per_epoch, steps_per_execution):
  model, history = fit_line(tmp_path, steps_per_epoch, steps_per_execution=steps_per_execution)
  assert [row["steps"] for row in history] == [steps_per_epoch, 2 * steps_per_epoch]
  assert int(model.optimizer.iterations.numpy()) == 2 * steps_per_epoch
  assert history[-1]["learning_rate"] == pytest.approx(0, abs=1e-9)


def test_history_rows_hold_what_happened(tmp_path):
  model, history = fit_line(
    tmp_path, 4, steps_per_execution=1, optimizer="sgd", warmup_fraction=0.0, weight_decay=0
  )
  assert [set(row) for row in history] == [
    {"epoch", "loss", "mae", "val_loss", "val_mae", "learning_rate", "seconds", "steps"}
  ] * 2
  assert [row["epoch"] for row in history] == [1, 2]
  np.testing.assert_allclose([row["learning_rate"] for row in history], [0.005, 0], atol=1e-9)
  # The validation set is 0.01, 0.02, 0.03: the mean squared error of the last weight by hand.
  error = (2 - float(model.get_weights()[0][0, 0])) * np.array([0.01, 0.02, 0.03])
  assert history[-1]["val_loss"] == pytest.approx(float(np.mean(error**2)), rel=1e-4)
  assert history[-1]["val_mae"] == pytest.approx(float(np.mean(error)), rel=1e-4)
  assert history == fit_module.read_history(str(tmp_path / "checkpoints" / "history.jsonl"))
  for part in ("train", "validation"):
    assert any(name.startswith("events") for name in os.listdir(tmp_path / "logs" / part))


def test_mixed_float16_scales_the_loss_and_keeps_the_schedule(tmp_path):
  keras.mixed_precision.set_global_policy("mixed_float16")
  try:
    model, history = fit_line(tmp_path, 4, precision="mixed_float16", steps_per_execution=2)
  finally:
    keras.mixed_precision.set_global_policy("float32")
  assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
  assert [row["steps"] for row in history] == [4, 8]
  assert fit_module.completed_epochs(str(tmp_path / "checkpoints")) == 2


def test_only_whole_checkpoints_count(tmp_path):
  assert fit_module.completed_epochs(None) == 0
  assert fit_module.completed_epochs(str(tmp_path / "missing")) == 0
  (tmp_path / "epoch-00002.weights.h5").touch()
  (tmp_path / "partial.epoch-00003.weights.h5").touch()
  (tmp_path / "best.weights.h5").touch()
  (tmp_path / "epoch-00004.weights.h5.copy").touch()
  assert fit_module.completed_epochs(str(tmp_path)) == 2


def test_early_stopping_needs_a_directory():
  with pytest.raises(ValueError, match="^training.early_stopping_patience needs a checkpoint directory"):
    fit_module.fit(
      keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)]),
      tf.data.Dataset.from_tensors((tf.zeros([1, 1]), tf.zeros([1, 1]))).repeat(),
      tf.data.Dataset.from_tensors((tf.zeros([1, 1]), tf.zeros([1, 1]))),
      loss="mse",
      metrics=[],
      training=TrainingConfig(early_stopping_patience=1),
      steps_per_epoch=1,
      seed=1,
    )


def test_checkpoints_are_removed(tmp_path):
  fit_line(tmp_path, 2)
  assert os.listdir(tmp_path / "checkpoints")
  fit_module.remove_checkpoints(str(tmp_path / "checkpoints"))
  assert not (tmp_path / "checkpoints").exists()


@pytest.fixture(scope="module")
def uninterrupted(run_script, tmp_path_factory):
  """A fit in one go, the same started again when it is over, and one that early stopping ends."""
  folder = tmp_path_factory.mktemp("uninterrupted")
  whole = {"checkpoint_dir": str(folder / "whole"), "early_stopping": False}
  stopped = {"checkpoint_dir": str(folder / "stopped"), "early_stopping": True}
  code, results = run_script(SCRIPT, fits=[whole, whole, stopped])
  assert code == 0
  return results


def interrupted(run_script, directory, early_stopping, **kill):
  fits = [{"checkpoint_dir": str(directory), "early_stopping": early_stopping, **kill}]
  code, result = run_script(SCRIPT, fits=fits)
  assert code == (-signal.SIGKILL if kill else 0)
  return result


def test_a_killed_fit_goes_on_and_ends_as_if_nothing_had_been(run_script, uninterrupted, tmp_path):
  whole = uninterrupted[0]
  interrupted(run_script, tmp_path, False, kill_in_epoch=3)
  assert fit_module.completed_epochs(str(tmp_path)) == 2
  # Half a file, as a kill during the writing leaves it, and a history that is ahead of the checkpoint.
  newest = (tmp_path / "epoch-00002.weights.h5").read_bytes()
  (tmp_path / "partial.epoch-00003.weights.h5").write_bytes(newest[: len(newest) // 2])
  interrupted(run_script, tmp_path, False, kill_after_history_of_epoch=4)
  assert fit_module.completed_epochs(str(tmp_path)) == 3
  assert [row["epoch"] for row in fit_module.read_history(str(tmp_path / "history.jsonl"))] == [1, 2, 3, 4]

  (resumed,) = interrupted(run_script, tmp_path, False)
  assert resumed["first_epoch"] == 3
  assert [line.split(":")[0] for line in resumed["lines"]] == ["epoch 4/6", "epoch 5/6", "epoch 6/6"]
  assert [row["epoch"] for row in resumed["history"]] == [1, 2, 3, 4, 5, 6]
  assert [row["steps"] for row in resumed["history"]] == [7, 14, 21, 28, 35, 42]
  assert resumed["iterations"] == whole["iterations"] == EPOCHS * STEPS_PER_EPOCH
  # The weights agree only if every epoch saw its examples in the same order, with the same optimizer state.
  for found, expected in zip(resumed["weights"], whole["weights"], strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
  for key in ("loss", "val_loss", "learning_rate"):
    found = [row[key] for row in resumed["history"]]
    np.testing.assert_allclose(found, [row[key] for row in whole["history"]], rtol=1e-4, atol=1e-9)


def test_a_fit_that_was_over_is_only_loaded(uninterrupted):
  whole, again, _ = uninterrupted
  assert whole["first_epoch"] == 0 and len(whole["lines"]) == EPOCHS
  assert again["first_epoch"] == EPOCHS and again["lines"] == []
  assert again["history"] == whole["history"]
  np.testing.assert_allclose(again["outputs"], whole["outputs"], rtol=1e-6)
  assert again["iterations"] == EPOCHS * STEPS_PER_EPOCH


def test_early_stopping_survives_a_restart_and_restores_the_best_weights(run_script, uninterrupted, tmp_path):
  stopped = uninterrupted[2]
  losses = [row["val_loss"] for row in stopped["history"]]
  assert len(losses) == 3 and losses[0] == min(losses)

  interrupted(run_script, tmp_path, True, kill_after_history_of_epoch=2)
  (resumed,) = interrupted(run_script, tmp_path, True)
  assert resumed["first_epoch"] == 1
  assert [row["epoch"] for row in resumed["history"]] == [1, 2, 3]
  assert "best.weights.h5" in resumed["files"]
  # The network after epoch 1, not the last one: its loss on the validation set is the first row's.
  for result in (stopped, resumed):
    np.testing.assert_allclose(contrary_loss(result["outputs"]), losses[0], rtol=1e-4)
    assert result["iterations"] == STEPS_PER_EPOCH

  (again,) = interrupted(run_script, tmp_path, True)
  assert again["lines"] == [] and len(again["history"]) == 3
  np.testing.assert_allclose(again["outputs"], resumed["outputs"], rtol=1e-6)


def contrary_loss(outputs):
  """Mean squared error against the opposite targets of fit_run.py."""
  generator = np.random.default_rng(5)
  inputs = generator.normal(size=(28, 6)).astype(np.float32)
  targets = inputs @ generator.normal(size=(6, 2))
  return float(np.mean((np.array(outputs) + targets) ** 2))


def test_history_files_are_replaced_in_one_step(tmp_path):
  path = tmp_path / "history.jsonl"
  assert fit_module.read_history(str(path)) == []
  rows = [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "loss": 0.25}]
  fit_module.write_history(str(path), rows)
  assert [json.loads(line) for line in path.read_text().splitlines()] == rows
  assert fit_module.read_history(str(path)) == rows
  assert os.listdir(tmp_path) == ["history.jsonl"]
