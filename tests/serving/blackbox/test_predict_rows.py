"""Predict, row by row of the table of TF Serving's behaviours.

Source: tensorflow_serving/servables/tensorflow/predict_util.cc, model_servers/{server_core,grpc_status_util}.cc
"""

import time

import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import predict_pb2

X = np.array([1.0, 2.0, 5.0], np.float32)
TYPED_FIELD = {
  "float32": "float_val",
  "float64": "double_val",
  "float16": "half_val",
  "bfloat16": "half_val",
  "int8": "int_val",
  "uint8": "int_val",
  "int16": "int_val",
  "uint16": "int_val",
  "int32": "int_val",
  "uint32": "uint32_val",
  "int64": "int64_val",
  "uint64": "uint64_val",
  "bool": "bool_val",
  "string": "string_val",
  "complex64": "scomplex_val",
  "complex128": "dcomplex_val",
}


def echo_inputs():
  """One array [2, 2] of each dtype."""
  arrays = {
    dtype: np.array([[1, 0], [3, 2]], ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    for dtype in TYPED_FIELD
    if dtype != "string"
  }
  arrays["string"] = np.array([[b"a\xff\x00", b""], [b"c" * 300, b"d"]], object)
  return arrays


def test_predict_answers_with_the_resolved_signature_and_version(server):
  response = server.predict({"x": X})
  assert response.model_spec.name == "m"
  assert response.model_spec.signature_name == "serving_default"
  assert response.model_spec.version.value == 2
  assert response.model_spec.WhichOneof("version_choice") == "version"
  assert list(response.outputs["y"].float_val) == [2.5, 3.0, 4.5]
  response = server.predict({"x": X}, "batch", version=1)
  assert (response.model_spec.signature_name, response.model_spec.version.value) == ("batch", 1)
  assert sorted(response.outputs) == ["ran_with", "y"]


@pytest.mark.parametrize("dtype", TYPED_FIELD)
def test_predict_takes_either_form_and_answers_in_typed_fields(server, dtype):
  for as_content in (False, True):
    protos = {}
    for name, array in echo_inputs().items():
      proto = tensor_pb2.TensorProto(
        dtype=tf.as_dtype(array.dtype if name != "string" else tf.string).as_datatype_enum
      )
      proto.tensor_shape.CopyFrom(tf.TensorShape(array.shape).as_proto())
      if as_content and name != "string":
        proto.tensor_content = array.tobytes()
      else:
        proto.CopyFrom(typed(array, proto))
      protos[f"{name}_in"] = proto
    output = server.predict(protos, "echo", output_filter=[f"{dtype}_out"]).outputs[f"{dtype}_out"]
    assert not output.tensor_content
    assert len(getattr(output, TYPED_FIELD[dtype])) == (8 if dtype.startswith("complex") else 4)
    assert output.dtype == protos[f"{dtype}_in"].dtype
    np.testing.assert_array_equal(tf.make_ndarray(output), echo_inputs()[dtype])


def typed(array, proto):
  """`proto` with the elements in the field of its dtype."""
  name = tf.as_dtype(proto.dtype).name
  if name in ("float16", "bfloat16"):
    elements = array.view(np.uint16).ravel().tolist()
  elif name.startswith("complex"):
    elements = array.view(np.float32 if name == "complex64" else np.float64).ravel().tolist()
  else:
    elements = array.ravel().tolist()
  getattr(proto, TYPED_FIELD[name]).extend(elements)
  return proto


def test_a_last_value_fills_the_rest_of_a_tensor(server):
  """As TensorProto says: fewer values than elements repeat the last one."""
  proto = tensor_pb2.TensorProto(dtype=1, float_val=[4.0, 6.0])
  proto.tensor_shape.dim.add(size=4)
  assert server.outputs({"x": proto})["y"].tolist() == [4.0, 5.0, 5.0, 5.0]


def test_unknown_model(server, refused):
  expected = ("NOT_FOUND", "Servable not found for request: Latest(nobody)")
  assert refused(server.predict, {"x": X}, name="nobody") == expected
  assert refused(server.metadata, "nobody") == expected


def test_unknown_version(server, refused):
  expected = ("NOT_FOUND", "Servable not found for request: Specific(m, 7)")
  assert refused(server.predict, {"x": X}, version=7) == expected
  assert refused(server.metadata, version=7) == expected
  assert refused(server.predict, {"x": X}, version=0)[1].endswith("Specific(m, 0)")


def test_empty_model_name(server, refused):
  expected = ("INVALID_ARGUMENT", "ModelSpec has no name specified.")
  assert refused(server.predict, {"x": X}, name="") == expected
  assert refused(server.metadata, "") == expected


def test_missing_model_spec(server, refused):
  request = predict_pb2.PredictRequest()
  assert refused(server.prediction.Predict, request, timeout=60) == ("INVALID_ARGUMENT", "Missing ModelSpec")


def test_unknown_label(server, refused):
  expected = ("INVALID_ARGUMENT", "Unrecognized servable version label: nightly")
  assert refused(server.predict, {"x": X}, label="nightly") == expected


def test_known_label(server):
  response = server.predict({"x": X}, label="stable")
  assert response.model_spec.version.value == 1
  assert list(response.outputs["y"].float_val) == [1.5, 2.0, 3.5]
  assert server.predict({"x": X}, label="canary").model_spec.version.value == 2


def test_unknown_signature(server, refused):
  expected = ("FAILED_PRECONDITION", 'Serving signature key "nothing" not found.')
  assert refused(server.predict, {"x": X}, "nothing") == expected


@pytest.mark.parametrize(
  "names, counts, extra, missing",
  [
    (["a"], "1!=2 len({a}) != len({a,b})", "", "b"),
    ([], "0!=2 len({}) != len({a,b})", "", "a,b"),
    (["a", "b", "d", "c"], "4!=2 len({a,b,c,d}) != len({a,b})", "c,d", ""),
    (["c"], "1!=2 len({c}) != len({a,b})", "c", "a,b"),
  ],
)
def test_missing_or_extra_inputs(server, refused, names, counts, extra, missing):
  message = (
    f"input size does not match signature: {counts}."
    f" Sent extra: {{{extra}}}. Missing but required: {{{missing}}}."
  )
  assert refused(server.predict, dict.fromkeys(names, X), "two") == ("INVALID_ARGUMENT", message)


def test_a_misnamed_input(server, refused):
  code, message = refused(server.predict, {"a": X, "c": X}, "two")
  assert code == "INVALID_ARGUMENT" and message


def test_output_filter(server, refused):
  inputs = {"a": X, "b": np.ones(3, np.float32)}
  outputs = server.outputs(inputs, "two", output_filter=["difference"])
  assert {name: array.tolist() for name, array in outputs.items()} == {"difference": [0.0, 1.0, 4.0]}
  message = "output tensor alias not found in signature: product"
  message += " Outputs expected to be in the set {difference,sum}."
  assert refused(server.predict, inputs, "two", output_filter=["product"]) == ("INVALID_ARGUMENT", message)
  expected = ("INVALID_ARGUMENT", "duplicate output tensor alias: sum")
  assert refused(server.predict, inputs, "two", output_filter=["sum", "sum"]) == expected


def test_wrong_dtype_is_what_the_session_says(server, refused):
  code, message = refused(server.predict, {"x": X.astype(np.float64)})
  assert code == "INVALID_ARGUMENT" and "to be float but double is provided" in message


def test_wrong_shape_is_what_the_session_says(server, refused):
  code, message = refused(server.predict, {"a": X, "b": X[:2]}, "two")
  assert code == "INVALID_ARGUMENT" and "Incompatible shapes: [3] vs. [2]" in message


def test_the_shape_of_the_signature_is_not_checked_beforehand(server):
  """The signature says [-1, 3]; the graph can sum any number of columns."""
  rows = np.arange(8, dtype=np.float32).reshape(2, 4)
  assert server.outputs({"rows": rows}, "threes")["sum"].tolist() == [6.0, 22.0]


def test_an_error_of_the_graph(server, refused):
  assert server.outputs({"at": np.array([2, 0], np.int32)}, "index")["value"].tolist() == [30, 10]
  code, message = refused(server.predict, {"at": np.array([1, 3], np.int32)}, "index")
  assert code == "INVALID_ARGUMENT" and "= 3 is not in [0, 3)" in message


def test_out_of_memory_is_resource_exhausted(server, refused):
  """More bytes than any address space holds; the server lives on."""
  code, message = refused(server.predict, {"num_elements": np.array([10**14])}, "allocate")
  assert code == "RESOURCE_EXHAUSTED" and "OOM" in message
  assert server.outputs({"num_elements": np.array([10])}, "allocate")["sum"] == 10


def test_size_a_message_above_grpcs_usual_limit(server):
  x = np.arange(4_000_000, dtype=np.float32) / 8
  np.testing.assert_array_equal(server.outputs({"x": x})["y"], x * np.float32(0.5) + 2)


def test_errors_are_cut(server, refused):
  assert server.outputs({"x": X}, "checked")["y"].tolist() == X.tolist()
  code, message = refused(server.predict, {"x": -X}, "checked")
  assert code == "INVALID_ARGUMENT" and "long long" in message
  assert len(message) == 1024 + len("...TRUNCATED") and message.endswith("...TRUNCATED")


def test_the_deadline_bounds_the_run(server, client):
  """More runs than the server has threads are given up by their clients: none may hold a thread any longer."""
  endless = {"steps": np.array([2**60])}
  server.predict({"steps": np.array([10])}, "slow")
  began_s = time.monotonic()
  for _ in range(3):
    futures = [
      server.prediction.Predict.future(client.predict_request(endless, "slow"), timeout=0.5)
      for _ in range(16)
    ]
    assert {future.code().name for future in futures} == {"DEADLINE_EXCEEDED"}
  assert server.outputs({"x": X})["y"].tolist() == [2.5, 3.0, 4.5]
  assert time.monotonic() - began_s < 60
