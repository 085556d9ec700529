"""Run in a process of its own with two logical CPU devices; prints what it found as one line of JSON."""

import json

import keras
import numpy as np
import tensorflow as tf

from components.config import TrainingConfig
from trainers.compression.distillation import distill_model
from trainers.compression.pruning import PruningCallback, prunable_variables
from trainers.fit import fit
from trainers.strategies import configure_devices, make_strategy


def build(width, seed):
  keras.utils.set_random_seed(seed)
  layers = keras.layers
  return keras.Sequential(
    [
      layers.Input((8, 8, 4)),
      layers.Conv2D(width, 3, activation="relu", name="conv"),
      layers.Flatten(),
      layers.Dense(3, name="logits"),
    ]
  )


def train(model, callbacks=()):
  rng = np.random.default_rng(0)
  inputs = rng.normal(size=(32, 8, 8, 4)).astype("float32")
  targets = np.eye(3, dtype="float32")[rng.integers(0, 3, 32)]
  data = tf.data.Dataset.from_tensor_slices((inputs, targets)).batch(16)
  training = TrainingConfig(
    epochs=2, optimizer="sgd", learning_rate=0.05, weight_decay=0.0, steps_per_execution=3
  )
  loss = keras.losses.CategoricalCrossentropy(from_logits=True)
  settings = {"training": training, "steps_per_epoch": 5, "seed": 1, "callbacks": callbacks}
  fit(model, data.repeat(), data, loss=loss, metrics=[], log=lambda line: None, **settings)


def distilled_weights(strategy):
  with strategy.scope():
    teacher, student = build(16, 1), build(8, 2)
    before = [np.array(weight) for weight in student.get_weights()]
    train(distill_model(teacher, student, temperature=2.0, alpha=0.6))
  return before, student.get_weights()


def distillation(strategies):
  (start, one), (_, mirrored) = map(distilled_weights, strategies)
  return {
    "moved": max(float(np.abs(a - b).max()) for a, b in zip(start, one, strict=True)),
    "drift": max(float(np.abs(a - b).max()) for a, b in zip(one, mirrored, strict=True)),
  }


def pruning(strategies, pattern):
  results = []
  for strategy in strategies:
    with strategy.scope():
      model = build(8, 1)
      callback = PruningCallback(prunable_variables(model), 0.8, pattern=pattern)
      train(model, [callback])
    kernels = [weight.variable.value for weight in callback.weights]
    results.append(
      [[copy.numpy() for copy in strategy.experimental_local_results(kernel)] for kernel in kernels]
    )
  one, mirrored = results
  return {
    "sparsity": [[float((copy == 0).mean()) for copy in copies] for copies in mirrored],
    "replicas_differ": max(float(np.abs(a - b).max()) for a, b in mirrored),
    "drift": max(float(np.abs(a[0] - b[0]).max()) for a, b in zip(one, mirrored, strict=True)),
  }


if __name__ == "__main__":
  configure_devices(2)
  both = [make_strategy("one_device"), make_strategy("mirrored", 2)]
  print(
    json.dumps(
      {
        "replicas": both[1].num_replicas_in_sync,
        "distillation": distillation(both),
        "unstructured": pruning(both, "unstructured"),
        "2:4": pruning(both, "2:4"),
      }
    )
  )
