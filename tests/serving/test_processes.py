"""Several processes on one port: started once for all that is asked of them here."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request

import grpc
import numpy as np
import psutil
import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import get_model_status_pb2, model_management_pb2, model_service_pb2_grpc

from serving.client import PredictClient
from serving.errors import ServingError
from serving.options import ServerOptions
from serving.processes import run_processes
from tests.serving.servers import wait_for

FEATURES = np.array([[1.0, 2.0, 3.0]], np.float32)


def models_config(folder, *names):
  entries = " ".join(
    f'config {{ name: "{name}" base_path: "{folder / name}" model_platform: "tensorflow" }}' for name in names
  )
  return f"model_config_list {{ {entries} }}"


@contextlib.contextmanager
def model_service(address):
  """Over a connection of its own, which the kernel gives to one of the processes."""
  with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
    yield model_service_pb2_grpc.ModelServiceStub(channel)


def states_of(address, name):
  """{version: state}, by a connection of its own."""
  request = get_model_status_pb2.GetModelStatusRequest()
  request.model_spec.name = name
  with model_service(address) as stub:
    found = stub.GetModelStatus(request, timeout=60).model_version_status
  return {status.version: status.state for status in found}


def test_processes_share_ports_configurations_and_fate(tmp_path, push, serve_process, logits_of):
  for name in ("a", "b"):
    (tmp_path / name).mkdir()
    push(tmp_path / name, 1)
  file = tmp_path / "models.config"
  file.write_text(models_config(tmp_path, "a"))
  served = serve_process(f"--model_config_file={file}", "--num_processes=2", timeout_s=300)
  ready = f"serving a version 1 at {served.address} (gRPC), {served.rest_address} (REST), in 2 processes\n"
  wait_for(lambda: ready in served.log.read_text())
  parent = psutil.Process(served.process.pid)
  children = parent.children()
  assert len(children) == 2

  # Both ports answer, and both processes get some of the connections.
  with PredictClient(served.address, timeout_s=60) as client:
    outputs, _ = client.predict("a", {"features": FEATURES})
  np.testing.assert_allclose(outputs["logits"], logits_of(FEATURES), rtol=1e-6)
  with urllib.request.urlopen(f"http://{served.rest_address}/v1/models/a", timeout=60) as response:
    assert json.load(response)["model_version_status"][0]["state"] == "AVAILABLE"
  with contextlib.ExitStack() as stack:
    for _ in range(32):
      stub = stack.enter_context(model_service(served.address))
      request = get_model_status_pb2.GetModelStatusRequest()
      request.model_spec.name = "a"
      stub.GetModelStatus(request, timeout=60)
    port = int(served.address.rsplit(":", 1)[1])
    holders = [
      sum(c.laddr.port == port and c.status == "ESTABLISHED" for c in child.connections())
      for child in children
    ]
    assert min(holders) > 0 and sum(holders) >= 32

  # A request to change the models changes them in all processes before it is answered.
  request = model_management_pb2.ReloadConfigRequest()
  text_format.Parse(models_config(tmp_path, "a", "b"), request.config)
  with model_service(served.address) as stub:
    assert stub.HandleReloadConfigRequest(request, timeout=120).status.error_code == 0
  assert [states_of(served.address, "b") for _ in range(16)] == [{1: 30}] * 16

  # A process that dies is replaced; the new one has the models that were configured last.
  children[0].kill()
  wait_for(lambda: "starting another" in served.log.read_text())
  wait_for(lambda: len(parent.children()) == 2 and children[0] not in parent.children())
  (new,) = set(parent.children()) - {children[1]}
  while not any(c.laddr.port == port and c.status == "LISTEN" for c in new.connections()):
    assert states_of(served.address, "b") == {1: 30}
  assert [states_of(served.address, "b") for _ in range(16)] == [{1: 30}] * 16

  served.process.send_signal(signal.SIGTERM)
  assert served.process.wait(60) == 0
  assert not new.is_running() and not children[1].is_running()
  assert "Traceback" not in served.log.read_text()


def test_what_stands_against_a_start_is_told_once(tmp_path):
  command = [
    sys.executable,
    "-m",
    "serving.server",
    "--num_processes=3",
    "--port=0",
    "--model_base_path=/missing",
  ]
  done = subprocess.run(command, cwd=os.getcwd(), capture_output=True, text=True, timeout=200)
  assert (done.returncode, done.stdout) == (1, "")
  assert (
    done.stderr == "model_base_path /missing of model default is no directory; push a model there first\n"
  )


def test_a_port_in_use_is_refused(tmp_path):
  with socket.create_server(("127.0.0.1", 0), reuse_port=True) as listener:
    port = listener.getsockname()[1]
    options = ServerOptions(port=port, model_base_path=str(tmp_path), num_processes=2)
    with pytest.raises(ServingError, match=f"cannot listen on 127.0.0.1:{port}: it is in use"):
      run_processes(options)
