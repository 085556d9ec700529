import os

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform.beam as tft_beam
from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils
from tfx.components.util import examples_utils
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils, channel_utils, standard_artifacts

from components.augmenter import Augmenter, Executor, add_copies, example_seed
from components.config import BeamConfig
from components.preprocessing.augmentation import AugmentationConfig
from components.task import TransformOutputs
from pipeline.graph import beam_arguments
from pipeline.tasks.image_classification import TASK, ImageClassificationConfig

RNG = np.random.default_rng(21)
SHAPE = (6, 7, 3)
SPLITS = {"train": (70, 5), "validation": (4,), "test": (3, 0)}


def make_config(copies=2, seed=17, **augmentation):
  return ImageClassificationConfig(
    seed=seed,
    preprocessing={"height": SHAPE[0], "width": SHAPE[1], "channels": SHAPE[2]},
    augmentation={"copies": copies, **(augmentation or {"horizontal_flip": True, "shift_fraction": 0.4})},
  )


def make_record(number):
  pixels = RNG.integers(0, 256, SHAPE, dtype=np.uint8)
  feature = {
    "pixels": tf.train.Feature(bytes_list=tf.train.BytesList(value=[pixels.tobytes()])),
    "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[number])),
    "channel_mean": tf.train.Feature(float_list=tf.train.FloatList(value=[1, 2, number / 7])),
    "channel_stddev": tf.train.Feature(float_list=tf.train.FloatList(value=[4, 5, 6])),
  }
  return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


@pytest.fixture(scope="module")
def graph_uri(tmp_path_factory):
  """A TransformGraph whose transformed features are those of the task."""
  directory = tmp_path_factory.mktemp("graph")
  spec = {"label": tf.io.FixedLenFeature([], tf.int64)}
  metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))

  def preprocessing_fn(inputs):
    label = inputs["label"]
    channels = tf.ones([tf.shape(label)[0], 3])
    return {
      "label": label,
      "pixels": tf.strings.as_string(label),
      "channel_mean": channels,
      "channel_stddev": channels,
    }

  with tft_beam.Context(temp_dir=str(directory / "temp")):
    transform_fn = ([{"label": 1}], metadata) | tft_beam.AnalyzeDataset(preprocessing_fn)
    transform_fn | tft_beam.WriteTransformFn(str(directory))
  return str(directory)


def write_examples(directory):
  artifact = standard_artifacts.Examples()
  artifact.uri = str(directory)
  artifact.split_names = artifact_utils.encode_split_names(list(SPLITS))
  number = 0
  for split, sizes in SPLITS.items():
    os.makedirs(directory / f"Split-{split}")
    for shard, size in enumerate(sizes):
      name = f"transformed_examples-{shard:05d}-of-{len(sizes):05d}.gz"
      options = tf.io.TFRecordOptions(compression_type="GZIP")
      with tf.io.TFRecordWriter(str(directory / f"Split-{split}" / name), options) as writer:
        for _ in range(size):
          writer.write(make_record(number))
          number += 1
  return artifact


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
  return write_examples(tmp_path_factory.mktemp("examples"))


def run(directory, examples, graph_uri, config, num_workers=1):
  graph, result = standard_artifacts.TransformGraph(), standard_artifacts.Examples()
  graph.uri, result.uri = graph_uri, str(directory)
  context = BaseBeamExecutor.Context(
    beam_pipeline_args=beam_arguments(BeamConfig(num_workers=num_workers)), tmp_dir=str(directory)
  )
  Executor(context).Do(
    {"transformed_examples": [examples], "transform_graph": [graph]},
    {"examples": [result]},
    {"task": TASK.path, "config": config.only("preprocessing", "augmentation")},
  )
  return result


@pytest.fixture(scope="module")
def augmented(tmp_path_factory, examples, graph_uri):
  return run(tmp_path_factory.mktemp("augmented"), examples, graph_uri, make_config())


def test_training_examples_are_followed_by_their_copies(augmented, examples, graph_uri, records_of):
  given, written = records_of(examples), records_of(augmented)
  assert written.keys() == given.keys()
  config = make_config()
  images, seeds, copies = [], [], []
  for path, records in written.items():
    if "Split-train" not in path:
      assert records == given[path]
      continue
    assert records[::3] == given[path]
    for place, record in enumerate(records):
      original = tf.train.Example.FromString(given[path][place // 3])
      copy = tf.train.Example.FromString(record)
      if place % 3:
        content = original.SerializeToString(deterministic=True)
        seeds.append(example_seed(content, config.seed, place % 3 - 1))
        images.append(original.features.feature["pixels"].bytes_list.value[0])
        copies.append(copy.features.feature["pixels"].bytes_list.value[0])
      original.features.feature["pixels"].CopyFrom(copy.features.feature["pixels"])
      assert copy == original
  assert len(copies) == 150
  # The very pixels that the task makes of original and seed, in one batch of another size and order.
  augment = TASK.augment_example(config, TransformOutputs(graph_uri))
  expected = augment({"pixels": tf.constant(images)}, tf.constant(np.stack(seeds)))["pixels"].numpy()
  assert expected.tolist() == copies
  assert sum(old != new for old, new in zip(images, copies, strict=True)) > 120
  assert len(set(copies)) > 130


def test_the_artifact_is_read_like_transform_writes_it(augmented, examples):
  assert augmented.split_names == examples.split_names
  assert examples_utils.get_payload_format(augmented) == example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE
  assert examples_utils.get_file_format(augmented) == examples_utils.get_file_format(examples)
  assert sorted(os.listdir(augmented.uri)) == ["Split-test", "Split-train", "Split-validation"]


# Each worker process imports TFX anew: half a minute of one core each.
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_number_of_workers_does_not_show(augmented, examples, graph_uri, tmp_path, records_of):
  again = run(tmp_path, examples, graph_uri, make_config(), num_workers=2)
  assert records_of(again) == records_of(augmented)


def test_another_seed_gives_other_copies(augmented, examples, graph_uri, tmp_path, records_of):
  other = records_of(run(tmp_path, examples, graph_uri, make_config(seed=18)))
  train = "Split-train/transformed_examples-00000-of-00002.gz"
  assert other[train][::3] == records_of(augmented)[train][::3]
  assert other[train] != records_of(augmented)[train]


def test_without_copies_everything_stays(examples, graph_uri, tmp_path, records_of):
  assert records_of(run(tmp_path, examples, graph_uri, make_config(copies=0))) == records_of(examples)


def test_seed_depends_on_content_run_and_copy():
  seeds = [
    example_seed(*key) for key in ((b"a", 1, 0), (b"b", 1, 0), (b"a", 2, 0), (b"a", 1, 1), (b"a", 11, 0))
  ]
  assert len({tuple(seed) for seed in seeds}) == 5
  assert seeds[0].dtype == np.int32
  np.testing.assert_array_equal(example_seed(b"a", 1, 0), seeds[0])


def test_features_of_every_type_can_change():
  record = make_record(3)

  def augment_batch(records, seeds):
    count = tf.shape(records)[0]
    return {
      # Black pixels at the end must survive.
      "pixels": tf.fill([count], b"new\0\0"),
      "label": tf.fill([count, 2], tf.constant(8, tf.int64)),
      "channel_mean": tf.fill([count, 1], 0.5),
    }

  original, copy = add_copies([record], 1, 17, augment_batch)
  assert original == record
  feature = tf.train.Example.FromString(copy).features.feature
  assert list(feature["pixels"].bytes_list.value) == [b"new\0\0"]
  assert list(feature["label"].int64_list.value) == [8, 8]
  assert list(feature["channel_mean"].float_list.value) == [0.5]
  assert list(feature["channel_stddev"].float_list.value) == [4, 5, 6]


def test_copies_without_augmentation_are_refused(examples, graph_uri, tmp_path):
  # The configuration class refuses it too; a task of another one may not.
  nothing_on = AugmentationConfig.model_construct(copies=2)
  config = make_config().model_copy(update={"augmentation": nothing_on})
  with pytest.raises(ValueError, match="copies is 2"):
    run(tmp_path, examples, graph_uri, config)


def test_other_payloads_are_refused(graph_uri, tmp_path):
  artifact = standard_artifacts.Examples()
  artifact.uri = "examples"
  examples_utils.set_payload_format(artifact, example_gen_pb2.PayloadFormat.FORMAT_PARQUET)
  with pytest.raises(ValueError, match="FORMAT_PARQUET"):
    run(tmp_path, artifact, graph_uri, make_config())


def test_component_has_its_channels(examples):
  component = Augmenter(
    task=TASK.path,
    config=make_config().only("augmentation"),
    examples=channel_utils.as_channel([examples]),
    transform_graph=channel_utils.as_channel([standard_artifacts.TransformGraph()]),
  )
  assert component.outputs["examples"].type is standard_artifacts.Examples
  assert set(component.inputs) == {"transformed_examples", "transform_graph"}
  assert component.exec_properties["task"] == "pipeline.tasks.image_classification:TASK"
