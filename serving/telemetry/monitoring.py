"""Prometheus metrics of a server, under the names that TF Serving gives them.

Source: tensorflow_serving/servables/tensorflow/util.cc, saved_model_warmup_util.cc, batching_session.cc;
  tensorflow/cc/saved_model/loader.cc; tensorflow_serving/util/prometheus_exporter.cc
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from serving.telemetry.histogram import Histogram

PROMETHEUS_PATH = "/monitoring/prometheus/metrics"
RUNTIME = "TF1"
THREAD_POOL_NAME = "batching_session"
# A client chooses the model name it asks for: names past this many share the label below, so that no client can fill
# the server's memory with histograms.
MAX_LABEL_SETS = 2000
OTHER = "(other)"

# The text format of prometheus-client ends counters in "_total" and adds "_created" gauges; TF Serving has neither.
_TOTAL = re.compile(rb"^((?:# (?:HELP|TYPE) )?[a-zA-Z0-9_:]+)_total(?=[{ ])", re.MULTILINE)
# TF Serving writes a bucket's limit with six digits ("708235"), and dashboards select buckets by that text.
_BUCKET_LIMIT = re.compile(rb'(?<=[{,]le=")[0-9.e+]+(?=")')
_CREATED = re.compile(rb"^(?:# (?:HELP|TYPE) )?[a-zA-Z0-9_:]+_created[{ ].*\n", re.MULTILINE)


def exponential_buckets(scale: float, growth: float, count: int) -> list[float]:
  """Upper limits scale, scale * growth, ..., `count` of them; the client adds infinity."""
  return [scale * growth**power for power in range(count)]


LATENCY_US_BUCKETS = exponential_buckets(10, 1.8, 33)  # 10 us to about 20 minutes
QUEUING_LATENCY_US_BUCKETS = exponential_buckets(100, 1.2, 52)  # 100 us to about 1 second
BATCH_SIZE_BUCKETS = exponential_buckets(1, 2, 15)


class _LabelledCounter:
  """A counter's children by their label values: a dict look-up where `counter.labels` locks and converts."""

  def __init__(self, counter: Counter):
    self._counter = counter
    self._children: dict[tuple[str, ...], Counter] = {}

  def labels(self, *values: str) -> Counter:
    child = self._children.get(values)
    if child is None:
      if len(self._children) >= MAX_LABEL_SETS:
        values = (OTHER, *values[1:])
      child = self._children[values] = self._counter.labels(*values)
    return child


class Monitoring:
  """Counts and times what one server does. Every method may be called from any thread and takes a few microseconds.

  A Monitoring has its own registry, so that several servers in a process do not mix their numbers.
  """

  def __init__(self) -> None:
    self._registry = CollectorRegistry()
    self._request_count = self._counter(
      ":tensorflow:serving:request_count", "The total number of requests.", ("model_name", "status")
    )
    self._request_latency = self._histogram(
      ":tensorflow:serving:request_latency",
      "Distribution of wall time (in microseconds) for Tensorflow Serving request.",
      ("model_name", "API", "entrypoint"),
    )
    self._runtime_latency = self._histogram(
      ":tensorflow:serving:runtime_latency",
      "Distribution of wall time (in microseconds) for Tensorflow runtime.",
      ("model_name", "API", "runtime"),
    )
    self._warmup_latency = self._histogram(
      ":tensorflow:serving:model_warmup_latency",
      "Distribution of wall time (in microseconds) for warming up the model.",
      ("model_path", "status"),
    )
    self._load_attempt_count = self._counter(
      ":tensorflow:cc:saved_model:load_attempt_count",
      "The number of times a SavedModel was requested to be loaded.",
      ("model_path", "status"),
    )
    self._load_latency = self._counter(
      ":tensorflow:cc:saved_model:load_latency",
      "Latency in microseconds for SavedModels that were successfully loaded.",
      ("model_path",),
    )
    self._create_batching_metrics()

  def _create_batching_metrics(self) -> None:
    prefix = ":tensorflow:serving:batching_session:"
    self._queuing_latency = self._histogram(
      f"{prefix}queuing_latency",
      "Distribution of wall time spent (in microseconds) in queuing",
      ("thread_pool_name",),
      QUEUING_LATENCY_US_BUCKETS,
    )
    self._processed_batch_size = self._histogram(
      f"{prefix}processed_batch_size",
      "Sizes of the batches that ran, padding included.",
      ("thread_pool_name",),
      BATCH_SIZE_BUCKETS,
    )
    self._padding_size = self._histogram(
      f"{prefix}padding_size",
      "Rows of padding in the batches that ran.",
      ("thread_pool_name",),
      BATCH_SIZE_BUCKETS,
    )
    for histogram in (self._queuing_latency, self._processed_batch_size, self._padding_size):
      histogram.announce(THREAD_POOL_NAME)
    self._wrapped_run_count = Counter(
      f"{prefix}wrapped_run_count",
      "Total count of run calls on the wrapped session",
      registry=self._registry,
    )

  def request(self, model_name: str, api: str, entrypoint: str, status: str, latency_us: float) -> None:
    """Counts one request that has been answered, and its latency if it was answered well, as TF Serving does.

    Args:
      model_name: as the request gives it.
      api: "Predict", "Classify", "Regress", "MultiInference"; through REST "predict", "classify", "regress".
      entrypoint: "GRPC" or "REST".
      status: "OK" or the name of the error's code, such as "NOT_FOUND".
      latency_us: from the request's arrival to its answer.
    """
    self._request_count.labels(model_name, status).inc()
    if status == "OK":
      self._request_latency.observe(latency_us, model_name, api, entrypoint)

  def runtime(self, model_name: str, api: str, latency_us: float) -> None:
    """Records how long one run of the session took."""
    self._runtime_latency.observe(latency_us, model_name, api, RUNTIME)

  def load(self, model_path: str, status: str, latency_us: float) -> None:
    """Counts one attempt to load a version.

    Args:
      model_path: the version's folder.
      status: "OK", which is exported as TF Serving's "success"; anything else is exported as "fail".
      latency_us: added to the latency of successful loads.
    """
    succeeded = status in ("OK", "success")
    self._load_attempt_count.labels(model_path, "success" if succeeded else "fail").inc()
    if succeeded:
      self._load_latency.labels(model_path).inc(latency_us)

  def warmup(self, model_path: str, status: str, latency_us: float) -> None:
    """Records one replay of a version's warm-up requests; `status` is "OK" or the name of the error's code."""
    self._warmup_latency.observe(latency_us, model_path, status)

  def batch(self, size: int, padding: int, queuing_latency_us: float) -> None:
    """Records one batch that ran.

    Args:
      size: rows of the batch, padding included.
      padding: rows added to reach an allowed size.
      queuing_latency_us: how long the batch's first request waited.
    """
    self._processed_batch_size.observe(size, THREAD_POOL_NAME)
    self._padding_size.observe(padding, THREAD_POOL_NAME)
    self._queuing_latency.observe(queuing_latency_us, THREAD_POOL_NAME)
    self._wrapped_run_count.inc()

  def exposition(self) -> tuple[bytes, str]:
    """The metrics in Prometheus' text format, and its content type."""
    text = _CREATED.sub(b"", _TOTAL.sub(rb"\1", generate_latest(self._registry)))
    text = _BUCKET_LIMIT.sub(lambda limit: b"%.6g" % float(limit[0]), text)
    return text, CONTENT_TYPE_PLAIN_0_0_4

  def _counter(self, name: str, documentation: str, labels: Sequence[str]) -> _LabelledCounter:
    return _LabelledCounter(Counter(name, documentation, labels, registry=self._registry))

  def _histogram(
    self, name: str, documentation: str, labels: Sequence[str], limits: Sequence[float] = LATENCY_US_BUCKETS
  ) -> Histogram:
    return Histogram(
      name, documentation, labels, limits, self._registry, max_label_sets=MAX_LABEL_SETS, other=OTHER
    )
