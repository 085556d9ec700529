"""The REST server over HTTP: real sessions, real sockets, and clients that misbehave."""

import concurrent.futures
import contextlib
import gzip
import json
import logging
import threading
import time

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.errors import ServingError
from serving.rest import rest_server
from serving.rest.rest_handler import RestHandler
from serving.rest.rest_server import RestServer
from serving.telemetry.monitoring import PROMETHEUS_PATH, Monitoring
from tests.serving.rest_calls import ROWS, connect, predict

ENDLESS = {"signature_name": "slow", "instances": [2**60]}


def test_metrics(start_rest):
  with start_rest() as (_, client, _):
    for _ in range(3):
      assert predict(client, {"instances": ROWS})[0] == 200
    predict(client, {"instances": ROWS}, "nobody")
    predict(client, {"instances": "?"})
    client.get("/v1/models/affine")
    answer = client.get(PROMETHEUS_PATH)
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = {
      (sample.name.removesuffix("_total"), tuple(sample.labels.values())): sample.value
      for family in text_string_to_metric_families(answer.text)
      for sample in family.samples
    }
    prefix = ":tensorflow:serving:"
    counts = {key: value for (name, key), value in found.items() if name == f"{prefix}request_count"}
    assert counts == {("affine", "OK"): 3, ("nobody", "NOT_FOUND"): 1, ("affine", "INVALID_ARGUMENT"): 1}
    assert found[f"{prefix}request_latency_count", ("predict", "REST", "affine")] == 3
    assert found[f"{prefix}runtime_latency_count", ("Predict", "affine", "TF1")] == 3
  with start_rest(metrics_path=None) as (_, client, _):
    assert client.get(PROMETHEUS_PATH).status_code == 404


def test_cross_origin_headers_only_where_enabled(start_rest, rest_client):
  wanted = {"POST, GET", "*", "Content-Type"}
  with start_rest(enable_cors=True) as (_, open_client, _):
    for answer in (
      open_client.options("/v1/models/affine:predict"),
      open_client.get("/v1/models/affine"),
      open_client.post("/v1/models/affine:predict", content=b"{"),
    ):
      assert {v for k, v in answer.headers.items() if k.startswith("access-control-allow-")} == wanted
    assert open_client.options("/v1/models/affine:predict").status_code == 200
  assert not any(k.startswith("access-control") for k in rest_client.get("/v1/models/affine").headers)


def test_the_time_limit_bounds_the_run(start_rest):
  with start_rest(timeout_ms=300) as (_, client, _):
    status, answer = predict(client, ENDLESS)
    assert status == 504
    assert answer["error"]


def test_waiting_for_a_thread_counts_against_the_time_limit(start_rest):
  with start_rest() as (_, _, api):
    left_ms = []
    real, api.predict = api.predict, lambda call, limit_ms: left_ms.append(limit_ms) or real(call, limit_ms)
    handler = RestHandler(api, Monitoring(), timeout_ms=10_000, metrics_path=None)

    def answer(waited_s):
      body = json.dumps({"instances": ROWS}).encode()
      return handler.answer("POST", b"/v1/models/affine:predict", body, time.perf_counter() - waited_s)

    assert answer(4.0).status == 200
    assert 0 < left_ms[0] <= 6000
    late = answer(11.0)
    assert late.status == 504
    assert json.loads(late.body) == {"error": "not answered within 10000 ms: the server is busy"}
    assert len(left_ms) == 1


def test_an_unexpected_error_is_one_line(start_rest, caplog):
  with start_rest() as (_, client, api):
    api.predict = lambda *_: 1 / 0
    with caplog.at_level(logging.ERROR):
      assert predict(client, {"instances": ROWS}) == (500, {"error": "ZeroDivisionError: division by zero"})
    assert "POST /v1/models/affine:predict failed" in caplog.text
    assert client.get("/v1/models/affine").status_code == 200


def test_compressed_bodies(rest_client, monkeypatch):
  body = json.dumps({"signature_name": "slow", "instances": [3]}).encode()

  def post(content):
    headers = {"Content-Encoding": "gzip"}
    answer = rest_client.post("/v1/models/affine:predict", content=content, headers=headers)
    return answer.status_code, answer.json()

  packed = gzip.compress(body)
  assert post(packed) == (200, {"predictions": [3]})
  status, answer = post(body)
  assert status == 400 and "not the gzip data that Content-Encoding announces" in answer["error"]
  assert post(packed[:-9]) == (400, {"error": "The gzip data in the body is cut short"})
  monkeypatch.setattr(rest_server, "MAX_BODY_BYTES", 1000)
  assert post(gzip.compress(b"1" * 100_000)) == (
    400,
    {"error": "The gzip data in the body holds more than 1000 bytes"},
  )


def test_huge_bodies_are_refused(rest_client, monkeypatch):
  monkeypatch.setattr(rest_server, "MAX_BODY_BYTES", 100_000)

  def chunks():
    for _ in range(50):
      yield b"1" * 10_000

  for content in (b"1" * 100_001, chunks()):
    with httpx.Client(base_url=rest_client.base_url, timeout=60) as other:
      answer = other.post("/v1/models/affine:predict", content=content)
      assert answer.status_code == 413
      assert answer.json() == {"error": "A request's body may have 100000 bytes: send smaller batches"}
  assert predict(rest_client, {"instances": ROWS})[0] == 200


@pytest.mark.parametrize(
  "data",
  [
    b"nonsense\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 50,
    b"POST /v1/models/affine:predict HTTP/1.1\r\nHost: x\r\nContent-Length: minus\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"POST /v1/models/affine:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
  ],
)
def test_malformed_http_ends_only_its_own_connection(rest_client, data):
  with connect(rest_client) as connection:
    connection.sendall(data)
    with contextlib.suppress(ConnectionResetError):
      answer = connection.recv(1000)
      assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
  assert predict(rest_client, {"instances": ROWS})[0] == 200


def test_slow_clients_hold_no_thread(start_rest):
  head = b"POST /v1/models/affine:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
  with start_rest(num_threads=1) as (_, client, _), contextlib.ExitStack() as stack:
    for data in (head[:20], head, head + b'{"instances"') * 20:
      connection = stack.enter_context(connect(client))
      connection.sendall(data)
    for _ in range(5):
      assert predict(client, {"instances": ROWS})[0] == 200


def test_silent_clients_are_cut_off(start_rest, monkeypatch):
  monkeypatch.setattr(rest_server, "READ_TIMEOUT_S", 0.3)
  head = b"POST /v1/models/affine:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
  with start_rest() as (_, client, _), contextlib.ExitStack() as stack:
    connections = [stack.enter_context(connect(client)) for _ in range(4)]
    for connection, data in zip(connections[1:], (head[:20], head, head + b'{"instances"'), strict=True):
      connection.sendall(data)
    for connection in connections:
      assert connection.recv(100) == b""


def test_a_client_that_leaves_is_no_trouble(start_rest):
  body = json.dumps(ENDLESS).encode()
  head = b"POST /v1/models/affine:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
  with start_rest(num_threads=2, timeout_ms=500) as (_, client, _):
    for _ in range(4):
      connection = connect(client)
      connection.sendall(head + body)
      connection.close()
    deadline_s = time.monotonic() + 60
    while predict(client, {"instances": ROWS})[0] != 200:
      assert time.monotonic() < deadline_s


def test_many_clients_at_once_get_their_own_answers(rest_client, logits_of):
  def ask(number):
    rows = [[number, 0.0, 1.0]]
    with httpx.Client(base_url=rest_client.base_url, timeout=60) as own:
      for _ in range(5):
        status, answer = predict(own, {"inputs": rows})
        assert status == 200
        np.testing.assert_allclose(answer["outputs"]["logits"], logits_of(rows, 2), rtol=1e-6)

  with concurrent.futures.ThreadPoolExecutor(12) as pool:
    list(pool.map(ask, range(12)))


def test_pipelined_requests_are_answered_in_order(rest_client):
  request = b"GET /v1/models/affine/versions/%d HTTP/1.1\r\nHost: x\r\n\r\n"
  with connect(rest_client) as connection:
    connection.sendall(request % 1 + request % 2 + request % 1)
    received = b""
    while received.count(b"AVAILABLE") < 3:
      data = connection.recv(65536)
      assert data
      received += data
  versions = [line.split(b'"')[3] for line in received.splitlines() if b'"version"' in line]
  assert versions == [b"1", b"2", b"1"]


def hold(api, release):
  """Makes runs wait for an event; returns one that is set when the first has begun."""
  real, begun = api.predict, threading.Event()

  def held(*arguments):
    begun.set()
    assert release.wait(60)
    return real(*arguments)

  api.predict = held
  return begun


def test_stop_lets_requests_in_flight_finish(start_rest):
  release = threading.Event()
  with start_rest() as (server, client, api), concurrent.futures.ThreadPoolExecutor(2) as pool:
    begun = hold(api, release)
    answer = pool.submit(predict, client, {"instances": ROWS})
    assert begun.wait(60)
    stopped = pool.submit(server.stop, 60)
    with pytest.raises(OSError):
      while True:  # until it takes no more connections
        connect(client).close()
        time.sleep(0.05)
    assert not stopped.done()
    release.set()
    assert answer.result()[0] == 200
    stopped.result()


def test_stop_gives_up_after_its_grace(start_rest):
  release = threading.Event()
  with start_rest() as (server, client, api), concurrent.futures.ThreadPoolExecutor(1) as pool:
    begun = hold(api, release)
    answer = pool.submit(predict, client, {"instances": ROWS})
    assert begun.wait(60)
    server.stop(0.2)
    assert answer.result() == (503, {"error": "The server is stopping"})
    release.set()


def test_a_taken_port_is_one_line(start_rest, rest_manager):
  with start_rest() as (server, _, api):
    second = RestServer(api, Monitoring(), host="127.0.0.1", port=server.port, num_threads=1, timeout_ms=0)
    with pytest.raises(ServingError, match=rf"cannot listen at 127.0.0.1:{server.port} \(.*in use") as caught:
      second.start()
    assert "\n" not in str(caught.value)
    second.stop(1)


def test_processes_may_share_a_port(start_rest):
  with start_rest(reuse_port=True) as (server, client, api):
    second = RestServer(
      api, Monitoring(), host="127.0.0.1", port=server.port, num_threads=1, timeout_ms=0, reuse_port=True
    )
    second.start()
    assert second.port == server.port
    second.stop(5)
    assert predict(client, {"instances": ROWS})[0] == 200
