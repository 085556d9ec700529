"""Predict's JSON read as a server reads it."""

import json

import numpy as np
from tensorflow.core.framework import types_pb2

from serving.rest.rest_json import read_predict_inputs

INT32, FLOAT, DOUBLE, STRING = (
  types_pb2.DataType.Value(f"DT_{n}") for n in ("INT32", "FLOAT", "DOUBLE", "STRING")
)
BOOL, UINT8, INT64, UINT64 = (
  types_pb2.DataType.Value(f"DT_{n}") for n in ("BOOL", "UINT8", "INT64", "UINT64")
)
HALF, BFLOAT16 = (types_pb2.DataType.Value(f"DT_{n}") for n in ("HALF", "BFLOAT16"))


def read(body, **types):
  text = body if isinstance(body, str | bytes) else json.dumps(body)
  data = text.encode() if isinstance(text, str) else text
  return read_predict_inputs(data, lambda name: dict(sorted(types.items())))


def assert_tensor(array, dtype, values):
  assert array.dtype == np.dtype(dtype)
  assert array.tolist() == values
