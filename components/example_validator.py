"""TFX's ExampleValidator, except that an anomaly ends the run instead of being written down only."""

from __future__ import annotations

import os

import tensorflow as tf
from tensorflow_metadata.proto.v0 import anomalies_pb2
from tfx.components import ExampleValidator as TfxExampleValidator
from tfx.components.example_validator import executor
from tfx.dsl.components.base.executor_spec import ExecutorClassSpec
from tfx.types import artifact_utils


class Executor(executor.Executor):
  """Raises ValueError where the data does not fit the schema."""

  def Do(self, input_dict: dict, output_dict: dict, exec_properties: dict) -> None:
    super().Do(input_dict, output_dict, exec_properties)
    anomalies = artifact_utils.get_single_instance(output_dict["anomalies"])
    found = find_anomalies(anomalies.uri)
    if found:
      raise ValueError("the data has anomalies: " + "; ".join(found))


class ExampleValidator(TfxExampleValidator):
  """Same interface as TFX's."""

  EXECUTOR_SPEC = ExecutorClassSpec(Executor)


def find_anomalies(anomalies_uri: str) -> list[str]:
  """ "split: feature: what is wrong" for each anomaly in an ExampleAnomalies artifact, sorted."""
  found = []
  for path in sorted(tf.io.gfile.glob(os.path.join(anomalies_uri, "Split-*", "*"))):
    split = os.path.basename(os.path.dirname(path)).removeprefix("Split-")
    with tf.io.gfile.GFile(path, "rb") as file:
      anomalies = anomalies_pb2.Anomalies.FromString(file.read())
    for feature, info in sorted(anomalies.anomaly_info.items()):
      found.append(f"{split}: {feature}: {info.description}")
  return found
