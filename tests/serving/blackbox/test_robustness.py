"""Clients that die, dawdle, send much, or send nonsense: the server goes on answering the others."""

import contextlib
import resource
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from tensorflow.core.framework import tensor_pb2

X = np.array([2.0], np.float32)
NUM_IDLE = 10_000
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# A client in its own process: argv are the address, a file of a serialized PredictRequest, how many at once.
ASKING = """
import sys, grpc
address, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
channel = grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1)])
ask = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
request = open(path, "rb").read()
futures = [ask.future(request) for _ in range(count)]
print("asked", flush=True)
print(sum(len(future.result()) for future in futures), flush=True)
"""

# Holds idle connections: argv are how many and the ports; ends when its input does.
HOLDING = """
import resource, socket, sys
count, ports = int(sys.argv[1]), [int(port) for port in sys.argv[2:]]
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held = [socket.create_connection(("127.0.0.1", ports[i % len(ports)]), timeout=60) for i in range(count)]
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def sturdy(start, publish, wait_for, tmp_path_factory):
  """A server for the tests of this file."""
  base_path = tmp_path_factory.mktemp("sturdy") / "m"
  base_path.mkdir()
  publish(base_path, 1)
  with start({"model_name": "m", "model_base_path": base_path}) as server:
    wait_for(lambda: server.available() == [1])
    server.fds_before = psutil.Process(server.process.pid).num_fds()
    yield server


@pytest.fixture(autouse=True)
def still_answers(sturdy, client):
  """After each test the same process answers right, over connections old and new."""
  yield
  assert_answers(sturdy)
  with sturdy.connect() as channel:
    stub = sturdy.prediction.__class__(channel)
    assert list(stub.Predict(client.predict_request({"x": X}), timeout=20).outputs["y"].float_val) == [2.0]


def assert_answers(server, timeout_s=20):
  """A right answer from both ports, within a time that a server at work allows."""
  assert server.process.poll() is None, server.log()[-2000:]
  assert server.outputs({"x": X}, timeout_s=timeout_s)["y"].tolist() == [2.0]
  response = server.http.post("/v1/models/m:predict", json={"instances": [2.0]}, timeout=timeout_s)
  assert response.json() == {"predictions": [2.0]}


@contextlib.contextmanager
def process(script, *arguments):
  """A Python process that runs a script and talks over pipes."""
  command = [sys.executable, "-c", script, *map(str, arguments)]
  child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
  try:
    yield child
  finally:
    child.kill()
    child.wait()
    child.stdin.close()
    child.stdout.close()


def num_fds(server):
  """Files and connections that the server has open."""
  return psutil.Process(server.process.pid).num_fds()


def test_a_client_that_is_killed_in_mid_request(sturdy, client, tmp_path, wait_for):
  """More requests than the server has threads; their runs end, and their threads answer others."""
  path = tmp_path / "request"
  path.write_bytes(client.predict_request({"steps": np.array([100_000])}, "slow").SerializeToString())
  with process(ASKING, sturdy.address, path, 40) as child:
    assert child.stdout.readline() == "asked\n"
    time.sleep(1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert_answers(sturdy, timeout_s=120)
  wait_for(lambda: num_fds(sturdy) <= sturdy.fds_before + 8)


def test_a_client_that_stops_reading(sturdy, client, tmp_path):
  """Stopped while 120 MB of answers are under way to it, and then continued: it gets them all."""
  path = tmp_path / "request"
  path.write_bytes(client.predict_request({"x": np.zeros(3_000_000, np.float32)}).SerializeToString())
  with process(ASKING, sturdy.address, path, 10) as child:
    assert child.stdout.readline() == "asked\n"
    child.send_signal(signal.SIGSTOP)
    for _ in range(20):
      assert_answers(sturdy)
      time.sleep(0.1)
    child.send_signal(signal.SIGCONT)
    assert int(child.stdout.readline()) > 10 * 4 * 3_000_000


def test_slow_readers_and_writers_over_rest(sturdy):
  """One sends a byte now and then, one takes no byte of a large answer, one breaks off in its body."""
  head = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
  body = b'{"instances": [' + b"1.0," * 999_999 + b"1.0]}"
  with contextlib.ExitStack() as stack:
    slow_writers, slow_readers = (
      [
        stack.enter_context(socket.create_connection(("127.0.0.1", sturdy.rest_port), timeout=60))
        for _ in range(20)
      ]
      for _ in range(2)
    )
    for connection in slow_writers:
      connection.sendall(head % len(body) + body[:1000])
    for connection in slow_readers[:4]:
      connection.sendall(head % len(body) + body)
    for i in range(10):
      for connection in slow_writers:
        connection.sendall(body[1000 + i : 1001 + i])
      assert_answers(sturdy, timeout_s=60)
  with socket.create_connection(("127.0.0.1", sturdy.rest_port), timeout=60) as connection:
    connection.sendall(head % 1_000_000 + b"{")


@pytest.mark.slow
def test_ten_thousand_idle_connections(sturdy, wait_for):
  """Or as many as one process may hold; half of them on each port."""
  hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
  count = NUM_IDLE if hard == resource.RLIM_INFINITY else min(NUM_IDLE, hard - 500)
  with process(HOLDING, count, sturdy.port, sturdy.rest_port) as child:
    assert child.stdout.readline() == "held\n"
    wait_for(lambda: num_fds(sturdy) >= count)
    for _ in range(5):
      assert_answers(sturdy)
    child.stdin.close()
    child.wait()
  wait_for(lambda: num_fds(sturdy) <= sturdy.fds_before + 50)


@pytest.mark.slow
def test_a_message_of_200_mb(sturdy):
  rows = np.ones((200, 250_000), np.float32)
  rows[:, 0] = np.arange(200)
  outputs = sturdy.outputs({"rows": rows}, "rows", timeout_s=300, output_filter=["sum"])
  assert outputs["sum"].tolist() == (249_999 + np.arange(200.0)).tolist()
  x = np.resize(np.arange(1000, dtype=np.float32), 50_000_000)
  np.testing.assert_array_equal(sturdy.outputs({"x": x}, timeout_s=300)["y"], x * np.float32(0.5) + 1)


def nonsense():
  """What is sent to either port: nothing, noise, other protocols, and theirs gone wrong."""
  noise = np.random.default_rng(0).bytes
  request = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: a\r\n"
  return {
    "nothing": b"",
    "noise": noise(10_000),
    "zeros": bytes(10_000),
    "newlines": b"\r\n" * 5_000,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise(500),
    "HTTP/2 and noise": HTTP2_PREFACE + noise(10_000),
    "a huge frame": HTTP2_PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01" + noise(1000),
    "many empty frames": HTTP2_PREFACE + bytes(9) + bytes([0, 0, 0, 0, 0, 0, 0, 0, 1]) * 1_000,
    "HTTP/1.1 alone": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "no HTTP version": b"GET /v1/models/m\r\n\r\n",
    "HTTP/9.9": b"GET /v1/models/m HTTP/9.9\r\nHost: a\r\n\r\n",
    "a long path": b"GET /v1/models/" + b"m" * 300_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "a long header": request + b"X: " + b"x" * 300_000 + b"\r\n\r\n",
    "many headers": request + b"X: x\r\n" * 20_000 + b"\r\n",
    "no header's name": request + b": x\r\n\x00\xff\r\n\r\n",
    "two lengths": request + b"Content-Length: 5\r\nContent-Length: 7\r\n\r\nabcdefg",
    "a negative length": request + b"Content-Length: -5\r\n\r\nabcde",
    "a length beyond all": request + b"Content-Length: 99999999999999999999999\r\n\r\nabcde",
    "length and chunks": request + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunks": request + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
    "an unknown coding": request + b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nabcde",
    "a path of escapes": b"GET /v1/models/%ff%00%zz/..%2f..%2fetc HTTP/1.1\r\nHost: a\r\n\r\n",
    "an upgrade": b"GET /v1/models/m HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
  }


@pytest.mark.parametrize("port", ["port", "rest_port"])
def test_garbage_on_both_ports(sturdy, port):
  """What the server answers to it, and whether it hangs up, is its business; all connections live at once."""
  with contextlib.ExitStack() as stack:
    for payload in nonsense().values():
      connection = stack.enter_context(
        socket.create_connection(("127.0.0.1", getattr(sturdy, port)), timeout=60)
      )
      with contextlib.suppress(ConnectionError):
        connection.sendall(payload)
    assert_answers(sturdy)
    time.sleep(1)
    assert_answers(sturdy)


def test_a_deeply_nested_json(sturdy):
  for content in (b"[" * 200_000, b'{"instances": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"):
    response = sturdy.http.post("/v1/models/m:predict", content=content)
    assert response.status_code == 400 and response.json()["error"]


def test_a_tensor_that_claims_to_be_huge(sturdy, refused):
  """One value, repeated to fill a shape of more elements than memory has bytes; and shapes that are none."""
  for sizes in ([2**44], [2**31, 2**31], [2**62, 4], [-1], [-(2**63)], [2**63 - 1]):
    tensor = tensor_pb2.TensorProto(dtype=1, float_val=[1.0])
    for size in sizes:
      tensor.tensor_shape.dim.add(size=size)
    code, message = refused(sturdy.predict, {"x": tensor}, timeout_s=60)
    assert code in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED") and message


def test_many_channels_at_once(sturdy, client):
  request = client.predict_request({"x": np.array([3.0], np.float32)})
  failures = []

  def ask():
    try:
      with sturdy.connect() as channel:
        stub = sturdy.prediction.__class__(channel)
        for _ in range(10):
          assert list(stub.Predict(request, timeout=120).outputs["y"].float_val) == [2.5]
    except Exception as error:
      failures.append(error)

  threads = [threading.Thread(target=ask) for _ in range(64)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert not failures, failures[0]
