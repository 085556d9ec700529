"""The discounts of interpolated modified Kneser-Ney smoothing.

Source: Chen and Goodman 1998, TR-10-98, section 3
"""

from __future__ import annotations

import numpy as np

from trainers.ngram.counting import Level

# What is taken where there are too few n-grams to estimate discounts from, as KenLM's --discount_fallback has them.
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)


def counts_of_counts(level: Level) -> np.ndarray:
  """int64 [4]: how many n-grams have an adjusted count of 1, 2, 3 and 4."""
  return np.bincount(np.minimum(level.lefts, 5), minlength=6)[1:5]


def discounts(counts: np.ndarray) -> np.ndarray:
  """What is taken off an adjusted count of 0, 1, 2, and 3 or more.

  Args:
    counts: int [4], from `counts_of_counts`, added up over all parts.

  Returns:
    float64 [4]; `FALLBACK_DISCOUNTS` where the estimate does not exist or is no discount.

  Source: Chen and Goodman 1998, equation 17.
  """
  n1, n2, n3, n4 = (float(count) for count in counts)
  if n1 and n2 and n3:
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    if all(0 <= value <= limit for limit, value in enumerate(found, 1)):
      return np.array((0.0, *found))
  return np.array((0.0, *FALLBACK_DISCOUNTS))


def taken_off(level: Level, taken: np.ndarray) -> np.ndarray:
  """float64 [n-grams]: the discount of each n-gram's adjusted count; `taken` is from `discounts`."""
  return taken[np.minimum(level.lefts, 3)]
