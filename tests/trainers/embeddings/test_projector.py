"""What TensorBoard's projector reads of the files."""

import json
import os
import urllib.parse
from wsgiref.util import setup_testing_defaults

import numpy as np
import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins import base_plugin
from tensorboard.plugins.projector.projector_plugin import ProjectorPlugin

from trainers.embeddings.projector import write_projector

WORDS = ["<unk>", "<s>", "</s>", "the", "a\tb", "two\nlines", " ", "back\\slash", "세계", "never"]
COUNTS = np.array([50, 0, 0, 40, 7, 9, 12, 3, 20, 0])
VECTORS = np.random.default_rng(3).normal(size=(len(WORDS), 5)).astype(np.float32)
VECTORS[:3] = 0
BY_FREQUENCY = [3, 8, 6, 5, 4, 7, 9]


class Projector:
  """TensorBoard's plugin on a log directory, asked as the browser does."""

  def __init__(self, log_dir):
    multiplexer = EventMultiplexer().AddRunsFromDirectory(log_dir)
    multiplexer.Reload()
    context = base_plugin.TBContext(
      data_provider=MultiplexerDataProvider(multiplexer, log_dir), logdir=log_dir, multiplexer=multiplexer
    )
    self._apps = ProjectorPlugin(context).get_plugin_apps()

  def get(self, route, **query):
    environ = {"QUERY_STRING": urllib.parse.urlencode(query)}
    setup_testing_defaults(environ)
    statuses = []
    body = b"".join(self._apps[route](environ, lambda status, headers: statuses.append(status)))
    assert statuses == ["200 OK"], body
    return body


def test_projector_shows_vectors_and_words(tmp_path):
  # A run below the folder that TensorBoard is given.
  directory = str(tmp_path / "run" / "embeddings")
  assert write_projector(directory, WORDS, VECTORS, COUNTS) == len(BY_FREQUENCY)
  projector = Projector(str(tmp_path))
  (run,) = json.loads(projector.get("/runs"))
  assert run == os.path.join("run", "embeddings")
  (embedding,) = json.loads(projector.get("/info", run=run))["embeddings"]
  assert embedding["tensorName"] == "word vectors" and embedding["tensorShape"] == [7, 5]
  tensor = np.frombuffer(projector.get("/tensor", run=run, name="word vectors"), np.float32).reshape(7, 5)
  np.testing.assert_allclose(tensor, VECTORS[BY_FREQUENCY], rtol=1e-5)
  lines = projector.get("/metadata", run=run, name="word vectors").decode().splitlines()
  assert lines == [
    "word\tcount",
    "the\t40",
    "세계\t20",
    " \t12",
    r"two\nlines" + "\t9",
    r"a\tb" + "\t7",
    r"back\\slash" + "\t3",
    "never\t0",
  ]


def test_only_the_most_frequent_words(tmp_path):
  assert write_projector(str(tmp_path), WORDS, VECTORS, COUNTS, name="few", max_words=2) == 2
  projector = Projector(str(tmp_path))
  (run,) = json.loads(projector.get("/runs"))
  tensor = np.frombuffer(projector.get("/tensor", run=run, name="few"), np.float32).reshape(2, 5)
  np.testing.assert_allclose(tensor, VECTORS[[3, 8]], rtol=1e-5)


def test_words_without_vectors_are_refused(tmp_path):
  with pytest.raises(ValueError, match="no word has a vector"):
    write_projector(str(tmp_path), WORDS, np.zeros_like(VECTORS), COUNTS)
