"""Predict's JSON: values, dtypes, and TF Serving's texts for what is wrong."""

import json

import ml_dtypes
import numpy as np
import pytest

from serving.errors import RequestError
from serving.rest import rest_json
from serving.rest.json_tensors import decimal_doubles
from serving.rest.rest_json import read_predict_inputs, write_predict_outputs
from tests.serving.json_calls import (
  DOUBLE,
  FLOAT,
  INT32,
  INT64,
  STRING,
  UINT8,
  assert_tensor,
  read,
)


def test_rows_of_an_only_input():
  inputs = read({"instances": [[1, 2], [3, 4], [5, 6]]}, x=INT32)
  assert inputs.is_row
  assert inputs.signature_name == ""
  assert_tensor(inputs.arrays["x"], np.int32, [[1, 2], [3, 4], [5, 6]])


def test_whole_and_decimal_numbers_are_floats():
  arrays = read({"instances": [1, 2.0, 3, 5.003, 0.007, 0]}, x=FLOAT).arrays
  assert_tensor(arrays["x"], np.float32, np.float32([1, 2, 3, 5.003, 0.007, 0]).tolist())
  arrays = read({"instances": [1.0, 2, 0.662]}, x=DOUBLE).arrays
  assert_tensor(arrays["x"], np.float64, [1.0, 2.0, 0.662])


def test_signature_is_asked_for_by_name():
  asked = []
  inputs = read_predict_inputs(
    b'{"signature_name": "predict_images", "instances": [[1, 2]]}',
    lambda name: asked.append(name) or {"x": INT32},
  )
  assert asked == ["predict_images"] == [inputs.signature_name]


def test_base64_scalars_and_lists():
  hello, world = {"b64": "aGVsbG8="}, {"b64": "d29ybGQ="}
  assert_tensor(read({"instances": [hello, world]}, x=STRING).arrays["x"], object, [b"hello", b"world"])
  assert_tensor(
    read({"instances": [[hello], [world]]}, x=STRING).arrays["x"], object, [[b"hello"], [b"world"]]
  )
  named = read({"instances": [{"x": [[hello], [world]]}]}, x=STRING)
  assert_tensor(named.arrays["x"], object, [[[b"hello"], [b"world"]]])
  column = read({"inputs": hello}, x=STRING)
  assert not column.is_row
  assert column.arrays["x"].shape == ()
  assert_tensor(column.arrays["x"], object, b"hello")
  unpadded = read({"inputs": ["text é", {"b64": "aGVsbG8"}]}, x=STRING)
  assert_tensor(unpadded.arrays["x"], object, ["text é".encode(), b"hello"])


def test_rows_of_named_inputs():
  body = """{"instances": [
    {"i": [[1, 2], [3, 4]], "s": ["foo", "bar"], "f": [1.0, NaN], "d": [NaN]},
    {"f": [2.0, -Infinity], "i": [[7, 8], [9, 0]], "s": ["baz", "bat"], "d": [2.0]}]}"""
  arrays = read(body, i=INT32, s=STRING, f=FLOAT, d=DOUBLE).arrays
  assert_tensor(arrays["i"], np.int32, [[[1, 2], [3, 4]], [[7, 8], [9, 0]]])
  assert_tensor(arrays["s"], object, [[b"foo", b"bar"], [b"baz", b"bat"]])
  np.testing.assert_array_equal(arrays["f"], np.float32([[1, np.nan], [2, -np.inf]]))
  np.testing.assert_array_equal(arrays["d"], [[np.nan], [2.0]])


def test_columns_of_named_inputs():
  body = {"inputs": {"i": [[[1, 2], [3, 4]]], "s": ["foo", "bar"], "b": {"b64": "aGVsbG8="}, "unknown": 1}}
  inputs = read(body, i=INT32, s=STRING, b=STRING)
  assert not inputs.is_row
  assert sorted(inputs.arrays) == ["b", "i", "s"]
  assert_tensor(inputs.arrays["i"], np.int32, [[[1, 2], [3, 4]]])
  assert_tensor(inputs.arrays["b"], object, b"hello")


def written(outputs, is_row):
  return json.loads(write_predict_outputs(outputs, is_row))


def test_an_only_output_stands_without_its_name():
  values = np.int32([[[1, 2], [3, 4]], [[7, 8], [9, 0]]])
  assert written({"y": values}, True) == {"predictions": values.tolist()}
  assert written({"y": values}, False) == {"outputs": values.tolist()}
  assert written({"y": np.int64(5)[()] * np.ones((), np.int64)}, False) == {"outputs": 5}


def test_named_outputs_by_row_and_by_column():
  outputs = {
    "score": np.float64([8.0, 9.0]),
    "ids": np.int64([[1], [2]]),
    "raw_bytes": np.array([[b"hello"], [b"\xff"]], object),
    "text": np.array([b"foo", "é".encode()], object),
    "flag": np.array([True, False]),
  }
  assert written(outputs, True) == {
    "predictions": [
      {"flag": True, "ids": [1], "raw_bytes": [{"b64": "aGVsbG8="}], "score": 8.0, "text": "foo"},
      {"flag": False, "ids": [2], "raw_bytes": [{"b64": "/w=="}], "score": 9.0, "text": "é"},
    ]
  }
  assert written(outputs, False) == {
    "outputs": {
      "flag": [True, False],
      "ids": [[1], [2]],
      "raw_bytes": [[{"b64": "aGVsbG8="}], [{"b64": "/w=="}]],
      "score": [8.0, 9.0],
      "text": ["foo", "é"],
    }
  }


def test_no_examples():
  assert written({"y": np.zeros((0, 2), np.float32)}, True) == {"predictions": []}
  assert written({"y": np.zeros((0, 2), np.int32), "z": np.zeros((0, 1), object)}, True) == {
    "predictions": []
  }


def test_floats_have_their_own_digits_and_a_point():
  values = np.float32(
    [9000000, 999999, 0.5, 0.0003, 555557.5, 0.1, 1 / 3, 3.4028235e38, 1e-45, 16777216, -0.0]
  )
  text = write_predict_outputs({"y": values}, True).decode()
  numbers = text[text.index("[") + 1 : text.index("]")].split(",")
  assert [np.float32(n) for n in numbers] == values.tolist()
  assert all("." in n or "e" in n for n in numbers)
  assert numbers[:6] == ["9000000.0", "999999.0", "0.5", "0.0003", "555557.5", "0.1"]
  assert numbers[6] in ("0.33333334", "0.333333343")
  assert (
    write_predict_outputs({"y": np.float64([0.1, 1 / 3])}, True)
    == b'{"predictions":[0.1,0.3333333333333333]}'
  )
  assert (
    write_predict_outputs({"y": np.array([0.1], ml_dtypes.bfloat16)}, True)
    == b'{"predictions":[0.100097656]}'
  )
  assert write_predict_outputs({"y": np.float16([0.1])}, True) == b'{"predictions":[0.099975586]}'


def test_numbers_that_are_none_and_infinities():
  values = np.float32([[np.nan, np.inf], [3, -np.inf]])
  assert write_predict_outputs({"y": values}, True) == b'{"predictions":[[NaN,Infinity],[3.0,-Infinity]]}'


def test_decimal_doubles_are_exact_and_short():
  generator = np.random.default_rng(3)
  any_bits = generator.integers(0, 2**32, 20_000, np.uint32).view(np.float32)
  values = np.concatenate(
    [any_bits, generator.random(20_000, np.float32), np.float32([0, -0.0, np.inf, np.nan])]
  )
  doubles = decimal_doubles(values)
  np.testing.assert_array_equal(doubles.astype(np.float32), values)
  finite = np.isfinite(values)
  digits = [len(repr(d).split("e")[0].replace(".", "").strip("-0")) for d in doubles[finite].tolist()]
  assert max(digits) <= 9
  shortest = [len(s.split("e")[0].replace(".", "").strip("-0")) for s in values[finite].astype("U").tolist()]
  assert np.mean(np.array(digits) > np.maximum(shortest, 6)) < 0.02


def test_outputs_that_do_not_fit_rows():
  for outputs, text in (
    ({}, "Cannot convert empty tensor map to JSON"),
    ({"y": np.ones(())}, "Tensor name: y has no shape information "),
    (
      {"a": np.ones((2, 3)), "b": np.ones((1, 3))},
      "Tensor name: b has inconsistent batch size: 1 expecting: 2",
    ),
  ):
    with pytest.raises(RequestError) as caught:
      write_predict_outputs(outputs, True)
    assert caught.value.message == text


def test_strings_that_are_no_text_keep_their_bytes():
  outputs = {"image": np.array([b'\xff"\xd8\n', b"plain"], object), "y": np.float32([np.nan, 0.1])}
  text = write_predict_outputs(outputs, False)
  assert text == b'{"outputs": {"image": ["\xff\\"\xd8\\n", "plain"], "y": [NaN, 0.1]}}'


def test_large_requests_take_the_quick_way(monkeypatch):
  """A batch of images goes through numpy in one piece, even where its file holds no decimal point."""
  monkeypatch.setattr(rest_json, "read_exactly", None)
  pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3))
  for enum, dtype in ((UINT8, np.uint8), (FLOAT, np.float32), (INT64, np.int64)):
    array = read({"instances": pixels.tolist()}, x=enum).arrays["x"]
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, pixels)
