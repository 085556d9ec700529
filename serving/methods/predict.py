"""Predict: from a request's parts to a session run, with the errors that TF Serving gives.

Source: tensorflow_serving/servables/tensorflow/predict_util.cc, tensorflow/cc/saved_model/util.cc
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from serving.errors import CODES, RequestError, invalid_argument
from serving.messages.tensors import decode_tensor
from serving.messages.varint import Buffer
from serving.sessions.session import SavedModelSession

DEFAULT_SIGNATURE = "serving_default"


def predict(
  session: SavedModelSession,
  signature_name: str,
  inputs: Mapping[str, Buffer],
  output_filter: Sequence[str] = (),
  timeout_ms: int = 0,
) -> dict[str, np.ndarray]:
  """Runs one signature.

  Args:
    signature_name: empty for "serving_default".
    inputs: {input name: serialized TensorProto}.
    output_filter: names of the outputs wanted; none: all of them.

  Returns:
    {output name: array}.

  Raises:
    RequestError: with TF Serving's code and text.
  """
  signature = _signature(session.signatures, signature_name)
  _check_size(signature, inputs)
  feeds = _feeds(signature, inputs)
  names = _wanted(signature, output_filter)
  try:
    values = session.run(feeds, [signature.outputs[name].name for name in names], timeout_ms)
  except tf.errors.OpError as error:
    raise request_error(error) from error
  return dict(zip(names, values, strict=True))


class Plan(NamedTuple):
  """What all requests for the same outputs of a signature have in common."""

  names: list[str]
  fetches: list[str]
  feed_names: dict[str, str]

  @classmethod
  def of(
    cls,
    signatures: Mapping[str, meta_graph_pb2.SignatureDef],
    signature_name: str,
    output_filter: Sequence[str] = (),
  ) -> Plan:
    """Arguments and errors as of `predict`."""
    signature = _signature(signatures, signature_name)
    names = _wanted(signature, output_filter)
    feed_names = {alias: info.name for alias, info in signature.inputs.items()}
    return cls(names, [signature.outputs[name].name for name in names], feed_names)

  def feeds(self, inputs: Mapping[str, Buffer]) -> dict[str, np.ndarray] | None:
    """{tensor name: value} of a request; None if it does not give exactly the inputs, each a valid tensor."""
    if inputs.keys() != self.feed_names.keys():
      return None
    try:
      return {self.feed_names[alias]: decode_tensor(data) for alias, data in inputs.items()}
    except ValueError:
      return None


def request_error(error: tf.errors.OpError) -> RequestError:
  """What TensorFlow says of a run, for the client."""
  return RequestError(CODES.get(error.error_code, grpc.StatusCode.UNKNOWN), error.message)


def _signature(
  signatures: Mapping[str, meta_graph_pb2.SignatureDef], name: str
) -> meta_graph_pb2.SignatureDef:
  name = name or DEFAULT_SIGNATURE
  if name not in signatures:
    raise RequestError(grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
  return signatures[name]


def _check_size(signature: meta_graph_pb2.SignatureDef, inputs: Mapping[str, Buffer]) -> None:
  sent, wanted = set(inputs), set(signature.inputs)
  if len(sent) > len(wanted) or (len(sent) < len(wanted) and not signature.defaults):
    raise invalid_argument(
      f"input size does not match signature: {len(sent)}!={len(wanted)} len({{{_join(sent)}}}) != "
      f"len({{{_join(wanted)}}}). Sent extra: {{{_join(sent - wanted)}}}. "
      f"Missing but required: {{{_join(wanted - sent)}}}."
    )


def _feeds(signature: meta_graph_pb2.SignatureDef, inputs: Mapping[str, Buffer]) -> dict[str, np.ndarray]:
  feeds = {}
  for alias in sorted(signature.inputs):
    name = signature.inputs[alias].name
    if alias in inputs:
      data = inputs[alias]
    elif alias in signature.defaults:
      data = signature.defaults[alias].SerializeToString()
    else:
      raise invalid_argument(
        f"Signature input alias: {alias}(feed name: {name}) not found in request and no default value "
        f"provided. Inputs expected to be in the request {{{_join(inputs)}}}, or default input alias set: "
        f"{_join(signature.defaults)}"
      )
    try:
      feeds[name] = decode_tensor(data)
    except ValueError as error:
      raise invalid_argument(f"tensor parsing error: {alias}") from error
  used = set(inputs) & set(signature.inputs)
  if len(used) != len(inputs):
    raise invalid_argument(
      f"Inputs contains invalid name. Used request inputs: {_join(used)}, request input: {_join(inputs)}"
    )
  return feeds


def _wanted(signature: meta_graph_pb2.SignatureDef, output_filter: Sequence[str]) -> list[str]:
  seen = set()
  for alias in output_filter:
    if alias not in signature.outputs:
      raise invalid_argument(
        f"output tensor alias not found in signature: {alias} Outputs expected to be in the set "
        f"{{{_join(signature.outputs)}}}."
      )
    if alias in seen:
      raise invalid_argument(f"duplicate output tensor alias: {alias}")
    seen.add(alias)
  return list(output_filter) or sorted(signature.outputs)


def _join(names: Iterable[str]) -> str:
  return ",".join(sorted(names))
