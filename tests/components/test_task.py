"""Features of varying length, and raw tensors through a real transform graph, whatever the schema makes of them."""

import numpy as np
import pytest
import tensorflow as tf

from components.task import Feature, TransformOutputs, find_task, load_task
from pipeline.tasks import TASKS


def test_only_a_shape_of_none_is_a_list():
  assert Feature("int64", (None,)).is_list
  for shape in ((), (1,), (3,), (2, None)):
    assert not Feature("int64", shape).is_list


def test_tasks_are_found_by_their_paths():
  for name, task in TASKS.items():
    assert find_task(task.path) is task and task.name == name
  task = TASKS["object_detection"]
  found, config = load_task(task.path, '{"preprocessing": {"height": 8}}')
  assert found is task and config.preprocessing.height == 8


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
  """Of a graph with one value an example ([batch] and [batch, 1]), a vector, and lists of varying length."""
  import apache_beam as beam
  import tensorflow_transform as tft
  import tensorflow_transform.beam as tft_beam
  from apache_beam.runners.portability.fn_api_runner import FnApiRunner
  from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

  folder = tmp_path_factory.mktemp("graph")
  spec = {
    "scalar": tf.io.FixedLenFeature([], tf.float32),
    "column": tf.io.FixedLenFeature([1], tf.float32),
    "vector": tf.io.FixedLenFeature([2], tf.float32),
    "numbers": tf.io.VarLenFeature(tf.int64),
    "words": tf.io.VarLenFeature(tf.string),
  }
  metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
  row = {"scalar": 10.0, "column": [1.0], "vector": [1.0, 2.0], "numbers": [1, 2], "words": ["a"]}

  def preprocess(inputs):
    words = tf.sparse.to_dense(inputs["words"])
    return {
      "scalar": inputs["scalar"] - tft.mean(inputs["scalar"]),
      "column": inputs["column"],
      "vector": inputs["vector"],
      "numbers": inputs["numbers"],
      "num_words": tf.math.count_nonzero(words, axis=1),
    }

  with tft_beam.Context(temp_dir=str(folder / "temp")), beam.Pipeline(runner=FnApiRunner()) as pipeline:
    function = (pipeline | beam.Create([row]), metadata) | tft_beam.AnalyzeDataset(preprocess)
    function | tft_beam.WriteTransformFn(str(folder / "graph"))
    metadata | tft_beam.WriteMetadata(
      str(folder / "graph" / tft.TFTransformOutput.RAW_METADATA_DIR), pipeline
    )
  return TransformOutputs(str(folder / "graph"))


def test_tensors_come_to_the_shapes_of_the_schema(outputs):
  layer = outputs.features_layer()
  features = {
    "scalar": tf.constant([11.0, 13.0]),
    "column": tf.constant([3.0, 4.0]),
    "vector": tf.constant([[1.0, 2.0], [3.0, 4.0]]),
    "numbers": tf.constant([[5, 6, 7], [8, 0, 0]], tf.int64),
    "words": tf.constant([["a", "b"], ["c", ""]]),
  }
  found = outputs.transform(layer, features)
  np.testing.assert_allclose(found["scalar"], [1, 3])
  np.testing.assert_array_equal(found["column"], [[3], [4]])
  np.testing.assert_array_equal(found["vector"], [[1, 2], [3, 4]])
  np.testing.assert_array_equal(tf.sparse.to_dense(found["numbers"]), [[5, 6, 7], [8, 0, 0]])
  np.testing.assert_array_equal(found["num_words"], [2, 1])


def test_lists_may_all_be_empty(outputs):
  features = {
    "scalar": tf.constant([11.0, 13.0]),
    "column": tf.constant([3.0, 4.0]),
    "vector": tf.zeros([2, 2]),
    "numbers": tf.zeros([2, 0], tf.int64),
    "words": tf.constant([[], []], tf.string),
  }
  found = outputs.transform(outputs.features_layer(), features)
  assert found["numbers"].dense_shape.numpy().tolist() == [2, 0]
  np.testing.assert_array_equal(found["num_words"], [0, 0])


def test_labels_may_be_missing(outputs):
  found = outputs.transform(outputs.features_layer(), {"scalar": tf.constant([9.0])})
  np.testing.assert_allclose(found["scalar"], [-1])
