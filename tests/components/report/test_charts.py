"""Charts that depend on what is better."""

import re

from components.report.charts import learning_curve, size_against_quality


def history(first, last):
  return [{"epoch": 1, "perplexity": first, "val_perplexity": first}, {"epoch": 2, "perplexity": last}]


def tick_labels(svg):
  return set(re.findall(r">([\d.\u202f]+)<", svg))


def test_a_perplexity_that_falls_far_is_drawn_on_a_logarithmic_axis():
  log = tick_labels(learning_curve(history(9000.0, 60.0), "perplexity", "p", lower_is_better=True))
  assert {"100", "200", "500", "1\u202f000", "2\u202f000", "5\u202f000"} <= log
  assert not log & {"2000", "4000"}
  near = tick_labels(learning_curve(history(90.0, 60.0), "perplexity", "p", lower_is_better=True))
  assert {"60", "70", "80", "90"} <= near
  # A loss is not: its logarithm is none of interest.
  assert {"2000", "4000"} <= tick_labels(learning_curve(history(9000.0, 60.0), "perplexity", "p"))


def test_size_against_perplexity_leaves_noise_small_at_any_scale():
  steps = [
    {"gzip_bytes": 2_000_000, "quality": {"perplexity": 1000.0}},
    {"gzip_bytes": 10**6, "quality": {"perplexity": 1000.5}},
  ]
  svg = size_against_quality(steps, "perplexity", lower_is_better=True)
  assert ">perplexity (lower is better)<" in svg
  ticks = [float(label) for label in tick_labels(svg)]
  # Half a unit apart at 1,000: they lie in the middle of an axis of many units.
  assert any(990 < tick <= 996 for tick in ticks) and any(1004 <= tick < 1010 for tick in ticks)
  assert "lower is better" not in size_against_quality(steps, "perplexity")
