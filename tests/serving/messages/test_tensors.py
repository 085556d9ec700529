"""Tensors on the wire, against TensorFlow's own make_ndarray and the official classes."""

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow.python.framework import dtypes

from serving.messages.dtypes import dtype_name
from serving.messages.tensors import decode_tensor, encode_tensor, encode_tensor_content

ARRAYS = [
  np.array([[1.5, -2.25, np.inf], [0.0, -0.0, 1e-38]], np.float32),
  np.array([1.1, -2.2], np.float64),
  np.array([[-(2**31), 2**31 - 1]], np.int32),
  np.array([-(2**63), 2**63 - 1], np.int64),
  np.array([0, 255], np.uint8),
  np.array([-128, 127], np.int8),
  np.array([-3, 300], np.int16),
  np.array([3, 65535], np.uint16),
  np.array([2**32 - 1], np.uint32),
  np.array([2**64 - 1], np.uint64),
  np.array([[True, False]]),
  np.array([3, 0, 127], np.int64),
  np.array([128, 300, 70_000], np.int32),
  np.array([0.5, -65504.0], np.float16),
  np.array([0.0, 1e-7], np.float16),
  np.array([1.5, -2.0], tf.bfloat16.as_numpy_dtype),
  np.array([-8, 7], ml_dtypes.int4),
  np.array([15, 0], ml_dtypes.uint4),
  np.array([1 + 2j, -3.5j], np.complex64),
  np.array([1 + 2j], np.complex128),
  np.array([b"", b"a\x00", "ü".encode()], object),
  np.zeros((0, 4), np.float32),
  np.array(7.0, np.float32),
  np.array(b"scalar", object),
]
IDS = [f"{array.dtype}{list(array.shape)}" for array in ARRAYS]


@pytest.mark.parametrize("array", ARRAYS, ids=IDS)
def test_encoded_tensors_are_read_by_tensorflow_and_stand_in_typed_fields(array):
  proto = tensor_pb2.TensorProto.FromString(encode_tensor(array))
  assert not proto.tensor_content
  read = tf.make_ndarray(proto)
  assert read.dtype == array.dtype and read.shape == array.shape
  np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("array", ARRAYS, ids=IDS)
@pytest.mark.parametrize("encode", [encode_tensor, encode_tensor_content])
def test_decoding_gives_the_array_back(array, encode):
  read = decode_tensor(encode(array))
  assert read.dtype == array.dtype and read.shape == array.shape
  np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize("array", ARRAYS, ids=IDS)
def test_decoding_what_tensorflow_encodes(array):
  np.testing.assert_array_equal(decode_tensor(tf.make_tensor_proto(array).SerializeToString()), array)
  typed = tensor_pb2.TensorProto.FromString(encode_tensor(array))
  np.testing.assert_array_equal(decode_tensor(memoryview(typed.SerializeToString())), array)


@pytest.mark.parametrize(
  "array",
  [
    np.array([(-3,), (100,)], [("qint8", np.int8)]),
    np.array([(200,)], [("quint16", np.uint16)]),
    np.array([1.5, -2.0], ml_dtypes.float8_e5m2),
    np.array([0.5, 448.0], ml_dtypes.float8_e4m3fn),
  ],
  ids=lambda array: array.dtype.names[0] if array.dtype.names else array.dtype.name,
)
def test_dtypes_that_make_ndarray_does_not_know(array):
  for encoded in (encode_tensor(array), encode_tensor_content(array)):
    read = decode_tensor(encoded)
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read.view(np.uint8), array.view(np.uint8))
    enum = tensor_pb2.TensorProto.FromString(encoded).dtype
    parsed = tf.io.parse_tensor(encoded, dtypes.as_dtype(enum)).numpy()
    assert parsed.tobytes() == array.tobytes()


def test_dtypes_are_named_as_tensorflow_names_them():
  enums = [*range(1, 26), 29, 30, 101, 107, 119]
  assert [dtype_name(enum) for enum in enums] == [dtypes.as_dtype(enum).name for enum in enums]
  for enum in (0, -1, 26, 99, 100, 200):
    with pytest.raises(ValueError, match=f"unknown dtype {enum}$"):
      dtype_name(enum)


def test_big_endian_and_strided_arrays_are_sent_as_their_values():
  expected = np.arange(12, dtype=np.float32).reshape(3, 4)
  for array in (expected.astype(">f4"), np.asfortranarray(expected), np.repeat(expected, 2, 1)[:, ::2]):
    for encode in (encode_tensor, encode_tensor_content):
      read = decode_tensor(encode(array))
      assert read.dtype == np.float32
      np.testing.assert_array_equal(read, expected)
  np.testing.assert_array_equal(decode_tensor(encode_tensor(np.array([1, -2], ">i4"))), [1, -2])


def test_values_that_are_left_out_repeat_the_last_or_are_zero():
  proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[1.0, 2.0])
  proto.tensor_shape.dim.add(size=4)
  np.testing.assert_array_equal(decode_tensor(proto.SerializeToString()), np.float32([1, 2, 2, 2]))
  proto.ClearField("float_val")
  np.testing.assert_array_equal(decode_tensor(proto.SerializeToString()), np.zeros(4, np.float32))
  proto.float_val.extend(range(9))
  np.testing.assert_array_equal(decode_tensor(proto.SerializeToString()), np.float32([0, 1, 2, 3]))


def test_values_split_over_two_runs_or_unpacked_are_read():
  proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, float_val=[1.0, 2.0])
  proto.tensor_shape.dim.add(size=4)
  more = tensor_pb2.TensorProto(float_val=[3.0, 4.0]).SerializeToString()
  expected = np.float32([1, 2, 3, 4])
  np.testing.assert_array_equal(decode_tensor(proto.SerializeToString() + more), expected)
  unpacked = b"".join(b"\x2d" + value.tobytes() for value in expected)
  proto.ClearField("float_val")
  np.testing.assert_array_equal(decode_tensor(proto.SerializeToString() + unpacked), expected)


def test_values_of_another_dtype_are_ignored_as_tensorflow_does():
  proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_DOUBLE, float_val=[1.0])
  proto.tensor_shape.dim.add(size=1)
  np.testing.assert_array_equal(decode_tensor(proto.SerializeToString()), np.zeros(1))


def test_strings_in_tensor_content():
  proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, tensor_content=b"\x01\x00\x02abc")
  proto.tensor_shape.dim.add(size=3)
  assert decode_tensor(proto.SerializeToString()).tolist() == [b"a", b"", b"bc"]


def _float_proto(shape, **fields):
  proto = tensor_pb2.TensorProto(dtype=types_pb2.DT_FLOAT, **fields)
  for size in shape:
    proto.tensor_shape.dim.add(size=size)
  return proto.SerializeToString()


@pytest.mark.parametrize(
  ("data", "text"),
  [
    (_float_proto([3], tensor_content=b"\x00" * 8), "2 values, the shape asks for 3"),
    (_float_proto([2], tensor_content=b"\x00" * 7), "no whole number"),
    (_float_proto([-1], float_val=[1.0]), "not fully known"),
    (_float_proto([2**20, 2**20], float_val=[1.0]), "larger than any message"),
    (tensor_pb2.TensorProto(dtype=99).SerializeToString(), "unknown dtype 99"),
    (
      tensor_pb2.TensorProto(dtype=types_pb2.DT_RESOURCE).SerializeToString(),
      "dtype resource cannot be sent",
    ),
    (b"\x08\x03\x12\x04\x12\x02\x08\x01\x3a\x01\x80", "not a TensorProto"),
    (b"\x08\x01\x12\x50", "truncated"),
    (b"\x0f", "not a TensorProto"),
  ],
)
def test_tensors_that_cannot_be_read(data, text):
  with pytest.raises(ValueError, match=text):
    decode_tensor(data)


def test_arrays_without_a_tensor_dtype_are_refused():
  with pytest.raises(ValueError, match="datetime64"):
    encode_tensor(np.array(["2024-01-01"], "datetime64[D]"))


def test_a_float_batch_is_not_copied_value_by_value():
  array = np.random.default_rng(0).random((32, 28, 28), np.float32)
  data = encode_tensor(array)
  assert np.shares_memory(decode_tensor(data), np.frombuffer(data, np.uint8))
