"""A client's connection to a server: attempts, deadlines, encryption, and what is told of failures."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from typing import Any

import grpc

from serving.errors import CallError, ServingError

_MAX_MESSAGE_BYTES = 2**31 - 1
_LONGEST_PROBE_S = 1.0


@dataclasses.dataclass(frozen=True)
class TlsFiles:
  """PEM files of an encrypted connection.

  `ca` holds the authorities by which the server is checked (None: the system's); `certificate` and `key` are the
  client's own, for a server that asks for them.
  """

  ca: str | None = None
  certificate: str | None = None
  key: str | None = None

  def credentials(self) -> grpc.ChannelCredentials:
    """For a channel.

    Raises:
      ServingError: a file cannot be read, or one of certificate and key is missing.
    """
    if (self.certificate is None) != (self.key is None):
      raise ServingError("TLS: a client's certificate and its key belong together; give both files or none")
    return grpc.ssl_channel_credentials(*map(_read_pem, (self.ca, self.key, self.certificate)))


class Connection:
  """One channel; it connects at the first call. Threads may share it.

  Args:
    address: HOST:PORT.
    timeout_s: the longest that a call may take, with connecting and all attempts.
    tls: files of an encrypted connection; None: it is not encrypted.
    max_attempts: how often a call that meets an unavailable server is sent at most, 1 to 5.

  Raises:
    ServingError: a file of `tls` cannot be read.
  """

  def __init__(self, address: str, timeout_s: float, tls: TlsFiles | None, max_attempts: int):
    self._address = address
    self._timeout_s = timeout_s
    self._tls = tls
    options = _channel_options(max_attempts)
    if tls is None:
      self._channel = grpc.insecure_channel(address, options)
    else:
      self._channel = grpc.secure_channel(address, tls.credentials(), options)
    self._connected = False

  def method(
    self, path: str, serialize: Callable[[Any], bytes], deserialize: Callable[[bytes], Any]
  ) -> grpc.UnaryUnaryMultiCallable:
    """A method of the server, for `call` and `start`."""
    return self._channel.unary_unary(path, serialize, deserialize)

  def call(self, method: grpc.UnaryUnaryMultiCallable, request: Any) -> Any:
    """The answer to a request.

    Raises:
      CallError: the server refuses it, or is late.
      ServingError: no server answers.
    """
    timeout_s = self._connect()
    try:
      return method(request, timeout=timeout_s)
    except grpc.RpcError as error:
      raise self._failure(error) from error

  def start(self, method: grpc.UnaryUnaryMultiCallable, request: Any) -> grpc.Future:
    """Sends a request, whose answer `result` waits for.

    Raises:
      ServingError: no server answers.
    """
    return method.future(request, timeout=self._connect())

  def result(self, started: grpc.Future) -> Any:
    """The answer to a request that `start` sent; raises what `call` does."""
    try:
      return started.result()
    except grpc.RpcError as error:
      raise self._failure(error) from error

  def close(self) -> None:
    """Ends the connection and what is under way on it."""
    self._channel.close()

  def _connect(self) -> float:
    """Waits for the first connection; returns the seconds that remain for the call."""
    started_s = time.monotonic()
    if not self._connected and not self._is_reachable(self._timeout_s):
      raise self._unreachable()
    self._connected = True
    return max(0.0, self._timeout_s - (time.monotonic() - started_s))

  def _is_reachable(self, timeout_s: float) -> bool:
    ready = grpc.channel_ready_future(self._channel)
    try:
      ready.result(timeout_s)
    except grpc.FutureTimeoutError:
      ready.cancel()
      return False
    return True

  def _failure(self, error: grpc.RpcError) -> ServingError:
    code = error.code()
    # A server that is there may itself say that it is unavailable, for example while its queue is full.
    if code == grpc.StatusCode.UNAVAILABLE and not self._is_reachable(min(self._timeout_s, _LONGEST_PROBE_S)):
      return self._unreachable()
    return CallError(code, f"{self._address}: {code.name}: {' '.join((error.details() or '').split())}")

  def _unreachable(self) -> ServingError:
    if self._tls is not None:
      return ServingError(
        f"no model server answers at {self._address} over TLS; check the address, the server's "
        "--ssl_config_file, and whether its certificate is for this host and signed by the authority given"
      )
    port = self._address.rsplit(":", 1)[-1]
    return ServingError(
      f"no model server answers at {self._address}; "
      f"start one: deepline serve --model_name=NAME --model_base_path=DIR --port={port}"
    )


def _channel_options(max_attempts: int) -> list[tuple[str, Any]]:
  retry = {
    "maxAttempts": max_attempts,
    "initialBackoff": "0.2s",
    "maxBackoff": "5s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
  }
  options = [
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.enable_http_proxy", 0),
    # Faster than a call's attempts come, or all of them would meet the same broken connection.
    ("grpc.initial_reconnect_backoff_ms", 100),
  ]
  if max_attempts == 1:
    return [*options, ("grpc.enable_retries", 0)]
  return [
    *options,
    ("grpc.service_config", json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": retry}]})),
    # What is larger than this is sent once only; gRPC's default is 256 KiB.
    ("grpc.per_rpc_retry_buffer_size", _MAX_MESSAGE_BYTES),
  ]


def _read_pem(path: str | None) -> bytes | None:
  if path is None:
    return None
  try:
    with open(path, "rb") as file:
      return file.read()
  except OSError as error:
    raise ServingError(f"TLS: {path}: {error.strerror}") from error
