"""Word vectors from counts: positive pointwise mutual information, and its singular vectors.

Source: Levy and Goldberg 2014, "Neural Word Embedding as Implicit Matrix Factorization"; Levy, Goldberg and Dagan 2015,
"Improving Distributional Similarity with Lessons Learned from Word Embeddings"
"""

from __future__ import annotations

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

_SEED = 2014
# Below this size all singular vectors are found as quickly as some.
_DENSE_SIZE = 512


def positive_pmi(
  counts: scipy.sparse.spmatrix, shift: float = 1.0, smoothing: float = 0.75
) -> scipy.sparse.csr_matrix:
  """max(0, log(P(w, c) / (P(w) P(c))) - log(shift)) of every pair of words.

  P(c) is in proportion to count(c) ** smoothing: otherwise a word that is rare has a large value with whatever it
  happens to occur with.

  Args:
    counts: [vocabulary, vocabulary], word and context.
    shift: the number of negative samples of the skip-gram model with the same optimum; 1: none.
    smoothing: 1: none.

  Returns:
    float64 [vocabulary, vocabulary]; pairs without a positive value are not stored.

  Raises:
    ValueError: `shift` or `smoothing` is not above 0.
  """
  if shift <= 0 or smoothing <= 0:
    raise ValueError(f"shift {shift} and smoothing {smoothing}: both are above 0")
  pairs = scipy.sparse.coo_matrix(counts, dtype=np.float64)
  words = np.bincount(pairs.row, pairs.data, pairs.shape[0])
  contexts = np.bincount(pairs.col, pairs.data, pairs.shape[1])
  contexts = contexts**smoothing
  contexts /= max(contexts.sum(), np.finfo(np.float64).tiny)
  values = np.log(pairs.data) - np.log(words[pairs.row] * contexts[pairs.col]) - np.log(shift)
  is_positive = values > 0
  kept = (values[is_positive], (pairs.row[is_positive], pairs.col[is_positive]))
  return scipy.sparse.csr_matrix(kept, shape=pairs.shape)


def singular_vectors(matrix: scipy.sparse.spmatrix, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The `dim` largest singular values and their vectors; fewer where the matrix is smaller.

  The same matrix gives the same result: the iteration starts from the same vector, and the largest component of each
  left vector is positive. Linear algebra on another number of threads may round the last digits differently.

  Returns:
    left float64 [rows, dim], values float64 [dim], descending, right float64 [dim, columns].
  """
  size = min(matrix.shape)
  if size <= max(dim, _DENSE_SIZE):
    left, values, right = np.linalg.svd(matrix.toarray(), full_matrices=False)
    left, values, right = left[:, :dim], values[:dim], right[:dim]
  else:
    start = np.random.default_rng(_SEED).standard_normal(size)
    left, values, right = scipy.sparse.linalg.svds(matrix.astype(np.float64), dim, v0=start)
    order = np.argsort(-values, kind="stable")
    left, values, right = left[:, order], values[order], right[order]
  largest = np.argmax(np.abs(left), axis=0)
  signs = np.where(left[largest, np.arange(len(values))] < 0, -1.0, 1.0)
  return left * signs, values, right * signs[:, np.newaxis]


def word_vectors(matrix: scipy.sparse.spmatrix, dim: int) -> np.ndarray:
  """Left singular vectors, each by the square root of its value: half of the matrix for words, half for contexts.

  Args:
    matrix: from `positive_pmi`.
    dim: of a vector.

  Returns:
    float32 [vocabulary, dim]; zeros for words without a pair, and in dimensions that the matrix does not have.
  """
  vectors = np.zeros((matrix.shape[0], dim), np.float32)
  if matrix.nnz:
    left, values, _ = singular_vectors(matrix, dim)
    vectors[:, : len(values)] = left * np.sqrt(values)
    vectors[np.diff(matrix.tocsr().indptr) == 0] = 0
  return vectors
