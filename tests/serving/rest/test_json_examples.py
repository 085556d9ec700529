"""Classify's and Regress' JSON: tf.Examples in, results out, and TF Serving's texts for what is wrong."""

import json

import numpy as np
import pytest
from tensorflow_serving.apis import classification_pb2, regression_pb2

from serving.errors import RequestError
from serving.rest.json_examples import read_examples, write_classifications, write_regressions


def examples(body, kind=classification_pb2.ClassificationRequest):
  request = kind()
  read_examples(json.dumps(body).encode(), request)
  return request


@pytest.mark.parametrize("kind", [classification_pb2.ClassificationRequest, regression_pb2.RegressionRequest])
def test_examples_with_a_context(kind):
  request = examples(
    {
      "signature_name": "custom",
      "context": {"query": "pizza", "location": ["sfo"]},
      "examples": [
        {"names": ["foo", {"b64": "aGVsbG8="}], "ratings": [8.0, float("nan")], "age": 20, "none": []},
        {"mix": [1, True, False], "ratings": 6.0, "big": 1e20},
      ],
    },
    kind,
  )
  assert request.model_spec.signature_name == "custom"
  assert request.input.WhichOneof("kind") == "example_list_with_context"
  given = request.input.example_list_with_context
  assert given.context.features.feature["query"].bytes_list.value == [b"pizza"]
  assert given.context.features.feature["location"].bytes_list.value == [b"sfo"]
  first, second = (example.features.feature for example in given.examples)
  assert first["names"].bytes_list.value == [b"foo", b"hello"]
  assert first["ratings"].float_list.value[0] == 8.0
  assert np.isnan(first["ratings"].float_list.value[1])
  assert first["age"].int64_list.value == [20]
  assert first["none"].WhichOneof("kind") is None
  assert second["mix"].int64_list.value == [1, 1, 0]
  assert second["ratings"].float_list.value == [6.0]


def test_examples_without_a_context():
  request = examples({"examples": [{"x": 1.5}, {}]})
  assert request.input.WhichOneof("kind") == "example_list"
  assert [len(e.features.feature) for e in request.input.example_list.examples] == [1, 0]


@pytest.mark.parametrize(
  ("body", "text"),
  [
    ({"signature_name": ["a"], "examples": [{}]}, "'signature_name' key must be a string"),
    ({"context": [{"a": 1}], "examples": [{}]}, "Example must be JSON object but got JSON Array"),
    ({"instances": []}, "When method is classify, key 'examples' is expected and was not found"),
    ({"examples": {"a": 1}}, "Expecting 'examples' value to be an list/array"),
    ({"examples": []}, "'examples' value is an empty array"),
    ({"examples": [[{"a": 1}]]}, "Example must be JSON object but got JSON Array"),
    ({"examples": [{"a": [10, None]}]}, "Feature: a has element with unexpected JSON type: Null"),
    ({"examples": [{"a": [10, 10.5]}]}, "Unexpected element type in feature: a expecting type: int64"),
    ({"examples": [{"a": ["x", 1]}]}, "Unexpected element type in feature: a expecting type: bytes"),
    ({"examples": [{"a": [10, {"test": 10}]}]}, "Feature: a has element with unexpected JSON type: Object"),
    ({"examples": [{"a": [[10], 20]}]}, "Feature: a has element with unexpected JSON type: Array"),
    (
      {"examples": [{"a": [18446744073709551603]}]},
      "Feature: a has uint64 element. Only int64 is supported.",
    ),
    ({"examples": [{"a": 1.7e308}]}, "to float without loss of precision"),
  ],
)
def test_wrong_examples(body, text):
  with pytest.raises(RequestError) as caught:
    examples(body)
  assert text in caught.value.message
  assert caught.value.code.name == "INVALID_ARGUMENT"


def test_results():
  result = classification_pb2.ClassificationResult()
  for scores in ((0.2, 0.7), (0.1, float("inf"))):
    classes = result.classifications.add().classes
    for label, score in zip(("car", "bike"), scores, strict=True):
      classes.add(label=label, score=score)
  assert write_classifications(result) == (
    b'{"results":[[["car",0.2],["bike",0.7]],[["car",0.1],["bike",Infinity]]]}'
  )
  regressions = regression_pb2.RegressionResult()
  for value in (0.2, 1.0, float("nan")):
    regressions.regressions.add(value=value)
  assert write_regressions(regressions) == b'{"results":[0.2,1.0,NaN]}'
  with pytest.raises(RequestError, match="Cannot convert empty ClassificationResults to JSON"):
    write_classifications(classification_pb2.ClassificationResult())
  with pytest.raises(RequestError, match="Cannot convert empty RegressionResults to JSON"):
    write_regressions(regression_pb2.RegressionResult())
