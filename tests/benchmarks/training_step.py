"""The training step with the real input pipeline (records, parsing, augmentation) against data already in memory."""

import time

import keras
import tensorflow as tf
from prepared_run import prepare

from components.input import split_files, train_dataset
from trainers.fit import make_optimizer

STEPS = 60
TURNS = 6


def _seconds_per_step(model: keras.Model, dataset: tf.data.Dataset) -> float:
  model.fit(dataset, epochs=1, steps_per_epoch=10, verbose=0)
  started = time.perf_counter()
  model.fit(dataset, epochs=1, steps_per_epoch=STEPS, verbose=0)
  return (time.perf_counter() - started) / STEPS


def measure() -> dict:
  """Wall seconds a step of the default model on the sample, the two pipelines in turn, the best of six each."""
  task, config, outputs, transformed = prepare()
  real = train_dataset(task, config, outputs, split_files(transformed, "train"))
  images, targets = next(iter(real))
  in_memory = tf.data.Dataset.from_tensors((images, targets)).repeat()
  model = task.build_model(config, outputs)
  model.compile(
    make_optimizer(config.training, 1000),
    task.loss(config),
    steps_per_execution=config.training.steps_per_execution,
    jit_compile=False,
  )
  pairs = [(_seconds_per_step(model, real), _seconds_per_step(model, in_memory)) for _ in range(TURNS)]
  real_s, memory_s = (min(values) for values in zip(*pairs, strict=True))
  return {
    "step_s": round(real_s, 4),
    "step_in_memory_s": round(memory_s, 4),
    "ratio": round(real_s / memory_s, 3),
  }
