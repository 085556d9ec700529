"""Real exports, and one running server, for all tests of serving/."""

import os
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from serving.export import export_saved_model

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
  """A server of version 1 under the name "affine", for tests that change nothing."""
  from serving.server import ModelServer

  base_path = tmp_path_factory.mktemp("affine")
  shutil.copytree(exports[1], base_path / "1")
  server = ModelServer({"affine": str(base_path)}, port=0, file_system_poll_wait_seconds=0.1)
  server.start()
  assert server.wait_until_available(120)
  yield server
  server.stop()
