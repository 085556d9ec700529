"""A trained model as a SavedModel with the signatures that every task has."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from components.config import RunConfig
from components.evaluation import LABELS_SIGNATURE
from components.input import DTYPES, parse_raw, read_records
from components.task import Task, TransformOutputs
from serving.export import export_saved_model
from serving.warmup import write_warmup_requests

# What signatures take that read serialized tf.Examples.
EXAMPLES_SPEC = {"examples": tf.TensorSpec([None], tf.string, name="examples")}


def export_model(
  task: Task,
  config: RunConfig,
  model: keras.Model,
  outputs: TransformOutputs,
  directory: str,
  raw_files: Sequence[str] = (),
) -> None:
  """Writes the SavedModel of a task.

  Signatures: `serving_default` takes the raw features as clients have them, `serve_tensors` the model's own input
  tensors, `serve_examples` serialized tf.Examples; and the task's own.

  Args:
    task: the application.
    config: its configuration.
    model: a built Keras model.
    outputs: what the Transform stage learned.
    directory: where the SavedModel goes; appears whole or not at all.
    raw_files: raw examples for the warm-up requests; none are written without.
  """
  layer = outputs.features_layer()

  def to_inputs(**features: tf.Tensor) -> tuple[Any, Mapping[str, Any]]:
    transformed = outputs.transform(layer, features)
    return task.parse(transformed, config, outputs)[0], transformed

  def serve_features(**features: tf.Tensor) -> dict[str, tf.Tensor]:
    inputs, transformed = to_inputs(**features)
    return task.predict(model, inputs, transformed, config, outputs)

  def serve_tensors(**tensors: tf.Tensor) -> dict[str, tf.Tensor]:
    inputs = next(iter(tensors.values())) if len(tensors) == 1 else tensors
    return task.predict(model, inputs, {}, config, outputs)

  def serve_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
    return serve_features(**parse_raw(examples, task.raw_features))

  endpoints = {
    "serving_default": (serve_features, _tensor_specs(task)),
    "serve_tensors": (serve_tensors, task.tensor_inputs(config, outputs)),
    "serve_examples": (serve_examples, dict(EXAMPLES_SPEC)),
  }
  if task.signatures:
    endpoints |= task.signatures(model, to_inputs, config, outputs)
  export_saved_model(directory, [layer], endpoints)
  if raw_files:
    requests = _warmup_requests(task, raw_files, config.serving.warmup_requests)
    write_warmup_requests(directory, task.name, requests)


def labels_signature(task: Task, to_inputs: Callable) -> dict[str, tuple[Callable, dict[str, Any]]]:
  """The signature `transform_labels`: serialized raw examples -> "<label>_id", the ids that the metrics compare.

  Args:
    task: has labels of one value an example.
    to_inputs: see `Task.signatures`.
  """

  def transform_labels(examples: tf.Tensor) -> dict[str, tf.Tensor]:
    _, features = to_inputs(**parse_raw(examples, {**task.raw_features, **task.labels}))
    return {f"{name}_id": features[name] for name in task.labels}

  return {LABELS_SIGNATURE: (transform_labels, dict(EXAMPLES_SPEC))}


def raw_batches(task: Task, raw_files: Sequence[str], batch_size: int) -> tf.data.Dataset:
  """Batches of (serialized examples, {raw feature: tensor}) as a client would send them."""
  return (
    read_records(raw_files).batch(batch_size).map(lambda batch: (batch, parse_raw(batch, task.raw_features)))
  )


def _warmup_requests(task: Task, raw_files: Sequence[str], count: int) -> list[tuple[str, Mapping[str, Any]]]:
  """Requests of one real example each, in turn for the two signatures that clients call most."""
  requests = []
  for serialized, features in raw_batches(task, raw_files, 1).take(count):
    if len(requests) % 2:
      requests.append(("serve_examples", {"examples": serialized.numpy()}))
    else:
      requests.append(("serving_default", {name: value.numpy() for name, value in features.items()}))
  return requests


def _tensor_specs(task: Task) -> dict[str, tf.TensorSpec]:
  return {
    name: tf.TensorSpec([None, *feature.shape], DTYPES[feature.dtype], name=name)
    for name, feature in task.raw_features.items()
  }
