"""Means of word vectors, in process and exported."""

import keras
import numpy as np
import tensorflow as tf

from trainers.embeddings.mean_embedding import MeanEmbedding

VECTORS = np.array([[0, 0], [0, 0], [0, 0], [2, 0], [0, 5], [3, 4]], np.float32)
SENTENCES = np.array([[3, 4, 2, 1], [5, 2, 1, 1], [0, 3, 3, 2], [0, 2, 1, 1]])
# Unit vectors (1, 0), (0, 1), (0.6, 0.8); unknown words, ends and padding do not count.
EXPECTED = [[0.5, 0.5], [0.6, 0.8], [1, 0], [0, 0]]


def test_mean_by_hand():
  model = MeanEmbedding.from_vectors(VECTORS)
  found = model(tf.constant(SENTENCES, tf.int64))
  assert found.dtype == tf.float32
  np.testing.assert_allclose(found.numpy(), EXPECTED, atol=1e-6)
  # More padding changes nothing; no words at all are zeros.
  padded = np.pad(SENTENCES, ((0, 0), (0, 3)), constant_values=1)
  np.testing.assert_allclose(model(padded).numpy(), EXPECTED, atol=1e-6)
  assert model(np.zeros((2, 0), np.int64)).numpy().tolist() == [[0, 0], [0, 0]]
  assert not model.trainable_variables


def test_keras_file_and_export(tmp_path):
  model = MeanEmbedding.from_vectors(VECTORS)
  keras.saving.save_model(model, tmp_path / "model.keras")
  loaded = keras.saving.load_model(tmp_path / "model.keras")
  np.testing.assert_allclose(loaded(SENTENCES).numpy(), EXPECTED, atol=1e-6)
  archive = keras.export.ExportArchive()
  archive.track(model)
  archive.add_endpoint("embed", model.call, [tf.TensorSpec([None, None], tf.int64, name="token_ids")])
  archive.write_out(str(tmp_path / "export"), verbose=False)
  served = tf.saved_model.load(str(tmp_path / "export"))
  np.testing.assert_allclose(served.embed(tf.constant(SENTENCES, tf.int64)).numpy(), EXPECTED, atol=1e-6)
