"""A model that is counted, through the container commands of its pipeline.

A file of its own: files are what the tests' workers share out, and this one takes minutes.
"""

import json
import pathlib
import shutil

import pytest

from trainers.ngram.arpa_reader import read_arpa_words

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

DATA = pathlib.Path(__file__).parents[1] / "data"
SETTINGS = """
data: {lines_per_group: 4}
preprocessing: {min_count: 1}
ngram: {order: 2}
compression: {latency_calls: 2, recipe: [{step: quantize_ngrams}]}
evaluation: {max_metrics: {perplexity: 1000}, max_rise: {perplexity: 1000}}
serving: {warmup_requests: 2, infra_validation_requests: 2}
"""


def test_what_one_container_counts_another_one_serves(tmp_path, compiled):
  volume = tmp_path / "volume"
  volume.mkdir()
  shutil.copy(DATA / "genesis.txt", volume)
  launcher, _ = compiled("ngram_language_model", volume / "genesis.txt", SETTINGS)
  done = launcher.run()
  assert done.index("Transform") < done.index("TextCounter") < done.index("Trainer")
  counted = pathlib.Path(launcher.uri("TextCounter", "model")) / "Format-Serving"
  assert read_arpa_words(str(counted / "model.arpa"))[0] == 2
  (version,) = (volume / "serving" / "ngram_language_model").iterdir()
  report = pathlib.Path(launcher.uri("Report", "report"))
  found = json.loads((report / "report.json").read_text(encoding="utf-8"))
  assert found["pushed_model"] == str(version) and (version / "saved_model.pb").exists()
  assert 1 < found["metrics"]["compressed"]["perplexity"] < 1000
