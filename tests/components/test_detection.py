"""Boxes on their way through tf.Transform, through non-maximum suppression and back, and the exported signatures."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.detection import parse, predict
from components.example_gen.executor import to_example
from components.export import export_model
from components.input import parse_raw
from components.metrics.coco import CocoAccumulator
from components.metrics.detection import OUTPUTS, picture_record
from components.task import TransformOutputs
from components.transform import preprocessing_fn
from pipeline.tasks.object_detection import TASK
from trainers.models.fcos import locations

MODES = ("pad", "stretch", "crop")
HEIGHT, WIDTH = 32, 48
# The boxes, class and whether it is a crowd, of pictures of (width, height).
PICTURES = [
  ((48, 32), [("cat", (4, 6, 20, 16), 0), ("dog", (10, 2, 30, 30), 0)]),
  ((96, 32), [("dog", (0, 0, 20, 10), 0), ("cat", (20, 4, 60, 24), 0)]),
  ((20, 30), []),
  ((48, 32), [("bird", (1, 1, 40, 30), 1), ("cat", (3, 3, 9, 9), 0)]),
]


def config_of(scaling="pad"):
  size = {"height": HEIGHT, "width": WIDTH, "channels": 3}
  return TASK.config_class(
    preprocessing={**size, "scaling": scaling, "max_boxes": 3}, model={"strides": [2, 4]}
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


def run_transform(config, folder, is_materialised):
  """A real run of tf.Transform on `PICTURES`: (TransformOutputs, the transformed features, from files or not)."""
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
    rows = (data, source.TensorAdapterConfig())
    function = rows | tft_beam.AnalyzeDataset(lambda inputs: preprocessing_fn(inputs, custom))
    function | tft_beam.WriteTransformFn(graph)
    raw_metadata = dataset_metadata.DatasetMetadata(schema)
    raw_metadata | tft_beam.WriteMetadata(f"{graph}/{tft.TFTransformOutput.RAW_METADATA_DIR}", pipeline)
    if is_materialised:
      transformed, metadata = (rows, function) | tft_beam.TransformDataset(output_record_batches=True)
      coder = RecordBatchToExamplesEncoder(metadata.schema)
      encoded = transformed | beam.FlatMapTuple(lambda batch, _: coder.encode(batch))
      encoded | beam.io.WriteToTFRecord(examples, num_shards=1)
  outputs = TransformOutputs(graph)
  if not is_materialised:
    return outputs, graph_features(outputs)
  files = [str(path) for path in folder.glob("examples*")]
  batch = tf.stack(list(tf.data.TFRecordDataset(files)))
  return outputs, tf.io.parse_example(batch, outputs.transformed_feature_spec())


def graph_features(outputs):
  """`PICTURES` transformed in this process, without the detour by files."""
  raw = parse_raw(serialized(*PICTURES), {**TASK.raw_features, **TASK.labels})
  return outputs.transform(outputs.features_layer(), raw)


@pytest.fixture(scope="module")
def transformed(tmp_path_factory):
  """A function: scaling -> (config, TransformOutputs, transformed features of `PICTURES`); each is run once."""
  found = {}

  def run(scaling):
    if scaling not in found:
      config = config_of(scaling)
      found[scaling] = (config, *run_transform(config, tmp_path_factory.mktemp(scaling), scaling == "pad"))
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


def test_the_graph_gives_what_was_materialised(transformed):
  """The report transforms raw batches so: boxes and classes have to belong together there, too."""
  config, outputs, features = transformed("pad")
  pixels, targets = parse(graph_features(outputs), config, outputs)
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
  points, scales = locations(HEIGHT, WIDTH, config.model.strides)
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


SIZES = [(31, 57), (200, 33), (77, 640), (32, 48), (5, 3), (33, 401)]


@pytest.mark.parametrize("scaling", MODES)
def test_boxes_come_back_in_pixels_of_the_pictures(transformed, scaling):
  outputs, config = transformed("pad")[1], config_of(scaling)
  pictures, expected = [], []
  for size in SIZES:
    ((a, b), (c, d)), ((left, right), (top, bottom)) = placed(size, scaling)
    shares = [(0.1, 0.2, 0.8, 0.9), (0, 0, 1, 1)]
    boxes = [
      (
        left + x0 * (right - left),
        top + y0 * (bottom - top),
        left + x1 * (right - left),
        top + y1 * (bottom - top),
      )
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


@pytest.fixture(scope="module")
def served(transformed, tmp_path_factory):
  """The export of a model that finds what is in the first two of `PICTURES`, whatever it is asked."""
  config, outputs, _ = transformed("pad")
  first = [((10, 2, 30, 30), 1, 2.0), ((4, 6, 20, 16), 0, 1.0)]
  second = [((10, 10, 30, 20), 0, 2.0)]
  model = model_of(outputs_for([first, second], 2, config))
  directory = str(tmp_path_factory.mktemp("export") / "1")
  export_model(TASK, config, model, outputs, directory)
  return tf.saved_model.load(directory).signatures


def test_the_evaluator_sees_what_is_found_beside_what_is_there(served):
  unknown = ((96, 32), [("zebra", (0, 0, 20, 10), 0), ("cat", (20, 4, 60, 24), 0), ("bird", (1, 2, 3, 4), 1)])
  found = served["evaluate_examples"](examples=serialized(PICTURES[0], unknown))
  found = {name: value.numpy() for name, value in found.items()}
  assert set(found) == set(OUTPUTS)
  np.testing.assert_array_equal(found["num_true"], [2, 3])
  expected = np.zeros((2, 3, 4))
  expected[0, :2] = [(4, 6, 20, 16), (10, 2, 30, 30)]
  expected[1] = [(0, 0, 20, 10), (20, 4, 60, 24), (1, 2, 3, 4)]
  np.testing.assert_array_equal(found["true_boxes"], expected)
  np.testing.assert_array_equal(found["true_class_ids"][0, :2], [0, 1])
  np.testing.assert_array_equal(found["true_class_ids"][1], [-1, 0, -1])
  np.testing.assert_array_equal(found["true_is_crowd"], [[0, 0, 0], [0, 0, 1]])
  np.testing.assert_array_equal(found["true_areas"], [[160, 560, 0], [200, 800, 4]])
  np.testing.assert_array_equal(found["num_detections"], [2, 1])
  np.testing.assert_allclose(found["boxes"][0, :2], [(10, 2, 30, 30), (4, 6, 20, 16)], atol=1e-3)
  np.testing.assert_allclose(found["boxes"][1, 0], (20, 4, 60, 24), atol=1e-3)
  figures = CocoAccumulator()
  for place in range(2):
    figures.add(place, picture_record({name: value[place] for name, value in found.items()}))
  assert figures.figures(["cat", "dog"])["mean_average_precision"] == pytest.approx(1.0)


def test_a_pictures_id_is_that_of_its_bytes(served):
  one, other = served["evaluate_examples"](examples=serialized(*PICTURES[:2]))["example_id"].numpy()
  again = served["evaluate_examples"](examples=serialized(PICTURES[1], PICTURES[0]))["example_id"].numpy()
  assert again.tolist() == [other, one] and one != other and min(one, other) >= 0


def test_pictures_without_objects_are_evaluated(served):
  found = served["evaluate_examples"](examples=serialized(PICTURES[2]))
  assert found["num_true"].numpy().tolist() == [0] and found["true_boxes"].shape == (1, 0, 4)


def test_bytes_examples_and_tensors_are_answered_alike(served):
  examples = served["serve_examples"](examples=serialized(*PICTURES[:2]))
  images = tf.constant([row_of(*picture)["image"] for picture in PICTURES[:2]])
  by_bytes = served["serving_default"](image=images)
  pixels = served["serve_tensors"](pixels=tf.zeros([2, HEIGHT, WIDTH, 3]))
  for name, values in by_bytes.items():
    np.testing.assert_array_equal(values, examples[name])
    if name != "boxes":
      np.testing.assert_array_equal(values, pixels[name])
  # The second picture is twice as wide as the model's.
  np.testing.assert_allclose(by_bytes["boxes"][1, 0], (20, 4, 60, 24), atol=1e-3)
  np.testing.assert_allclose(pixels["boxes"][1, 0], (10, 10, 30, 20), atol=1e-3)
