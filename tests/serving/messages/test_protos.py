"""Our message classes, against the official ones."""

import subprocess
import sys

import pytest
from google.protobuf import text_format
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
  get_model_metadata_pb2,
  get_model_status_pb2,
  model_pb2,
  status_pb2,
)

from serving.messages import protos

OFFICIAL = [
  tensor_pb2.TensorProto,
  tensor_shape_pb2.TensorShapeProto,
  meta_graph_pb2.TensorInfo,
  meta_graph_pb2.SignatureDef,
  model_pb2.ModelSpec,
  status_pb2.StatusProto,
  get_model_status_pb2.GetModelStatusRequest,
  get_model_status_pb2.GetModelStatusResponse,
  get_model_status_pb2.ModelVersionStatus,
  get_model_metadata_pb2.GetModelMetadataRequest,
  get_model_metadata_pb2.GetModelMetadataResponse,
  get_model_metadata_pb2.SignatureDefMap,
]


def _oneof(field):
  return field.containing_oneof.name if field.containing_oneof else None


def _same_fields(ours, official, seen):
  """Compares all fields of two descriptors, and of those of the messages in them."""
  assert ours.full_name == official.full_name
  if ours.full_name in seen:
    return
  seen.add(ours.full_name)
  for field in ours.fields:
    other = official.fields_by_name[field.name]
    assert (field.number, field.label) == (other.number, other.label), field.full_name
    # The other encodings of TensorInfo's oneof are not read.
    if field.full_name != "tensorflow.TensorInfo.name":
      assert _oneof(field) == _oneof(other), field.full_name
    if other.enum_type is not None and field.enum_type is None:
      assert field.type == field.TYPE_INT32, field.full_name
    else:
      assert field.type == other.type, field.full_name
    if field.message_type is not None:
      _same_fields(field.message_type, other.message_type, seen)
    if field.enum_type is not None:
      values = {value.name: value.number for value in field.enum_type.values}
      assert values == {value.name: value.number for value in other.enum_type.values}


@pytest.mark.parametrize("official", OFFICIAL, ids=lambda official: official.DESCRIPTOR.name)
def test_names_numbers_and_types_are_the_official_ones(official):
  ours = getattr(protos, official.DESCRIPTOR.name)
  _same_fields(ours.DESCRIPTOR, official.DESCRIPTOR, set())


def test_metadata_travels_both_ways():
  signatures = protos.SignatureDefMap()
  info = signatures.signature_def["serving_default"].inputs["pixels"]
  info.name, info.dtype = "pixels:0", 1
  info.tensor_shape.dim.add(size=-1)
  response = protos.GetModelMetadataResponse()
  response.model_spec.name, response.model_spec.version.value = "m", 3
  response.metadata["signature_def"].Pack(signatures)
  official = get_model_metadata_pb2.GetModelMetadataResponse.FromString(response.SerializeToString())
  assert official.model_spec.version.value == 3
  found = get_model_metadata_pb2.SignatureDefMap()
  assert official.metadata["signature_def"].Unpack(found)
  assert found.signature_def["serving_default"].inputs["pixels"].name == "pixels:0"
  back = protos.GetModelMetadataResponse.FromString(official.SerializeToString(deterministic=True))
  again = protos.SignatureDefMap()
  assert back.metadata["signature_def"].Unpack(again) and again == signatures


def test_a_version_and_a_label_exclude_each_other():
  spec = protos.ModelSpec(name="m", version_label="stable")
  assert spec.WhichOneof("version_choice") == "version_label"
  spec.version.value = 0
  assert spec.WhichOneof("version_choice") == "version" and spec.version_label == ""
  assert model_pb2.ModelSpec.FromString(spec.SerializeToString()).HasField("version")
  assert not protos.ModelSpec(name="m").HasField("version")


def test_configuration_files_are_read_as_text():
  tls = text_format.Parse(
    'server_key: "KEY\\nEND" server_cert: "CERT" custom_ca: "" client_verify: true', protos.SSLConfig()
  )
  assert (tls.server_key, tls.server_cert, tls.client_verify) == ("KEY\nEND", "CERT", True)
  monitoring = text_format.Parse('prometheus_config { enable: true path: "/m" }', protos.MonitoringConfig())
  assert monitoring.prometheus_config.enable and monitoring.prometheus_config.path == "/m"
  batching = text_format.Parse(
    """max_batch_size { value: 32 } batch_timeout_micros { value: 0 } max_enqueued_batches { value: 9 }
    num_batch_threads { value: 2 } thread_pool_name { value: "pool" } pad_variable_length_inputs: true
    allowed_batch_sizes: 8 allowed_batch_sizes: 32
    enable_large_batch_splitting { value: true } max_execution_batch_size { value: 16 }""",
    protos.BatchingParameters(),
  )
  assert batching.max_batch_size.value == 32 and batching.HasField("batch_timeout_micros")
  assert list(batching.allowed_batch_sizes) == [8, 32] and batching.thread_pool_name.value == "pool"
  assert batching.enable_large_batch_splitting.value and batching.max_execution_batch_size.value == 16
  with pytest.raises(text_format.ParseError, match='no field named "max_batch"'):
    text_format.Parse("max_batch { value: 1 }", protos.BatchingParameters())


def test_tensorflow_is_not_imported():
  code = (
    "import sys, serving.messages.protos, serving.messages.wire; "
    "print(sorted(name for name in sys.modules if name.partition('.')[0].startswith('tensorflow')))"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout == "[]\n"
