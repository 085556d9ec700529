"""Means of word vectors."""

import numpy as np
import tensorflow as tf

from trainers.embeddings.mean_embedding import mean_embedding

# <unk>, <s> and </s> have vectors in a trained network, and take no part.
VECTORS = np.array([[9, 9], [9, 9], [9, 9], [2, 0], [0, 5], [3, 4], [0, 0]], np.float32)
SENTENCES = np.array([[3, 4, 2, 1], [5, 2, 1, 1], [0, 3, 3, 2], [0, 2, 1, 1], [6, 4, 2, 1]])
# Unit vectors (1, 0), (0, 1), (0.6, 0.8), and a word without one.
EXPECTED = [[0.5, 0.5], [0.6, 0.8], [1, 0], [0, 0], [0, 1]]


def test_mean_by_hand():
  found = mean_embedding(tf.constant(VECTORS), tf.constant(SENTENCES))
  assert found.dtype == tf.float32
  np.testing.assert_allclose(found.numpy(), EXPECTED, atol=1e-6)


def test_padding_changes_nothing():
  padded = np.pad(SENTENCES, ((0, 0), (0, 3)), constant_values=1)
  np.testing.assert_allclose(mean_embedding(VECTORS, padded).numpy(), EXPECTED, atol=1e-6)
  assert mean_embedding(VECTORS, np.zeros((2, 0), np.int64)).numpy().tolist() == [[0, 0], [0, 0]]
