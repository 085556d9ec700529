"""preprocessing_fn of TFX's Transform: the task's own, found by its path."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from components.task import load_task


def preprocessing_fn(inputs: dict[str, Any], custom_config: dict[str, str]) -> dict[str, Any]:
  """Raw tensors to model tensors.

  Args:
    inputs: {raw feature: dense [batch, ...] or sparse tensor}, as the schema has it.
    custom_config: "task" (Task.path) and "config" (JSON of the sections that preprocessing reads).

  Returns:
    {transformed feature: tensor [batch, ...] of dtype string, int64 or float32}.
  """
  task, config = load_task(custom_config["task"], custom_config["config"])
  wanted = {**task.raw_features, **task.labels}
  dense = {name: _dense(inputs[name], feature.shape) for name, feature in wanted.items()}
  return task.preprocess(dense, config)


def _dense(value: Any, shape: tuple[int | None, ...]) -> tf.Tensor:
  """A [batch, *shape] tensor, whichever way the schema represents the column; lists are filled up with zeros or ""."""
  if isinstance(value, tf.SparseTensor):
    value = tf.sparse.to_dense(value)
  if None in shape:
    return value
  return tf.reshape(value, [-1, *shape]) if value.shape.rank != len(shape) + 1 else value
