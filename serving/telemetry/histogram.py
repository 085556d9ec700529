"""A histogram for prometheus-client that many threads observe often: its own looks at each bucket in turn."""

from __future__ import annotations

import bisect
import math
import threading
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector


class Histogram(Collector):
  """Counts values by bucket and by label values.

  Args:
    labels: names of the labels.
    limits: upper limits of the buckets, ascending; one without limit is added.
    registry: where it is registered.
    max_label_sets: values of the first label past so many are counted as `other`.
  """

  def __init__(
    self,
    name: str,
    documentation: str,
    labels: Sequence[str],
    limits: Sequence[float],
    registry: CollectorRegistry,
    *,
    max_label_sets: int,
    other: str,
  ):
    self._name = name
    self._documentation = documentation
    self._labels = labels
    self._limits = [float(limit) for limit in limits]
    self._max_label_sets = max_label_sets
    self._other = other
    self._lock = threading.Lock()
    self._counts: dict[tuple[str, ...], list[int]] = {}
    self._sums: dict[tuple[str, ...], float] = {}
    registry.register(self)

  def observe(self, value: float, *labels: str) -> None:
    """Counts a value under these values of the labels."""
    bucket = bisect.bisect_left(self._limits, value)
    with self._lock:
      counts = self._counts.get(labels)
      if counts is None:
        if len(self._counts) >= self._max_label_sets:
          labels = (self._other, *labels[1:])
        counts = self._counted(labels)
      counts[bucket] += 1
      self._sums[labels] += value

  def announce(self, *labels: str) -> None:
    """Shows these label values even before there is a value."""
    with self._lock:
      self._counted(labels)

  def collect(self) -> Iterator[HistogramMetricFamily]:
    """What is exported: for each limit the values up to it."""
    with self._lock:
      counts = {labels: list(counts) for labels, counts in self._counts.items()}
      sums = dict(self._sums)
    family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
    for labels, of_bucket in counts.items():
      total, buckets = 0, []
      for limit, count in zip([*self._limits, math.inf], of_bucket, strict=True):
        total += count
        buckets.append(("+Inf" if limit == math.inf else repr(limit), total))
      family.add_metric(labels, buckets, sums[labels])
    yield family

  def _counted(self, labels: tuple[str, ...]) -> list[int]:
    self._sums.setdefault(labels, 0.0)
    return self._counts.setdefault(labels, [0] * (len(self._limits) + 1))
