"""Transformed pictures written once by the Transform stage, against the same graph applied in every epoch."""

import time

import tensorflow as tf
from prepared_run import FOLDER, prepare

from components.input import eval_dataset, read_records, split_files

BATCH_SIZE = 128


def _examples_per_cpu_s(dataset: tf.data.Dataset) -> float:
  started = time.process_time()
  count = sum(int(tf.shape(targets)[0]) for _, targets in dataset)
  return count / (time.process_time() - started)


def measure() -> dict:
  """Examples per CPU second of reading the training split ready for the model."""
  task, config, outputs, transformed = prepare()
  raw_root = FOLDER / "sample" / "artifacts" / "ExampleGen" / "examples"
  raw = str(max(raw_root.iterdir(), key=lambda path: int(path.name)))
  layer = outputs.features_layer()
  spec = {name: tf.io.FixedLenFeature([], tf.string) for name in (*task.raw_features, *task.labels)}

  def transform(batch: tf.Tensor) -> tuple:
    return task.parse(outputs.transform(layer, tf.io.parse_example(batch, spec)), config, outputs)

  on_the_fly = read_records(split_files(raw, "train")).batch(BATCH_SIZE).map(transform).prefetch(2)
  materialised = eval_dataset(task, config, outputs, split_files(transformed, "train"))
  pairs = [(_examples_per_cpu_s(materialised), _examples_per_cpu_s(on_the_fly)) for _ in range(3)]
  ready, computed = (max(values) for values in zip(*pairs, strict=True))
  return {
    "materialised_examples_per_cpu_s": round(ready),
    "on_the_fly_examples_per_cpu_s": round(computed),
    "ratio": round(ready / computed, 2),
  }
