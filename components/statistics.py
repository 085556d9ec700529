"""What StatisticsGen is told about a task's features."""

from __future__ import annotations

from typing import Any

from components.task import Task


def statistics_options(task: Task) -> Any:
  """tfdv.StatsOptions for the features that the task declares.

  Encoded inputs (bytes of pictures, of sound) are counted and their sizes are described, but they are not collected as
  categories, which would hold the whole data set in memory. Metadata columns are left to the Evaluator's slices.
  """
  import tensorflow_data_validation as tfdv
  from tensorflow_metadata.proto.v0 import schema_pb2

  schema = schema_pb2.Schema()
  for name, feature in task.raw_features.items():
    if feature.dtype == "bytes" and not feature.shape:
      schema.feature.add(name=name, type=schema_pb2.BYTES).image_domain.SetInParent()
  names = [*task.raw_features, *task.labels]
  return tfdv.StatsOptions(schema=schema, feature_allowlist=names)
