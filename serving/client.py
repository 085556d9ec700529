"""A client of the Predict API: of the embedded server and of TF Serving alike.

TensorFlow is not imported, so that a client starts at once.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import grpc
import numpy as np

from serving.client_inputs import Tensors, as_tensor, example_batches, joined, split
from serving.connection import Connection, TlsFiles
from serving.errors import CallError, ServingError
from serving.messages import protos
from serving.messages.dtypes import dtype_name
from serving.messages.tensors import encode_tensor_content
from serving.messages.wire import PredictCall, read_predict_response, write_predict_request

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
_GET_METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
_GET_STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
# Names the operation that fills tables after loading; nothing that a client could ask for.
_INIT_SIGNATURE = "__saved_model_init_op"
# A batch that is refused with one of these is asked again one by one: the fault may be one example's, or the size's.
_OF_ONE_EXAMPLE = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED)


class VersionStatus(NamedTuple):
  """One version: `state` is START, LOADING, AVAILABLE, UNLOADING or END; `error` is empty if all is well."""

  version: int
  state: str
  error: str


class TensorSpec(NamedTuple):
  """One input or output of a signature: dtype in TensorFlow's name; None is an open dimension or rank."""

  dtype: str
  shape: tuple[int | None, ...] | None


class Signature(NamedTuple):
  """{name: TensorSpec} of what a signature takes and answers."""

  inputs: dict[str, TensorSpec]
  outputs: dict[str, TensorSpec]


class PredictClient:
  """Talks to one server; a context manager. Threads may share it.

  A call that meets an unavailable server is repeated, with waits that double, as long as its time lasts.

  Args:
    address: HOST:PORT.
    timeout_s: the longest that a call may take, with connecting and all attempts.
    tls: files of an encrypted connection; None: it is not encrypted.
    max_attempts: how often a call is sent at most, 1 to 5.

  Raises:
    ServingError: a file of `tls` cannot be read.
  """

  def __init__(
    self, address: str, timeout_s: float = 30.0, *, tls: TlsFiles | None = None, max_attempts: int = 4
  ):
    self.address = address
    self._connection = Connection(address, timeout_s, tls, max_attempts)
    self._predict = self._connection.method(_PREDICT, write_predict_request, read_predict_response)
    self._status = self._connection.method(
      _GET_STATUS,
      protos.GetModelStatusRequest.SerializeToString,
      protos.GetModelStatusResponse.FromString,
    )
    self._metadata = self._connection.method(
      _GET_METADATA,
      protos.GetModelMetadataRequest.SerializeToString,
      protos.GetModelMetadataResponse.FromString,
    )

  def __enter__(self) -> PredictClient:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def close(self) -> None:
    """Closes the connection."""
    self._connection.close()

  def predict(
    self,
    model_name: str,
    inputs: Mapping[str, Any],
    signature_name: str = "serving_default",
    output_filter: Sequence[str] = (),
    version: int | None = None,
    version_label: str | None = None,
  ) -> tuple[dict[str, np.ndarray], int]:
    """Asks for one batch.

    Args:
      inputs: {input name: array [batch, ...], or list}. Bytes and text become string tensors, Python's floats
        float32 and its integers int64; arrays keep their dtype.
      output_filter: names of the outputs wanted; none: all of them.
      version, version_label: which version is to answer, by its number or a label; neither: the newest.

    Returns:
      ({output name: array; strings as bytes objects}, version that answered).

    Raises:
      ServingError: one line with the address, the code's name and the server's text.
      ValueError: an input cannot be made a tensor, or both a version and a label are given.
    """
    spec = _model_spec(model_name, signature_name, version, version_label)
    tensors = {name: as_tensor(name, value) for name, value in inputs.items()}
    answer = self._connection.call(self._predict, _predict_call(spec, tensors, output_filter))
    return dict(answer.outputs), answer.model_spec.version.value

  def predict_many(
    self,
    model_name: str,
    examples: Iterable[Mapping[str, Any]],
    batch_size: int = 8,
    in_flight: int = 2,
    signature_name: str = "serving_default",
    output_filter: Sequence[str] = (),
    version: int | None = None,
    version_label: str | None = None,
  ) -> Iterator[Tensors | ServingError]:
    """Asks for any number of examples, in batches of neighbours whose values have equal shapes.

    No more than `in_flight` batches of examples are in memory. A batch that is refused for what is in it is asked
    again one by one, so that an example spoils no other's answer.

    Args:
      examples: {input name: value without the batch}; see `predict`.
      batch_size: examples of a call at most.
      in_flight: calls that are sent before the answer to the first is awaited.

    Yields:
      In the examples' order, each one's {output name: value without the batch}, or the error that it alone has.

    Raises:
      ServingError: the server does not answer, or refuses for a reason that lies in no example.
      ValueError: a value cannot be made a tensor, or both a version and a label are given.
    """
    spec = _model_spec(model_name, signature_name, version, version_label)
    pending = collections.deque()
    try:
      for batch in example_batches(examples, batch_size):
        call = _predict_call(spec, joined(batch), output_filter)
        pending.append((batch, self._connection.start(self._predict, call)))
        if len(pending) >= in_flight:
          yield from self._answers(spec, *pending.popleft(), output_filter)
      while pending:
        yield from self._answers(spec, *pending.popleft(), output_filter)
    finally:
      for _, call in pending:
        call.cancel()

  def status(self, model_name: str) -> list[VersionStatus]:
    """The versions of a model that the server has seen, newest first.

    Raises:
      ServingError: the server does not know the model, or does not answer.
    """
    request = protos.GetModelStatusRequest(model_spec=protos.ModelSpec(name=model_name))
    states = protos.ModelVersionStatus.State
    return [
      VersionStatus(found.version, states.Name(found.state), found.status.error_message)
      for found in self._connection.call(self._status, request).model_version_status
    ]

  def metadata(self, model_name: str) -> tuple[dict[str, Signature], int]:
    """The signatures of the version that answers now.

    Returns:
      ({signature name: Signature}, version).

    Raises:
      ServingError: the server does not serve the model, or does not answer.
    """
    request = protos.GetModelMetadataRequest(
      model_spec=protos.ModelSpec(name=model_name), metadata_field=["signature_def"]
    )
    response = self._connection.call(self._metadata, request)
    signatures = protos.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    found = {
      name: Signature(_specs(signature.inputs), _specs(signature.outputs))
      for name, signature in signatures.signature_def.items()
      if name != _INIT_SIGNATURE
    }
    return found, response.model_spec.version.value

  def _answers(
    self, spec: protos.ModelSpec, batch: list[Tensors], call: grpc.Future, output_filter: Sequence[str]
  ) -> Iterator[Tensors | ServingError]:
    """One answer an example of a batch that has been sent."""
    try:
      found = split(self._connection.result(call).outputs, len(batch))
    except CallError as error:
      if error.code not in _OF_ONE_EXAMPLE:
        raise
      found = [error] if len(batch) == 1 else None
    if found is not None:
      yield from found
      return
    for example in batch:
      alone = self._connection.start(self._predict, _predict_call(spec, example, output_filter))
      yield from self._answers(spec, [example], alone, output_filter)


def _model_spec(name: str, signature_name: str, version: int | None, label: str | None) -> protos.ModelSpec:
  if version is not None and label is not None:
    raise ValueError(f"give version={version} or version_label={label!r}, not both")
  spec = protos.ModelSpec(name=name, signature_name=signature_name)
  if version is not None:
    spec.version.value = version
  if label is not None:
    spec.version_label = label
  return spec


def _predict_call(spec: protos.ModelSpec, tensors: Tensors, output_filter: Sequence[str]) -> PredictCall:
  encoded = {name: encode_tensor_content(values) for name, values in tensors.items()}
  return PredictCall(spec, encoded, list(output_filter))


def _specs(infos: Mapping[str, Any]) -> dict[str, TensorSpec]:
  return {
    name: TensorSpec(
      dtype_name(info.dtype),
      None
      if info.tensor_shape.unknown_rank
      else tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim),
    )
    for name, info in infos.items()
  }
