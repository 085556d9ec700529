"""What a signature for classification or for regression looks like, and what becomes of its outputs.

Source: tensorflow_serving/servables/tensorflow/{classifier,regressor}.cc
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import classification_pb2, regression_pb2

from serving.errors import invalid_argument

# Names that a signature is recognised by, after tensorflow/cc/saved_model/signature_constants.h.
CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"
INPUTS, CLASSES, SCORES, OUTPUTS = "inputs", "classes", "scores", "outputs"


def check_signature(
  method_name: str, signature: meta_graph_pb2.SignatureDef, check_method_name: bool
) -> None:
  """Makes sure that a signature has the inputs and outputs of a method.

  Args:
    method_name: a key of METHODS.
    check_method_name: the signature has to be exported for this method, too.

  Raises:
    RequestError: INVALID_ARGUMENT, it does not.
  """
  method = METHODS[method_name]
  if check_method_name and signature.method_name != method_name:
    raise invalid_argument(
      f"Expected {method.noun} signature method_name to be {method_name}. Was: {signature.method_name}"
    )
  if len(signature.inputs) != 1:
    raise invalid_argument("Expected one input Tensor.")
  method.check_num_outputs(len(signature.outputs))
  if INPUTS not in signature.inputs:
    raise invalid_argument(f"No {method.noun} inputs found in SignatureDef: {signature}")
  if not method.output_names(signature):
    raise invalid_argument(method.no_outputs.format(signature=signature))


def _check_num_classification_outputs(count: int) -> None:
  if count not in (1, 2):
    raise invalid_argument(f"Expected one or two output Tensors, found {count}")


def _check_num_regression_outputs(count: int) -> None:
  if count != 1:
    raise invalid_argument("Expected one output Tensor.")


def _classification_result(
  signature: meta_graph_pb2.SignatureDef, values: Mapping[str, np.ndarray], num_examples: int
) -> classification_pb2.ClassificationResult:
  given = {
    alias: values[signature.outputs[alias].name] for alias in (CLASSES, SCORES) if alias in signature.outputs
  }
  for alias, value in given.items():
    _check_class_matrix(alias, value, num_examples)
  widths = [value.shape[1] for value in given.values()]
  if widths[0] != widths[-1]:
    raise invalid_argument(
      f"Tensors class and score should match in dim_size(1). Got {widths[0]} vs. {widths[-1]}"
    )
  return _classifications(given.get(CLASSES), given.get(SCORES), num_examples, widths[0])


def _classifications(
  classes: np.ndarray | None, scores: np.ndarray | None, num_examples: int, num_classes: int
) -> classification_pb2.ClassificationResult:
  """The result of classes and scores [batch, classes]; what is None is left empty."""
  if classes is None:
    classes = np.full((num_examples, num_classes), b"", object)
  if scores is None:
    scores = np.zeros((num_examples, num_classes), np.float32)
  rows = classes.tolist()
  # The same few labels come in every row: each is decoded once.
  texts = {label: _text(label) for label in set(itertools.chain.from_iterable(rows))}
  result = classification_pb2.ClassificationResult()
  for labels, row_scores in zip(rows, scores.tolist(), strict=True):
    added = result.classifications.add().classes
    for label, score in zip(labels, row_scores, strict=True):
      added.add(label=texts[label], score=score)
  return result


def _text(label: bytes) -> str:
  try:
    return label.decode("utf-8")
  except UnicodeDecodeError as error:
    raise invalid_argument(f"The model gives a class that is no UTF-8 text: {label!r}") from error


def _check_class_matrix(alias: str, value: np.ndarray, num_examples: int) -> None:
  dtype = {CLASSES: "DT_STRING", SCORES: "DT_FLOAT"}[alias]
  if value.ndim != 2:
    raise invalid_argument(f"Expected Tensor shape: [batch_size num_classes] but got {_shape(value)}")
  if _dtype(value) != dtype:
    raise invalid_argument(f"Expected {alias} Tensor of {dtype}. Got: {_dtype(value)}")
  if len(value) != num_examples:
    raise invalid_argument(f"Expected {alias} output batch size of {num_examples}. Got: {len(value)}")


def _regression_result(
  signature: meta_graph_pb2.SignatureDef, values: Mapping[str, np.ndarray], num_examples: int
) -> regression_pb2.RegressionResult:
  value = values[signature.outputs[OUTPUTS].name]
  if value.ndim != 1 and not (value.ndim == 2 and value.shape[1] == 1):
    raise invalid_argument(
      f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {_shape(value)}"
    )
  if len(value) != num_examples:
    raise invalid_argument(
      f"Input batch size did not match output batch size: {num_examples} vs. {len(value)}"
    )
  if _dtype(value) != "DT_FLOAT":
    raise invalid_argument(f"Expected output Tensor of DT_FLOAT.  Got: {_dtype(value)}")
  result = regression_pb2.RegressionResult()
  for number in value.ravel().tolist():
    result.regressions.add(value=number)
  return result


def _shape(value: np.ndarray) -> str:
  return f"[{','.join(map(str, value.shape))}]"


def _dtype(value: np.ndarray) -> str:
  if value.dtype.kind == "O":
    return "DT_STRING"
  return types_pb2.DataType.Name(tf.as_dtype(value.dtype).as_datatype_enum)


class Method(NamedTuple):
  """What tells classification and regression apart."""

  noun: str
  result_field: str  # of InferenceResult
  output_aliases: tuple[str, ...]
  no_outputs: str
  check_num_outputs: Callable[[int], None]
  result: Callable[[meta_graph_pb2.SignatureDef, Mapping[str, np.ndarray], int], Any]

  def output_names(self, signature: meta_graph_pb2.SignatureDef) -> list[str]:
    """Names of the tensors that the method reads."""
    return [signature.outputs[alias].name for alias in self.output_aliases if alias in signature.outputs]


METHODS: dict[str, Method] = {
  CLASSIFY_METHOD: Method(
    "classification",
    "classification_result",
    (CLASSES, SCORES),
    f'Expected classification signature outputs to contain at least one of "{CLASSES}" or "{SCORES}". '
    "Signature was: {signature}",
    _check_num_classification_outputs,
    _classification_result,
  ),
  REGRESS_METHOD: Method(
    "regression",
    "regression_result",
    (OUTPUTS,),
    "No regression outputs found in SignatureDef: {signature}",
    _check_num_regression_outputs,
    _regression_result,
  ),
}
