"""TensorFlow's dtypes: their numbers, names, numpy's counterparts and fields of a TensorProto, without TensorFlow.

Source: tensorflow/core/framework/{tensor,types}.proto
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

DT_STRING = 7
_REF_OFFSET = 100  # from a dtype's enum to that of a reference to it

# {enum of DataType: (TensorFlow's name, numpy dtype, field of TensorProto that holds its values)}
_DTYPES = {
  enum: (name, np.dtype(dtype), field)
  for enum, name, dtype, field in (
    (1, "float32", np.float32, "float_val"),
    (2, "float64", np.float64, "double_val"),
    (3, "int32", np.int32, "int_val"),
    (4, "uint8", np.uint8, "int_val"),
    (5, "int16", np.int16, "int_val"),
    (6, "int8", np.int8, "int_val"),
    (7, "string", object, "string_val"),
    (8, "complex64", np.complex64, "scomplex_val"),
    (9, "int64", np.int64, "int64_val"),
    (10, "bool", np.bool_, "bool_val"),
    # TensorFlow's numpy dtypes of quantized values have one field, so that they are told from plain integers.
    (11, "qint8", [("qint8", np.int8)], "int_val"),
    (12, "quint8", [("quint8", np.uint8)], "int_val"),
    (13, "qint32", [("qint32", np.int32)], "int_val"),
    (14, "bfloat16", ml_dtypes.bfloat16, "half_val"),
    (15, "qint16", [("qint16", np.int16)], "int_val"),
    (16, "quint16", [("quint16", np.uint16)], "int_val"),
    (17, "uint16", np.uint16, "int_val"),
    (18, "complex128", np.complex128, "dcomplex_val"),
    (19, "float16", np.float16, "half_val"),
    (22, "uint32", np.uint32, "uint32_val"),
    (23, "uint64", np.uint64, "uint64_val"),
    (24, "float8_e5m2", ml_dtypes.float8_e5m2, "float8_val"),
    (25, "float8_e4m3fn", ml_dtypes.float8_e4m3fn, "float8_val"),
    (29, "int4", ml_dtypes.int4, "int_val"),
    (30, "uint4", ml_dtypes.uint4, "int_val"),
  )
}
_ENUMS = {dtype: enum for enum, (_, dtype, _) in _DTYPES.items()}
_NAMES = {enum: name for enum, (name, _, _) in _DTYPES.items()} | {20: "resource", 21: "variant"}


def dtype_name(enum: int) -> str:
  """TensorFlow's name of a DataType, such as "float32".

  Raises:
    ValueError: there is no such type.
  """
  is_reference = enum > _REF_OFFSET
  name = _NAMES.get(enum - _REF_OFFSET if is_reference else enum)
  if name is None:
    raise ValueError(f"unknown dtype {enum}")
  return f"{name}_ref" if is_reference else name


def numpy_dtype(enum: int) -> np.dtype:
  """The numpy dtype of a DataType; object for strings.

  Raises:
    ValueError: there is no such type, or no tensor of it can be sent.
  """
  if enum not in _DTYPES:
    raise ValueError(f"dtype {dtype_name(enum)} cannot be sent as a tensor")
  return _DTYPES[enum][1]


def value_field(enum: int) -> str:
  """The field of a TensorProto that holds the values of a DataType.

  Raises:
    KeyError: no tensor of it can be sent.
  """
  return _DTYPES[enum][2]


def dtype_enum(dtype: np.dtype) -> int:
  """The DataType of a numpy dtype.

  Raises:
    ValueError: no tensor of it can be sent.
  """
  enum = _ENUMS.get(dtype)
  if enum is None:
    raise ValueError(f"dtype {dtype} cannot be sent as a tensor")
  return enum
