"""Bins of equal population."""

import numpy as np
import pytest

from trainers.ngram.quantization import quantize


def test_bins_by_hand():
  values = np.array([5, 1, 2, 6, 3, 4, 8, 7], np.float32)
  codes, means = quantize(values, 2, exact=())
  assert means.tolist() == [1.5, 3.5, 5.5, 7.5]
  assert codes.tolist() == [2, 0, 0, 2, 1, 1, 3, 3]


def test_exact_values_have_bins_of_their_own_where_they_occur():
  values = np.array([-99, -2, -1, -1.5, 0, 0, 0, -3], np.float32)
  codes, means = quantize(values, 2, exact=(0.0, -99.0))
  # The two other bins share what is left.
  assert means.tolist() == [-99, -2.5, -1.25, 0]
  assert codes.tolist() == [0, 1, 2, 2, 3, 3, 3, 1]
  assert quantize(values[1:4], 2, exact=(0.0, -99.0))[1].tolist() == [-2, -1.5, -1, -1]


def test_each_value_has_the_nearest_mean_and_bins_are_as_full():
  values = np.random.default_rng(3).normal(size=5000).astype(np.float32)
  codes, means = quantize(values, 8, exact=(0.0,))
  assert codes.dtype == np.uint8 and means.shape == (256,)
  nearest = np.abs(values[:, None].astype(np.float64) - means).argmin(axis=1)
  np.testing.assert_array_equal(means[codes], means[nearest])
  population = np.bincount(codes, minlength=256)
  assert population.min() >= 10 and population.max() <= 30
  assert np.sqrt(np.mean((means[codes] - values) ** 2)) < 0.03


def test_few_different_values_stay_as_they_are():
  values = np.array([-1, -1, -1, -2, -0.5, -2], np.float32)
  codes, means = quantize(values, 3, exact=(0.0,))
  assert means[codes].tolist() == values.tolist()
  codes, means = quantize(np.zeros(0, np.float32), 3, exact=(0.0,))
  assert codes.shape == (0,) and means.shape == (8,)


@pytest.mark.parametrize("bits", [0, 1, 9])
def test_other_numbers_of_bits_are_refused(bits):
  with pytest.raises(ValueError, match=f"{bits} bits: from 2 to 8 are possible"):
    quantize(np.zeros(3, np.float32), bits, exact=())
