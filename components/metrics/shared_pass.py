"""TFMA metrics that are drawn from what the exported signature says of each example, in one pass for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import apache_beam as beam
from tensorflow_model_analysis import constants
from tensorflow_model_analysis.metrics import metric_types


def shared_pass(
  key: metric_types.MetricKey,
  outputs: Iterable[str],
  combiner: beam.CombineFn,
  name: str,
  values: Callable[[Any], Mapping[str, float | None]],
) -> metric_types.MetricComputations:
  """One pass over the examples, and metrics drawn from it: TFMA drops computations of equal keys.

  Args:
    key: of the pass, with the model's name.
    outputs: of the signature; no others reach what Beam passes around.
    combiner: sums up what `element.get_predictions` gives, and extracts {key: sums}.
    name: of the metric.
    values: sums -> {metric name: value}; those of None are left out.
  """
  # Predictions lie below the model's name where there are several models.
  wanted: dict[str, Any] = {output: {} for output in outputs}
  preprocessor = metric_types.StandardMetricInputsPreprocessor(
    include_filter={constants.PREDICTIONS_KEY: {key.model_name: wanted} if key.model_name else wanted},
    include_default_inputs=False,
  )
  sums = metric_types.MetricComputation(keys=[key], preprocessors=[preprocessor], combiner=combiner)
  own = key._replace(name=name)

  def result(metrics: Mapping[metric_types.MetricKey, Any]) -> dict[metric_types.MetricKey, float]:
    found = values(metrics[key])
    return {own._replace(name=each): value for each, value in found.items() if value is not None}

  return [sums, metric_types.DerivedMetricComputation(keys=[own], result=result)]
