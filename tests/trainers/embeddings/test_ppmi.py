"""Pointwise mutual information by hand, and its singular vectors against numpy's."""

import numpy as np
import pytest
import scipy.sparse

from trainers.embeddings.ppmi import positive_pmi, singular_vectors, word_vectors

COUNTS = scipy.sparse.csr_matrix(np.array([[0, 8, 2], [8, 0, 0], [2, 0, 4]], float))


def test_values_by_hand():
  # 24 pairs; the rows have 10, 8 and 6. log(P(w, c) / (P(w) P(c))) = log(count * 24 / (row * column)).
  expected = [
    [0, np.log(8 * 24 / (10 * 8)), 0],  # 0, 2: log(2 * 24 / 60) < 0
    [np.log(8 * 24 / (8 * 10)), 0, 0],
    [0, 0, np.log(4 * 24 / 36)],
  ]
  found = positive_pmi(COUNTS, smoothing=1.0)
  np.testing.assert_allclose(found.toarray(), expected, atol=1e-12)
  assert found.nnz == 3


def test_smoothing_and_shift_by_hand():
  smooth = np.array([10, 8, 6]) ** 0.75
  smooth /= smooth.sum()
  value = np.log(4 / 24 / (6 / 24 * smooth[2]))
  assert positive_pmi(COUNTS)[2, 2] == pytest.approx(value)
  assert positive_pmi(COUNTS, shift=2)[2, 2] == pytest.approx(value - np.log(2))
  assert positive_pmi(COUNTS, shift=50).nnz == 0
  # The rarest context is worth less than without smoothing.
  assert value < np.log(4 * 24 / 36)


def random_counts(seed, size):
  generator = np.random.default_rng(seed)
  dense = generator.poisson(0.15, (size, size)) * generator.integers(1, 30, (size, 1))
  return scipy.sparse.csr_matrix((dense + dense.T).astype(float))


@pytest.mark.parametrize("size", [200, 700])
def test_singular_vectors_reconstruct_what_those_of_numpy_do(size):
  matrix = positive_pmi(random_counts(1, size))
  dim = 20
  left, values, right = singular_vectors(matrix, dim)
  all_left, all_values, all_right = np.linalg.svd(matrix.toarray())
  np.testing.assert_allclose(values, all_values[:dim], rtol=1e-9)
  np.testing.assert_allclose(
    left * values @ right, all_left[:, :dim] * all_values[:dim] @ all_right[:dim], atol=1e-8
  )
  np.testing.assert_allclose(left.T @ left, np.eye(dim), atol=1e-9)
  # Signs do not depend on the way.
  largest = np.argmax(np.abs(left), axis=0)
  assert (left[largest, np.arange(dim)] > 0).all()


def test_vectors_are_the_left_half():
  matrix = positive_pmi(random_counts(2, 600))
  vectors = word_vectors(matrix, 30)
  left, values, _ = singular_vectors(matrix, 30)
  assert vectors.dtype == np.float32 and vectors.shape == (600, 30)
  np.testing.assert_allclose(vectors @ vectors.T, left * values @ left.T, atol=1e-4)
  np.testing.assert_array_equal(vectors, word_vectors(matrix, 30))


def test_words_and_dimensions_that_are_not_there_are_zeros():
  vectors = word_vectors(positive_pmi(COUNTS, smoothing=1.0), 5)
  assert vectors.shape == (3, 5) and (vectors[:, 3:] == 0).all() and vectors[:, :3].any(axis=1).all()
  counts = random_counts(3, 700).tolil()
  counts[40], counts[:, 40] = 0, 0
  vectors = word_vectors(positive_pmi(counts.tocsr()), 16)
  assert (vectors[40] == 0).all() and vectors.any(axis=1).sum() == 699
  assert (word_vectors(scipy.sparse.csr_matrix((4, 4)), 3) == 0).all()
  # No counts at all.
  assert positive_pmi(scipy.sparse.csr_matrix((4, 4))).nnz == 0


def test_factors_must_be_positive():
  for settings in ({"shift": 0}, {"smoothing": -1}):
    with pytest.raises(ValueError, match="above 0"):
      positive_pmi(COUNTS, **settings)
