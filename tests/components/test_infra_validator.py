"""InfraValidator on real exports: verdicts, reasons, and artifacts as TFX's Pusher reads them."""

import json
import os
import shutil

import numpy as np
import psutil
import pytest
import tensorflow as tf
from tfx.components.pusher import executor as tfx_pusher
from tfx.types import standard_artifacts

from components.infra_validator import Executor, InfraValidator, build_requests
from pipeline.tasks.image_classification import TASK
from serving.export import export_saved_model

IMAGES = [b"one", b"two, longer", b"", b"four"]


@pytest.fixture(scope="module")
def examples_uri(tmp_path_factory):
  """Raw examples of the image task, gzipped, in Split-test."""
  directory = tmp_path_factory.mktemp("examples")
  (directory / "Split-test").mkdir()
  options = tf.io.TFRecordOptions(compression_type="GZIP")
  for shard in range(2):
    path = directory / "Split-test" / f"data_tfrecord-{shard:05d}-of-00002.gz"
    with tf.io.TFRecordWriter(str(path), options) as writer:
      for image in IMAGES[shard * 2 : shard * 2 + 2]:
        writer.write(example_of(image))
  return str(directory)


def example_of(image):
  values = {"image": image, "label": b"a"}
  feature = {
    name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for name, value in values.items()
  }
  return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


@pytest.fixture(scope="module")
def model_uri(tmp_path_factory):
  """A model that answers with lengths, looked up and weighted, so that it has a table and a variable."""
  holder = tf.Module()
  holder.weight = tf.Variable([0.5, 2.0])
  sizes = tf.lookup.StaticHashTable(
    tf.lookup.KeyValueTensorInitializer(tf.constant([0, 1], tf.int64), tf.constant(["small", "large"])), "?"
  )

  def serve(image):
    lengths = tf.strings.length(image)
    size = sizes.lookup(tf.cast(lengths > 4, tf.int64))
    return {"weighted": tf.cast(lengths, tf.float32)[:, tf.newaxis] * holder.weight, "size": size}

  def serve_examples(examples):
    return serve(tf.io.parse_example(examples, {"image": tf.io.FixedLenFeature([], tf.string)})["image"])

  uri = tmp_path_factory.mktemp("model")
  endpoints = {
    "serving_default": (serve, {"image": tf.TensorSpec([None], tf.string)}),
    "serve_examples": (serve_examples, {"examples": tf.TensorSpec([None], tf.string)}),
  }
  export_saved_model(str(uri / "Format-Serving"), [holder, sizes], endpoints)
  return str(uri)


def artifact(kind, uri, blessed=None):
  made = kind()
  made.uri = str(uri)
  if blessed is not None:
    made.set_int_custom_property("blessed", int(blessed))
  return made


def validate(tmp_path, model_uri, examples_uri, verdicts=None, **serving):
  """Runs the executor; returns the blessing."""
  model = artifact(standard_artifacts.Model, model_uri)
  model.id = 42
  blessing = artifact(standard_artifacts.InfraBlessing, tmp_path / "blessing")
  inputs = {"model": [model], "examples": [artifact(standard_artifacts.Examples, examples_uri)]}
  for name, blessed in (verdicts or {}).items():
    inputs[name] = [artifact(standard_artifacts.ModelBlessing, tmp_path / name, blessed)]
  config = TASK.config_class.model_validate(
    {"serving": {"infra_validation_requests": 3, "infra_validation_timeout_s": 600, **serving}}
  )
  properties = {"task": TASK.path, "config": config.only("serving")}
  Executor().Do(inputs, {"blessing": [blessing]}, properties)
  assert not [child for child in psutil.Process().children() if "serving." in " ".join(child.cmdline())]
  return blessing


def reasons(blessing):
  with open(os.path.join(blessing.uri, "reasons.json")) as file:
    return json.load(file)["reasons"]


def test_a_good_model_is_blessed_as_tfx_does_it(tmp_path, model_uri, examples_uri):
  verdicts = {"model_blessing": True, "regression_blessing": True}
  blessing = validate(tmp_path, model_uri, examples_uri, verdicts)
  assert reasons(blessing) == []
  assert sorted(os.listdir(blessing.uri)) == ["INFRA_BLESSED", "reasons.json"]
  assert blessing.get_int_custom_property("current_model_id") == 42
  assert blessing.get_string_custom_property("reason") == ""
  assert tfx_pusher.Executor().CheckBlessing({"infra_blessing": [blessing]})


def test_a_broken_export_is_declined_with_the_reason(tmp_path, model_uri, examples_uri):
  broken = shutil.copytree(model_uri, tmp_path / "model")
  for path in (broken / "Format-Serving" / "variables").iterdir():
    path.unlink()
  blessing = validate(tmp_path, broken, examples_uri)
  (reason,) = reasons(blessing)
  assert reason.startswith("load failed: TF1 session: ") and "variables" in reason
  assert blessing.get_string_custom_property("reason") == reason
  assert blessing.get_int_custom_property("blessed") == 0
  assert sorted(os.listdir(blessing.uri)) == ["INFRA_NOT_BLESSED", "reasons.json"]
  assert not tfx_pusher.Executor().CheckBlessing({"infra_blessing": [blessing]})


def test_running_out_of_time_is_a_reason(tmp_path, model_uri, examples_uri):
  blessing = validate(tmp_path, model_uri, examples_uri, infra_validation_timeout_s=1)
  (reason,) = reasons(blessing)
  assert reason.startswith("timed out after 1 s")


@pytest.mark.parametrize(
  ("verdicts", "expected"),
  [
    ({"model_blessing": False}, ["the Evaluator did not bless the model"]),
    (
      {"model_blessing": True, "regression_blessing": False},
      ["the model does not hold against the last blessed one"],
    ),
  ],
)
def test_what_was_not_blessed_before_is_not_tried(tmp_path, verdicts, expected):
  blessing = validate(tmp_path, "no such model", "no such examples", verdicts)
  assert reasons(blessing) == expected
  assert blessing.get_int_custom_property("blessed") == 0


def test_requests_are_the_examples_one_by_one_and_together(examples_uri):
  requests = build_requests(TASK, examples_uri, 3)
  assert [name for name, _ in requests] == ["serving_default", "serve_examples"] * 4
  for i, image in enumerate(IMAGES[:3]):
    assert requests[2 * i][1]["image"].tolist() == [image]
    (serialized,) = requests[2 * i + 1][1]["examples"]
    example = tf.train.Example.FromString(serialized)
    assert list(example.features.feature["image"].bytes_list.value) == [image]
  np.testing.assert_array_equal(requests[6][1]["image"], np.array(IMAGES[:3], object))
  assert requests[7][1]["examples"].shape == (3,)


def test_an_empty_test_split_is_named(tmp_path):
  (tmp_path / "Split-test").mkdir()
  path = tmp_path / "Split-test" / "data_tfrecord-00000-of-00001.gz"
  with tf.io.TFRecordWriter(str(path), tf.io.TFRecordOptions(compression_type="GZIP")):
    pass
  with pytest.raises(ValueError, match=f"the test split of {tmp_path} is empty"):
    build_requests(TASK, str(tmp_path), 3)


def test_blessings_are_optional_inputs():
  from tfx.types.channel import Channel

  channels = {
    "model": Channel(type=standard_artifacts.Model),
    "examples": Channel(type=standard_artifacts.Examples),
  }
  verdict = Channel(type=standard_artifacts.ModelBlessing)
  alone = InfraValidator(task=TASK.path, config="{}", **channels)
  assert set(alone.inputs) == {"model", "examples"}
  full = InfraValidator(
    task=TASK.path, config="{}", **channels, blessing=verdict, regression_blessing=verdict
  )
  assert set(full.inputs) == {"model", "examples", "model_blessing", "regression_blessing"}
  assert full.outputs["blessing"].type is standard_artifacts.InfraBlessing
