"""Tensors between serialized TensorProtos and numpy arrays, without TensorFlow.

Message classes hand a repeated field over value by value. The values of a tensor are one packed run of bytes in the
message, and so is `tensor_content`: such runs are read and written in one piece.

Source: tensorflow/core/framework/{tensor,types}.proto and tensor.cc (Tensor::FromProto, Tensor::AsProtoField)
"""

from __future__ import annotations

import functools
import math

import ml_dtypes
import numpy as np
from google.protobuf import message

from serving.messages.dtypes import dtype_enum, numpy_dtype, value_field
from serving.messages.protos import TensorProto
from serving.messages.varint import Buffer, read_varint, skip_field, tagged, write_varint

# No message holds more, so a larger tensor is one whose values are left out.
MAX_TENSOR_BYTES = 2**31 - 1

# Tags of fields whose bytes are the array's own, little-endian, and of fields of packed varints, which are read and
# written in one piece where each takes one byte: class ids, masks, flags.
_ONE_BYTE = 0x80  # varints below take one byte
_CONTENT = 0x22
_RAW_RUNS = {"float_val": 0x2A, "double_val": 0x32, "scomplex_val": 0x4A, "dcomplex_val": 0x62}
_VARINT_RUNS = {"int_val": 0x3A, "int64_val": 0x52, "bool_val": 0x5A, "half_val": 0x6A}
_RUNS = _RAW_RUNS | _VARINT_RUNS
_RUN_TAGS = frozenset((_CONTENT, *_RUNS.values()))
_LARGEST_HEAD_BYTES = 256  # of those that are kept to be recognized
_HEAD_TAGS = (0x08, 0x12, 0x18)  # dtype, tensor_shape, version_number


def encode_tensor(array: np.ndarray) -> bytes:
  """Serialized TensorProto of an array, its values in the typed field.

  Args:
    array: any shape; numeric, bool, or object dtype that holds bytes.

  Raises:
    ValueError: the dtype has no TensorProto field.
  """
  array = _in_native_order(array)
  enum = dtype_enum(array.dtype)
  field = value_field(enum)
  head = _head(enum, array.shape)
  if not array.size:
    return head
  if field in _RAW_RUNS:
    return head + tagged(_RAW_RUNS[field], array.tobytes())
  if field in _VARINT_RUNS:
    array = _integers(array, field)
    if array.min() >= 0 and array.max() < _ONE_BYTE:
      return head + tagged(_VARINT_RUNS[field], array.astype(np.uint8).tobytes())
  values = array.tobytes() if field == "float8_val" else array.ravel().tolist()
  return head + TensorProto(**{field: values}).SerializeToString()


def encode_tensor_content(array: np.ndarray) -> bytes:
  """Serialized TensorProto of an array, its bytes in `tensor_content`; strings in `string_val`.

  Raises:
    ValueError: the dtype has no TensorProto field.
  """
  if array.dtype.kind == "O":
    return encode_tensor(array)
  array = _in_native_order(array)
  head = _head(dtype_enum(array.dtype), array.shape)
  return head + tagged(_CONTENT, array.tobytes()) if array.size else head


def decode_tensor(data: Buffer) -> np.ndarray:
  """The array of a serialized TensorProto, from typed fields or `tensor_content`. May be read-only.

  As in TensorFlow's own Tensor::FromProto, values that are left out repeat the last one given, or are zero.

  Raises:
    ValueError: the bytes are no TensorProto, or its dtype, shape or the size of its content is wrong.
  """
  data = memoryview(data)
  head, tag, run = _split_run(data)
  if run is None or len(head) > _LARGEST_HEAD_BYTES:
    return _from_message(_parse(data))
  dtype, field, shape = _parsed_head(bytes(head))
  if not _is_plain(run, tag, dtype, field):
    return _from_message(_parse(data))
  size = _size(shape, dtype)
  if tag == _CONTENT:
    return _from_content(run, dtype, size).reshape(shape)
  return _filled(_from_run(run, dtype, field), size, dtype).reshape(shape)


@functools.lru_cache(maxsize=1024)
def _parsed_head(head: bytes) -> tuple[np.dtype, str, tuple[int, ...]]:
  """(dtype, field of the values, shape) of what stands before a tensor's values: much the same in all requests."""
  proto = _parse(head)
  return numpy_dtype(proto.dtype), value_field(proto.dtype), _known_shape(proto)


def _from_message(proto: TensorProto) -> np.ndarray:
  """The array of a TensorProto whose values may stand in it in any way."""
  dtype, field, shape = numpy_dtype(proto.dtype), value_field(proto.dtype), _known_shape(proto)
  size = _size(shape, dtype)
  if len(proto.tensor_content):
    return _from_content(proto.tensor_content, dtype, size).reshape(shape)
  return _filled(_from_field(getattr(proto, field), dtype, field), size, dtype).reshape(shape)


def _size(shape: tuple[int, ...], dtype: np.dtype) -> int:
  size = math.prod(shape)
  if size * dtype.itemsize > MAX_TENSOR_BYTES:
    raise ValueError(f"a tensor of shape {shape} is larger than any message")
  return size


def _in_native_order(array: np.ndarray) -> np.ndarray:
  return array.astype(array.dtype.newbyteorder("=")) if array.dtype.byteorder == ">" else array


@functools.lru_cache(maxsize=1024)
def _head(enum: int, shape: tuple[int, ...]) -> bytes:
  """The fields dtype and tensor_shape of a serialized TensorProto."""
  dims = b"".join(tagged(0x12, b"\x08" + write_varint(size)) for size in shape)
  return b"\x08" + write_varint(enum) + tagged(0x12, dims)


def _integers(array: np.ndarray, field: str) -> np.ndarray:
  """The integers, flat, that stand for an array's values in a field of varints."""
  flat = np.ascontiguousarray(array).reshape(-1)
  if field == "half_val":
    return flat.view(np.uint16)
  if flat.dtype.names:
    return flat.view(flat.dtype[0])
  return flat.astype(np.int8) if flat.dtype.kind == "V" else flat  # ml_dtypes' integers of four bits


def _parse(data: Buffer) -> TensorProto:
  try:
    return TensorProto.FromString(bytes(data))
  except message.DecodeError as error:
    raise ValueError("not a TensorProto") from error


def _known_shape(proto: TensorProto) -> tuple[int, ...]:
  shape = tuple(dim.size for dim in proto.tensor_shape.dim)
  if proto.tensor_shape.unknown_rank or any(size < 0 for size in shape):
    raise ValueError("the tensor's shape is not fully known")
  return shape


def _split_run(data: memoryview) -> tuple[memoryview, int | None, memoryview | None]:
  """A TensorProto that ends in one run of values as (head before the run, the run's tag, the run)."""
  position = 0
  while position < len(data) and data[position] in _HEAD_TAGS:
    position = skip_field(data, position)
  if position < len(data) and data[position] in _RUN_TAGS:
    length, start = read_varint(data, position + 1)
    if length and start + length == len(data):
      return data[:position], data[position], data[start:]
  return data, None, None


def _is_plain(run: memoryview, tag: int, dtype: np.dtype, field: str) -> bool:
  """Whether a run is an array's values as they are; else the message's class knows what it means."""
  if dtype.kind == "O" or tag not in (_CONTENT, _RUNS.get(field)):
    return False
  return tag == _CONTENT or field in _RAW_RUNS or np.frombuffer(run, np.uint8).max() < _ONE_BYTE


def _from_content(content: Buffer, dtype: np.dtype, size: int) -> np.ndarray:
  if dtype.kind == "O":
    return _strings(bytes(content), size)
  values = _little_endian(content, dtype)
  if values.size != size:
    raise ValueError(f"tensor_content holds {values.size} values, the shape asks for {size}")
  return values


def _from_run(run: Buffer, dtype: np.dtype, field: str) -> np.ndarray:
  return (
    _little_endian(run, dtype) if field in _RAW_RUNS else _of_integers(np.frombuffer(run, np.uint8), dtype)
  )


def _from_field(given: object, dtype: np.dtype, field: str) -> np.ndarray:
  """The values of a parsed TensorProto's field, of any way in which they may have been sent."""
  if dtype.kind == "O":
    values = np.empty(len(given), object)
    values[:] = given
    return values
  if field == "float8_val":
    return np.frombuffer(given, dtype)
  if field in ("scomplex_val", "dcomplex_val"):
    part = np.float32 if dtype == np.complex64 else np.float64
    return np.fromiter(given, part, len(given) // 2 * 2).view(dtype)
  if field in _VARINT_RUNS:
    return _of_integers(np.fromiter(given, np.int64, len(given)), dtype)
  return np.fromiter(given, dtype, len(given))


def _of_integers(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
  """The inverse of `_integers`, from 64-bit or 8-bit integers."""
  if dtype.names:
    return values.astype(dtype[0]).view(dtype)
  if dtype in (np.float16, ml_dtypes.bfloat16):
    return values.astype(np.uint16).view(dtype)
  return values.astype(dtype)


def _little_endian(run: Buffer, dtype: np.dtype) -> np.ndarray:
  if len(run) % dtype.itemsize:
    raise ValueError(f"{len(run)} bytes are no whole number of {dtype} values")
  return np.frombuffer(run, dtype)


def _strings(content: bytes, size: int) -> np.ndarray:
  """Strings in `tensor_content`: all lengths as varints, then the bytes."""
  lengths, position = [], 0
  for _ in range(size):
    length, position = read_varint(content, position)
    lengths.append(length)
  if position + sum(lengths) != len(content):
    raise ValueError("tensor_content does not hold the strings that its lengths announce")
  values = np.empty(size, object)
  for i, length in enumerate(lengths):
    values[i] = content[position : position + length]
    position += length
  return values


def _filled(values: np.ndarray, size: int, dtype: np.dtype) -> np.ndarray:
  """Exactly `size` values: the last one repeated, or zeros (empty strings) where there are none."""
  if len(values) >= size:
    return values[:size]
  if len(values):
    return np.concatenate([values, np.repeat(values[-1:], size - len(values))])
  return np.full(size, b"", object) if dtype.kind == "O" else np.zeros(size, dtype)
