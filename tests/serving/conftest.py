"""Real exports, and one running server, for all tests of serving/."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import httpx
import keras
import numpy as np
import pytest
import tensorflow as tf

from serving.export import export_saved_model

ROOT = Path(__file__).resolve().parents[2]
KERNEL = np.array([[1.0, -1.0], [0.5, 2.0], [0.0, 3.0]], np.float32)
BIAS = np.array([0.25, -0.5], np.float32)
ECHOED = (
  "float32",
  "float64",
  "int32",
  "int64",
  "uint8",
  "bool",
  "string",
  "float16",
  "bfloat16",
  "complex64",
)


def expected_logits(features, version):
  """What version 1, 2, ... of the affine model answers: features [batch, 3] -> [batch, 2]."""
  return features @ KERNEL + BIAS + (version - 1)


def affine_model(version):
  """A Keras model with the weights of `expected_logits`."""
  model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
  model.layers[0].set_weights([KERNEL, BIAS + (version - 1)])
  return model


def export_affine(directory, version):
  """Exports it with signatures for features, for examples, one that takes long and one that echoes dtypes."""
  model = affine_model(version)
  keys = tf.constant([0, 1], tf.int64)
  names = tf.lookup.StaticHashTable(
    tf.lookup.KeyValueTensorInitializer(keys, tf.constant(["left", "right"])), default_value="?"
  )

  def serve(features):
    logits = model(features, training=False)
    return {"logits": logits, "name": names.lookup(tf.argmax(logits, axis=-1))}

  def serve_examples(examples):
    return serve(
      tf.io.parse_example(examples, {"features": tf.io.FixedLenFeature([3], tf.float32)})["features"]
    )

  def slow(steps):
    count = tf.while_loop(lambda i: i < steps[0], lambda i: [i + 1], [tf.constant(0, tf.int64)])[0]
    return {"count": count[tf.newaxis]}

  def echo(**inputs):
    return {name.replace("_in", "_out"): tf.identity(value) for name, value in inputs.items()}

  endpoints = {
    "serving_default": (serve, {"features": tf.TensorSpec([None, 3], tf.float32)}),
    "serve_examples": (serve_examples, {"examples": tf.TensorSpec([None], tf.string)}),
    "slow": (slow, {"steps": tf.TensorSpec([None], tf.int64)}),
    "echo": (echo, {f"{name}_in": tf.TensorSpec([None, None], name) for name in ECHOED}),
  }
  return export_saved_model(directory, [names], endpoints)


@pytest.fixture(scope="session")
def logits_of():
  """(features [batch, 3], version=1) -> the logits [batch, 2] that this version answers, by numpy alone."""
  return lambda features, version=1: expected_logits(np.asarray(features, np.float32), version)


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
  """{version: directory of its export}; not to be changed."""
  directory = tmp_path_factory.mktemp("exports")
  return {version: export_affine(str(directory / str(version)), version) for version in (1, 2)}


@pytest.fixture
def push(exports):
  """(base path, version, source version) -> None: a version appears at once, as the Pusher does it."""

  def appear(base_path, number, source=None):
    staging = os.path.join(base_path, f".staging-{number}")
    shutil.copytree(exports[source or number], staging)
    os.rename(staging, os.path.join(base_path, str(number)))

  return appear


@pytest.fixture(scope="session")
def affine_server(exports, tmp_path_factory):
  """A server of version 1 under the name "affine", over gRPC and REST, for tests that change nothing."""
  from serving.options import ServerOptions
  from serving.server import ModelServer

  directory = tmp_path_factory.mktemp("affine")
  shutil.copytree(exports[1], directory / "models" / "1")
  options = ServerOptions(
    port=0, rest_port_file=str(directory / "rest_port"), file_system_poll_wait_seconds=0.1
  )
  server = ModelServer(options, {"affine": str(directory / "models")})
  server.start()
  assert server.wait_until_available(120)
  yield server
  server.stop()


@pytest.fixture(scope="session")
def rest_manager(exports, tmp_path_factory):
  """Versions 1 and 2 of "affine", labelled, and a model that takes examples."""
  from serving.models.loading import LoadSettings, load_warmed_up
  from serving.models.manager import ModelManager
  from serving.models.model_config import ModelConfig
  from serving.models.version_folders import VersionPolicy
  from tests.serving import example_export

  folder = tmp_path_factory.mktemp("models")
  for number, path in exports.items():
    shutil.copytree(path, folder / "affine" / str(number))
  example_export.export(str(folder / "examples" / "7"))
  models = ModelManager(lambda path: load_warmed_up(path, LoadSettings(enable_model_warmup=False)))
  everything = VersionPolicy(latest=None)
  models.configure([ModelConfig("affine", str(folder / "affine"), everything)], wait=True)
  models.configure(
    [
      ModelConfig("affine", str(folder / "affine"), everything, {"stable": 1, "canary": 2}),
      ModelConfig("a name/é", str(folder / "examples")),
    ],
    wait=True,
  )
  yield models
  models.close()


@pytest.fixture(scope="session")
def start_rest(rest_manager):
  """(**arguments of RestServer) -> a context with (server, client, api)."""
  from serving.methods.api import ModelApi
  from serving.rest.rest_server import RestServer
  from serving.telemetry.monitoring import PROMETHEUS_PATH, Monitoring
  from serving.telemetry.request_log import RequestLog

  @contextlib.contextmanager
  def running(**arguments):
    monitoring = Monitoring()
    api = ModelApi(rest_manager, monitoring, RequestLog())
    settings = {"num_threads": 4, "timeout_ms": 30_000, "metrics_path": PROMETHEUS_PATH, **arguments}
    server = RestServer(api, monitoring, host="127.0.0.1", port=0, **settings)
    server.start()
    try:
      with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as client:
        yield server, client, api
    finally:
      server.stop(5)

  return running


@pytest.fixture(scope="session")
def rest_client(start_rest):
  """An HTTP client of a REST server, for tests that change nothing."""
  with start_rest() as (_, client, _):
    yield client


class ServeProcess(NamedTuple):
  """A server in a process of its own."""

  address: str
  rest_address: str
  process: subprocess.Popen
  log: Path


@pytest.fixture
def serve_process(tmp_path):
  """(flag, ...) -> a ServeProcess that listens; `command` is what comes before the flags. Ended after the test."""
  started = []

  def start(*flags, command=(sys.executable, "-m", "serving.server"), timeout_s=120):
    number = len(started)
    ports = {name: tmp_path / f"{name}-{number}" for name in ("port_file", "rest_port_file")}
    log = tmp_path / f"log-{number}"
    arguments = [*command, "--port=0", *(f"--{name}={path}" for name, path in ports.items()), *flags]
    with open(log, "w") as output:
      process = subprocess.Popen(arguments, cwd=ROOT, stdout=output, stderr=output)
    started.append(process)
    deadline = time.monotonic() + timeout_s
    while not all(path.exists() for path in ports.values()):
      assert process.poll() is None, log.read_text()
      assert time.monotonic() < deadline, "timed out"
      time.sleep(0.05)
    addresses = (f"127.0.0.1:{path.read_text()}" for path in ports.values())
    return ServeProcess(*addresses, process, log)

  yield start
  for process in started:
    process.terminate()
  for process in started:
    try:
      process.wait(30)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()
