"""The input pipeline on examples that tf.Transform has really made: order, seeds, full batches."""

import os

import cv2
import numpy as np
import pytest
import tensorflow as tf

from components.input import (
  count_examples,
  eval_dataset,
  load_outputs,
  read_records,
  split_files,
  train_dataset,
)
from components.transform import preprocessing_fn
from pipeline.tasks.image_classification import TASK

NUM_EXAMPLES, BATCH_SIZE, STEPS_PER_EPOCH = 22, 4, 5


def make_config(augmentation=None, **training):
  return TASK.config_class(
    preprocessing={"height": 6, "width": 6, "channels": 1},
    augmentation=augmentation or {},
    training={"batch_size": BATCH_SIZE, "shuffle_buffer": 9, **training},
  )


@pytest.fixture(scope="module")
def transformed(tmp_path_factory):
  """(transform graph, files): grey pictures whose value is the example's number; two shards."""
  import apache_beam as beam
  import tensorflow_transform as tft
  import tensorflow_transform.beam as tft_beam
  from apache_beam.runners.portability.fn_api_runner import FnApiRunner
  from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

  folder = tmp_path_factory.mktemp("transformed")
  spec = {name: tf.io.FixedLenFeature([], tf.string) for name in ("image", "label")}
  metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
  rows = [
    {"image": encode(number), "label": b"odd" if number % 2 else b"even"} for number in range(NUM_EXAMPLES)
  ]
  custom_config = {"task": TASK.path, "config": make_config().only("preprocessing")}
  graph = str(folder / "graph")
  with tft_beam.Context(temp_dir=str(folder / "tft")), beam.Pipeline(runner=FnApiRunner()) as pipeline:
    data = pipeline | beam.Create(rows)
    function = (data, metadata) | tft_beam.AnalyzeDataset(lambda raw: preprocessing_fn(raw, custom_config))
    function | tft_beam.WriteTransformFn(graph)
  output = tft.TFTransformOutput(graph)
  columns = {name: tf.constant([row[name] for row in rows]) for name in spec}
  values = {name: value.numpy() for name, value in output.transform_features_layer()(columns).items()}
  coder = tft.coders.ExampleProtoCoder(output.transformed_metadata.schema)
  for shard, numbers in enumerate((range(15), range(15, NUM_EXAMPLES))):
    path = folder / "examples" / "Split-train" / f"data-{shard:05d}-of-00002.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
      for number in numbers:
        writer.write(coder.encode({name: value[number] for name, value in values.items()}))
  return graph, split_files(str(folder / "examples"), "train")


def encode(number):
  return cv2.imencode(".png", np.full((6, 6), number, np.uint8))[1].tobytes()


def batches_of(transformed, config, num_batches, first_epoch=0):
  graph, files = transformed
  dataset = train_dataset(TASK, config, load_outputs(graph, files), files, first_epoch)
  return [(pixels.numpy(), targets.numpy()) for pixels, targets in dataset.take(num_batches)]


def numbers_of(batches):
  """The examples' numbers, batch by batch, from pictures that are not augmented."""
  return [pixels[:, 0, 0, 0].astype(int).tolist() for pixels, _ in batches]


def test_what_the_transform_stage_learned_is_found_again(transformed):
  graph, files = transformed
  outputs = load_outputs(graph, files)
  assert outputs.vocabulary("label") == ["odd", "even"] or outputs.vocabulary("label") == ["even", "odd"]
  np.testing.assert_allclose(
    outputs.sample["channel_mean"], np.full((8, 1), (NUM_EXAMPLES - 1) / 2), rtol=1e-5
  )
  stddev = np.std(np.arange(NUM_EXAMPLES))
  np.testing.assert_allclose(outputs.sample["channel_stddev"], np.full((8, 1), stddev), rtol=1e-5)
  assert len(outputs.sample["label"]) == 8


def test_files_and_their_examples(transformed):
  _, files = transformed
  assert [os.path.basename(path) for path in files] == ["data-00000-of-00002.gz", "data-00001-of-00002.gz"]
  assert count_examples(files) == NUM_EXAMPLES
  assert count_examples(files[1:]) == NUM_EXAMPLES - 15
  assert len(list(read_records(files[:1]))) == 15
  root = os.path.dirname(os.path.dirname(files[0]))
  with pytest.raises(ValueError, match="has no files for the split 'test'$"):
    split_files(root, "test")


def test_each_epoch_has_full_batches_of_different_examples(transformed):
  numbers = numbers_of(batches_of(transformed, make_config(), 3 * STEPS_PER_EPOCH))
  assert {len(batch) for batch in numbers} == {BATCH_SIZE}
  epochs = [sum(numbers[start : start + STEPS_PER_EPOCH], []) for start in (0, 5, 10)]
  for epoch in epochs:
    assert len(set(epoch)) == STEPS_PER_EPOCH * BATCH_SIZE
    assert epoch != sorted(epoch)
  assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_targets_belong_to_their_pictures(transformed):
  graph, files = transformed
  names = load_outputs(graph, files).vocabulary("label")
  for pixels, targets in batches_of(transformed, make_config(), 6):
    assert pixels.shape == (BATCH_SIZE, 6, 6, 1) and pixels.dtype == np.float32
    assert targets.shape == (BATCH_SIZE, 2) and targets.dtype == np.float32
    found = [names[index] for index in targets.argmax(axis=1)]
    assert found == ["odd" if number % 2 else "even" for number in pixels[:, 0, 0, 0].astype(int)]
    assert (targets.sum(axis=1) == 1).all()


def test_a_resumed_epoch_is_that_of_an_uninterrupted_training(transformed):
  config = make_config({"shift_fraction": 0.3, "brightness": 0.5, "horizontal_flip": True})
  # A run and its resumption are two processes: the state of the global generator must not matter.
  tf.random.set_seed(1)
  whole = batches_of(transformed, config, 4 * STEPS_PER_EPOCH)
  resumed = batches_of(transformed, config, 2 * STEPS_PER_EPOCH, first_epoch=2)
  for (pixels, targets), (expected_pixels, expected_targets) in zip(
    resumed, whole[2 * STEPS_PER_EPOCH :], strict=True
  ):
    np.testing.assert_array_equal(pixels, expected_pixels)
    np.testing.assert_array_equal(targets, expected_targets)
  # The augmentation is on, and differs from epoch to epoch.
  assert any(np.ptp(pixels[0]) > 0 or not float(pixels[0, 0, 0, 0]).is_integer() for pixels, _ in whole)
  assert not np.array_equal(whole[0][0], whole[STEPS_PER_EPOCH][0])


def test_another_seed_is_another_order(transformed):
  config = make_config()
  other = config.model_copy(update={"seed": config.seed + 1000})
  assert numbers_of(batches_of(transformed, config, 5)) != numbers_of(batches_of(transformed, other, 5))


def test_evaluation_reads_everything_in_order(transformed):
  graph, files = transformed
  config = make_config({"brightness": 0.5})
  dataset = eval_dataset(TASK, config, load_outputs(graph, files), files)
  numbers = numbers_of([(pixels.numpy(), targets) for pixels, targets in dataset])
  assert [len(batch) for batch in numbers] == [4, 4, 4, 4, 4, 2]
  assert sum(numbers, []) == list(range(NUM_EXAMPLES))


def test_training_batches_have_static_shapes(transformed):
  """A TPU compiles the step for one shape: the last, smaller batch must not exist."""
  graph, files = transformed
  config = make_config({"horizontal_flip": True})
  pixels, targets = train_dataset(TASK, config, load_outputs(graph, files), files).element_spec
  assert pixels.shape == (BATCH_SIZE, 6, 6, 1)
  assert targets.shape == (BATCH_SIZE, 2)
