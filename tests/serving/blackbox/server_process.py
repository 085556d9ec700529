"""A `deepline serve` process as a client sees it: official stubs over gRPC, httpx over REST."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import httpx
import tensorflow as tf
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
  get_model_metadata_pb2,
  get_model_status_pb2,
  model_management_pb2,
  model_service_pb2_grpc,
  predict_pb2,
  prediction_service_pb2_grpc,
)

ROOT = Path(__file__).resolve().parents[3]
DEEPLINE = Path(sys.executable).parent / "deepline"
START_TIMEOUT_S = 240
# Generous: the machine may be busy with other tests.
TIMEOUT_S = 60
CHANNEL_OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def wait_for(condition, timeout_s=120, what="condition"):
  """The first true value that `condition()` gives."""
  deadline_s = time.monotonic() + timeout_s
  while True:
    value = condition()
    if value:
      return value
    assert time.monotonic() < deadline_s, f"timed out waiting: {what}"
    time.sleep(0.05)


class ServerProcess:
  """Starts `deepline serve FLAGS` on free ports and waits until it listens.

  Args:
    folder: an empty directory for port files and the log.
    flags: {flag's name: value}, of tensorflow_model_server.
    credentials: of the gRPC channel; None where the server has no TLS.
  """

  def __init__(self, folder, flags, credentials=None):
    self.log_path = folder / "log"
    port_files = {"port_file": folder / "port", "rest_port_file": folder / "rest_port"}
    flags = {"port": 0, "rest_api_port": 0, **port_files, **flags}
    command = [str(DEEPLINE), "serve", *(f"--{name}={value}" for name, value in flags.items())]
    with open(self.log_path, "wb") as log:
      self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    wait_for(lambda: self._has_ports(port_files.values()), START_TIMEOUT_S, "the ports")
    self.port, self.rest_port = (int(path.read_text()) for path in port_files.values())
    self.address = f"127.0.0.1:{self.port}"
    self.channel = self.connect(credentials)
    self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
    self.models = model_service_pb2_grpc.ModelServiceStub(self.channel)
    self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.rest_port}", timeout=TIMEOUT_S)

  def connect(self, credentials=None):
    """A new channel to the server."""
    # Without a pool of subchannels of its own, channels to one address would share a connection.
    options = [*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
    if credentials is None:
      return grpc.insecure_channel(self.address, options)
    options.append(("grpc.ssl_target_name_override", "localhost"))
    return grpc.secure_channel(self.address, credentials, options)

  def log(self):
    """What the server has written so far."""
    return self.log_path.read_text(errors="replace")

  def stop(self):
    """Ends the server as an operator does; it must obey, and have met with nothing unforeseen."""
    self.http.close()
    self.channel.close()
    self.process.send_signal(signal.SIGTERM)
    try:
      assert self.process.wait(TIMEOUT_S) == 0, self.log()[-2000:]
    finally:
      self.process.kill()
      self.process.wait()
    assert "Traceback" not in self.log(), self.log()[-4000:]

  def predict(self, inputs, signature="", timeout_s=TIMEOUT_S, **spec_and_filter):
    """Predict with arrays, or TensorProtos as they are; answers PredictResponse."""
    request = predict_request(inputs, signature, **spec_and_filter)
    return self.prediction.Predict(request, timeout=timeout_s)

  def outputs(self, *arguments, **named):
    """{output: array} of `predict`."""
    response = self.predict(*arguments, **named)
    return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}

  def status(self, name="m", version=None):
    """GetModelStatus, as {version: (state, code, message)}."""
    request = get_model_status_pb2.GetModelStatusRequest()
    fill_spec(request.model_spec, name, version=version)
    response = self.models.GetModelStatus(request, timeout=TIMEOUT_S)
    return {
      status.version: (
        get_model_status_pb2.ModelVersionStatus.State.Name(status.state),
        status.status.error_code,
        status.status.error_message,
      )
      for status in response.model_version_status
    }

  def states(self, name="m"):
    """{version: state}; empty where there are none."""
    try:
      return {version: state for version, (state, _, _) in self.status(name).items()}
    except grpc.RpcError as error:
      assert error.code() == grpc.StatusCode.NOT_FOUND
      return {}

  def available(self, name="m"):
    """The versions that answer, in ascending order."""
    return sorted(version for version, state in self.states(name).items() if state == "AVAILABLE")

  def metadata(self, name="m", fields=("signature_def",), **spec):
    """GetModelMetadata."""
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    fill_spec(request.model_spec, name, **spec)
    return self.prediction.GetModelMetadata(request, timeout=TIMEOUT_S)

  def reload(self, model_config_list):
    """HandleReloadConfigRequest with a configuration in text format."""
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(model_config_list, request.config)
    return self.models.HandleReloadConfigRequest(request, timeout=TIMEOUT_S)

  def rest(self, path, body=None):
    """(HTTP code, JSON) of a GET, or of a POST where there is a body."""
    response = self.http.get(path) if body is None else self.http.post(path, json=body)
    return response.status_code, response.json()

  def health(self, service):
    """The name of the state that grpc.health.v1 gives."""
    stub = health_pb2_grpc.HealthStub(self.channel)
    response = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT_S)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)

  def _has_ports(self, port_files):
    assert self.process.poll() is None, f"the server ended: {self.log()[-2000:]}"
    return all(path.exists() for path in port_files)


def fill_spec(spec, name, signature="", version=None, label=None):
  """Sets a ModelSpec's fields; version None: the latest."""
  spec.name, spec.signature_name = name, signature
  if version is not None:
    spec.version.value = version
  if label is not None:
    spec.version_label = label


def predict_request(inputs, signature="", name="m", output_filter=(), **version_or_label):
  """PredictRequest of arrays or TensorProtos."""
  request = predict_pb2.PredictRequest(output_filter=output_filter)
  fill_spec(request.model_spec, name, signature, **version_or_label)
  for key, value in inputs.items():
    tensor = value if isinstance(value, tensor_pb2.TensorProto) else None
    request.inputs[key].CopyFrom(tensor or tf.make_tensor_proto(value))
  return request
