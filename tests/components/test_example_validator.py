"""An anomaly ends the run, with its split, its feature and what is wrong."""

import importlib.util
import os
import pathlib
import sys

import pytest
from tfx.types import standard_artifacts

from components.example_validator import ExampleValidator, Executor, find_anomalies

_SPEC = importlib.util.spec_from_file_location(
  "data_stages", pathlib.Path(__file__).with_name("data_stages.py")
)
data_stages = importlib.util.module_from_spec(_SPEC)
sys.modules.setdefault("data_stages", data_stages)
_SPEC.loader.exec_module(data_stages)


def validate(folder, **labels):
  """Runs all three stages; returns the anomalies' directory."""
  examples = data_stages.write_examples(folder, labels)
  statistics = data_stages.write_statistics(folder, examples)
  anomalies = standard_artifacts.ExampleAnomalies()
  anomalies.uri = os.path.join(folder, "anomalies")
  inputs = {"statistics": [statistics], "schema": [data_stages.write_schema(folder, statistics)]}
  Executor().Do(inputs, {"anomalies": [anomalies]}, {"exclude_splits": "[]"})
  return anomalies.uri


def test_data_that_fits_its_schema_passes(tmp_path):
  both = ["cat", "dog"]
  uri = validate(str(tmp_path), train=both * 3, validation=both, test=both)
  assert sorted(os.listdir(uri)) == ["Split-test", "Split-train", "Split-validation"]
  assert find_anomalies(uri) == []


def test_a_class_that_only_the_test_split_knows_stops_the_run(tmp_path):
  with pytest.raises(ValueError) as caught:
    validate(str(tmp_path), train=["cat", "dog"] * 3, validation=["cat", "dog"], test=["cat", "zebra"])
  message = str(caught.value)
  assert message.startswith("the data has anomalies: test: label: ")
  assert "zebra" in message
  assert "train:" not in message and "validation:" not in message and "\n" not in message


def test_the_stage_runs_this_executor():
  assert ExampleValidator.EXECUTOR_SPEC.executor_class is Executor
