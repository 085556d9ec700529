"""Predict messages, against the official classes."""

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from serving.messages.protos import ModelSpec
from serving.messages.tensors import decode_tensor, encode_tensor
from serving.messages.wire import (
  PredictAnswer,
  PredictCall,
  read_predict_request,
  read_predict_response,
  write_predict_request,
  write_predict_response,
)

PIXELS = np.arange(6, dtype=np.float32).reshape(2, 3)
TEXTS = np.array([b"one", b"two"], object)


def _official_request():
  request = predict_pb2.PredictRequest(output_filter=["scores", "label"])
  request.model_spec.name = "m"
  request.model_spec.version.value = 7
  request.inputs["pixels"].CopyFrom(tf.make_tensor_proto(PIXELS))
  request.inputs["Text ü"].CopyFrom(tf.make_tensor_proto(TEXTS))
  return request


def test_reads_what_official_clients_send():
  call = read_predict_request(_official_request().SerializeToString())
  assert call.model_spec.SerializeToString() == _official_request().model_spec.SerializeToString()
  assert (call.model_spec.name, call.model_spec.version.value) == ("m", 7)
  assert call.output_filter == ["scores", "label"]
  assert set(call.inputs) == {"pixels", "Text ü"}
  np.testing.assert_array_equal(decode_tensor(call.inputs["pixels"]), PIXELS)
  np.testing.assert_array_equal(decode_tensor(call.inputs["Text ü"]), TEXTS)


def test_official_servers_read_what_is_written():
  call = PredictCall(
    ModelSpec.FromString(_official_request().model_spec.SerializeToString()),
    {"pixels": encode_tensor(PIXELS), "Text ü": encode_tensor(TEXTS)},
    ["scores", "label"],
  )
  request = predict_pb2.PredictRequest.FromString(write_predict_request(call))
  assert request.model_spec.version.value == 7
  assert list(request.output_filter) == ["scores", "label"]
  np.testing.assert_array_equal(tf.make_ndarray(request.inputs["pixels"]), PIXELS)
  np.testing.assert_array_equal(tf.make_ndarray(request.inputs["Text ü"]), TEXTS)


def test_responses_both_ways():
  spec = ModelSpec(name="m", signature_name="serving_default")
  data = write_predict_response(PredictAnswer(spec, {"a": PIXELS, "b": TEXTS}))
  official = predict_pb2.PredictResponse.FromString(data)
  assert official.model_spec.SerializeToString() == spec.SerializeToString()
  assert list(official.outputs["a"].float_val) == PIXELS.ravel().tolist()
  assert list(official.outputs["b"].string_val) == TEXTS.tolist()
  answer = read_predict_response(official.SerializeToString())
  assert answer.model_spec == spec
  np.testing.assert_array_equal(answer.outputs["a"], PIXELS)
  np.testing.assert_array_equal(answer.outputs["b"], TEXTS)


def test_responses_with_tensor_content():
  spec = ModelSpec(name="m")
  official = predict_pb2.PredictResponse.FromString(
    write_predict_response(PredictAnswer(spec, {"a": PIXELS, "b": TEXTS}), as_content=True)
  )
  assert official.outputs["a"].tensor_content == PIXELS.tobytes() and not official.outputs["a"].float_val
  assert list(official.outputs["b"].string_val) == TEXTS.tolist()
  np.testing.assert_array_equal(tf.make_ndarray(official.outputs["a"]), PIXELS)


def test_fields_that_are_sent_twice_are_merged_as_protocol_buffers_merge_them():
  more = predict_pb2.PredictRequest(output_filter=["third"])
  more.model_spec.version.value = 8
  more.inputs["pixels"].CopyFrom(tf.make_tensor_proto(PIXELS * 2))
  data = _official_request().SerializeToString() + more.SerializeToString()
  official, call = predict_pb2.PredictRequest.FromString(data), read_predict_request(data)
  assert (call.model_spec.name, call.model_spec.version.value) == ("m", 8)
  assert call.model_spec.SerializeToString() == official.model_spec.SerializeToString()
  assert call.output_filter == ["scores", "label", "third"] == list(official.output_filter)
  np.testing.assert_array_equal(decode_tensor(call.inputs["pixels"]), PIXELS * 2)


def test_a_request_without_model_spec_is_told_from_one_with_an_empty_one():
  assert read_predict_request(b"").model_spec is None
  with_spec = predict_pb2.PredictRequest()
  with_spec.model_spec.SetInParent()
  assert read_predict_request(with_spec.SerializeToString()).model_spec is not None


def test_unknown_fields_are_passed_over():
  data = _official_request().SerializeToString() + b"\xf8\x07\x05" + b"\xfd\x07abcd" + b"\xf9\x07abcdefgh"
  assert read_predict_request(data).output_filter == ["scores", "label"]


@pytest.mark.parametrize("data", [b"\x12\x50abc", b"\x0a\x03abc", b"\x0b", b"\x12\xff", b"\x1a\x01\xff"])
def test_bytes_that_are_no_request(data):
  with pytest.raises(ValueError):
    read_predict_request(data)


def test_specs_are_shared_unless_they_are_long():
  def read(name):
    call = PredictCall(ModelSpec(name=name), {}, [])
    return [read_predict_request(write_predict_request(call)).model_spec for _ in range(2)]

  first, second = read("m")
  assert first is second and first.name == "m"
  # Kept ones would fill the memory.
  first, second = read("m" * 2000)
  assert first == second and first is not second
