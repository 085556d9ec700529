"""A real session whose runs can be joined, and callers of it."""

import pytest
import tensorflow as tf

from serving.export import export_saved_model
from serving.sessions.session import SavedModelSession
from tests.serving.sessions.batching.calls import WAIT_S, Clients


def row_sums(x):
  return {"sums": tf.reduce_sum(x, axis=1), "doubled_sums": 2 * tf.reduce_sum(x, axis=1)}


def positive(x):
  # Says [batch] and keeps fewer rows: the sums of a joint run cannot be told apart.
  return {"kept": tf.boolean_mask(x, x > 0)}


def picky(x):
  with tf.control_dependencies([tf.debugging.assert_non_negative(x, message="below zero")]):
    return {"roots": tf.sqrt(x)}


def lengthened(text):
  return {"bytes": tf.strings.unicode_decode(text, "UTF-8").to_tensor()}


def added(x, y):
  return {"sum": x + y}


def fixed(x):
  return {"total": tf.reduce_sum(x)[tf.newaxis]}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
  numbers = tf.TensorSpec([None], tf.float32)
  endpoints = {
    "serving_default": (row_sums, {"x": tf.TensorSpec([None, None], tf.float32)}),
    "positive": (positive, {"x": numbers}),
    "picky": (picky, {"x": numbers}),
    "lengthened": (lengthened, {"text": tf.TensorSpec([None], tf.string)}),
    "added": (added, {"x": numbers, "y": numbers}),
    "fixed": (fixed, {"x": numbers}),
  }
  directory = str(tmp_path_factory.mktemp("batching") / "1")
  loaded = SavedModelSession(export_saved_model(directory, [], endpoints))
  yield loaded
  loaded.close()


@pytest.fixture
def clients(session):
  made = []

  def make(**settings):
    made.append(Clients(session, **settings))
    return made[-1]

  yield make
  for one in made:
    one.gated.open.set()
    one._pool.shutdown()


@pytest.fixture
def patient(monkeypatch):
  """Greedy callers that wait for a slot for as long as it takes."""
  monkeypatch.setattr("serving.sessions.batch_scheduler.PATIENCE_S", WAIT_S)
