"""TFX's statistics, schema and validation of raw examples, run as stages on real shards."""

import os

import cv2
import numpy as np
import tensorflow as tf
from tfx.components.schema_gen.executor import Executor as SchemaGenExecutor
from tfx.components.statistics_gen.executor import Executor as StatisticsGenExecutor
from tfx.types import artifact_utils, standard_artifacts

from components.config import BeamConfig
from components.example_gen.executor import to_example
from components.statistics import statistics_options
from pipeline.graph import beam_arguments
from pipeline.tasks.image_classification import TASK

SPLITS = ("train", "validation", "test")


def write_examples(folder, labels):
  """An Examples artifact with one small picture for each of {split: [label]}, and a metadata column."""
  examples = standard_artifacts.Examples()
  examples.uri = os.path.join(folder, "examples")
  examples.split_names = artifact_utils.encode_split_names(list(SPLITS))
  for split in SPLITS:
    directory = os.path.join(examples.uri, f"Split-{split}")
    os.makedirs(directory)
    path = os.path.join(directory, "data_tfrecord-00000-of-00001.gz")
    with tf.io.TFRecordWriter(path, "GZIP") as writer:
      for number, label in enumerate(labels[split]):
        png = cv2.imencode(".png", np.full((4, 4), number, np.uint8))[1].tobytes()
        features = {"image": png, "label": label, "camera": f"camera {number}"}
        writer.write(to_example(features).SerializeToString())
  return examples


def write_statistics(folder, examples):
  """The ExampleStatistics artifact of the examples, with the options of the image task."""
  statistics = standard_artifacts.ExampleStatistics()
  statistics.uri = os.path.join(folder, "statistics")
  context = StatisticsGenExecutor.Context(
    beam_pipeline_args=beam_arguments(BeamConfig()), tmp_dir=folder, unique_id="1"
  )
  StatisticsGenExecutor(context).Do(
    {"examples": [examples]},
    {"statistics": [statistics]},
    {"stats_options_json": statistics_options(TASK).to_json(), "exclude_splits": "[]"},
  )
  return statistics


def write_schema(folder, statistics):
  """The Schema artifact of the training split."""
  schema = standard_artifacts.Schema()
  schema.uri = os.path.join(folder, "schema")
  os.makedirs(schema.uri)
  SchemaGenExecutor().Do(
    {"statistics": [statistics]},
    {"schema": [schema]},
    {"infer_feature_shape": 1, "exclude_splits": '["validation", "test"]'},
  )
  return schema
