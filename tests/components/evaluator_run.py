"""TFX's own Evaluator on exports and raw examples of a test."""

import json
import os

import tensorflow as tf


def artifact(kind, path):
  """An artifact as the launcher hands it to an executor."""
  made = kind()
  made.uri, made.id = str(path), 1
  return made


def write_split(directory, split, rows):
  """Raw examples as an ExampleGen writes them. `rows`: {feature: bytes or floats} of each."""
  os.makedirs(os.path.join(directory, f"Split-{split}"))
  path = os.path.join(directory, f"Split-{split}", "data_tfrecord-00000-of-00001.gz")
  with tf.io.TFRecordWriter(path, "GZIP") as writer:
    for row in rows:
      features = {name: _feature(value) for name, value in row.items()}
      writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())


def _feature(value):
  if isinstance(value, bytes):
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
  return tf.train.Feature(float_list=tf.train.FloatList(value=value))


def run_evaluator(root, name, eval_config, with_baseline):
  """Evaluates root/candidate, and root/baseline where asked, on root/examples.

  Returns:
    (evaluation directory below root/name, the blessing's file names).
  """
  from google.protobuf import json_format
  from tfx.components.evaluator.executor import Executor
  from tfx.types import standard_artifacts

  examples = artifact(standard_artifacts.Examples, root / "examples")
  examples.split_names = json.dumps(["test"])
  examples.set_string_custom_property("payload_format", "FORMAT_TF_EXAMPLE")
  inputs = {"model": [artifact(standard_artifacts.Model, root / "candidate")], "examples": [examples]}
  if with_baseline:
    inputs["baseline_model"] = [artifact(standard_artifacts.Model, root / "baseline")]
  outputs = {
    "evaluation": [artifact(standard_artifacts.ModelEvaluation, root / name / "evaluation")],
    "blessing": [artifact(standard_artifacts.ModelBlessing, root / name / "blessing")],
  }
  os.makedirs(root / name / "blessing")
  # Any container image keeps TFX from packing its own sources for remote workers, which takes seconds.
  beam_args = [
    "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "--sdk_container_image=none",
  ]
  context = Executor.Context(beam_pipeline_args=beam_args, tmp_dir=str(root / "tmp"), unique_id=name)
  settings = {"eval_config": json_format.MessageToJson(eval_config), "example_splits": '["test"]'}
  settings["fairness_indicator_thresholds"] = "null"
  Executor(context).Do(inputs, outputs, settings)
  return str(root / name / "evaluation"), os.listdir(root / name / "blessing")
