"""Run by `run_script` in a process of its own with two logical CPU devices; writes what it found to `result_path`."""

import json
import pathlib
import types

import keras
import numpy as np
import tensorflow as tf

from trainers.fit import fit
from trainers.losses import Perplexity, TokenLoss
from trainers.models.neural_language_model import build_language_model
from trainers.strategies import configure_devices, make_strategy

TRAINING = types.SimpleNamespace(
  epochs=1, optimizer="sgd", learning_rate=0.05, warmup_fraction=0.0, weight_decay=0.0, clip_norm=None,
  early_stopping_patience=0, steps_per_execution=3, precision="float32", jit_compile=False,
)  # fmt: skip


def weights(strategy):
  """Before and after a training without dropout on sentences of one length, so that no replica has more tokens."""
  token_ids = np.random.default_rng(0).integers(2, 30, (8, 6))
  data = tf.data.Dataset.from_tensors((token_ids, token_ids)).unbatch().batch(8, drop_remainder=True)
  with strategy.scope():
    keras.utils.set_random_seed(1)
    model = build_language_model(30, "lstm", 8, 8, dropout=0.0, adaptive_cutoffs=(10,))
    before = [np.array(weight) for weight in model.get_weights()]
    settings = {"training": TRAINING, "steps_per_epoch": 7, "seed": 1, "log": lambda line: None}
    fit(model, data.repeat(), data, loss=TokenLoss(), metrics=[Perplexity()], **settings)
  return before, model.get_weights()


def largest_difference(first, second):
  return max(float(np.abs(a - b).max()) for a, b in zip(first, second, strict=True))


if __name__ == "__main__":
  configure_devices(2)
  one_device, mirrored = make_strategy("one_device"), make_strategy("mirrored", 2)
  (start, alone), (_, together) = map(weights, (one_device, mirrored))
  found = {
    "replicas": mirrored.num_replicas_in_sync,
    "moved": largest_difference(start, alone),
    "drift": largest_difference(alone, together),
  }
  pathlib.Path(globals()["result_path"]).write_text(json.dumps(found), encoding="utf-8")
