"""What StatisticsGen finds with the options of a task."""

import importlib.util
import os
import pathlib
import sys

import pytest

_SPEC = importlib.util.spec_from_file_location(
  "data_stages", pathlib.Path(__file__).with_name("data_stages.py")
)
data_stages = importlib.util.module_from_spec(_SPEC)
sys.modules.setdefault("data_stages", data_stages)
_SPEC.loader.exec_module(data_stages)

LABELS = {"train": ["cat"] * 30 + ["dog"] * 10, "validation": ["cat", "dog"], "test": ["dog"] * 3}


@pytest.fixture(scope="module")
def features(tmp_path_factory):
  """{split: {feature: FeatureNameStatistics}}."""
  import tensorflow_data_validation as tfdv

  folder = str(tmp_path_factory.mktemp("statistics"))
  statistics = data_stages.write_statistics(folder, data_stages.write_examples(folder, LABELS))
  found = {}
  for split in data_stages.SPLITS:
    path = os.path.join(statistics.uri, f"Split-{split}", "FeatureStats.pb")
    (dataset,) = tfdv.load_stats_binary(path).datasets
    assert dataset.num_examples == len(LABELS[split])
    found[split] = {"/".join(feature.path.step): feature for feature in dataset.features}
  return found


def test_only_what_the_task_declares_is_described(features):
  assert set(features["train"]) == {"image", "label"}


def test_labels_are_counted_by_class(features):
  counts = {
    split: {value.value: value.frequency for value in found["label"].string_stats.top_values}
    for split, found in features.items()
  }
  assert counts == {"train": {"cat": 30, "dog": 10}, "validation": {"cat": 1, "dog": 1}, "test": {"dog": 3}}


def test_pictures_are_no_categories(features):
  image = features["train"]["image"]
  assert image.WhichOneof("stats") == "bytes_stats"
  assert image.bytes_stats.common_stats.num_non_missing == 40
  assert image.bytes_stats.avg_num_bytes > 50
  assert b"PNG" not in image.SerializeToString()
