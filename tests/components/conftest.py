"""What several stages' tests read their artifacts with."""

import os

import pytest
import tensorflow as tf


@pytest.fixture(scope="session")
def records_of():
  """A function: {path below the artifact: its records} of an Examples artifact."""

  def read(artifact):
    found = {}
    for root, _, names in os.walk(artifact.uri):
      for name in names:
        path = os.path.join(root, name)
        dataset = tf.data.TFRecordDataset(path, compression_type="GZIP")
        found[os.path.relpath(path, artifact.uri)] = list(dataset.as_numpy_iterator())
    return found

  return read
