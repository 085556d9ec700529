"""Classify, Regress and MultiInference: signatures that take serialized tf.Examples.

Source: tensorflow_serving/servables/tensorflow/{classifier,regressor,multi_inference,util}.cc
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import classification_pb2, inference_pb2, input_pb2, regression_pb2

from serving.errors import CODES, RequestError, invalid_argument
from serving.methods.inference_methods import (
  CLASSIFY_METHOD,
  INPUTS,
  METHODS,
  REGRESS_METHOD,
  check_signature,
)
from serving.methods.predict import DEFAULT_SIGNATURE


class Session(Protocol):
  """A loaded model."""

  signatures: Mapping[str, meta_graph_pb2.SignatureDef]

  def run(
    self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout_ms: int = 0
  ) -> list[np.ndarray]: ...


def classify(
  session: Session,
  signature_name: str,
  examples: input_pb2.Input,
  timeout_ms: int = 0,
  *,
  check_method_name: bool = False,
) -> classification_pb2.ClassificationResult:
  """Classes, scores or both for each example.

  Args:
    signature_name: empty for "serving_default". The signature takes strings [batch] as "inputs" and gives
      "classes" (strings [batch, classes]), "scores" (float32 [batch, classes]) or both.
    check_method_name: refuse a signature that was not exported for classification.

  Raises:
    RequestError: with TF Serving's code and text.
  """
  return _infer(CLASSIFY_METHOD, session, signature_name, examples, timeout_ms, check_method_name)


def regress(
  session: Session,
  signature_name: str,
  examples: input_pb2.Input,
  timeout_ms: int = 0,
  *,
  check_method_name: bool = False,
) -> regression_pb2.RegressionResult:
  """One value for each example.

  Args:
    signature_name: empty for "serving_default". The signature takes strings [batch] as "inputs" and gives
      "outputs", float32 [batch] or [batch, 1].
    check_method_name: refuse a signature that was not exported for regression.

  Raises:
    RequestError: with TF Serving's code and text.
  """
  return _infer(REGRESS_METHOD, session, signature_name, examples, timeout_ms, check_method_name)


def multi_inference(
  session: Session,
  tasks: Sequence[inference_pb2.InferenceTask],
  examples: input_pb2.Input,
  timeout_ms: int = 0,
  *,
  check_method_name: bool = False,
) -> list[inference_pb2.InferenceResult]:
  """Several classifications and regressions of the same examples in one run of the model.

  Returns:
    A result for each task; its model_spec holds the name and the signature, the caller adds the version.

  Raises:
    RequestError: with TF Serving's code and text.
  """
  signatures = _task_signatures(session, tasks, check_method_name)
  names = set()
  for task, signature in zip(tasks, signatures.values(), strict=True):
    names.update(METHODS[task.method_name].output_names(signature))
  input_name = next(iter(signatures.values())).inputs[INPUTS].name
  values, num_examples = _run(session, examples, input_name, sorted(names), timeout_ms)
  results = []
  for task, (signature_name, signature) in zip(tasks, signatures.items(), strict=True):
    result = inference_pb2.InferenceResult()
    result.model_spec.name = task.model_spec.name
    result.model_spec.signature_name = signature_name
    method = METHODS[task.method_name]
    getattr(result, method.result_field).CopyFrom(method.result(signature, values, num_examples))
    results.append(result)
  return results


def serialized_examples(examples: input_pb2.Input) -> np.ndarray:
  """The examples of a request as strings [batch]; where there is a context, it precedes each of them.

  Two messages in a row are one message to a parser: the features of both, the example's own where both have one.

  Raises:
    RequestError: INVALID_ARGUMENT, there are none.
  """
  kind = examples.WhichOneof("kind")
  messages = getattr(examples, kind).examples if kind else ()
  if not messages:
    raise invalid_argument("Input is empty.")
  context = b""
  if kind == "example_list_with_context":
    context = examples.example_list_with_context.context.SerializeToString()
  strings = np.empty(len(messages), object)
  strings[:] = [context + example.SerializeToString() for example in messages]
  return strings


def _infer(
  method_name: str,
  session: Session,
  signature_name: str,
  examples: input_pb2.Input,
  timeout_ms: int,
  check_method_name: bool,
) -> Any:
  method = METHODS[method_name]
  signature_name = signature_name or DEFAULT_SIGNATURE
  signature = session.signatures.get(signature_name)
  if signature is None:
    raise invalid_argument(f"No signature was found with the name: {signature_name}")
  check_signature(method_name, signature, check_method_name)
  names = method.output_names(signature)
  values, num_examples = _run(session, examples, signature.inputs[INPUTS].name, names, timeout_ms)
  return method.result(signature, values, num_examples)


def _task_signatures(
  session: Session, tasks: Sequence[inference_pb2.InferenceTask], check_method_name: bool
) -> dict[str, meta_graph_pb2.SignatureDef]:
  """{signature name: signature} in the order of the tasks."""
  if not tasks:
    raise invalid_argument("ModelSpec has no name specified.")
  found = {}
  for task in tasks:
    if not task.model_spec.name:
      raise invalid_argument("Found ModelSpec with an empty model name.")
    if task.model_spec.name != tasks[0].model_spec.name:
      raise invalid_argument("All ModelSpecs in a MultiInferenceRequest must access the same model name.")
    signature_name = task.model_spec.signature_name or DEFAULT_SIGNATURE
    if signature_name in found:
      raise invalid_argument(f"Duplicate evaluation of signature: {signature_name}")
    signature = session.signatures.get(signature_name)
    if signature is None:
      raise invalid_argument(f"Requested signature not found in model graph: {signature_name}")
    if task.method_name not in METHODS:
      raise RequestError(
        grpc.StatusCode.UNIMPLEMENTED, f"Unsupported signature method_name: {task.method_name}"
      )
    check_signature(task.method_name, signature, check_method_name)
    found[signature_name] = signature
  if len({signature.inputs[INPUTS].name for signature in found.values()}) > 1:
    raise invalid_argument("Input tensor must be the same for all Signatures.")
  return found


def _run(
  session: Session, examples: input_pb2.Input, input_name: str, output_names: Sequence[str], timeout_ms: int
) -> tuple[dict[str, np.ndarray], int]:
  """({tensor name: value}, number of examples)."""
  strings = serialized_examples(examples)
  try:
    values = session.run({input_name: strings}, output_names, timeout_ms)
  except tf.errors.OpError as error:
    raise RequestError(CODES.get(error.error_code, grpc.StatusCode.UNKNOWN), error.message) from error
  return dict(zip(output_names, values, strict=True)), len(strings)
