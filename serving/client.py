"""A client of the Predict API: of the embedded server and of TF Serving alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import grpc
import numpy as np

from serving.errors import ServingError

_PREDICT = "/tensorflow.serving.PredictionService/Predict"
# Names the operation that fills tables after loading; nothing that a client could ask for.
_INIT_SIGNATURE = "__saved_model_init_op"


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

  Args:
    address: HOST:PORT.
    timeout_s: the longest that connecting, and then each call, may take.
  """

  def __init__(self, address: str, timeout_s: float = 30.0):
    self.address = address
    self.timeout_s = timeout_s
    self._channel = grpc.insecure_channel(
      address,
      options=[
        ("grpc.max_receive_message_length", 2**31 - 1),
        ("grpc.max_send_message_length", 2**31 - 1),
        ("grpc.enable_http_proxy", 0),
      ],
    )
    self._connected = False

  def __enter__(self) -> PredictClient:
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def close(self) -> None:
    """Closes the connection."""
    self._channel.close()

  def predict(
    self,
    model_name: str,
    inputs: Mapping[str, Any],
    signature_name: str = "serving_default",
    output_filter: Sequence[str] = (),
  ) -> tuple[dict[str, np.ndarray], int]:
    """Asks for one batch.

    Args:
      inputs: {input name: array [batch, ...], or list}. Bytes and text become string tensors, Python's floats
        float32 and its integers int64; arrays keep their dtype.
      output_filter: names of the outputs wanted; none: all of them.

    Returns:
      ({output name: array; strings as bytes objects}, version that answered).

    Raises:
      ServingError: one line with the address, the code's name and the server's text.
      ValueError: an input cannot be made a tensor.
    """
    from tensorflow_serving.apis import model_pb2

    from serving.tensors import encode_tensor_content
    from serving.wire import PredictCall, read_predict_response, write_predict_request

    spec = model_pb2.ModelSpec(name=model_name, signature_name=signature_name)
    tensors = {name: encode_tensor_content(as_tensor(name, value)) for name, value in inputs.items()}
    method = self._channel.unary_unary(_PREDICT, write_predict_request, read_predict_response)
    answer = self._call(method, PredictCall(spec, tensors, list(output_filter)))
    return dict(answer.outputs), answer.model_spec.version.value

  def status(self, model_name: str) -> list[VersionStatus]:
    """The versions of a model that the server has seen, newest first.

    Raises:
      ServingError: the server does not know the model, or does not answer.
    """
    from tensorflow_serving.apis import get_model_status_pb2 as status_pb2
    from tensorflow_serving.apis import model_service_pb2_grpc

    request = status_pb2.GetModelStatusRequest()
    request.model_spec.name = model_name
    response = self._call(model_service_pb2_grpc.ModelServiceStub(self._channel).GetModelStatus, request)
    states = status_pb2.ModelVersionStatus.State
    return [
      VersionStatus(found.version, states.Name(found.state), found.status.error_message)
      for found in response.model_version_status
    ]

  def metadata(self, model_name: str) -> tuple[dict[str, Signature], int]:
    """The signatures of the version that answers now.

    Returns:
      ({signature name: Signature}, version).

    Raises:
      ServingError: the server does not serve the model, or does not answer.
    """
    from tensorflow_serving.apis import get_model_metadata_pb2, prediction_service_pb2_grpc

    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = model_name
    stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
    response = self._call(stub.GetModelMetadata, request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    found = {
      name: Signature(_specs(signature.inputs), _specs(signature.outputs))
      for name, signature in signatures.signature_def.items()
      if name != _INIT_SIGNATURE
    }
    return found, response.model_spec.version.value

  def _call(self, method: Any, request: Any) -> Any:
    self._connect()
    try:
      return method(request, timeout=self.timeout_s)
    except grpc.RpcError as error:
      if error.code() == grpc.StatusCode.UNAVAILABLE:
        raise self._unreachable() from error
      text = " ".join((error.details() or "").split())
      raise ServingError(f"{self.address}: {error.code().name}: {text}") from error

  def _connect(self) -> None:
    if self._connected:
      return
    ready = grpc.channel_ready_future(self._channel)
    try:
      ready.result(self.timeout_s)
    except grpc.FutureTimeoutError as error:
      ready.cancel()
      raise self._unreachable() from error
    self._connected = True

  def _unreachable(self) -> ServingError:
    port = self.address.rsplit(":", 1)[-1]
    return ServingError(
      f"no model server answers at {self.address}; "
      f"start one: deepline serve --model_name=NAME --model_base_path=DIR --port={port}"
    )


def as_tensor(name: str, value: Any) -> np.ndarray:
  """An input as an array that can be sent: strings as bytes objects, Python numbers as float32 and int64.

  Raises:
    ValueError: the rows have different shapes, or values that no tensor holds.
  """
  if _holds_text(value):
    # Not by way of numpy's own byte strings: they lose trailing zero bytes.
    return _bytes_array(name, np.asarray(value, object))
  try:
    array = np.asarray(value)
  except ValueError as error:
    raise ValueError(f'the rows of input "{name}" have different shapes') from error
  if array.dtype.kind in "OSU":
    return _bytes_array(name, array.astype(object))
  if not isinstance(value, (np.ndarray, np.generic)):
    array = array.astype({"f": np.float32, "i": np.int64}.get(array.dtype.kind, array.dtype))
  return array


def _holds_text(value: Any) -> bool:
  while isinstance(value, (list, tuple)) and value:
    value = value[0]
  return isinstance(value, (str, bytes))


def _bytes_array(name: str, array: np.ndarray) -> np.ndarray:
  result = np.empty(array.shape, object)
  for index, value in np.ndenumerate(array):
    if isinstance(value, str):
      value = value.encode("utf-8")
    if not isinstance(value, bytes):
      raise ValueError(f'input "{name}" holds {type(value).__name__}; send bytes, text or numbers')
    result[index] = bytes(value)
  return result


def _specs(infos: Mapping[str, Any]) -> dict[str, TensorSpec]:
  from tensorflow.python.framework import dtypes

  return {
    name: TensorSpec(
      dtypes.as_dtype(info.dtype).name,
      None
      if info.tensor_shape.unknown_rank
      else tuple(None if dim.size < 0 else dim.size for dim in info.tensor_shape.dim),
    )
    for name, info in infos.items()
  }
