"""JSON values as tensors, quickly and exactly, and the texts for what is wrong."""

import random

import numpy as np
import pytest
from tensorflow.core.framework import types_pb2

from serving.errors import RequestError
from serving.rest import json_tensors
from serving.rest.json_tensors import read_exactly, read_quickly
from serving.rest.rest_json import write_predict_outputs
from tests.serving.json_calls import (
  BOOL,
  DOUBLE,
  FLOAT,
  HALF,
  INT32,
  INT64,
  STRING,
  UINT8,
  UINT64,
  assert_tensor,
  read,
)


def error_of(body, **types):
  with pytest.raises(RequestError) as caught:
    read(body, **types)
  assert caught.value.code.name == "INVALID_ARGUMENT"
  return caught.value.message


def test_every_numeric_dtype():
  for enum, dtype in {**json_tensors.FLOATS, **json_tensors.INTEGERS}.items():
    for body in ({"inputs": [[1, 2], [3, 4]]}, {"inputs": [[1, 2], [3, 4]], "note": True}):
      assert_tensor(read(body, x=enum).arrays["x"], dtype, [[1, 2], [3, 4]])
  assert_tensor(read({"inputs": [[True], [False]]}, x=BOOL).arrays["x"], bool, [[True], [False]])
  limits = [2**63, 2**64 - 1]
  assert_tensor(read({"inputs": limits}, x=UINT64).arrays["x"], np.uint64, limits)
  assert_tensor(read({"inputs": [0, 2**64 - 1]}, x=UINT64).arrays["x"], np.uint64, [0, 2**64 - 1])
  assert_tensor(read({"inputs": [-(2**63), 2**63 - 1]}, x=INT64).arrays["x"], np.int64, [-(2**63), 2**63 - 1])
  assert_tensor(read({"inputs": 7}, x=UINT8).arrays["x"], np.uint8, 7)


@pytest.mark.parametrize("enum", [FLOAT, INT32, BOOL, STRING])
def test_empty_lists_have_a_shape(enum):
  assert read({"inputs": [[], []]}, x=enum).arrays["x"].shape == (2, 0)
  assert read({"inputs": []}, x=enum).arrays["x"].shape == (0,)
  assert read({"instances": [[], []]}, x=enum).arrays["x"].shape == (2, 0)


def test_reading_quickly_and_exactly_agree():
  """Whatever the quick way accepts, the exact one reads to the same tensor; what it refuses is right or an error."""
  generator = random.Random(4)
  leaves = [0, 1, -1, 3.5, 255, 256, 2**24 - 1, 2**24, 2**31, 2**53, 2**63, 2**64, -(2**63), 1e39, -1e300]
  leaves += [float("inf"), float("nan"), "text", {"b64": "aGk="}, {"b65": ""}, None, {}]

  def value(depth):
    if depth == 0:
      return generator.choice(leaves[: generator.choice([3, 6, len(leaves)])])
    return [
      value(depth - generator.choice([1, 1, 1, 1, 0 if depth < 2 else 2]))
      for _ in range(generator.randint(0, 3))
    ]

  accepted = 0
  for _ in range(6000):
    tree, enum = (
      value(generator.choice([0, 1, 2, 3])),
      generator.choice([FLOAT, DOUBLE, INT32, UINT8, UINT64, STRING]),
    )
    quick = read_quickly(tree, enum)
    if quick is not None:
      accepted += 1
      exact = read_exactly(tree, enum)
      assert quick.dtype == exact.dtype and quick.shape == exact.shape
      np.testing.assert_array_equal(quick, exact)
  assert accepted > 500


@pytest.mark.parametrize(
  ("body", "text"),
  [
    ("", "JSON Parse error: The document is empty"),
    (" \n", "JSON Parse error: The document is empty"),
    ("instances = [1]", "JSON Parse error: Invalid value. at offset: 0"),
    (
      '{"instances": [1] } x',
      "JSON Parse error: The document root must not be followed by other values. at offset: 20",
    ),
    (
      '{"instances": [1',
      "JSON Parse error: Missing a comma or closing bracket after an element. at offset: 16",
    ),
    ("{1: 2}", "JSON Parse error: Missing a name for object member. at offset: 1"),
    ("[1, 2]", "Is not object"),
    ("[" * 100_000, "JSON Parse error: recursion limit exceeded"),
    (b'{"instances": ["\xff\xfe"]}', "JSON Parse error: "),
    ('{"instances": ["\\ud800"]}', "JSON Parse error: "),
    ({"signature_name": 5, "instances": [1]}, "'signature_name' key must be a string value."),
    (
      {"instances": [1], "inputs": [1]},
      "Not formatted correctly expecting only one of 'inputs' or 'instances' keys",
    ),
    ({"instances": 1}, "Excepting 'instances' to be an list/array"),
    ({"instances": []}, "No values in 'instances' array"),
    ({"examples": []}, "Missing 'inputs' or 'instances' key"),
    (
      {"instances": [[1, 2], [3, 4], [5, 6, 7]]},
      "Failed to process element: 2 of 'instances' list. Error: INVALID_ARGUMENT: Expecting tensor size: 2 but got: 3",
    ),
    ({"instances": [[1, 2], [[5, 6]]]}, "Expecting shape [2] but got: [1,2]"),
    ({"instances": [1, [1]]}, "Expecting shape [] but got: [1]"),
    ({"instances": [[[1], [2, 3]]]}, "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
    ({"instances": [[1, [2]]]}, "Encountered list at unexpected level: 1 expected < 1"),
    (
      {"instances": [[[1], 2]]},
      "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
    ),
    ({"instances": [[1, 2], ["a", 1]]}, 'JSON Value: "a" Type: String is not of expected type: int32'),
    ({"instances": [1.5]}, "JSON Value: 1.5 Type: Number is not of expected type: int32"),
    ({"instances": [1, True]}, "JSON Value: true Type: True is not of expected type: int32"),
    ({"instances": [None]}, "JSON Value: null Type: Null is not of expected type: int32"),
    ({"instances": [2**31]}, "JSON Value: 2147483648 Type: Number is not of expected type: int32"),
    ({"instances": [{"b64": "aGVsbG8="}]}, "Type: Object is not of expected type: int32"),
    ({"instances": [[1], {"x": 1}]}, "Expecting value/list but got object at item 1 of input list"),
    ({"instances": [{"x": 1}, [1]]}, "Expecting object but got list at item 1 of input list"),
    (
      {"instances": [{"y": 1}]},
      "Failed to process element: 0 key: y of 'instances' list. Error: INVALID_ARGUMENT: JSON object: does not have "
      "named input: y",
    ),
    (
      {"instances": [{"x": 1}, {}]},
      "Failed to process element: 1 of 'instances' list. JSON object: {} keys must be",
    ),
    ({"inputs": {"y": [1]}}, "Missing named input: x in 'inputs' object."),
  ],
)
def test_errors(body, text):
  assert text in error_of(body, x=INT32)


@pytest.mark.parametrize("leaf", [1, "a"])
def test_more_levels_than_an_array_has_dimensions(leaf):
  value = leaf
  for _ in range(40):
    value = [value]
  for enum in (FLOAT, STRING):
    assert "A tensor of rank 40 is not supported" in error_of({"inputs": value}, x=enum)


def test_errors_of_several_inputs():
  text = "expecting list of objects as multiple input tensors required as per tensorinfo_map"
  assert text in error_of({"instances": [[1]]}, x=INT32, y=INT32)
  text = "inputs is a plain value/list, but expecting an object as multiple input tensors required"
  assert text in error_of({"inputs": [1]}, x=INT32, y=INT32)
  assert "keys must be equal to: x,y" in error_of({"instances": [{"x": 1}]}, x=INT32, y=INT32)
  assert error_of({"instances": [1]}) == "Failed to get input map for signature: DEFAULT"


@pytest.mark.parametrize(
  ("enum", "value", "target"),
  [
    (FLOAT, 1.7976931348623157e308, "float"),
    (FLOAT, 16777217, "float"),
    (FLOAT, -16777216, "float"),
    (DOUBLE, 9007199254740993, "double"),
    (DOUBLE, 9007199254740992, "double"),
    (HALF, 1e5, "half"),
  ],
)
def test_numbers_that_a_float_cannot_hold_are_refused(enum, value, target):
  for body in ({"instances": [1.0, value]}, {"instances": [value], "note": True}, {"inputs": value}):
    message = error_of(body, x=enum)
    assert message.endswith(f"to {target} without loss of precision.")
    assert "Cannot convert JSON value: " in message


def test_numbers_that_a_float_just_holds():
  assert_tensor(
    read({"inputs": [16777215, 16777217.0, 2**64]}, x=FLOAT).arrays["x"],
    np.float32,
    [16777215, 16777216, 2**64],
  )
  assert_tensor(read({"inputs": [9007199254740991]}, x=DOUBLE).arrays["x"], np.float64, [9007199254740991])


def test_values_out_of_a_small_integers_range_are_refused_not_wrapped():
  assert "JSON Value: 256 Type: Number is not of expected type: uint8" in error_of(
    {"inputs": [1, 256]}, x=UINT8
  )
  assert "JSON Value: -1 " in error_of({"inputs": [-1]}, x=UINT8)


def test_base64_that_is_none():
  assert error_of({"inputs": {"b64": "a*b="}}, x=STRING) == "Unable to base64 decode"
  assert "not formatted correctly for base64 data" in error_of({"inputs": [{"b64": 5}]}, x=STRING)


def test_dtypes_that_json_cannot_hold():
  with pytest.raises(RequestError, match="Conversion of JSON Value: 1 to type: complex64") as caught:
    read({"inputs": [1]}, x=types_pb2.DT_COMPLEX64)
  assert caught.value.code.name == "UNIMPLEMENTED"
  with pytest.raises(RequestError, match="Failed to write JSON value for tensor type: complex64"):
    write_predict_outputs({"y": np.ones(2, np.complex64)}, is_row=True)
