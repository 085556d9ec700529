"""Predict messages between bytes on the wire and arrays.

Message classes parse a request's tensors value by value before anyone looks at them. Here a message is taken apart
field by field, and its tensors are read and written in one piece by `serving.messages.tensors`. What is written is
plain protocol-buffer encoding: any client reads it.

Source: https://protobuf.dev/programming-guides/encoding, tensorflow_serving/apis/predict.proto
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from google.protobuf import message

from serving.messages.protos import ModelSpec
from serving.messages.tensors import decode_tensor, encode_tensor, encode_tensor_content
from serving.messages.varint import LENGTH_DELIMITED, Buffer, read_varint, skip_field, tagged

# Tags of length-delimited fields, by their numbers in the messages.
_FIELD_1, _FIELD_2, _FIELD_3 = (number << 3 | LENGTH_DELIMITED for number in (1, 2, 3))
_REQUEST_SPEC, _REQUEST_INPUTS, _REQUEST_FILTER = _FIELD_1, _FIELD_2, _FIELD_3
_RESPONSE_OUTPUTS, _RESPONSE_SPEC = _FIELD_1, _FIELD_2
# Clients choose what stands in a spec: no one is to fill the memory with specs that are kept.
_LARGEST_SHARED_SPEC_BYTES = 1024
_KEY, _VALUE = _FIELD_1, _FIELD_2  # of a map's entry


class PredictCall(NamedTuple):
  """A Predict request. The inputs are serialized TensorProtos; `model_spec` is None where none was sent.

  Requests may share their `model_spec`.
  """

  model_spec: ModelSpec | None
  inputs: Mapping[str, Buffer]
  output_filter: list[str]


class PredictAnswer(NamedTuple):
  """A Predict response with its outputs as arrays."""

  model_spec: ModelSpec
  outputs: Mapping[str, np.ndarray]


def read_predict_request(data: bytes) -> PredictCall:
  """Takes a serialized PredictRequest apart.

  Raises:
    ValueError: the bytes are no PredictRequest.
  """
  specs, inputs, output_filter = [], {}, []
  for tag, value in _fields(memoryview(data)):
    if tag == _REQUEST_INPUTS:
      name, tensor = _map_entry(value)
      inputs[name] = tensor
    elif tag == _REQUEST_SPEC:
      specs.append(value)
    elif tag == _REQUEST_FILTER:
      output_filter.append(str(value, "utf-8"))
  return PredictCall(_model_spec(specs) if specs else None, inputs, output_filter)


def write_predict_request(call: PredictCall) -> bytes:
  """Serialized PredictRequest."""
  spec = b"" if call.model_spec is None else tagged(_REQUEST_SPEC, call.model_spec.SerializeToString())
  names = [tagged(_REQUEST_FILTER, name.encode("utf-8")) for name in call.output_filter]
  return b"".join([spec, *names, *_map_entries(_REQUEST_INPUTS, call.inputs)])


def read_predict_response(data: bytes) -> PredictAnswer:
  """Takes a serialized PredictResponse apart.

  Raises:
    ValueError: the bytes are no PredictResponse, or a tensor in it cannot be read.
  """
  specs, outputs = [], {}
  for tag, value in _fields(memoryview(data)):
    if tag == _RESPONSE_OUTPUTS:
      name, tensor = _map_entry(value)
      outputs[name] = decode_tensor(tensor)
    elif tag == _RESPONSE_SPEC:
      specs.append(value)
  return PredictAnswer(_model_spec(specs), outputs)


def write_predict_response(answer: PredictAnswer, as_content: bool = False) -> bytes:
  """Serialized PredictResponse.

  Args:
    as_content: whether the outputs' values stand in `tensor_content`, not in typed fields (`float_val` and so on).
  """
  encode = encode_tensor_content if as_content else encode_tensor
  outputs = {name: encode(array) for name, array in answer.outputs.items()}
  spec = tagged(_RESPONSE_SPEC, answer.model_spec.SerializeToString())
  return b"".join([*_map_entries(_RESPONSE_OUTPUTS, outputs), spec])


def _model_spec(parts: list[memoryview]) -> ModelSpec:
  """A ModelSpec from each time that the field was sent: joined, they are what the last one changes of the first.

  Requests that name the same model get the same object, which is not to be changed.
  """
  data = b"".join(parts)
  return _shared_spec(data) if len(data) <= _LARGEST_SHARED_SPEC_BYTES else _parsed_spec(data)


def _parsed_spec(data: bytes) -> ModelSpec:
  try:
    return ModelSpec.FromString(data)
  except message.DecodeError as error:
    raise ValueError("not a ModelSpec") from error


_shared_spec = functools.lru_cache(maxsize=1024)(_parsed_spec)


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
  """(tag, content) of a message's length-delimited fields whose tag is one byte; the others are passed over."""
  position = 0
  while position < len(data):
    tag = data[position]
    if tag & 0x87 == LENGTH_DELIMITED:
      length, start = read_varint(data, position + 1)
      position = start + length
      if position > len(data):
        raise ValueError("a truncated message")
      yield tag, data[start:position]
    else:
      position = skip_field(data, position)


def _map_entry(entry: memoryview) -> tuple[str, Buffer]:
  key, value = "", b""
  for tag, content in _fields(entry):
    if tag == _KEY:
      key = str(content, "utf-8")
    elif tag == _VALUE:
      value = content
  return key, value


def _map_entries(tag: int, entries: Mapping[str, Buffer]) -> list[bytes]:
  return [tagged(tag, _key(name) + tagged(_VALUE, value)) for name, value in entries.items()]


@functools.lru_cache(maxsize=1024)
def _key(name: str) -> bytes:
  return tagged(_KEY, name.encode("utf-8"))
