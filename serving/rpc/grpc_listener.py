"""The gRPC side of a server: its port, TLS, channel arguments and health."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import socket
import stat
import threading
from typing import TYPE_CHECKING

import grpc

from serving.errors import ServingError
from serving.models.config_files import read_ssl
from serving.options import ServerOptions, address_of
from serving.rpc.call_queue import CallQueue
from serving.rpc.servicer import PREDICT_METHOD, Health, PredictCalls, add_services

if TYPE_CHECKING:
  from serving.methods.api import ModelApi
  from serving.telemetry.monitoring import Monitoring

MAX_MESSAGE_BYTES = 2**31 - 1
_INT32 = range(-(2**31), 2**31)


class GrpcListener:
  """Answers gRPC requests from the moment it is made until `stop`.

  Args:
    reuse_port: share the port with other processes that do the same.

  Raises:
    ServingError: the port or the socket cannot be had, or the TLS or channel arguments are wrong.
  """

  def __init__(
    self, options: ServerOptions, api: ModelApi, monitoring: Monitoring, *, reuse_port: bool = False
  ):
    threads = concurrent.futures.ThreadPoolExecutor(options.grpc_max_threads, thread_name_prefix="grpc")
    self._server = grpc.server(
      threads,
      options=[
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # Unless it is meant, two servers on one port would share its requests silently.
        ("grpc.so_reuseport", int(reuse_port)),
        *channel_arguments(options.grpc_channel_arguments),
      ],
    )
    add_services(self._server, api, monitoring)
    self._predict_calls = CallQueue(self._server, PREDICT_METHOD)
    self._health = Health(self._server) if options.enable_grpc_healthcheck_service else None
    self._lock = threading.Lock()
    self._stopped = False
    self._ssl_config_file = options.ssl_config_file
    credentials = _credentials(options.ssl_config_file)
    self.port = self._bind(address_of(options.host, options.port), credentials, "--port")
    if options.grpc_socket_path:
      _remove_dead_socket(options.grpc_socket_path)
      self._bind(f"unix:{options.grpc_socket_path}", credentials, "--grpc_socket_path")
    self._server.start()
    as_content = options.enable_serialization_as_tensor_content
    self._predict_calls.start(PredictCalls(api, monitoring, threads, as_content).answer)

  def set_serving(self, serving: bool) -> None:
    """What health checks are told; nothing any more once it stops."""
    with self._lock:
      if self._health is not None and not self._stopped:
        self._health.set_serving(serving)

  def stop(self, grace_s: float) -> threading.Event:
    """Refuses new requests at once; the event is set when those in flight are answered, or after `grace_s`."""
    self.set_serving(False)
    with self._lock:
      self._stopped = True
    stopping, ended = self._server.stop(grace_s), threading.Event()

    def end() -> None:
      stopping.wait()
      self._predict_calls.close()
      ended.set()

    threading.Thread(target=end, name="grpc-stop", daemon=True).start()
    return ended

  def _bind(self, address: str, credentials: grpc.ServerCredentials | None, flag: str) -> int:
    try:
      if credentials is None:
        port = self._server.add_insecure_port(address)
      else:
        port = self._server.add_secure_port(address, credentials)
    except RuntimeError:
      port = 0
    if port:
      return port
    problem = f"cannot listen on {address}: it is in use or not allowed; choose another {flag}"
    if credentials is not None:
      problem += f" (or the key and certificate in {self._ssl_config_file} are no pair of PEM texts)"
    raise ServingError(problem)


def channel_arguments(text: str) -> list[tuple[str, int | str]]:
  """--grpc_channel_arguments: "name=value,name=value"; a value that is a 32-bit integer is passed on as one.

  Raises:
    ServingError: an argument is not of that form.
  """
  found = []
  for argument in filter(None, text.split(",")):
    name, equals, value = argument.partition("=")
    if not (name and equals):
      raise ServingError(f"--grpc_channel_arguments: {argument} is not of the form name=value")
    with contextlib.suppress(ValueError):
      if int(value) in _INT32:
        value = int(value)
    found.append((name, value))
  return found


def _credentials(ssl_config_file: str) -> grpc.ServerCredentials | None:
  if not ssl_config_file:
    return None
  config = read_ssl(ssl_config_file)
  return grpc.ssl_server_credentials(
    [(config.server_key.encode(), config.server_cert.encode())],
    config.custom_ca.encode() or None,
    require_client_auth=config.client_verify,
  )


def _remove_dead_socket(path: str) -> None:
  """A server that was killed leaves its socket behind, and the next could not listen there."""
  with contextlib.suppress(OSError):
    if not stat.S_ISSOCK(os.stat(path).st_mode):
      return
    with socket.socket(socket.AF_UNIX) as probe:
      try:
        probe.connect(os.path.abspath(path))
      except ConnectionRefusedError:
        os.unlink(path)
