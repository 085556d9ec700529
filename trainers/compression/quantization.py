"""TFLite conversion: float32 as the reference, float16 weights, and int8 weights and activations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainers.compression.kernels import all_kernels

FORMATS = ("float32", "float16", "int8")
SIGNATURE = "network"
# The signature's name for the input or output of a model that has only one.
SINGLE_INPUT = "inputs"
SINGLE_OUTPUT = "outputs"


def export_network(model: keras.Model, inputs: Any, directory: str) -> None:
  """Writes a SavedModel of the bare network: from the model's inputs to its outputs (logits).

  Args:
    model: a built Keras model whose policy is float32.
    inputs: tf.TensorSpec, or a dict of them, as the model takes it; the first dimension is the batch.
    directory: where the SavedModel goes. Its one signature is "network"; a single input is named "inputs" and
      a single output "outputs", others keep their names.
  """
  specs = inputs if isinstance(inputs, Mapping) else {SINGLE_INPUT: inputs}

  def network(**tensors: tf.Tensor) -> dict[str, tf.Tensor]:
    outputs = model(tensors if isinstance(inputs, Mapping) else tensors[SINGLE_INPUT], training=False)
    return dict(outputs) if isinstance(outputs, Mapping) else {SINGLE_OUTPUT: outputs}

  function = tf.function(network, autograph=False)
  function.get_concrete_function(
    **{name: tf.TensorSpec([None, *spec.shape[1:]], spec.dtype, name=name) for name, spec in specs.items()}
  )
  archive = keras.export.ExportArchive()
  archive.track(model)
  archive.add_endpoint(SIGNATURE, function)
  archive.write_out(directory, verbose=False)


def to_tflite(
  saved_model_dir: str, fmt: str, calibration: Iterable[Any] | None = None, signature: str = SIGNATURE
) -> bytes:
  """Converts one signature of a SavedModel.

  Inputs and outputs are float32 in every format, int8 too: a client sends what it sends to the SavedModel and
  needs no scales and zero points, and the two ops that convert cost microseconds.

  Args:
    saved_model_dir: SavedModel whose signature takes and returns tensors that TFLite knows (no strings).
    fmt: "float32"; "float16": weights stored in float16; "int8": weights and activations in int8, with a
      scale for each output channel. Operations without an int8 kernel stay in float32.
    calibration: int8 only: examples as the model takes them, numpy arrays or tensors without the batch
      dimension (or dicts of them). The ranges of the activations are those seen on them: use real training
      examples.
    signature: name of the signature.

  Returns:
    The TFLite file, with the same signature.

  Raises:
    ValueError: the format is unknown, there are no calibration examples, or TFLite cannot express the model.

  Source: Jacob et al. 2018, arXiv:1712.05877.
  """
  if fmt not in FORMATS:
    raise ValueError(f"TFLite format {fmt!r} is unknown; use {', '.join(FORMATS)}")
  converter = tf.lite.TFLiteConverter.from_saved_model(saved_model_dir, signature_keys=[signature])
  if fmt != "float32":
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
  if fmt == "float16":
    converter.target_spec.supported_types = [tf.float16]
  if fmt == "int8":
    examples = [_as_feed(example) for example in (() if calibration is None else calibration)]
    if not examples:
      raise ValueError("int8 needs calibration examples; give it some of the training split")
    converter.representative_dataset = lambda: iter(examples)
    converter.target_spec.supported_ops = [
      tf.lite.OpsSet.TFLITE_BUILTINS_INT8,
      tf.lite.OpsSet.TFLITE_BUILTINS,
    ]
  try:
    return converter.convert()
  except Exception as error:  # ConverterError, and what the calibrator raises
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise ValueError(f"TFLite cannot express {saved_model_dir} as {fmt}: {reason}") from error


def _as_feed(example: Any) -> dict[str, np.ndarray]:
  named = example if isinstance(example, Mapping) else {SINGLE_INPUT: example}
  return {name: np.asarray(value)[np.newaxis] for name, value in named.items()}


class TFLiteRunner:
  """Runs a TFLite file with one signature on batches of any size.

  Args:
    content: the file's bytes.
    num_threads: threads of one call.
  """

  def __init__(self, content: bytes, num_threads: int = 1):
    self._interpreter = tf.lite.Interpreter(model_content=content, num_threads=num_threads)
    (signature,) = self._interpreter.get_signature_list()
    runner = self._interpreter.get_signature_runner(signature)
    self._inputs = runner.get_input_details()
    self._outputs = runner.get_output_details()
    self._shapes = {}

  def __call__(self, batch: Any) -> Any:
    """Answers one batch.

    Args:
      batch: array [batch, ...] or dict of them, as the model takes it.

    Returns:
      float32 array [batch, ...], or a dict where the model has several outputs.
    """
    named = batch if isinstance(batch, Mapping) else {SINGLE_INPUT: batch}
    arrays = {name: np.asarray(named[name], details["dtype"]) for name, details in self._inputs.items()}
    self._resize({name: array.shape for name, array in arrays.items()})
    for name, array in arrays.items():
      self._interpreter.set_tensor(self._inputs[name]["index"], array)
    self._interpreter.invoke()
    outputs = {
      name: self._interpreter.get_tensor(details["index"]) for name, details in self._outputs.items()
    }
    return outputs[SINGLE_OUTPUT] if list(outputs) == [SINGLE_OUTPUT] else outputs

  def _resize(self, shapes: dict[str, tuple[int, ...]]) -> None:
    """Plans memory for these shapes; that is slow, so only when they change."""
    if shapes == self._shapes:
      return
    for name, shape in shapes.items():
      self._interpreter.resize_tensor_input(self._inputs[name]["index"], shape)
    self._interpreter.allocate_tensors()
    self._shapes = shapes


def tflite_weights(content: bytes) -> dict[str, np.ndarray]:
  """The constants of a TFLite file that hold parameters, as arrays in which 0 stands for the value 0.

  Args:
    content: the file's bytes.

  Returns:
    {tensor name: array}; float32, float16, or int8 and int32 with the zero point taken off. Shapes, axes and
      other
    integers that are no quantized values are left out.
  """
  from tensorflow.lite.python import schema_py_generated as schema

  dtypes = {
    schema.TensorType.FLOAT32: np.dtype("<f4"),
    schema.TensorType.FLOAT16: np.dtype("<f2"),
    schema.TensorType.INT8: np.dtype("<i1"),
    schema.TensorType.INT32: np.dtype("<i4"),
  }
  model = schema.Model.GetRootAsModel(content, 0)
  found = {}
  for g in range(model.SubgraphsLength()):
    graph = model.Subgraphs(g)
    for t in range(graph.TensorsLength()):
      tensor = graph.Tensors(t)
      raw = model.Buffers(tensor.Buffer()).DataAsNumpy()
      if not isinstance(raw, np.ndarray) or tensor.Type() not in dtypes:
        continue
      values = raw.view(dtypes[tensor.Type()])
      if values.dtype.kind == "i":
        quantization = tensor.Quantization()
        if quantization is None or not quantization.ScaleLength():
          continue
        values = values.astype(np.int32) - (
          quantization.ZeroPoint(0) if quantization.ZeroPointLength() else 0
        )
      shape = tensor.ShapeAsNumpy() if tensor.ShapeLength() else ()
      found[f"{tensor.Name().decode()}#{t}" if g == 0 else f"{tensor.Name().decode()}#{g}.{t}"] = (
        values.reshape(shape)
      )
  return found


def tflite_layer_sparsity(content: bytes, model: keras.Model) -> dict[str, float]:
  """Fraction of zeros in the kernels that a TFLite file stores, under the names of the layers they came from.

  The converter keeps no layer names. It puts the outputs first and may scale each of them (batch
  normalization folded in, a scale for each channel in int8), so a stored kernel is its layer's if each
  output's weights point the same way.

  Args:
    content: the TFLite file.
    model: the Keras model that it was converted from.

  Returns:
    {layer's path as in `kernels.all_kernels`: fraction}; kernels that are found in no layer are left out.
  """
  kernels = {}
  for weight in all_kernels(model):
    values = keras.ops.convert_to_numpy(weight.variable)
    kernels[weight.name] = np.moveaxis(values, -1, 0).reshape(values.shape[-1], -1)
  sparsity = {}
  for stored in tflite_weights(content).values():
    if stored.ndim < 2:
      continue
    rows = stored.reshape(len(stored), -1).astype(np.float32)
    candidates = {name: kernel for name, kernel in kernels.items() if kernel.shape == rows.shape}
    alike = {name: _mean_cosine(rows, kernel) for name, kernel in candidates.items()}
    if alike and max(alike.values()) > 0.95:
      name = max(alike, key=alike.get)
      sparsity[name] = 1 - np.count_nonzero(stored) / stored.size
  return {name: sparsity[name] for name in kernels if name in sparsity}


def _mean_cosine(rows: np.ndarray, others: np.ndarray) -> float:
  """Mean over the rows of the absolute cosine between those of two matrices; rows of zeros count as equal."""
  products = np.abs(np.sum(rows * others, axis=1))
  norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(others, axis=1)
  return float(np.mean(np.where(norms > 0, products / np.maximum(norms, 1e-30), 1.0)))
