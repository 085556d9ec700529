"""Batching, monitoring, TLS, channel arguments, health, and configurations that must not start.

Source: tensorflow_serving/model_servers/server.cc, util/prometheus_exporter.cc, servables/tensorflow/{util,
bundle_factory_util}.cc, batching/batching_session.cc; tensorflow/core/kernels/batching_util/shared_batch_scheduler.h
"""

import concurrent.futures
import datetime
import re
import socket
import subprocess
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

X = np.array([2.0], np.float32)
METRICS_PATH = "/monitoring/prometheus/metrics"
BATCHING = """
  max_batch_size { value: 8 }
  batch_timeout_micros { value: 500000 }
  max_enqueued_batches { value: 2 }
  num_batch_threads { value: 1 }
  allowed_batch_sizes: 4
  allowed_batch_sizes: 8
  pad_variable_length_inputs: true
"""
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


@pytest.fixture(scope="module")
def batching(start, publish, model_config, wait_for, tmp_path_factory):
  """A server with batching and what else can be told apart in one process."""
  folder = tmp_path_factory.mktemp("batching")
  for name in ("m", "n"):
    (folder / name).mkdir()
    publish(folder / name, 1)
  files = {
    "batching_parameters_file": (folder / "batching.config", BATCHING),
    "monitoring_config_file": (
      folder / "monitoring.config",
      'prometheus_config { enable: true path: "/metrics" }',
    ),
    "model_config_file": (
      folder / "models.config",
      f"model_config_list {{ {model_config('m', folder / 'm')} }}",
    ),
  }
  for path, text in files.values():
    path.write_text(text)
  flags = {
    **{flag: path for flag, (path, _) in files.items()},
    "enable_batching": "true",
    "enable_serialization_as_tensor_content": "true",
    "grpc_channel_arguments": "grpc.max_connection_age_ms=5000,grpc.http2.bdp_probe=0",
    "model_config_file_poll_wait_seconds": 1,
  }
  with start(flags) as server:
    server.folder = folder
    wait_for(lambda: server.available() == [1])
    yield server


def at_once(server, client, signature, inputs):
  """Predict of each of `inputs` at the same time: [PredictResponse or RpcError]."""
  requests = [client.predict_request(given, signature) for given in inputs]
  futures = [server.prediction.Predict.future(request, timeout=120) for request in requests]
  return [future.exception() or future.result() for future in futures]


def array(response, name):
  return tf.make_ndarray(response.outputs[name]).tolist()


@pytest.mark.parametrize("size, ran_with", [(1, 4), (4, 4), (5, 8), (8, 8)])
def test_batching_pads_to_an_allowed_size(batching, size, ran_with):
  x = np.arange(size, dtype=np.float32)
  outputs = batching.outputs({"x": x}, "batch")
  assert outputs["y"].tolist() == (2 * x).tolist()
  assert outputs["ran_with"].tolist() == [ran_with] * size


def test_batching_refuses_an_oversized_task(batching, refused):
  expected = ("INVALID_ARGUMENT", "Task size 9 is larger than maximum input batch size 8")
  assert refused(batching.predict, {"x": np.zeros(9, np.float32)}, "batch") == expected
  code, answer = batching.rest("/v1/models/m:predict", {"signature_name": "batch", "instances": [0] * 9})
  assert (code, answer["error"]) == (400, expected[1])


def test_batching_joins_requests(batching, client):
  """Each gets its own rows; that they ran together may take several attempts on a busy machine."""
  for _ in range(10):
    given = [np.array([i, -i], np.float32) for i in range(4)]
    answers = at_once(batching, client, "batch", [{"x": x} for x in given])
    assert [array(answer, "y") for answer in answers] == [(2 * x).tolist() for x in given]
    if all(array(answer, "ran_with") == [8, 8] for answer in answers):
      return
  pytest.fail("four requests of two rows never ran as a batch of 8")


def test_batching_pads_variable_lengths(batching, client):
  """A shorter row is filled up with the first element of its tensor."""
  for _ in range(10):
    given = [np.ones((4, 2), np.float32), np.full((4, 5), 2, np.float32)]
    short, long = at_once(batching, client, "rows", [{"rows": rows} for rows in given])
    assert (array(long, "sum"), array(long, "width")) == ([10.0] * 4, [5] * 4)
    (width,) = set(array(short, "width"))
    assert array(short, "sum") == [float(width)] * 4
    if width == 5:
      return
  pytest.fail("requests of unequal lengths never ran together")


def test_batching_keeps_an_error_to_its_request(batching, client):
  for _ in range(3):
    given = [np.array([at], np.int32) for at in (0, 1, 7, 2)]
    answers = at_once(batching, client, "index", [{"at": at} for at in given])
    assert [array(answer, "value") for answer in answers if not isinstance(answer, Exception)] == [
      [10],
      [20],
      [30],
    ]
    assert answers[2].code().name == "INVALID_ARGUMENT" and "is not in [0, 3)" in answers[2].details()


def test_batching_with_a_full_queue_is_unavailable(batching, client):
  """gRPC UNAVAILABLE, REST 503: one batch runs and two wait, of seven."""
  text = "The batch scheduling queue to which this task was submitted is full"
  steps = [60_000] * 8
  answers = at_once(batching, client, "slow", [{"steps": np.array(steps)}] * 7)
  failed = [answer for answer in answers if isinstance(answer, Exception)]
  assert failed and {error.code().name for error in failed} == {"UNAVAILABLE"}
  assert all(text in error.details() for error in failed)
  served = [array(answer, "count") for answer in answers if not isinstance(answer, Exception)]
  assert served and served == [steps] * len(served)
  body = {"signature_name": "slow", "inputs": steps}
  with concurrent.futures.ThreadPoolExecutor(7) as pool:
    answers = list(pool.map(lambda _: batching.rest("/v1/models/m:predict", body), range(7)))
  assert {code for code, _ in answers} == {200, 503}
  for code, answer in answers:
    assert answer == {"outputs": steps} if code == 200 else text in answer["error"]


def test_batching_in_the_metrics(batching):
  batching.predict({"x": X})
  text = batching.http.get("/metrics").text
  assert re.search(r'^:tensorflow:serving:request_count\{model_name="m",status="OK"\} ', text, re.MULTILINE)
  assert re.search(r"^:tensorflow:serving:batching_session:", text, re.MULTILINE)


def test_serialization_as_tensor_content(batching):
  output = batching.predict({"x": X}).outputs["y"]
  assert not output.float_val
  assert np.frombuffer(output.tensor_content, np.float32).tolist() == [2.0]


def test_channel_arguments(batching):
  """grpc.max_connection_age_ms: the server ends an idle connection that would live on otherwise."""
  with socket.create_connection(("127.0.0.1", batching.port), timeout=60) as connection:
    connection.sendall(HTTP2_PREFACE)
    while connection.recv(4096):
      pass


def test_the_configuration_file_is_polled(batching, model_config, wait_for):
  """--model_config_file_poll_wait_seconds."""
  entries = [model_config(name, batching.folder / name) for name in ("m", "n")]
  (batching.folder / "models.config").write_text(f"model_config_list {{ {' '.join(entries)} }}")
  wait_for(lambda: batching.available("n") == [1])
  assert batching.outputs({"x": X}, name="n")["y"].tolist() == [2.0]
  # A file that is wrong changes nothing.
  (batching.folder / "models.config").write_text("model_config_list { nonsense")
  time.sleep(2.5)
  assert batching.available("n") == batching.available("m") == [1]


@pytest.mark.parametrize(
  "flags, batching_text, message",
  [
    ({}, BATCHING, "enable_batching"),
    ({"enable_batching": "true"}, BATCHING.replace("sizes: 8", "sizes: 6"), "allowed_batch_sizes"),
    ({"enable_batching": "true"}, BATCHING.replace("sizes: 4", "sizes: 16"), "allowed_batch_sizes"),
    ({"enable_batching": "true"}, "max_batch_size: many", "batching.config"),
  ],
)
def test_batching_parameters_that_fail_the_start(client, tmp_path, flags, batching_text, message):
  (tmp_path / "batching.config").write_text(batching_text)
  (tmp_path / "m").mkdir()
  flags = {
    "model_base_path": tmp_path / "m",
    "port": 0,
    "batching_parameters_file": tmp_path / "batching.config",
    **flags,
  }
  command = [str(client.DEEPLINE), "serve", *(f"--{name}={value}" for name, value in flags.items())]
  run = subprocess.run(command, cwd=client.ROOT, capture_output=True, text=True, timeout=240)
  assert run.returncode not in (0, None) and run.returncode > 0
  assert message in run.stderr and "Traceback" not in run.stderr


def metrics(server):
  """{name{labels}: value}."""
  response = server.http.get(METRICS_PATH)
  assert response.status_code == 200 and response.headers["content-type"].startswith("text/plain")
  lines = [line for line in response.text.splitlines() if line and not line.startswith("#")]
  return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}, response.text


def test_monitoring(server, refused):
  before, _ = metrics(server)
  for _ in range(3):
    server.predict({"x": X})
  refused(server.predict, {"x": X}, "nothing")
  assert server.rest("/v1/models/m:predict", {"instances": [1.0]})[0] == 200
  after, text = metrics(server)

  def grown(name):
    return after[name] - before.get(name, 0)

  count = ":tensorflow:serving:request_count"
  assert f"# TYPE {count} counter" in text and f"{count}_total" not in text
  assert grown(f'{count}{{model_name="m",status="OK"}}') == 4
  assert grown(f'{count}{{model_name="m",status="FAILED_PRECONDITION"}}') == 1
  latency = ":tensorflow:serving:request_latency"
  assert f"# TYPE {latency} histogram" in text
  names = [name for name in after if name.startswith(f"{latency}_count") and 'status="FAILED' not in name]
  for api, entrypoint, count in (("Predict", "GRPC", 3), ("predict", "REST", 1)):
    labels = (f'API="{api}"', f'entrypoint="{entrypoint}"')
    assert sum(grown(name) for name in names if all(label in name for label in labels)) == count
  # Microseconds: buckets 10, 18, 32.4 and so on.
  bounds = {re.search(r'le="([^"]+)"', name)[1] for name in after if name.startswith(f"{latency}_bucket")}
  assert {10.0, 18.0} <= {float(bound) for bound in bounds} and "+Inf" in bounds
  assert any(name.startswith(":tensorflow:serving:runtime_latency_bucket{") for name in after)
  loads = {name: value for name, value in after.items() if ":saved_model:load_attempt_count{" in name}
  assert sum(value for name, value in loads.items() if 'status="success"' in name) >= 2


def test_health(server, refused):
  for service in ("PredictionService", "ModelService", ""):
    assert server.health(service) == "SERVING"
  assert refused(server.health, "NoSuchService")[0] == "NOT_FOUND"


def certificates():
  """{name: (key, certificate)} in PEM of an authority, and of a server and a client that it signed."""
  now = datetime.datetime(2020, 1, 1)
  issued = {}
  for name in ("authority", "server", "client"):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer, issuer_key = issued.get("authority", (subject, key))
    builder = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now.replace(year=2099))
    constraints = x509.BasicConstraints(ca=name == "authority", path_length=None)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    builder = builder.add_extension(constraints, True).add_extension(names, False)
    issued[name] = (subject, key)
    yield (
      name,
      key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
      ),
      builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
    )


def test_tls_with_client_verification(start, publish, wait_for, refused, tmp_path):
  """Inline PEM in --ssl_config_file; and a model without --model_name is "default"."""
  pem = {name: (key, certificate) for name, key, certificate in certificates()}
  (root_key, root), (server_key, server_cert), (client_key, client_cert) = pem.values()
  del root_key
  lines = {"server_key": server_key, "server_cert": server_cert, "custom_ca": root}
  text = "\n".join(
    '{}: "{}"'.format(name, value.decode().replace("\n", "\\n")) for name, value in lines.items()
  )
  (tmp_path / "ssl.config").write_text(f"{text}\nclient_verify: true")
  (tmp_path / "m").mkdir()
  publish(tmp_path / "m", 1)
  known = grpc.ssl_channel_credentials(root, client_key, client_cert)
  flags = {"ssl_config_file": tmp_path / "ssl.config", "model_base_path": tmp_path / "m"}
  with start(flags, known) as server:
    wait_for(lambda: server.available("default") == [1])
    assert server.outputs({"x": X}, name="default")["y"].tolist() == [2.0]
    assert server.health("PredictionService") == "SERVING"
    for stranger in (grpc.ssl_channel_credentials(root), None):
      with server.connect(stranger) as channel:
        server.models = server.models.__class__(channel)
        assert refused(server.status, "default")[0] == "UNAVAILABLE"
