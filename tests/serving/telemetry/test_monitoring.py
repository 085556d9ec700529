"""Metrics as a scraper reads them: TF Serving's names, labels, bucket limits and counts."""

import re
import threading

from prometheus_client.parser import text_string_to_metric_families

from serving.telemetry import monitoring
from serving.telemetry.monitoring import Monitoring


def samples(metrics):
  """{(sample name, sorted labels): value} of the exposition; the parser adds "_total" to counters itself."""
  text = metrics.exposition()[0].decode()
  families = text_string_to_metric_families(text)
  return {
    (s.name.removesuffix("_total"), tuple(sorted(s.labels.items()))): s.value
    for family in families
    for s in family.samples
  }


def labels(**values):
  return tuple(sorted(values.items()))


def test_requests_are_counted_by_model_and_status_without_a_suffix():
  metrics = Monitoring()
  for status in ("OK", "OK", "NOT_FOUND"):
    metrics.request("mnist", "Predict", "GRPC", status, 120.0)
  text = metrics.exposition()[0].decode()
  assert ':tensorflow:serving:request_count{model_name="mnist",status="OK"} 2.0\n' in text
  assert ':tensorflow:serving:request_count{model_name="mnist",status="NOT_FOUND"} 1.0\n' in text
  assert "# TYPE :tensorflow:serving:request_count counter\n" in text
  assert "_total" not in text
  assert "_created" not in text


def test_latency_is_a_histogram_of_answered_requests_in_tf_servings_buckets():
  metrics = Monitoring()
  metrics.request("m", "predict", "REST", "OK", 700_000.0)
  metrics.request("m", "predict", "REST", "OK", 9.0)
  metrics.request("m", "predict", "REST", "INTERNAL", 9.0)
  text = metrics.exposition()[0].decode()
  prefix = (
    ':tensorflow:serving:request_latency_bucket{API="predict",entrypoint="REST",le="%s",model_name="m"} %s'
  )
  for limit, count in (
    ("10", "1.0"),
    ("32.4", "1.0"),
    ("393464", "1.0"),
    ("708235", "2.0"),
    ("1.27482e+06", "2.0"),
    ("+Inf", "2.0"),
  ):
    assert prefix % (limit, count) in text
  assert len(re.findall(r"request_latency_bucket\{", text)) == 34
  found = samples(metrics)
  only = labels(model_name="m", API="predict", entrypoint="REST")
  assert found[":tensorflow:serving:request_latency_sum", only] == 700_009.0
  assert found[":tensorflow:serving:request_latency_count", only] == 2.0


def test_loads_warmups_runs_and_batches():
  metrics = Monitoring()
  metrics.load("/models/m/1", "OK", 2500.0)
  metrics.load("/models/m/1", "OK", 500.0)
  metrics.load("/models/m/2", "INVALID_ARGUMENT", 100.0)
  metrics.warmup("/models/m/1", "OK", 40.0)
  metrics.runtime("m", "Predict", 77.0)
  metrics.batch(8, 3, 450.0)
  metrics.batch(1, 0, 50.0)
  found = samples(metrics)
  attempts = ":tensorflow:cc:saved_model:load_attempt_count"
  latency = ":tensorflow:cc:saved_model:load_latency"
  assert found[attempts, labels(model_path="/models/m/1", status="success")] == 2
  assert found[attempts, labels(model_path="/models/m/2", status="fail")] == 1
  assert found[latency, labels(model_path="/models/m/1")] == 3000.0
  assert (latency, labels(model_path="/models/m/2")) not in found
  warmup = ":tensorflow:serving:model_warmup_latency_sum"
  assert found[warmup, labels(model_path="/models/m/1", status="OK")] == 40.0
  runtime = ":tensorflow:serving:runtime_latency_sum"
  assert found[runtime, labels(model_name="m", API="Predict", runtime="TF1")] == 77.0
  batching = ":tensorflow:serving:batching_session:"
  pool = labels(thread_pool_name=monitoring.THREAD_POOL_NAME)
  assert found[f"{batching}queuing_latency_sum", pool] == 500.0
  assert found[f"{batching}processed_batch_size_sum", pool] == 9.0
  assert found[f"{batching}padding_size_sum", pool] == 3.0
  assert found[f"{batching}wrapped_run_count", ()] == 2.0


def test_each_monitoring_has_numbers_of_its_own():
  first, second = Monitoring(), Monitoring()
  first.request("m", "Predict", "GRPC", "OK", 1.0)
  assert (":tensorflow:serving:request_count", labels(model_name="m", status="OK")) in samples(first)
  assert (":tensorflow:serving:request_count", labels(model_name="m", status="OK")) not in samples(second)


def test_model_names_of_clients_do_not_fill_the_memory(monkeypatch):
  monkeypatch.setattr(monitoring, "MAX_LABEL_SETS", 3)
  metrics = Monitoring()
  for number in range(50):
    metrics.request(f"guess{number}", "Predict", "GRPC", "NOT_FOUND", 1.0)
  counts = {
    dict(key)["model_name"]: value
    for (name, key), value in samples(metrics).items()
    if name == ":tensorflow:serving:request_count"
  }
  assert counts == {"guess0": 1, "guess1": 1, "guess2": 1, monitoring.OTHER: 47}


def test_label_values_are_escaped_and_never_taken_for_the_format():
  name = 'a"b\\c\nx_total{,le="7.50"} 1'
  metrics = Monitoring()
  metrics.request(name, "Predict", "GRPC", "OK", 1.0)
  assert samples(metrics)[":tensorflow:serving:request_count", labels(model_name=name, status="OK")] == 1.0


def test_counts_of_many_threads_add_up():
  metrics = Monitoring()
  threads = [
    threading.Thread(target=lambda: [metrics.request("m", "Predict", "GRPC", "OK", 5.0) for _ in range(500)])
    for _ in range(8)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert samples(metrics)[":tensorflow:serving:request_count", labels(model_name="m", status="OK")] == 4000
