"""Lists of varying length are no anomaly wherever they are empty; all else that is odd still is one."""

import os

import pytest
import tensorflow as tf
import tensorflow_data_validation as tfdv
from tensorflow_data_validation.statistics.stats_impl import generate_statistics_in_memory
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx.types import artifact_utils, standard_artifacts
from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

from components.example_gen.executor import to_example
from components.input import parse_raw
from components.picture_labels import BOXES
from components.schema import Executor, SchemaGen, allow_empty_lists
from components.statistics import statistics_options
from pipeline.tasks.image_classification import TASK as CLASSIFICATION
from pipeline.tasks.object_detection import TASK


def row(objects):
  """An example with so many objects."""
  return {
    "image": b"\x89PNG",
    "boxes": [1.0, 2.0, 3.0, 4.0] * objects,
    "classes": ["cat"] * objects,
    "is_crowd": [0] * objects,
    "areas": [4.0] * objects,
  }


def statistics_of(rows):
  """Statistics of examples, as StatisticsGen is told to make them."""
  records = [to_example(features).SerializeToString() for features in rows]
  batch = ExamplesToRecordBatchDecoder().DecodeBatch(records)
  return generate_statistics_in_memory(batch, statistics_options(TASK))


def schema_of(rows):
  schema = tfdv.infer_schema(statistics_of(rows), infer_feature_shape=True)
  allow_empty_lists(schema, TASK)
  return schema


def anomalies(rows, schema):
  return dict(tfdv.validate_statistics(statistics_of(rows), schema).anomaly_info)


@pytest.mark.parametrize("counts", [(2, 2, 2), (1, 1), (3, 1, 5)])
def test_a_split_with_pictures_without_objects_fits(counts):
  """Where all training pictures have the same number of objects, too, which TFDV takes for a fixed shape."""
  schema = schema_of([row(count) for count in counts])
  assert anomalies([row(0), row(7), row(1)], schema) == {}
  assert anomalies([row(0), row(0)], schema) == {}
  for column in schema.feature:
    if column.name in BOXES:
      assert not column.HasField("shape")


def test_a_training_split_with_pictures_without_objects_fits():
  schema = schema_of([row(0), row(2)])
  assert anomalies([row(3)], schema) == {}
  names = {column.name: column.type for column in schema.feature}
  assert names["boxes"] == schema_pb2.FLOAT and names["is_crowd"] == schema_pb2.INT


def test_what_is_no_list_keeps_its_anomalies():
  schema = schema_of([row(1), row(1)])
  (image,) = (column for column in schema.feature if column.name == "image")
  assert image.presence.min_fraction == 1
  without = {name: value for name, value in row(1).items() if name != "image"}
  assert set(anomalies([row(1), without], schema)) == {"image"}
  assert set(anomalies([{**row(1), "image": [b"a", b"b"]}], schema)) == {"image"}
  # A class that the training split does not know is one, lists or not.
  assert set(anomalies([{**row(2), "classes": ["cat", "zebra"]}], schema)) == {"classes"}
  assert set(anomalies([{**row(1), "is_crowd": [0.5]}], schema)) == {"is_crowd"}


def test_tasks_without_lists_have_the_schema_that_was_inferred():
  schema = schema_pb2.Schema()
  for name in ("image", "label"):
    column = schema.feature.add(name=name, type=schema_pb2.BYTES)
    column.presence.min_fraction = 1
    column.shape.dim.add(size=1)
  before = schema.SerializeToString(deterministic=True)
  allow_empty_lists(schema, CLASSIFICATION)
  assert schema.SerializeToString(deterministic=True) == before


def test_the_stage_reads_the_training_split_alone(tmp_path):
  statistics = standard_artifacts.ExampleStatistics()
  statistics.uri = str(tmp_path / "statistics")
  statistics.split_names = artifact_utils.encode_split_names(["train", "validation", "test"])
  for split, rows in (
    ("train", [row(2)]),
    ("validation", [row(1)]),
    ("test", [{**row(1), "classes": ["emu"]}]),
  ):
    directory = os.path.join(statistics.uri, f"Split-{split}")
    os.makedirs(directory)
    with open(os.path.join(directory, "FeatureStats.pb"), "wb") as file:
      file.write(statistics_of(rows).SerializeToString())
  schema = standard_artifacts.Schema()
  schema.uri = str(tmp_path / "schema")
  os.makedirs(schema.uri)
  Executor().Do({"statistics": [statistics]}, {"schema": [schema]}, {"task": TASK.path})
  assert SchemaGen.EXECUTOR_SPEC.executor_class is Executor
  found = tfdv.load_schema_text(os.path.join(schema.uri, "schema.pbtxt"))
  assert anomalies([row(0)], found) == {}
  assert set(anomalies([{**row(1), "classes": ["emu"]}], found)) == {"classes"}
  columns = {column.name: column for column in found.feature}
  assert set(columns) == {"image", *BOXES}
  spec = {name: columns[name].HasField("shape") for name in columns}
  assert spec == {"image": True, **dict.fromkeys(BOXES, False)}


def test_an_empty_list_is_written_and_parsed_as_one():
  example = to_example(row(0))
  assert set(example.features.feature) == set(row(0))
  assert example.features.feature["boxes"].WhichOneof("kind") is None
  raw = parse_raw(tf.constant([example.SerializeToString(), to_example(row(2)).SerializeToString()]), BOXES)
  assert raw["boxes"].shape == (2, 8) and raw["classes"].shape == (2, 2)
  assert raw["boxes"].numpy().tolist() == [[0.0] * 8, [1.0, 2.0, 3.0, 4.0] * 2]
  assert raw["classes"].numpy().tolist() == [[b"", b""], [b"cat", b"cat"]]
  assert (raw["boxes"].dtype, raw["is_crowd"].dtype) == (tf.float32, tf.int64)
  alone = parse_raw(tf.constant([example.SerializeToString()]), BOXES)
  assert {name: value.shape for name, value in alone.items()} == dict.fromkeys(BOXES, (1, 0))
