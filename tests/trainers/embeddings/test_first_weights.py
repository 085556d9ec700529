"""First weights of a network from word vectors."""

import numpy as np

from trainers.embeddings.first_weights import first_weights


def test_one_factor_brings_vectors_to_the_size_of_random_weights():
  vectors = np.zeros((4, 2))
  vectors[1], vectors[3] = (3, 0), (0, -1)
  weights = first_weights(vectors, seed=1)
  assert weights.dtype == np.float32
  # Four components with squares of 9, 0, 0 and 1: by sqrt(1 / (2.5 * 2)) their mean square is 1 / 2.
  np.testing.assert_allclose(weights[[1, 3]], np.array([[3, 0], [0, -1]]) / np.sqrt(5), rtol=1e-6)
  np.testing.assert_allclose(np.mean(weights[[1, 3]] ** 2), 1 / 2, rtol=1e-6)


def test_words_without_a_vector_begin_at_random():
  vectors = np.zeros((3000, 16))
  vectors[7] = 1
  weights = first_weights(vectors, seed=1)
  unknown = np.delete(weights, 7, axis=0)
  assert abs(unknown.std() * 4 - 1) < 0.02
  assert len(np.unique(unknown[:, 0])) == 2999
  assert np.array_equal(weights, first_weights(vectors, seed=1))
  assert not np.array_equal(weights, first_weights(vectors, seed=2))
  # No word at all has one: a text of single words.
  assert first_weights(np.zeros((5, 4)), seed=1).all()
