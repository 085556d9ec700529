"""The messages of TF Serving's API and of its text configuration files, without TensorFlow.

The official classes live in packages that import all of TensorFlow, which takes seconds. Here the fields of those
messages that are read or written stand in a table, and a descriptor pool of our own makes classes of them: the full
names and the bytes on the wire are the official ones. Enums that are only passed on are int32, as on the wire.

Source: tensorflow/core/framework/{tensor,tensor_shape}.proto, tensorflow/core/protobuf/meta_graph.proto,
tensorflow_serving/apis/*.proto, tensorflow_serving/config/{ssl,monitoring}_config.proto,
tensorflow_serving/servables/tensorflow/session_bundle_config.proto
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message, message_factory, wrappers_pb2

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
  name: getattr(_Field, f"TYPE_{name.upper()}")
  for name in ("bool", "bytes", "double", "float", "int32", "int64", "string", "uint32", "uint64")
}

# {message: its fields as "number [repeated] type name"}; "map" stands for map<string, type>. Messages that come
# inside of others stand after them, as Outer.Inner.
_TENSORFLOW = {
  "TensorShapeProto": ("2 repeated tensorflow.TensorShapeProto.Dim dim", "3 bool unknown_rank"),
  "TensorShapeProto.Dim": ("1 int64 size", "2 string name"),
  "TensorProto": (
    "1 int32 dtype",
    "2 tensorflow.TensorShapeProto tensor_shape",
    "3 int32 version_number",
    "4 bytes tensor_content",
    "5 repeated float float_val",
    "6 repeated double double_val",
    "7 repeated int32 int_val",
    "8 repeated bytes string_val",
    "9 repeated float scomplex_val",
    "10 repeated int64 int64_val",
    "11 repeated bool bool_val",
    "12 repeated double dcomplex_val",
    "13 repeated int32 half_val",
    "16 repeated uint32 uint32_val",
    "17 repeated uint64 uint64_val",
    "18 bytes float8_val",
  ),
  "TensorInfo": ("1 string name", "2 int32 dtype", "3 tensorflow.TensorShapeProto tensor_shape"),
  "SignatureDef": (
    "1 map tensorflow.TensorInfo inputs",
    "2 map tensorflow.TensorInfo outputs",
    "3 string method_name",
    "4 map tensorflow.TensorProto defaults",
  ),
}

_SERVING = {
  "ModelSpec": (
    "1 string name",
    "2 google.protobuf.Int64Value version",
    "4 string version_label",
    "3 string signature_name",
  ),
  "StatusProto": ("1 int32 error_code", "2 string error_message"),
  "GetModelStatusRequest": ("1 tensorflow.serving.ModelSpec model_spec",),
  "GetModelStatusResponse": ("1 repeated tensorflow.serving.ModelVersionStatus model_version_status",),
  "ModelVersionStatus": (
    "1 int64 version",
    "2 tensorflow.serving.ModelVersionStatus.State state",
    "3 tensorflow.serving.StatusProto status",
  ),
  "GetModelMetadataRequest": (
    "1 tensorflow.serving.ModelSpec model_spec",
    "2 repeated string metadata_field",
  ),
  "GetModelMetadataResponse": (
    "1 tensorflow.serving.ModelSpec model_spec",
    "2 map google.protobuf.Any metadata",
  ),
  "SignatureDefMap": ("1 map tensorflow.SignatureDef signature_def",),
  "SSLConfig": ("1 string server_key", "2 string server_cert", "3 string custom_ca", "4 bool client_verify"),
  "PrometheusConfig": ("1 bool enable", "2 string path"),
  "MonitoringConfig": ("1 tensorflow.serving.PrometheusConfig prometheus_config",),
  "BatchingParameters": (
    "1 google.protobuf.Int64Value max_batch_size",
    "2 google.protobuf.Int64Value batch_timeout_micros",
    "3 google.protobuf.Int64Value max_enqueued_batches",
    "4 google.protobuf.Int64Value num_batch_threads",
    "5 google.protobuf.StringValue thread_pool_name",
    "6 repeated int64 allowed_batch_sizes",
    "7 bool pad_variable_length_inputs",
    # Only ever read as text, where the numbers of these two do not show.
    "8 google.protobuf.BoolValue enable_large_batch_splitting",
    "9 google.protobuf.Int64Value max_execution_batch_size",
  ),
}

# {message: (name of its oneof, the fields in it)}
_ONEOFS = {"ModelSpec": ("version_choice", ("version", "version_label"))}
# {message: (name of its enum, its values)}
_ENUMS = {
  "ModelVersionStatus": (
    "State",
    {"UNKNOWN": 0, "START": 10, "LOADING": 20, "AVAILABLE": 30, "UNLOADING": 40, "END": 50},
  )
}


def _file(
  name: str, package: str, table: Mapping[str, Sequence[str]], imports: Sequence[str]
) -> descriptor_pb2.FileDescriptorProto:
  file = descriptor_pb2.FileDescriptorProto(name=name, package=package, syntax="proto3", dependency=imports)
  made = {}
  for path, fields in table.items():
    outer, _, inner = path.rpartition(".")
    made[path] = made[outer].nested_type.add(name=inner) if outer else file.message_type.add(name=inner)
    for field in fields:
      _add_field(made[path], f".{package}.{path}", field)
    oneof, members = _ONEOFS.get(path, ("", ()))
    if members:
      made[path].oneof_decl.add(name=oneof)
    for field in made[path].field:
      if field.name in members:
        field.oneof_index = 0
    if path in _ENUMS:
      enum, values = _ENUMS[path]
      made[path].enum_type.add(name=enum).value.extend(
        descriptor_pb2.EnumValueDescriptorProto(name=value, number=number) for value, number in values.items()
      )
  return file


def _add_field(kind: descriptor_pb2.DescriptorProto, full_name: str, text: str) -> None:
  number, *label, type_name, name = text.split()
  field = kind.field.add(name=name, number=int(number))
  field.label = _Field.LABEL_REPEATED if label else _Field.LABEL_OPTIONAL
  if label == ["map"]:
    entry = kind.nested_type.add(name="".join(word.capitalize() for word in name.split("_")) + "Entry")
    entry.options.map_entry = True
    _add_field(entry, "", "1 string key")
    _add_field(entry, "", f"2 {type_name} value")
    field.type, field.type_name = _Field.TYPE_MESSAGE, f"{full_name}.{entry.name}"
  elif type_name in _SCALARS:
    field.type = _SCALARS[type_name]
  else:
    # Whether it is a message or an enum the pool finds out by the name.
    field.type_name = f".{type_name}"


def _make_classes() -> dict[str, type[message.Message]]:
  """{name without its package: class} of all messages in both tables."""
  pool = descriptor_pool.DescriptorPool()
  for library in (any_pb2, wrappers_pb2):
    pool.AddSerializedFile(library.DESCRIPTOR.serialized_pb)
  imports = [any_pb2.DESCRIPTOR.name, wrappers_pb2.DESCRIPTOR.name]
  tensors = _file("deepline/tensorflow.proto", "tensorflow", _TENSORFLOW, [])
  serving = _file("deepline/serving.proto", "tensorflow.serving", _SERVING, [tensors.name, *imports])
  factory = message_factory.MessageFactory(pool)
  classes = {}
  for file in (tensors, serving):
    pool.AddSerializedFile(file.SerializeToString())
    for kind in file.message_type:
      classes[kind.name] = factory.GetPrototype(pool.FindMessageTypeByName(f"{file.package}.{kind.name}"))
  return classes


_CLASSES = _make_classes()

TensorShapeProto = _CLASSES["TensorShapeProto"]
TensorProto = _CLASSES["TensorProto"]
TensorInfo = _CLASSES["TensorInfo"]
SignatureDef = _CLASSES["SignatureDef"]
ModelSpec = _CLASSES["ModelSpec"]
StatusProto = _CLASSES["StatusProto"]
GetModelStatusRequest = _CLASSES["GetModelStatusRequest"]
GetModelStatusResponse = _CLASSES["GetModelStatusResponse"]
ModelVersionStatus = _CLASSES["ModelVersionStatus"]
GetModelMetadataRequest = _CLASSES["GetModelMetadataRequest"]
GetModelMetadataResponse = _CLASSES["GetModelMetadataResponse"]
SignatureDefMap = _CLASSES["SignatureDefMap"]
SSLConfig = _CLASSES["SSLConfig"]
PrometheusConfig = _CLASSES["PrometheusConfig"]
MonitoringConfig = _CLASSES["MonitoringConfig"]
BatchingParameters = _CLASSES["BatchingParameters"]
