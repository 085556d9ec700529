"""Tensors between serialized TensorProtos and numpy arrays.

Protocol buffers hand a repeated field over value by value. The values of a float tensor are one packed run of
bytes in the message, and so is `tensor_content`: such runs are read and written in one piece.

Source: tensorflow/core/framework/tensor.proto and tensor.cc (Tensor::FromProto, Tensor::AsProtoField)
"""

from __future__ import annotations

import math

import numpy as np
from google.protobuf import message
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow.python.framework import dtypes

from serving.varint import Buffer, read_varint, skip_field, tagged

# No message holds more, so a larger tensor is one whose values are left out.
MAX_TENSOR_BYTES = 2**31 - 1

# Field of TensorProto that holds a dtype's values, after tensor.proto.
_INT_TYPES = (np.int32, np.int16, np.int8, np.uint16, np.uint8)
_VALUE_FIELDS = {np.dtype(dtype): "int_val" for dtype in _INT_TYPES} | {
  np.dtype(np.float32): "float_val",
  np.dtype(np.float64): "double_val",
  np.dtype(np.int64): "int64_val",
  np.dtype(np.uint32): "uint32_val",
  np.dtype(np.uint64): "uint64_val",
  np.dtype(np.bool_): "bool_val",
  np.dtype(np.complex64): "scomplex_val",
  np.dtype(np.complex128): "dcomplex_val",
  np.dtype(np.float16): "half_val",
  np.dtype(dtypes.bfloat16.as_numpy_dtype): "half_val",
  np.dtype(object): "string_val",
}
# Tags of fields whose bytes are the array's own, little-endian: packed runs, and tensor_content.
_RAW_RUNS = {"float_val": 0x2A, "double_val": 0x32}
_CONTENT = 0x22
_HEAD_TAGS = (0x08, 0x12, 0x18)  # dtype, tensor_shape, version_number


def encode_tensor(array: np.ndarray) -> bytes:
  """Serialized TensorProto of an array, its values in the typed field.

  Args:
    array: any shape; numeric, bool, or object dtype that holds bytes.

  Raises:
    ValueError: the dtype has no TensorProto field.
  """
  field = _VALUE_FIELDS.get(array.dtype)
  if field is None:
    raise ValueError(f"dtype {array.dtype} cannot be sent as a tensor")
  proto = tensor_pb2.TensorProto(dtype=_enum(array.dtype), tensor_shape=_shape_proto(array.shape))
  if field in _RAW_RUNS:
    run = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    head = proto.SerializeToString()
    return head + tagged(_RAW_RUNS[field], run) if run else head
  if field == "half_val":
    array = array.view(np.uint16)
  elif field.endswith("complex_val"):
    array = np.ascontiguousarray(array).view(array.real.dtype)
  getattr(proto, field).extend(array.ravel().tolist())
  return proto.SerializeToString()


def encode_tensor_content(array: np.ndarray) -> bytes:
  """Serialized TensorProto of an array, its bytes in `tensor_content`; strings in `string_val`."""
  if array.dtype.kind == "O":
    return encode_tensor(array)
  proto = tensor_pb2.TensorProto(dtype=_enum(array.dtype), tensor_shape=_shape_proto(array.shape))
  proto.tensor_content = np.ascontiguousarray(array).tobytes()
  return proto.SerializeToString()


def decode_tensor(data: Buffer) -> np.ndarray:
  """The array of a serialized TensorProto, from typed fields or `tensor_content`. May be read-only.

  As in TensorFlow's own Tensor::FromProto, values that are left out repeat the last one given, or are zero.

  Raises:
    ValueError: the bytes are no TensorProto, or its dtype, shape or the size of its content is wrong.
  """
  data = memoryview(data)
  head, tag, run = _split_run(data)
  proto = _parse(head)
  dtype = _numpy_dtype(proto.dtype)
  if run is None or dtype.kind == "O" or tag not in (_CONTENT, _RAW_RUNS.get(_VALUE_FIELDS[dtype])):
    # A run that does not belong to the dtype: the official parser knows what it means.
    proto, run = _parse(data), None
  shape = _known_shape(proto.tensor_shape)
  size = math.prod(shape)
  if size * dtype.itemsize > MAX_TENSOR_BYTES:
    raise ValueError(f"a tensor of shape {shape} is larger than any message")
  if run is None and not proto.tensor_content:
    values = _field_values(proto, dtype)
  elif dtype.kind == "O":
    return _strings(proto.tensor_content, size).reshape(shape)
  else:
    values = _little_endian(proto.tensor_content if run is None else run, dtype)
    if (run is None or tag == _CONTENT) and values.size != size:
      raise ValueError(f"tensor_content holds {values.size} values, the shape asks for {size}")
  return _filled(values, size, dtype).reshape(shape)


def _parse(data: Buffer) -> tensor_pb2.TensorProto:
  try:
    return tensor_pb2.TensorProto.FromString(bytes(data))
  except message.DecodeError as error:
    raise ValueError("not a TensorProto") from error


def _enum(dtype: np.dtype) -> int:
  return types_pb2.DT_STRING if dtype.kind == "O" else dtypes.as_dtype(dtype).as_datatype_enum


def _numpy_dtype(enum: int) -> np.dtype:
  try:
    dtype = np.dtype(dtypes.as_dtype(enum).as_numpy_dtype)
  except (TypeError, KeyError) as error:
    raise ValueError(f"unknown dtype {enum}") from error
  if dtype not in _VALUE_FIELDS or (dtype.kind == "O" and enum != types_pb2.DT_STRING):
    raise ValueError(f"dtype {dtypes.as_dtype(enum).name} cannot be sent as a tensor")
  return dtype


def _shape_proto(shape: tuple[int, ...]) -> tensor_shape_pb2.TensorShapeProto:
  return tensor_shape_pb2.TensorShapeProto(
    dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in shape]
  )


def _known_shape(proto: tensor_shape_pb2.TensorShapeProto) -> tuple[int, ...]:
  shape = tuple(dim.size for dim in proto.dim)
  if proto.unknown_rank or any(size < 0 for size in shape):
    raise ValueError("the tensor's shape is not fully known")
  return shape


def _split_run(data: memoryview) -> tuple[memoryview, int | None, memoryview | None]:
  """A TensorProto that ends in a run of raw bytes as (head before the run, the run's tag, the run)."""
  position = 0
  while position < len(data) and data[position] in _HEAD_TAGS:
    position = skip_field(data, position)
  if position < len(data) and data[position] in (_CONTENT, *_RAW_RUNS.values()):
    length, start = read_varint(data, position + 1)
    if length and start + length == len(data):
      return data[:position], data[position], data[start:]
  return data, None, None


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


def _field_values(proto: tensor_pb2.TensorProto, dtype: np.dtype) -> np.ndarray:
  field = _VALUE_FIELDS[dtype]
  given = getattr(proto, field)
  if dtype.kind == "O":
    values = np.empty(len(given), object)
    values[:] = given
    return values
  if field == "half_val":
    return np.fromiter(given, np.uint16, len(given)).view(dtype)
  if field.endswith("complex_val"):
    part = np.float32 if dtype == np.complex64 else np.float64
    return np.fromiter(given, part, len(given) // 2 * 2).view(dtype)
  return np.fromiter(given, np.int64 if field == "int_val" else dtype, len(given)).astype(dtype)


def _filled(values: np.ndarray, size: int, dtype: np.dtype) -> np.ndarray:
  """Exactly `size` values: the last one repeated, or zeros (empty strings) where there are none."""
  if len(values) >= size:
    return values[:size]
  if len(values):
    return np.concatenate([values, np.repeat(values[-1:], size - len(values))])
  return np.full(size, b"", object) if dtype.kind == "O" else np.zeros(size, dtype)
