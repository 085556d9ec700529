"""Word vectors as the first weights of a network's embeddings."""

from __future__ import annotations

import numpy as np


def first_weights(vectors: np.ndarray, seed: int) -> np.ndarray:
  """Vectors of the size that a network's embeddings begin with: components of a variance of 1 / dim.

  One factor for all: how long a word's vector is next to another's says how much is known of it. Words without a vector
  begin at random.

  Args:
    vectors: float [vocabulary, dim]; zeros for a word without one.
    seed: of the random ones.

  Returns:
    float32 [vocabulary, dim].
  """
  vectors = np.asarray(vectors, np.float64)
  dim = vectors.shape[1]
  has_vector = vectors.any(axis=1)
  weights = np.random.default_rng(seed).normal(0, dim**-0.5, vectors.shape)
  if has_vector.any():
    known = vectors[has_vector]
    weights[has_vector] = known / np.sqrt(np.mean(known**2) * dim)
  return weights.astype(np.float32)
