"""TFMA metrics of language models: perplexity and its kin, as sums over sentences.

A mean of the batches' perplexities is not the perplexity of the whole, so every figure here is drawn from sums of what
the exported signature says of each sentence: "log_prob" float32 [batch] (natural logarithm, the sentence's end
included), "num_tokens" int64 [batch], and where the signature has them "num_unknown", "unknown_log_prob",
"num_characters", "top_1_hits" and "top_k_hits", all [batch]. Other outputs are not looked at, whatever their shapes.
There is no label. A metric whose outputs are missing is left out of the results.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types, metric_util

from components.metrics.shared_pass import shared_pass

# What is added up, in float64: log probabilities come as float32, of which a sum over a corpus would lose digits.
SUMMED_OUTPUTS = (
  "log_prob",
  "num_tokens",
  "num_unknown",
  "unknown_log_prob",
  "num_characters",
  "top_1_hits",
  "top_k_hits",
)


class _FromSums(metric_types.Metric):
  """A figure drawn from the shared sums over the sentences."""

  figure = ""

  def __init__(self, name: str | None = None, **settings: Any):
    super().__init__(
      metric_util.merge_per_key_computations(_from_sums),
      name=name or self.figure,
      figure=self.figure,
      settings=settings,
    )
    self._settings = settings

  def get_config(self) -> dict[str, Any]:
    return {"name": self.name, **self._settings}


class Perplexity(_FromSums):
  """exp of the mean negative log probability of a token, the sentences' ends counted: how many choices are left."""

  figure = "perplexity"


class PerplexityWithoutUnknown(_FromSums):
  """Perplexity over the tokens that the vocabulary has."""

  figure = "perplexity_without_unknown"


class BitsPerCharacter(_FromSums):
  """-log2 of the text's probability over its characters: compares models of different vocabularies."""

  figure = "bits_per_character"


class UnknownShare(_FromSums):
  """The share of the tokens that the vocabulary lacks."""

  figure = "unknown_share"


class TokenCount(_FromSums):
  """Tokens scored, the sentences' ends counted."""

  figure = "token_count"


class TopKAccuracy(_FromSums):
  """The share of the tokens that are among the k most likely ones in their place.

  Args:
    k: how many; what the signature counted them with.
    output: of the signature: the number of such tokens in each sentence.
    name: of the metric.
  """

  figure = "top_k_accuracy"

  def __init__(self, k: int, output: str = "top_k_hits", name: str | None = None):
    super().__init__(name or f"top_{k}_accuracy", k=k, output=output)


def _from_sums(
  name: str, figure: str, settings: Mapping[str, Any], model_name: str = "", example_weighted: bool = False
) -> metric_types.MetricComputations:
  """One pass over the sentences serves all figures: TFMA drops computations of equal keys."""
  key = metric_types.MetricKey(
    name="_language_sums", model_name=model_name, example_weighted=example_weighted
  )

  def values(sums: Mapping[str, float]) -> dict[str, float | None]:
    return {name: _FIGURES[figure](sums, **settings)}

  return shared_pass(key, SUMMED_OUTPUTS, _SumsCombiner(key), name, values)


def _perplexity(sums: Mapping[str, float]) -> float | None:
  return _exp(_ratio(-sums["log_prob"], sums["num_tokens"]))


def _perplexity_without_unknown(sums: Mapping[str, float]) -> float | None:
  if "unknown_log_prob" not in sums or "num_unknown" not in sums:
    return None
  known = sums["log_prob"] - sums["unknown_log_prob"]
  return _exp(_ratio(-known, sums["num_tokens"] - sums["num_unknown"]))


def _bits_per_character(sums: Mapping[str, float]) -> float | None:
  return _ratio(-sums["log_prob"] / math.log(2), sums.get("num_characters"))


def _unknown_share(sums: Mapping[str, float]) -> float | None:
  return _ratio(sums.get("num_unknown"), sums["num_tokens"])


def _token_count(sums: Mapping[str, float]) -> float | None:
  return sums["num_tokens"]


def _top_k_accuracy(sums: Mapping[str, float], k: int, output: str) -> float | None:
  return _ratio(sums.get(output), sums["num_tokens"])


_FIGURES: dict[str, Callable[..., float | None]] = {
  "perplexity": _perplexity,
  "perplexity_without_unknown": _perplexity_without_unknown,
  "bits_per_character": _bits_per_character,
  "unknown_share": _unknown_share,
  "token_count": _token_count,
  "top_k_accuracy": _top_k_accuracy,
}


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
  return numerator / denominator if numerator is not None and denominator else None


def _exp(exponent: float | None) -> float | None:
  """Infinity where the exponent is too large: a token of probability 0 makes it infinite."""
  if exponent is None:
    return None
  with np.errstate(over="ignore"):
    return float(np.exp(exponent))


class _SumsCombiner(beam.CombineFn):
  """{output: sum over the sentences} of `SUMMED_OUTPUTS`, without those that the signature lacks."""

  def __init__(self, key: metric_types.MetricKey):
    self._key = key

  def create_accumulator(self) -> dict[str, float]:
    return {}

  def add_input(
    self, accumulator: dict[str, float], element: metric_types.StandardMetricInputs
  ) -> dict[str, float]:
    outputs = element.get_predictions(self._key.model_name or None)
    for name in SUMMED_OUTPUTS:
      if name in outputs:
        accumulator[name] = accumulator.get(name, 0.0) + float(np.asarray(outputs[name]).item())
    return accumulator

  def merge_accumulators(self, accumulators: Iterable[dict[str, float]]) -> dict[str, float]:
    merged: dict[str, float] = {}
    for accumulator in accumulators:
      for name, value in accumulator.items():
        merged[name] = merged.get(name, 0.0) + value
    return merged

  def extract_output(self, accumulator: dict[str, float]) -> dict[metric_types.MetricKey, dict[str, float]]:
    return {self._key: accumulator}
