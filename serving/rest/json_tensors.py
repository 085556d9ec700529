"""Tensors between JSON values and numpy arrays, with the checks and texts of TF Serving's REST API.

A tensor is read twice over only where it must be: `read_quickly` hands the whole nested list to numpy and gives up
where that could differ from TF Serving's value-by-value rules; `read_exactly` follows those rules and words the error.

Source: tensorflow_serving/util/json_tensor.cc
"""

from __future__ import annotations

import base64
import binascii
from typing import Any

import grpc
import ml_dtypes
import numpy as np
from pydantic_core import to_json

from serving.errors import RequestError, invalid_argument
from serving.messages.dtypes import DT_STRING, dtype_name, numpy_dtype

BASE64_KEY = "b64"
BYTES_SUFFIX = "_bytes"
MAX_RANK = 32  # of a numpy array

DT_BOOL = 10
DT_FLOAT, DT_DOUBLE, DT_BFLOAT16, DT_HALF = 1, 2, 14, 19
FLOATS = {enum: numpy_dtype(enum) for enum in (DT_FLOAT, DT_DOUBLE, DT_BFLOAT16, DT_HALF)}
# int32, uint8, int16, int8, int64, uint16, uint32, uint64
INTEGERS = {enum: numpy_dtype(enum) for enum in (3, 4, 5, 6, 9, 17, 22, 23)}
# TF Serving's C++ names, where Python's are others.
_NAMES = {DT_FLOAT: "float", DT_DOUBLE: "double", DT_HALF: "half"}
# Largest whole number that a float, a double holds without loss, by TF Serving's reckoning; and their largest values.
_MAX_WHOLE = {DT_FLOAT: 2**24 - 1, DT_DOUBLE: 2**53 - 1, DT_BFLOAT16: 2**24 - 1, DT_HALF: 65504}
_LARGEST = {enum: float(ml_dtypes.finfo(dtype).max) for enum, dtype in FLOATS.items()}
# Any 9 significant digits tell float32 values apart; TF Serving tries 6 first.
_FLOAT32_DIGITS = (6, 7, 8, 9)
_FEW = 32  # so many are printed one by one sooner than by arithmetic
_MAX_EXACT_POWER = 22  # 10**22 is the largest power of ten that a double holds exactly


def read_quickly(value: Any, enum: int) -> np.ndarray | None:
  """The tensor that `read_exactly` gives, or None where only that function can tell.

  Args:
    value: from a document that holds no true or false, unless the tensor is boolean: numpy takes them for numbers.
    enum: tensorflow.DataType of the tensor.
  """
  if enum == DT_STRING:
    return _read_strings_quickly(value)
  try:
    array = np.array(value)
  except (ValueError, OverflowError):
    return None
  if enum == DT_BOOL:
    return array if array.dtype.kind == "b" else None
  if enum in FLOATS and array.dtype.kind in "iuf":
    wide = array.astype(np.float64, copy=False)
    lossless = (np.abs(wide) <= _MAX_WHOLE[enum]) | ~np.isfinite(wide)
    return wide.astype(FLOATS[enum]) if lossless.all() else None
  if enum in INTEGERS and array.dtype.kind in "iu" and array.size:
    limits = np.iinfo(INTEGERS[enum])
    within = limits.min <= int(array.min()) and int(array.max()) <= limits.max
    return array.astype(INTEGERS[enum]) if within else None
  return None


def _read_strings_quickly(value: Any) -> np.ndarray | None:
  try:
    array = np.array(value, object)
  except ValueError:
    return None
  leaves = array.ravel().tolist()
  if not all(isinstance(leaf, str) or is_base64(leaf) for leaf in leaves):
    return None
  return _object_array([read_string(leaf) for leaf in leaves], array.shape)


def read_exactly(value: Any, enum: int) -> np.ndarray:
  """The tensor of one JSON value.

  Args:
    value: a scalar, or lists nested to any depth.
    enum: tensorflow.DataType of the tensor.

  Raises:
    RequestError: the lists are ragged, or a value is not of the dtype.
  """
  shape = _dense_shape(value)
  if len(shape) > MAX_RANK:
    raise invalid_argument(
      f"A tensor of rank {len(shape)} is not supported: at most {MAX_RANK} levels of lists"
    )
  leaves: list[Any] = []
  _collect(value, 0, shape, enum, leaves)
  if enum == DT_STRING:
    return _object_array(leaves, shape)
  if enum in FLOATS:
    return np.array(leaves, np.float64).astype(FLOATS[enum]).reshape(shape)
  return np.array(leaves, INTEGERS.get(enum, np.dtype(np.bool_))).reshape(shape)


def _dense_shape(value: Any) -> tuple[int, ...]:
  shape = []
  while isinstance(value, list):
    shape.append(len(value))
    if not value:
      break
    value = value[0]
  return tuple(shape)


def _collect(value: Any, level: int, shape: tuple[int, ...], enum: int, leaves: list[Any]) -> None:
  if not isinstance(value, list):
    if level != len(shape):
      raise invalid_argument(
        f"JSON Value: {json_text(value)} found at incorrect level: {level + 1} in the JSON DOM. "
        f"Expected at level: {len(shape)}"
      )
    leaves.append(_leaf(value, enum))
    return
  if level >= len(shape):
    raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {len(shape)}")
  if len(value) != shape[level]:
    raise invalid_argument(
      f"Encountered list at unexpected size: {len(value)} at level: {level} expected size: {shape[level]}"
    )
  for item in value:
    _collect(item, level + 1, shape, enum, leaves)


def _leaf(value: Any, enum: int) -> Any:
  """One checked value of a tensor, as Python holds it."""
  if enum == DT_STRING:
    if isinstance(value, str | dict):
      return read_string(value)
  elif enum == DT_BOOL:
    if isinstance(value, bool):
      return value
  elif enum in FLOATS:
    if isinstance(value, int | float) and not isinstance(value, bool):
      return _lossless(value, enum)
  elif enum in INTEGERS:
    limits = np.iinfo(INTEGERS[enum])
    if isinstance(value, int) and not isinstance(value, bool) and limits.min <= value <= limits.max:
      return value
  else:
    raise RequestError(
      grpc.StatusCode.UNIMPLEMENTED,
      f"Conversion of JSON Value: {json_text(value)} to type: {type_name(enum)}",
    )
  raise invalid_argument(
    f"JSON Value: {json_text(value)} Type: {json_type(value)} is not of expected type: {type_name(enum)}"
  )


def _lossless(value: float, enum: int) -> float:
  if not is_lossless(value, enum):
    raise lossy(value, type_name(enum))
  return float(value)


def is_lossless(value: float, enum: int) -> bool:
  """Whether TF Serving lets a number stand for a float of this DataType; whole numbers have a rule of their own."""
  if isinstance(value, int) and -(2**63) <= value < 2**64:
    return abs(value) <= _MAX_WHOLE[enum]
  try:
    wide = float(value)
  except OverflowError:
    return False
  return not np.isfinite(wide) or abs(wide) <= _LARGEST[enum]


def lossy(value: float, target: str) -> RequestError:
  """The error for a number that `is_lossless` refuses."""
  return invalid_argument(
    f"Cannot convert JSON value: {json_text(value)} to {target} without loss of precision."
  )


def is_base64(value: Any) -> bool:
  """Whether a JSON value is {"b64": "..."} and nothing else."""
  return isinstance(value, dict) and len(value) == 1 and isinstance(value.get(BASE64_KEY), str)


def read_string(value: str | dict[str, Any]) -> bytes:
  """The bytes of a JSON string, or of an object that holds them in base64.

  Raises:
    RequestError: the object is another one, or its text is not base64.
  """
  if isinstance(value, str):
    return value.encode("utf-8")
  if not is_base64(value):
    raise invalid_argument(f"JSON Value: {json_text(value)} not formatted correctly for base64 data")
  text = "".join(value[BASE64_KEY].split())
  if not text.endswith("="):
    text += "=" * (-len(text) % 4)
  try:
    return base64.b64decode(text, validate=True)
  except (binascii.Error, ValueError) as error:
    raise invalid_argument("Unable to base64 decode") from error


def json_values(name: str, array: np.ndarray) -> Any:
  """An output as what `json` functions write: nested lists, or a scalar.

  Args:
    name: of the output; strings under a name that ends in "_bytes" become {"b64": ...}.
    array: any shape; numeric, boolean, or object dtype that holds bytes.

  Raises:
    RequestError: JSON cannot hold the dtype.
  """
  if array.dtype == object:
    as_bytes = name.endswith(BYTES_SUFFIX)
    # Bytes that are no UTF-8 go into the text as they are, as TF Serving's do.
    leaves = [
      _write_bytes(leaf) if as_bytes else leaf.decode("utf-8", "surrogateescape")
      for leaf in array.ravel().tolist()
    ]
    return _object_array(leaves, array.shape).tolist()
  if array.dtype in (FLOATS[DT_HALF], FLOATS[DT_BFLOAT16]):
    array = array.astype(np.float32)
  if array.dtype == np.float32:
    return decimal_doubles(array).tolist()
  if array.dtype.kind not in "fiub":
    raise invalid_argument(f"Failed to write JSON value for tensor type: {array.dtype.name}")
  return array.tolist()


def _write_bytes(leaf: bytes) -> dict[str, str]:
  return {BASE64_KEY: base64.b64encode(leaf).decode("ascii")}


def decimal_doubles(array: np.ndarray) -> np.ndarray:
  """Doubles that print with the few digits that tell each float32 apart: 0.1, not 0.10000000149011612.

  Args:
    array: float32, any shape.

  Returns:
    float64 of the same shape; each value rounds to its float32.
  """
  with np.errstate(invalid="ignore", over="ignore"):  # NaNs of any kind; roundings past the largest float32
    return _decimal_doubles(array.ravel()).reshape(array.shape)


def _decimal_doubles(flat: np.ndarray) -> np.ndarray:
  if flat.size <= _FEW:
    return flat.astype("U").astype(np.float64)
  exact = flat.astype(np.float64)
  doubles = exact.copy()
  pending = np.flatnonzero(np.isfinite(exact) & (exact != 0))
  exponents = np.floor(np.log10(np.abs(exact[pending]))).astype(np.int64)
  for digits in _FLOAT32_DIGITS:
    power = digits - 1 - exponents
    within = np.abs(power) <= _MAX_EXACT_POWER
    scale = 10.0 ** np.minimum(np.abs(power), _MAX_EXACT_POWER)
    values = exact[pending]
    rounded = np.where(power >= 0, np.rint(values * scale) / scale, np.rint(values / scale) * scale)
    found = within & (rounded.astype(np.float32) == flat[pending])
    doubles[pending[found]] = rounded[found]
    pending, exponents = pending[~found], exponents[~found]
  if pending.size:  # very small and very large ones: numpy prints them one by one
    doubles[pending] = flat[pending].astype("U").astype(np.float64)
  return doubles


def json_text(value: Any) -> str:
  """A JSON value as error messages show it."""
  return to_json(value, indent=4, inf_nan_mode="constants").decode("utf-8")


def type_name(enum: int) -> str:
  """The name of a DataType in error messages, such as "float"."""
  return _NAMES.get(enum) or dtype_name(enum)


def json_type(value: Any) -> str:
  """The name of a JSON value's type in error messages."""
  if value is None or isinstance(value, bool):
    return {None: "Null", False: "False", True: "True"}[value]
  names = {dict: "Object", list: "Array", str: "String"}
  return names.get(type(value), "Number")


def _object_array(leaves: list[Any], shape: tuple[int, ...]) -> np.ndarray:
  array = np.empty(len(leaves), object)
  array[:] = leaves
  return array.reshape(shape)
