"""Classify's and Regress' JSON: tf.Examples as objects, results as lists.

Source: tensorflow_serving/util/json_tensor.cc
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from serving.errors import invalid_argument
from serving.rest.json_tensors import (
  DT_FLOAT,
  decimal_doubles,
  is_base64,
  is_lossless,
  json_text,
  json_type,
  lossy,
  read_string,
)
from serving.rest.rest_json import parse_document, signature_name, write_json

if TYPE_CHECKING:
  from tensorflow.core.example import example_pb2, feature_pb2
  from tensorflow_serving.apis import classification_pb2, regression_pb2

CONTEXT_KEY, EXAMPLES_KEY, RESULTS_KEY = "context", "examples", "results"
_INT64_LIMIT, _UINT64_LIMIT = 2**63, 2**64


def read_examples(
  body: bytes, request: classification_pb2.ClassificationRequest | regression_pb2.RegressionRequest
) -> None:
  """Fills a request's `input` and signature name from JSON.

  Raises:
    RequestError: with TF Serving's text, what is wrong with the JSON.
  """
  document = parse_document(body)
  request.model_spec.signature_name = signature_name(document)
  fields = document.fields
  examples = request.input.example_list.examples
  if CONTEXT_KEY in fields:
    with_context = request.input.example_list_with_context
    _fill_example(fields[CONTEXT_KEY], with_context.context)
    examples = with_context.examples
  if EXAMPLES_KEY not in fields:
    raise invalid_argument(
      f"JSON Value: {json_text(fields)} When method is classify, key '{EXAMPLES_KEY}' is expected and was not found"
    )
  if not isinstance(fields[EXAMPLES_KEY], list):
    raise invalid_argument(
      f"JSON Value: {json_text(fields)} Expecting '{EXAMPLES_KEY}' value to be an list/array"
    )
  if not fields[EXAMPLES_KEY]:
    raise invalid_argument(f"JSON Value: {json_text(fields)} '{EXAMPLES_KEY}' value is an empty array")
  for value in fields[EXAMPLES_KEY]:
    _fill_example(value, examples.add())


def _fill_example(value: Any, example: example_pb2.Example) -> None:
  if not isinstance(value, dict):
    raise invalid_argument(f"Example must be JSON object but got JSON {json_type(value)}")
  example.SetInParent()
  for name, content in value.items():
    feature = example.features.feature[name]
    for item in content if isinstance(content, list) else [content]:
      _append_value(item, name, feature)


def _append_value(value: Any, name: str, feature: feature_pb2.Feature) -> None:
  if isinstance(value, bool):
    _list_of(feature, "int64_list", name).append(int(value))
  elif isinstance(value, str) or is_base64(value):
    _list_of(feature, "bytes_list", name).append(read_string(value))
  elif isinstance(value, int) and -_INT64_LIMIT <= value < _UINT64_LIMIT:
    values = _list_of(feature, "int64_list", name)
    if value >= _INT64_LIMIT:
      raise invalid_argument(f"Feature: {name} has uint64 element. Only int64 is supported.")
    values.append(value)
  elif isinstance(value, int | float):
    values = _list_of(feature, "float_list", name)
    if not is_lossless(value, DT_FLOAT):
      raise lossy(value, "float")
    values.append(float(value))
  else:
    raise invalid_argument(f"Feature: {name} has element with unexpected JSON type: {json_type(value)}")


def _list_of(feature: feature_pb2.Feature, kind: str, name: str) -> Any:
  """The feature's values, which are all of one kind."""
  present = feature.WhichOneof("kind")
  if present not in (None, kind):
    raise invalid_argument(
      f"Unexpected element type in feature: {name} expecting type: {present.removesuffix('_list')}"
    )
  return getattr(feature, kind).value


def write_classifications(result: classification_pb2.ClassificationResult) -> bytes:
  """{"results": for each example [[label, score], ...]}.

  Raises:
    RequestError: the result is empty.
  """
  if not result.classifications:
    raise invalid_argument("Cannot convert empty ClassificationResults to JSON")
  rows = []
  for classifications in result.classifications:
    scores = _decimals([entry.score for entry in classifications.classes])
    rows.append([[entry.label, score] for entry, score in zip(classifications.classes, scores, strict=True)])
  return write_json({RESULTS_KEY: rows})


def write_regressions(result: regression_pb2.RegressionResult) -> bytes:
  """{"results": a value for each example}.

  Raises:
    RequestError: the result is empty.
  """
  if not result.regressions:
    raise invalid_argument("Cannot convert empty RegressionResults to JSON")
  return write_json({RESULTS_KEY: _decimals([regression.value for regression in result.regressions])})


def _decimals(values: list[float]) -> list[float]:
  return decimal_doubles(np.array(values, np.float32)).tolist()
