"""Bins and their means."""

import dataclasses

import numpy as np
import pytest

from trainers.models.ngram import NgramModel
from trainers.ngram.quantization import quantize
from trainers.ngram.smoothing import Smoothing


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


def test_each_value_has_the_nearest_mean_and_values_far_out_are_not_far_from_theirs():
  values = np.random.default_rng(3).normal(size=5000).astype(np.float32)
  codes, means = quantize(values, 8, exact=(0.0,))
  assert codes.dtype == np.uint8 and means.shape == (256,)
  nearest = np.abs(values[:, None].astype(np.float64) - means).argmin(axis=1)
  np.testing.assert_array_equal(means[codes], means[nearest])
  error = np.abs(means[codes] - values)
  equal_population = np.abs(
    np.concatenate([piece - piece.mean() for piece in np.array_split(np.sort(values), 256)])
  )
  assert np.sqrt(np.mean(error**2)) < 0.7 * np.sqrt(np.mean(equal_population**2))
  assert error.max() < 0.7 * equal_population.max()


def test_means_are_those_of_their_values():
  values = np.random.default_rng(4).exponential(size=300).astype(np.float32)
  codes, means = quantize(values, 4, exact=())
  found = np.bincount(codes, values, minlength=16) / np.bincount(codes, minlength=16)
  np.testing.assert_allclose(found, means, atol=0.02)


def test_a_value_that_most_have_takes_no_more_than_a_bin():
  values = np.concatenate([np.full(10_000, -3), np.linspace(-2, -1, 255)]).astype(np.float32)
  codes, means = quantize(values, 8, exact=())
  assert means[codes].tolist() == values.tolist()


def test_few_different_values_stay_as_they_are():
  values = np.array([-1, -1, -1, -2, -0.5, -2], np.float32)
  codes, means = quantize(values, 3, exact=(0.0,))
  assert means[codes].tolist() == values.tolist()
  codes, means = quantize(np.zeros(4, np.float32), 3, exact=(0.0,))
  assert codes.tolist() == [0] * 4 and means.tolist() == [0] * 8
  codes, means = quantize(np.zeros(0, np.float32), 3, exact=(0.0,))
  assert codes.shape == (0,) and means.shape == (8,)


@pytest.mark.parametrize("bits", [0, 1, 9])
def test_other_numbers_of_bits_are_refused(bits):
  with pytest.raises(ValueError, match=f"{bits} bits: from 2 to 8 are possible"):
    quantize(np.zeros(3, np.float32), bits, exact=())


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("smoothing", [Smoothing(cutoffs=(0, 0, 1)), Smoothing(), Smoothing("add_k", k=0.1)])
def test_quantized_probabilities_nearly_sum_to_one(small_model, sums, order, smoothing):
  smoothing = dataclasses.replace(smoothing, cutoffs=smoothing.cutoffs[:order])
  model = small_model(order, smoothing)
  quantized = NgramModel.from_backoff_model(model, bits=8).to_backoff_model(model.vocabulary)
  off = np.abs(sums(quantized) - 1)
  assert off.max() < 0.07 and off.mean() < 0.02
