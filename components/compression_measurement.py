"""Rows of the compression report: what a SavedModel or a TFLite file weighs, how fast it answers, how
well."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from components.config import RunConfig
from components.evaluation import figure_text
from components.input import eval_dataset
from components.progress import report_progress
from components.task import Task, TransformOutputs
from trainers.compression.measure import (
  array_counts,
  content_bytes,
  latency_ms,
  layer_sparsity,
  parameter_counts,
  saved_model_bytes,
)
from trainers.compression.quantization import (
  SIGNATURE,
  SINGLE_INPUT,
  SINGLE_OUTPUT,
  TFLiteRunner,
  export_network,
  tflite_layer_sparsity,
  tflite_weights,
)

LATENCY_BATCH_SIZES = (1, 32)


class Measurement:
  """Measures models of one task on its validation split.

  Args:
    task: the application.
    outputs: what the Transform stage learned.
    validation_files: transformed examples of the validation split.
  """

  def __init__(self, task: Task, outputs: TransformOutputs, validation_files: Sequence[str]):
    self._task = task
    self._outputs = outputs
    self._files = validation_files

  def saved_model(
    self, name: str, config: RunConfig, model: keras.Model, directory: str, seconds: float
  ) -> dict[str, Any]:
    """Row of a Keras model and its export.

    Latency is that of the export's `serve_tensors` signature, in this process, with TensorFlow's own threads;
    quality that of the network's outputs (logits), from a SavedModel of the network alone, so that TFLite
    files compare.

    Args:
      name: the row's name.
      config: the configuration that the model was built with.
      model: the Keras model.
      directory: its export.
      seconds: what making it took.

    Returns:
      {"name", "format", "parameters", "non_zero_parameters", "sparsity": {layer: fraction of zeros}, "bytes",
      "gzip_bytes", "latency_ms": {"batch_1": {"p50", "p99"}, "batch_32": ...}, "quality": {metric: value},
      "seconds"}.
    """
    served = tf.saved_model.load(directory)
    names = list(self._task.tensor_inputs(config, self._outputs))
    signature = served.signatures["serve_tensors"]

    def serve(batch: Any) -> dict[str, np.ndarray]:
      tensors = batch if isinstance(batch, Mapping) else {names[0]: batch}
      answers = signature(**{key: tf.constant(value) for key, value in tensors.items()})
      return {key: value.numpy() for key, value in answers.items()}

    with tempfile.TemporaryDirectory() as folder:
      export_network(model, self.input_specs(config), folder)
      loaded = tf.saved_model.load(folder)
      quality = self.quality(config, _network_call(loaded.signatures[SIGNATURE]))
    sizes = {**saved_model_bytes(directory), "sparsity": layer_sparsity(model)}
    return self._row(name, "saved_model", config, parameter_counts(model), sizes, serve, quality, seconds)

  def tflite(
    self, name: str, config: RunConfig, model: keras.Model, content: bytes, seconds: float
  ) -> dict[str, Any]:
    """Row of a TFLite file made from `model`'s network, with the keys of `saved_model`; a thread for each CPU.

    Parameters and zeros are those stored in the file: batch normalization may be folded into kernels, and
    rounding to int8 makes zeros of its own.
    """
    runner = TFLiteRunner(content, num_threads=os.cpu_count() or 1)
    sizes = {**content_bytes(content), "sparsity": tflite_layer_sparsity(content, model)}
    counts = array_counts(list(tflite_weights(content).values()))
    return self._row(name, "tflite", config, counts, sizes, runner, self.quality(config, runner), seconds)

  def _row(self, name, form, config, counts, sizes, call, quality, seconds) -> dict[str, Any]:
    row = {
      "name": name,
      "format": form,
      "parameters": counts["parameters"],
      "non_zero_parameters": counts["non_zero"],
      **sizes,
      "latency_ms": {
        f"batch_{size}": latency_ms(call, self._examples(config, size), config.compression.latency_calls)
        for size in LATENCY_BATCH_SIZES
      },
      "quality": quality,
      "seconds": round(seconds, 3),
    }
    metric = self._task.quality_metric
    report_progress(
      f"{name}: {metric} {figure_text(quality[metric])}, {row['gzip_bytes'] / 1e6:.3f} MB gzipped, "
      f"{row['latency_ms']['batch_1']['p50']:.2f} ms"
    )
    return row

  def quality(self, config: RunConfig, call: Callable[[Any], Any]) -> dict[str, float]:
    """The task's metrics and its loss on the validation split.

    Args:
      config: the task's configuration.
      call: from a batch of model inputs to the network's outputs.

    Returns:
      {metric: value, "loss": mean over the examples}.
    """
    metrics, loss = self._metrics(config), self._task.loss(config)
    mean_loss = keras.metrics.Mean(name="loss")
    for inputs, targets in eval_dataset(self._task, config, self._outputs, self._files):
      outputs = call(inputs)
      mean_loss.update_state(loss(targets, outputs), sample_weight=tf.shape(tf.nest.flatten(targets)[0])[0])
      for metric in metrics:
        metric.update_state(targets, outputs)
    return {metric.name: float(metric.result()) for metric in [*metrics, mean_loss]}

  def _metrics(self, config: RunConfig) -> list[Any]:
    if self._task.quality_metrics:
      return self._task.quality_metrics(config, self._outputs)
    return self._task.training_metrics(config)

  def input_specs(self, config: RunConfig) -> Any:
    """tf.TensorSpec of the model's inputs, or a dict of them."""
    return eval_dataset(self._task, config, self._outputs, self._files).element_spec[0]

  def _examples(self, config: RunConfig, size: int) -> Any:
    """Model inputs of `size` validation examples, the first ones again where there are fewer."""
    dataset = eval_dataset(self._task, config, self._outputs, self._files).map(lambda inputs, _: inputs)
    batch = next(iter(dataset.unbatch().batch(size)))
    return tf.nest.map_structure(lambda values: np.take(values, np.arange(size) % len(values), axis=0), batch)


def _network_call(signature: Any) -> Callable[[Any], Any]:
  """A "network" signature as a function of model inputs, as a model is called."""

  def call(inputs: Any) -> Any:
    outputs = signature(**(inputs if isinstance(inputs, Mapping) else {SINGLE_INPUT: inputs}))
    return outputs[SINGLE_OUTPUT] if list(outputs) == [SINGLE_OUTPUT] else outputs

  return call


def tflite_path(directory: str, fmt: str) -> str:
  """Where the TFLite file of one format lies beside a SavedModel."""
  return os.path.join(directory, "assets.extra", f"model_{fmt}.tflite")
