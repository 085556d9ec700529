"""Boxes on their way through tf.Transform, through non-maximum suppression and back, and the exported signatures."""

import io
import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.detection import detect, parse, predict
from components.example_gen.executor import to_example
from components.export import export_model
from components.input import parse_raw
from components.picture_labels import BOXES
from components.task import TransformOutputs
from components.transform import preprocessing_fn
from pipeline.tasks.object_detection import TASK

MODES = ("pad", "stretch", "crop")
HEIGHT, WIDTH = 32, 48
# The boxes, class and whether it is a crowd, of pictures of (width, height).
PICTURES = [
  ((48, 32), [("cat", (4, 6, 20, 16), 0), ("dog", (10, 2, 30, 30), 0)]),
  ((96, 32), [("dog", (0, 0, 20, 10), 0), ("cat", (20, 4, 60, 24), 0)]),
  ((20, 30), []),
  ((48, 32), [("bird", (1, 1, 40, 30), 1), ("cat", (3, 3, 9, 9), 0)]),
]


def config_of(scaling="pad", **sections):
  return TASK.config_class(
    **{
      "preprocessing": {
        "height": HEIGHT,
        "width": WIDTH,
        "channels": 3,
        "scaling": scaling,
        "max_boxes": 3,
      },
      "model": {"strides": [2, 4]},
      **sections,
    }
  )


def row_of(size, objects):
  encoded = io.BytesIO()
  Image.new("RGB", size, (90, 60, 30)).save(encoded, "PNG")
  return {
    "image": encoded.getvalue(),
    "boxes": [float(side) for _, box, _ in objects for side in box],
    "classes": [name for name, _, _ in objects],
    "is_crowd": [crowd for _, _, crowd in objects],
    "areas": [float((x1 - x0) * (y1 - y0)) for _, (x0, y0, x1, y1), _ in objects],
  }


def serialized(*pictures):
  return tf.constant([to_example(row_of(*picture)).SerializeToString() for picture in pictures])


def run_transform(config, folder):
  """A real run of tf.Transform on `PICTURES`: (TransformOutputs, the materialised examples, parsed)."""
  import apache_beam as beam
  import tensorflow_transform as tft
  import tensorflow_transform.beam as tft_beam
  from apache_beam.runners.portability.fn_api_runner import FnApiRunner
  from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils
  from tfx_bsl.coders.example_coder import RecordBatchToExamplesEncoder
  from tfx_bsl.public import tfxio

  dtypes = {"boxes": tf.float32, "classes": tf.string, "is_crowd": tf.int64, "areas": tf.float32}
  spec = {name: tf.io.VarLenFeature(dtype) for name, dtype in dtypes.items()}
  schema = schema_utils.schema_from_feature_spec({**spec, "image": tf.io.FixedLenFeature([1], tf.string)})
  source = tfxio.TFExampleBeamRecord("raw", schema=schema)
  custom = {"task": TASK.path, "config": config.model_dump_json()}
  graph, examples = str(folder / "graph"), str(folder / "examples")
  with tft_beam.Context(temp_dir=str(folder / "temp")), beam.Pipeline(runner=FnApiRunner()) as pipeline:
    records = [record.numpy() for record in serialized(*PICTURES)]
    data = pipeline | beam.Create(records, reshuffle=False) | source.BeamSource()
    (transformed, metadata), function = (
      data,
      source.TensorAdapterConfig(),
    ) | tft_beam.AnalyzeAndTransformDataset(
      lambda inputs: preprocessing_fn(inputs, custom), output_record_batches=True
    )
    function | tft_beam.WriteTransformFn(graph)
    raw_metadata = dataset_metadata.DatasetMetadata(schema)
    raw_metadata | tft_beam.WriteMetadata(f"{graph}/{tft.TFTransformOutput.RAW_METADATA_DIR}", pipeline)
    coder = RecordBatchToExamplesEncoder(metadata.schema)
    encoded = transformed | beam.FlatMapTuple(lambda batch, _: coder.encode(batch))
    encoded | beam.io.WriteToTFRecord(examples, num_shards=1)
  outputs = TransformOutputs(graph)
  files = [str(path) for path in folder.glob("examples*")]
  batch = tf.stack(list(tf.data.TFRecordDataset(files)))
  return outputs, tf.io.parse_example(batch, outputs.transformed_feature_spec())


@pytest.fixture(scope="module")
def transformed(tmp_path_factory):
  """A function: scaling -> (config, TransformOutputs, transformed features of `PICTURES`); each is run once."""
  found = {}

  def run(scaling):
    if scaling not in found:
      config = config_of(scaling)
      found[scaling] = (config, *run_transform(config, tmp_path_factory.mktemp(scaling)))
    return found[scaling]

  return run


# The boxes of the first picture, which has the model's size, and of the second, which is twice as wide.
SAME = [(10, 2, 30, 30, "dog"), (4, 6, 20, 16, "cat")]
EXPECTED = {
  "pad": [(10, 10, 30, 20, "cat"), (0, 8, 10, 13, "dog")],
  "stretch": [(10, 4, 30, 24, "cat"), (0, 0, 10, 10, "dog")],
  "crop": [(0, 4, 36, 24, "cat")],
}


@pytest.mark.parametrize("scaling", MODES)
def test_boxes_come_to_the_models_scale_without_crowds(transformed, scaling):
  config, outputs, features = transformed(scaling)
  pixels, targets = parse(features, config, outputs)
  names = outputs.vocabulary("classes")
  assert names == ["cat", "dog"]
  assert pixels.shape == (4, HEIGHT, WIDTH, 3) and targets.shape == (4, 3, 5)
  expected = [SAME, EXPECTED[scaling], [], [(3, 3, 9, 9, "cat")]]
  for found, rows in zip(targets.numpy(), expected, strict=True):
    wanted = [(*box, names.index(name)) for *box, name in rows] + [(0, 0, 0, 0, -1)] * (3 - len(rows))
    np.testing.assert_allclose(found, wanted, atol=1e-4)
  np.testing.assert_array_equal(features["size"], [(32, 48), (32, 96), (30, 20), (32, 48)])


@pytest.mark.parametrize("scaling", MODES)
def test_the_graph_gives_what_was_materialised(transformed, scaling):
  """The report transforms raw batches without the detour by files."""
  config, outputs, features = transformed(scaling)
  raw = parse_raw(serialized(*PICTURES), {**TASK.raw_features, **TASK.labels})
  pixels, targets = parse(outputs.transform(outputs.features_layer(), raw), config, outputs)
  expected_pixels, expected = parse(features, config, outputs)
  np.testing.assert_array_equal(pixels, expected_pixels)
  np.testing.assert_array_equal(targets, expected)


def test_pictures_without_labels_are_transformed_in_serving(transformed):
  config, outputs, features = transformed("pad")
  images = tf.constant([row_of(*picture)["image"] for picture in PICTURES])
  served = outputs.transform(outputs.features_layer(), {"image": images})
  np.testing.assert_array_equal(parse(served, config, outputs)[0], parse(features, config, outputs)[0])
  np.testing.assert_array_equal(served["size"], features["size"])


def outputs_for(pictures, num_classes, config):
  """What a model says, float32 [batch, locations, classes + 5], that sees [(box, class id, logit)] of each picture."""
  points = np.concatenate(
    [
      np.stack([(np.array([x, y]) + 0.5) * stride for y in range(HEIGHT // stride) for x in range(WIDTH // stride)])
      for stride in config.model.strides
    ]
  )
  scales = np.repeat(config.model.strides, [(HEIGHT // s) * (WIDTH // s) for s in config.model.strides])
  found = np.full((len(pictures), len(points), num_classes + 5), -20.0)
  found[..., -1] = 30
  for picture, objects in zip(found, pictures, strict=True):
    taken = set()
    for box, class_id, logit in objects:
      distances = np.concatenate([points - box[:2], box[2:] - points], axis=1)
      place = next(n for n in np.argsort(-distances.min(axis=1)) if n not in taken)
      assert distances[place].min() > 0
      taken.add(place)
      picture[place, num_classes : num_classes + 4] = np.log(np.expm1(distances[place] / scales[place]))
      picture[place, class_id] = logit
  return found.astype(np.float32)


def model_of(output):
  """A model that says the same whatever it sees, for each picture of the batch."""
  return lambda inputs, training=None: tf.constant(output)[: tf.shape(inputs)[0]]


def placed(size, scaling):
  """((x factor, x shift), (y factor, y shift)) worked out with floats, and the part of the picture that is seen."""
  rows, columns = size
  factors = {"pad": min, "crop": max}
  if scaling == "stretch":
    new = (WIDTH, HEIGHT)
  else:
    factor = factors[scaling](WIDTH / columns, HEIGHT / rows)
    new = tuple(int(side * factor + 0.5 + 1e-9) for side in (columns, rows))
  moves, seen = [], []
  for new_side, old_side, side in zip(new, (columns, rows), (WIDTH, HEIGHT), strict=True):
    shift = (side - new_side) // 2 if new_side <= side else -((new_side - side) // 2)
    factor = new_side / old_side
    moves.append((factor, shift))
    seen.append((max(0, -shift / factor), min(old_side, (side - shift) / factor)))
  return moves, seen


SIZES = [(31, 57), (200, 33), (77, 640), (32, 48), (5, 3), (33, 1001)]


@pytest.mark.parametrize("scaling", MODES)
def test_boxes_come_back_in_pixels_of_the_pictures(transformed, scaling):
  outputs, config = transformed("pad")[1], config_of(scaling)
  pictures, expected = [], []
  for size in SIZES:
    ((a, b), (c, d)), ((left, right), (top, bottom)) = placed(size, scaling)
    shares = [(0.1, 0.2, 0.8, 0.9), (0, 0, 1, 1)]
    boxes = [
      (left + x0 * (right - left), top + y0 * (bottom - top), left + x1 * (right - left), top + y1 * (bottom - top))
      for x0, y0, x1, y1 in shares
    ]
    expected.append(boxes)
    moved = [np.array([a * x0 + b, c * y0 + d, a * x1 + b, c * y1 + d]) for x0, y0, x1, y1 in boxes]
    pictures.append([(moved[0], 1, 3.0), (moved[1], 0, 1.0)])
  model = model_of(outputs_for(pictures, 2, config))
  inputs = tf.zeros([len(SIZES), HEIGHT, WIDTH, 3])
  found = predict(model, inputs, {"size": tf.constant(SIZES, tf.int64)}, config, outputs)
  np.testing.assert_allclose(found["boxes"][:, :2], expected, atol=1e-3)
  np.testing.assert_array_equal(found["num_detections"], [2] * len(SIZES))
  assert found["labels"][:, :2].numpy().tolist() == [[b"dog", b"cat"]] * len(SIZES)
  assert found["class_names"].numpy().tolist() == [[b"cat", b"dog"]] * len(SIZES)
  # Rows that do not count.
  for name in ("boxes", "scores", "class_ids"):
    assert not found[name][:, 2:].numpy().any()
  assert set(found["labels"][:, 2:].numpy().ravel()) == {b""}


def test_pixels_of_the_models_size_are_answered_in_its_own_pixels(transformed):
  config, outputs, _ = transformed("pad")
  model = model_of(outputs_for([[((3, 4, 40, 30), 0, 2.0)]], 2, config))
  found = predict(model, tf.zeros([1, HEIGHT, WIDTH, 3]), {}, config, outputs)
  np.testing.assert_allclose(found["boxes"][0, 0], (3, 4, 40, 30), atol=1e-3)
  assert not found["boxes"][0, 1:].numpy().any()


def detected(objects, num_classes=2, **settings):
  config = config_of(detection=settings)
  found = detect(tf.constant(outputs_for([objects], num_classes, config)), config)
  count = int(found["num_detections"][0])
  return {name: value.numpy()[0, :count] for name, value in found.items() if name != "num_detections"}


# Intersection over union 30 / 40.
LEFT, RIGHT = (4, 4, 24, 24), (4, 4, 24, 19)


def test_of_boxes_of_one_class_that_overlap_the_better_one_stays():
  found = detected([(LEFT, 0, 1.0), (RIGHT, 0, 2.0)])
  np.testing.assert_allclose(found["boxes"], [RIGHT], atol=1e-3)
  found = detected([(LEFT, 0, 1.0), (RIGHT, 0, 2.0)], iou_threshold=0.8)
  np.testing.assert_allclose(found["boxes"], [RIGHT, LEFT], atol=1e-3)
  found = detected([(LEFT, 0, 1.0), (RIGHT, 1, 2.0)])
  np.testing.assert_allclose(found["boxes"], [RIGHT, LEFT], atol=1e-3)
  assert found["class_ids"].tolist() == [1, 0]


def test_the_best_come_first_and_no_more_than_are_wanted():
  objects = [((2 + 10 * n, 4, 10 + 10 * n, 12), n % 2, logit) for n, logit in enumerate((0.0, 3.0, -1.0, 1.0))]
  scores = np.sqrt(1 / (1 + np.exp(-np.array([3.0, 1.0, 0.0, -1.0]))))
  found = detected(objects)
  np.testing.assert_allclose(found["scores"], scores, atol=1e-5)
  assert found["class_ids"].tolist() == [1, 1, 0, 0]
  assert detected(objects, max_detections=2)["scores"] == pytest.approx(scores[:2], abs=1e-5)
  # The third one's score is 0.7071.
  assert detected(objects, score_threshold=0.71)["scores"] == pytest.approx(scores[:2], abs=1e-5)
  assert len(detected(objects, score_threshold=1.0)["scores"]) == 0


def test_boxes_are_cut_off_at_the_borders():
  found = detected([((-7, 5, 60, 40), 0, 1.0)])
  np.testing.assert_allclose(found["boxes"], [(0, 5, 48, 32)], atol=1e-3)
