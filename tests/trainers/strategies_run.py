"""The same fit on one device and on two logical ones, in a process that may choose its devices."""

import json
import pathlib

import keras
import numpy as np
import tensorflow as tf

from components.config import TrainingConfig
from trainers.fit import fit
from trainers.strategies import configure_devices, make_strategy


def build_model():
  """Without batch normalization, whose statistics are those of a replica's share of the batch."""
  keras.utils.set_random_seed(3)
  return keras.Sequential(
    [
      keras.Input((8, 8, 1)),
      keras.layers.Conv2D(4, 3, activation="relu"),
      keras.layers.GroupNormalization(2),
      keras.layers.Conv2D(8, 3, strides=2, activation="relu"),
      keras.layers.GlobalAveragePooling2D(),
      keras.layers.Dense(3),
    ]
  )


def fitted(strategy, **settings):
  generator = np.random.default_rng(5)
  pictures = generator.normal(size=(16, 8, 8, 1)).astype(np.float32)
  targets = np.eye(3, dtype=np.float32)[generator.integers(0, 3, 16)]
  dataset = tf.data.Dataset.from_tensor_slices((pictures, targets)).batch(4, drop_remainder=True)
  with strategy.scope():
    model = build_model()
    history = fit(
      model,
      dataset.repeat(),
      dataset,
      loss=keras.losses.CategoricalCrossentropy(from_logits=True),
      metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
      training=TrainingConfig(epochs=3, learning_rate=0.05, steps_per_execution=3, **settings),
      steps_per_epoch=4,
      seed=9,
      log=lambda line: None,
    )
  losses = [[row["loss"], row["val_loss"], row["accuracy"]] for row in history]
  return {"weights": [weight.tolist() for weight in model.get_weights()], "losses": losses}


def error_of(function, *args, **kwargs):
  try:
    function(*args, **kwargs)
  except ValueError as error:
    return str(error)
  return None


configure_devices(2)
mirrored = make_strategy("auto", num_logical_cpus=2)
configure_devices(2)
found = {
  "replicas": mirrored.num_replicas_in_sync,
  "kind": type(mirrored).__name__,
  "mirrored": fitted(mirrored),
  "one_device": fitted(make_strategy("one_device", num_logical_cpus=2)),
  "too_many": error_of(make_strategy, "mirrored", 3),
  "too_late": error_of(configure_devices, 4),
  "jit": error_of(fitted, mirrored, jit_compile=True),
}
pathlib.Path(result_path).write_text(json.dumps(found))  # noqa: F821
