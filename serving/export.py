"""Writes SavedModels that TF Serving, a TF1 session and tf.saved_model.load all read."""

from __future__ import annotations

import keyword
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any

DEFAULT_SIGNATURE = "serving_default"

Endpoints = Mapping[str, tuple[Callable[..., dict[str, Any]], Mapping[str, Any]]]


def export_saved_model(directory: str, resources: Iterable[Any], endpoints: Endpoints) -> str:
  """Writes one SavedModel. `directory` holds the whole export or is not there at all.

  Args:
    directory: where the export appears; an export that is there already is replaced.
    resources: trackables other than variables that the endpoints use: hash tables, tokenizers, the layer of
      `tft.TFTransformOutput.transform_features_layer()`. Keras models are found by themselves.
    endpoints: {signature name: (function, {input name: tf.TensorSpec})}. A function is called with keyword
      arguments of these names and returns {output name: tensor}; clients see exactly these names. The first
      dimension of every spec is None: the batch. One signature is "serving_default". Functions are traced
      without AutoGraph: use tf.cond and tf.while_loop in them.

  Returns:
    `directory`.

  Raises:
    ValueError: "serving_default" is missing, or an endpoint has no inputs, a bad spec, or returns no dict.
  """
  import keras

  _check(endpoints)
  archive = keras.export.ExportArchive()
  # The model is not tracked: its variables are found through the functions that use them. Tracked as well,
  # they would be written twice, once as Keras's and once as TensorFlow's.
  for resource in resources:
    archive.track(resource)
  for name, (function, specs) in endpoints.items():
    archive.add_endpoint(name, _traced(name, function, specs))

  directory = os.path.abspath(directory)
  os.makedirs(os.path.dirname(directory), exist_ok=True)
  partial = _sibling(directory, "partial")
  try:
    archive.write_out(partial, verbose=False)
    _replace(partial, directory)
  finally:
    shutil.rmtree(partial, ignore_errors=True)
  return directory


def _check(endpoints: Endpoints) -> None:
  if DEFAULT_SIGNATURE not in endpoints:
    raise ValueError(
      f'endpoints {sorted(endpoints)} lack "{DEFAULT_SIGNATURE}", the signature that clients get'
    )
  for name, (_, specs) in endpoints.items():
    if not specs:
      raise ValueError(f'endpoint "{name}" has no inputs; give it {{input name: tf.TensorSpec}}')
    for input_name, spec in specs.items():
      if not input_name.isidentifier() or keyword.iskeyword(input_name):
        raise ValueError(f'input "{input_name}" of endpoint "{name}" cannot be a keyword argument; rename it')
      if spec.shape.rank is None or spec.shape.rank < 1 or spec.shape[0] is not None:
        raise ValueError(
          f'input "{input_name}" of endpoint "{name}" has shape {spec.shape}; it must begin with None'
        )


def _traced(name: str, function: Callable[..., dict[str, Any]], specs: Mapping[str, Any]) -> Any:
  """The endpoint as a tf.function with one trace, whose signature inputs are named after the keywords."""
  import tensorflow as tf

  def endpoint(**inputs):
    outputs = function(**inputs)
    if not isinstance(outputs, dict) or not outputs:
      raise ValueError(f'endpoint "{name}" returned {type(outputs).__name__}; return {{output name: tensor}}')
    return {key: tf.convert_to_tensor(value) for key, value in outputs.items()}

  # ExportArchive.add_endpoint(fn, input_signature) names inputs after positional arguments only.
  traced = tf.function(endpoint, autograph=False)
  traced.get_concrete_function(
    **{key: tf.TensorSpec(spec.shape, spec.dtype, name=key) for key, spec in specs.items()}
  )
  return traced


def _sibling(directory: str, purpose: str) -> str:
  """A hidden name beside `directory`, on the same file system, so that a rename is atomic."""
  parent, name = os.path.split(directory)
  return os.path.join(parent, f".{name}.{purpose}-{os.getpid()}")


def _replace(source: str, directory: str) -> None:
  """Renames `source` to `directory`; an older export there goes only when the new one is complete."""
  if not os.path.lexists(directory):
    os.rename(source, directory)
    return
  old = _sibling(directory, "old")
  os.rename(directory, old)
  os.rename(source, directory)
  shutil.rmtree(old)
