"""Predict messages between bytes on the wire and arrays.

The official classes parse a request's tensors value by value before anyone looks at them. Here a message is
split around its map of tensors, which `serving.tensors` reads and writes in one piece; everything else goes
through the official classes. What is written is plain protocol-buffer encoding: any client reads it.

Source: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from google.protobuf import message
from tensorflow_serving.apis import model_pb2, predict_pb2

from serving.tensors import Buffer, decode_tensor, encode_tensor
from serving.varint import LENGTH_DELIMITED, read_varint, skip_field, tagged

_KEY, _VALUE = 0x0A, 0x12  # tags in a map's entry


class PredictCall(NamedTuple):
  """A Predict request. The inputs are serialized TensorProtos; `model_spec` is None where none was sent."""

  model_spec: model_pb2.ModelSpec | None
  inputs: Mapping[str, Buffer]
  output_filter: list[str]


class PredictAnswer(NamedTuple):
  """A Predict response with its outputs as arrays."""

  model_spec: model_pb2.ModelSpec
  outputs: Mapping[str, np.ndarray]


def read_predict_request(data: bytes) -> PredictCall:
  """Takes a serialized PredictRequest apart.

  Raises:
    ValueError: the bytes are no PredictRequest.
  """
  rest, inputs = _split_map(data, predict_pb2.PredictRequest.INPUTS_FIELD_NUMBER)
  request = _parse(predict_pb2.PredictRequest, rest)
  spec = request.model_spec if request.HasField("model_spec") else None
  return PredictCall(spec, inputs, list(request.output_filter))


def write_predict_request(call: PredictCall) -> bytes:
  """Serialized PredictRequest."""
  request = predict_pb2.PredictRequest(model_spec=call.model_spec, output_filter=call.output_filter)
  number = predict_pb2.PredictRequest.INPUTS_FIELD_NUMBER
  return request.SerializeToString() + _join_map(number, call.inputs)


def read_predict_response(data: bytes) -> PredictAnswer:
  """Takes a serialized PredictResponse apart.

  Raises:
    ValueError: the bytes are no PredictResponse, or a tensor in it cannot be read.
  """
  rest, outputs = _split_map(data, predict_pb2.PredictResponse.OUTPUTS_FIELD_NUMBER)
  spec = _parse(predict_pb2.PredictResponse, rest).model_spec
  return PredictAnswer(spec, {name: decode_tensor(tensor) for name, tensor in outputs.items()})


def write_predict_response(answer: PredictAnswer) -> bytes:
  """Serialized PredictResponse with its outputs in typed fields (`float_val` and so on)."""
  response = predict_pb2.PredictResponse(model_spec=answer.model_spec)
  outputs = {name: encode_tensor(array) for name, array in answer.outputs.items()}
  return response.SerializeToString() + _join_map(predict_pb2.PredictResponse.OUTPUTS_FIELD_NUMBER, outputs)


def _parse(kind: type[message.Message], data: bytes) -> message.Message:
  try:
    return kind.FromString(data)
  except message.DecodeError as error:
    raise ValueError(f"not a {kind.DESCRIPTOR.name}") from error


def _split_map(data: bytes, number: int) -> tuple[bytes, dict[str, Buffer]]:
  """A message as (the rest of it, its map<string, message> of that field number with values unparsed)."""
  view = memoryview(data)
  tag = number << 3 | LENGTH_DELIMITED
  rest, entries, position = [], {}, 0
  while position < len(data):
    end = skip_field(view, position)
    if data[position] == tag:
      _, start = read_varint(view, position + 1)
      key, value = _map_entry(view[start:end])
      entries[key] = value
    else:
      rest.append(view[position:end])
    position = end
  return b"".join(rest), entries


def _map_entry(entry: memoryview) -> tuple[str, Buffer]:
  key, value, position = "", b"", 0
  while position < len(entry):
    end = skip_field(entry, position)
    if entry[position] in (_KEY, _VALUE):
      _, start = read_varint(entry, position + 1)
      if entry[position] == _KEY:
        key = str(entry[start:end], "utf-8")
      else:
        value = entry[start:end]
    position = end
  return key, value


def _join_map(number: int, entries: Mapping[str, Buffer]) -> bytes:
  tag = number << 3 | LENGTH_DELIMITED
  return b"".join(
    tagged(tag, tagged(_KEY, key.encode("utf-8")) + tagged(_VALUE, value)) for key, value in entries.items()
  )
