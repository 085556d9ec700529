"""Attempts, deadlines and encryption, against servers that are there, come and go, or say that they are busy."""

import concurrent.futures
import socket
import time

import grpc
import pytest

from serving.connection import Connection, TlsFiles
from serving.errors import CallError, ServingError
from tests.certificates import write_certificates

METHOD = "/deepline.Test/Answer"


class BusyServer:
  """Answers a call with its own bytes after it has said `num_refusals` times that it is unavailable."""

  def __init__(self, port=0, credentials=None):
    self.num_refusals = self.num_calls = 0
    self.delay_s = 0.0
    self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    handlers = {"Answer": grpc.unary_unary_rpc_method_handler(self._answer)}
    self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("deepline.Test", handlers),))
    address = f"127.0.0.1:{port}"
    if credentials is None:
      self.port = self._server.add_insecure_port(address)
    else:
      self.port = self._server.add_secure_port(address, credentials)
    self.address = f"127.0.0.1:{self.port}"
    self._server.start()

  def _answer(self, request, context):
    self.num_calls += 1
    time.sleep(self.delay_s)
    if self.num_refusals:
      self.num_refusals -= 1
      context.abort(grpc.StatusCode.UNAVAILABLE, "the queue\nis full")
    return request

  def stop(self):
    self._server.stop(0).wait()


@pytest.fixture
def server():
  server = BusyServer()
  yield server
  server.stop()


def ask(address, request=b"question", timeout_s=20.0, tls=None, max_attempts=4):
  connection = Connection(address, timeout_s, tls, max_attempts)
  try:
    return connection.call(connection.method(METHOD, None, None), request)
  finally:
    connection.close()


def test_an_unavailable_server_is_asked_again(server):
  server.num_refusals = 2
  assert ask(server.address) == b"question"
  assert server.num_calls == 3


def test_large_requests_are_asked_again_too(server):
  server.num_refusals = 1
  request = b"x" * 2_000_000
  assert ask(server.address, request) == request
  assert server.num_calls == 2


@pytest.mark.parametrize("max_attempts", [1, 2])
def test_what_a_busy_server_says_is_told_in_one_line(server, max_attempts):
  server.num_refusals = 9
  with pytest.raises(CallError) as caught:
    ask(server.address, max_attempts=max_attempts)
  assert str(caught.value) == f"{server.address}: UNAVAILABLE: the queue is full"
  assert caught.value.code == grpc.StatusCode.UNAVAILABLE
  assert server.num_calls == max_attempts


def test_one_deadline_holds_for_all_attempts(server):
  server.num_refusals, server.delay_s = 9, 0.5
  with pytest.raises(CallError, match="DEADLINE_EXCEEDED"):
    ask(server.address, timeout_s=0.9)
  assert server.num_calls <= 2


def test_calls_that_are_started_run_side_by_side(server):
  server.delay_s = 0.2
  connection = Connection(server.address, 20, None, 4)
  method = connection.method(METHOD, None, None)
  started = [connection.start(method, request) for request in (b"a", b"b", b"c")]
  assert not started[2].done()
  assert [connection.result(call) for call in started] == [b"a", b"b", b"c"]
  server.num_refusals = 9
  with pytest.raises(CallError, match="UNAVAILABLE: the queue is full"):
    connection.result(connection.start(method, b"d"))
  connection.close()


def test_a_server_that_comes_back_is_found_again(server):
  connection = Connection(server.address, 20, None, 4)
  method = connection.method(METHOD, None, None)
  assert connection.call(method, b"a") == b"a"
  server.stop()
  successor = BusyServer(server.port)
  try:
    assert successor.port == server.port
    assert connection.call(method, b"b") == b"b"
  finally:
    successor.stop()
  with pytest.raises(ServingError, match="^no model server answers at "):
    connection.call(method, b"c")
  connection.close()


def test_a_server_that_is_not_there():
  with socket.socket() as unused:
    unused.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{unused.getsockname()[1]}"
    with pytest.raises(ServingError) as caught:
      ask(address, timeout_s=0.3)
  assert str(caught.value) == (
    f"no model server answers at {address}; start one: deepline serve --model_name=NAME --model_base_path=DIR "
    f"--port={address.rpartition(':')[2]}"
  )


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
  return write_certificates(tmp_path_factory.mktemp("pem"))


@pytest.fixture(scope="module")
def tls_server(pem):
  credentials = grpc.ssl_server_credentials(
    [((pem / "server.key").read_bytes(), (pem / "server.crt").read_bytes())],
    (pem / "ca.crt").read_bytes(),
    require_client_auth=True,
  )
  server = BusyServer(credentials=credentials)
  yield server
  server.stop()


def test_encrypted_calls_in_which_both_sides_are_checked(tls_server, pem):
  files = TlsFiles(str(pem / "ca.crt"), str(pem / "client.crt"), str(pem / "client.key"))
  assert ask(tls_server.address, tls=files) == b"question"


def test_a_server_or_client_that_cannot_be_trusted(tls_server, pem):
  for files in (TlsFiles(str(pem / "other.crt")), TlsFiles(str(pem / "ca.crt"))):
    calls = tls_server.num_calls
    with pytest.raises(ServingError, match=f"{tls_server.address}.*(over TLS; check|UNAVAILABLE)"):
      ask(tls_server.address, tls=files, timeout_s=2)
    assert tls_server.num_calls == calls


def test_files_of_an_encrypted_connection_that_are_not_there(pem):
  with pytest.raises(ServingError, match="^TLS: .*missing.crt: No such file or directory$"):
    Connection("127.0.0.1:1", 1, TlsFiles(str(pem / "missing.crt")), 4)
  with pytest.raises(ServingError, match="certificate and its key belong together"):
    Connection("127.0.0.1:1", 1, TlsFiles(certificate=str(pem / "client.crt")), 4)
