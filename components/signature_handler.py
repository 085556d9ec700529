"""A signature of a SavedModel as a model of Beam's RunInference.

Beam's own handlers for TensorFlow cannot do this: they load Keras's formats only, batch tensors of numbers, and need
tensorflow_hub, which does not go together with this TensorFlow.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from apache_beam.ml.inference.base import ModelHandler
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from serving.session import SavedModelSession

_BATCH_SIZE = 256


@dataclasses.dataclass(frozen=True)
class TextSignature:
  """The tensors of a signature of text: `text` string [batch] and `output` float32 [batch, dim], and what dim is."""

  text: str
  output: str
  dim: int


def read_signature(model_dir: str, name: str, output: str) -> TextSignature:
  """Looks a signature up in an export, without loading it.

  Args:
    model_dir: of the SavedModel.
    name: of the signature.
    output: name of one of its outputs.

  Raises:
    ValueError: there is no such signature or output, or they are not string [batch] -> float32 [batch, dim].
  """
  saved_model = saved_model_pb2.SavedModel()
  with tf.io.gfile.GFile(os.path.join(model_dir, tf.saved_model.SAVED_MODEL_FILENAME_PB), "rb") as file:
    saved_model.ParseFromString(file.read())
  signatures = saved_model.meta_graphs[0].signature_def
  if name not in signatures:
    raise ValueError(f"{model_dir} has no signature {name!r}; it has {_names(signatures)}")
  signature = signatures[name]
  if output not in signature.outputs:
    raise ValueError(f"the signature {name!r} has no output {output!r}; it has {_names(signature.outputs)}")
  inputs, result = list(signature.inputs.values()), signature.outputs[output]
  if len(inputs) != 1 or not _is_tensor(inputs[0], types_pb2.DT_STRING, 1):
    raise ValueError(f"the signature {name!r} does not take one string [batch], but {_names(signature.inputs)}")
  if not _is_tensor(result, types_pb2.DT_FLOAT, 2) or result.tensor_shape.dim[1].size < 1:
    raise ValueError(f"the output {output!r} of the signature {name!r} is not float32 [batch, dim] of a known dim")
  return TextSignature(inputs[0].name, result.name, result.tensor_shape.dim[1].size)


def _names(items: Any) -> str:
  return ", ".join(sorted(items)) or "none"


def _is_tensor(info: Any, dtype: int, rank: int) -> bool:
  shape = info.tensor_shape
  return info.dtype == dtype and not shape.unknown_rank and len(shape.dim) == rank


class SignatureHandler(ModelHandler[bytes, np.ndarray, SavedModelSession]):
  """Text -> float32 [dim]. Every process loads the model once.

  Args:
    model_dir: of the SavedModel; all workers see it.
    signature: from `read_signature`.
    batch_size: texts that are fed at once. The same for every batch but a bundle's last one: sizes that Beam chooses
      depend on how quick the machine was.
  """

  def __init__(self, model_dir: str, signature: TextSignature, batch_size: int = _BATCH_SIZE):
    super().__init__(min_batch_size=batch_size, max_batch_size=batch_size)
    self._model_dir = model_dir
    self._signature = signature

  def load_model(self) -> SavedModelSession:
    """The export in a session, TensorFlow Text's ops included."""
    return SavedModelSession(self._model_dir)

  def run_inference(
    self, batch: Sequence[bytes], model: SavedModelSession, inference_args: dict[str, Any] | None = None
  ) -> Iterable[np.ndarray]:
    """One row a text.

    Raises:
      RuntimeError: the model answers with another number of rows.
    """
    (rows,) = model.run({self._signature.text: np.array(batch, object)}, [self._signature.output])
    if len(rows) != len(batch):
      raise RuntimeError(f"{len(batch)} texts went into the model, and {len(rows)} rows came out")
    return rows

  def get_num_bytes(self, batch: Sequence[bytes]) -> int:
    """Of the texts."""
    return sum(map(len, batch))

  def get_metrics_namespace(self) -> str:
    """Of Beam's counters."""
    return "deepline_signature"
