"""The histogram exports what prometheus-client's own does of the same values."""

import concurrent.futures

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as Reference

from serving.telemetry.histogram import Histogram

LIMITS = [1, 2.5, 100]


def made(registry, max_label_sets=10):
  return Histogram(
    "latency",
    "Of a call.",
    ("model", "api"),
    LIMITS,
    registry,
    max_label_sets=max_label_sets,
    other="(other)",
  )


def lines(registry):
  """What is exported, without the time at which prometheus-client's own was made."""
  text = generate_latest(registry).decode()
  return sorted(line for line in text.splitlines() if "_created" not in line)


def test_it_exports_what_the_library_does():
  ours, theirs = CollectorRegistry(), CollectorRegistry()
  histogram = made(ours)
  reference = Reference("latency", "Of a call.", ("model", "api"), buckets=LIMITS, registry=theirs)
  for value in (0.5, 1, 1.0001, 2.5, 99, 100, 100.5, 1e9, 0):
    histogram.observe(value, "m", "Predict")
    reference.labels("m", "Predict").observe(value)
  histogram.observe(7, "n", "Classify")
  reference.labels("n", "Classify").observe(7)
  histogram.announce("o", "Predict")
  reference.labels("o", "Predict")
  assert lines(ours) == lines(theirs)
  assert 'latency_bucket{api="Predict",le="2.5",model="m"} 5.0' in lines(ours)


def test_too_many_label_values_share_one():
  registry = CollectorRegistry()
  histogram = made(registry, max_label_sets=2)
  for name in ("a", "b", "c", "d", "a"):
    histogram.observe(1, name, "Predict")
  counts = {line for line in lines(registry) if line.startswith("latency_count")}
  assert counts == {
    'latency_count{api="Predict",model="a"} 2.0',
    'latency_count{api="Predict",model="b"} 1.0',
    'latency_count{api="Predict",model="(other)"} 2.0',
  }


def test_threads_lose_no_value():
  registry = CollectorRegistry()
  histogram = made(registry)
  values = np.random.default_rng(0).uniform(0, 200, 4000)
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(lambda value: histogram.observe(value, "m", "Predict"), values))
  assert 'latency_count{api="Predict",model="m"} 4000.0' in lines(registry)
  below = int((values <= 2.5).sum())
  assert f'latency_bucket{{api="Predict",le="2.5",model="m"}} {float(below)}' in lines(registry)
