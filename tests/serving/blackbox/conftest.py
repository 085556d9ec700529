"""Black-box tests: `deepline serve` in its own process, judged by what TF Serving's sources say."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path

import grpc
import pytest


def _module(name):
  """A file beside this one; tests are no packages."""
  spec = importlib.util.spec_from_file_location(f"blackbox_{name}", Path(__file__).parent / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope="session")
def graph_export():
  """The module of that name."""
  return _module("graph_export")


@pytest.fixture(scope="session")
def client():
  """The module server_process: `predict_request`, `fill_spec`, `wait_for`."""
  return _module("server_process")


@pytest.fixture(scope="session")
def wait_for(client):
  """(condition, timeout_s) -> its first true value."""
  return client.wait_for


@pytest.fixture(scope="session")
def publish(graph_export, tmp_path_factory):
  """(base path, version, folder's name=None) -> directory: a version of the model appears at once."""
  exported = str(tmp_path_factory.mktemp("exported") / "1")
  graph_export.export(exported)
  return lambda base_path, version, name=None: graph_export.publish(exported, str(base_path), version, name)


@pytest.fixture(scope="session")
def start(client, tmp_path_factory):
  """(flags, credentials=None) -> context manager of a ServerProcess, stopped at its end."""

  @contextlib.contextmanager
  def started(flags, credentials=None):
    server = client.ServerProcess(tmp_path_factory.mktemp("server"), flags, credentials)
    try:
      yield server
    except BaseException:
      server.process.kill()
      server.process.wait()
      raise
    server.stop()

  return started


@pytest.fixture(scope="session")
def model_config():
  """(name, base path, more fields="") -> the text of one entry of a model_config_list."""

  def text(name, base_path, more=""):
    return f'config {{ name: "{name}" base_path: "{base_path}" model_platform: "tensorflow" {more} }}'

  return text


@pytest.fixture(scope="session")
def server(start, publish, model_config, wait_for, tmp_path_factory):
  """One server for all tests that change nothing: model "m", versions 1 and 2, labels stable and canary."""
  folder = tmp_path_factory.mktemp("served")
  base_path = folder / "m"
  base_path.mkdir()
  for version in (1, 2):
    publish(base_path, version)
  more = """
    model_version_policy { all {} }
    version_labels { key: "stable" value: 1 }
    version_labels { key: "canary" value: 2 }
  """
  config_file, monitoring_file = folder / "models.config", folder / "monitoring.config"
  config_file.write_text(f"model_config_list {{ {model_config('m', base_path, more)} }}")
  monitoring_file.write_text('prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }')
  flags = {
    "model_config_file": config_file,
    "monitoring_config_file": monitoring_file,
    "allow_version_labels_for_unavailable_models": "true",
    # TensorFlow itself waits 10 s for memory to become free.
    "rest_api_timeout_in_ms": 15_000,
  }
  with start(flags) as process:
    wait_for(lambda: process.available() == [1, 2])
    yield process


@pytest.fixture(scope="session")
def refused():
  """(call, arguments...) -> (status code's name, message) of a gRPC call that must fail."""

  def refusal(call, *arguments, **named):
    with pytest.raises(grpc.RpcError) as caught:
      call(*arguments, **named)
    return caught.value.code().name, caught.value.details()

  return refusal
