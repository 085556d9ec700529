"""Masks on their way through tf.Transform and back to the pictures' own sizes, and the exported signatures."""

import io

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.example_gen.executor import to_example
from components.export import export_model
from components.segmentation import parse, predict, preprocess
from components.task import TransformOutputs
from pipeline.tasks.semantic_segmentation import TASK

MODES = ("pad", "stretch", "crop")
HEIGHT, WIDTH = 24, 32
CLASSES = ("background", "cat", "dog")
RNG = np.random.default_rng(5)
# Rows and columns: of the model's size, twice as high and half as high as it, of no relation to it.
SIZES = [(24, 32), (48, 32), (12, 32), (67, 41)]


def config_of(scaling="pad"):
  sizes = {"height": HEIGHT, "width": WIDTH, "channels": 3, "scaling": scaling}
  return TASK.config_class(preprocessing={**sizes, "classes": CLASSES}, data={"void_id": 9})


def png(array):
  encoded = io.BytesIO()
  Image.fromarray(np.asarray(array, np.uint8)).save(encoded, "PNG")
  return encoded.getvalue()


def blocks(rows, columns, side_px=8):
  """Class ids in blocks of equal size."""
  small = RNG.integers(0, len(CLASSES), (-(-rows // side_px), -(-columns // side_px)))
  return small.repeat(side_px, axis=0).repeat(side_px, axis=1)[:rows, :columns].astype(np.uint8)


MASKS = [blocks(*size) for size in SIZES]
# The data set's void, of pixels that belong to no class.
MASKS[0][:4, :4] = 9
IMAGES = [np.repeat(mask[..., None] * 20, 3, axis=2) for mask in MASKS]
ROWS = [{"image": png(image), "mask": png(mask)} for image, mask in zip(IMAGES, MASKS, strict=True)]


@pytest.fixture(scope="module")
def transformed(tmp_path_factory):
  """{scaling: features of `ROWS`, stacked} of one real run of tf.Transform, and the TransformOutputs of "pad"."""
  import apache_beam as beam
  import tensorflow_transform as tft
  import tensorflow_transform.beam as tft_beam
  from apache_beam.runners.portability.fn_api_runner import FnApiRunner
  from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

  folder = tmp_path_factory.mktemp("transform")
  spec = {name: tf.io.FixedLenFeature([1], tf.string) for name in ("image", "mask")}
  metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
  rows = [{name: [value] for name, value in row.items()} for row in ROWS]

  def all_modes(inputs):
    inputs = {name: inputs[name][:, 0] for name in spec}
    found = {
      f"{mode}_{name}": value for mode in MODES for name, value in preprocess(inputs, config_of(mode)).items()
    }
    # "pad" once more by its own names, as the task's graph has it.
    return found | {
      name.removeprefix("pad_"): value for name, value in found.items() if name.startswith("pad_")
    }

  with tft_beam.Context(temp_dir=str(folder / "temp")), beam.Pipeline(runner=FnApiRunner()) as pipeline:
    data = pipeline | beam.Create(rows, reshuffle=False)
    function = (data, metadata) | tft_beam.AnalyzeDataset(all_modes)
    function | tft_beam.WriteTransformFn(str(folder / "graph"))
    metadata | tft_beam.WriteMetadata(
      str(folder / "graph" / tft.TFTransformOutput.RAW_METADATA_DIR), pipeline
    )
  outputs = TransformOutputs(str(folder / "graph"))
  raw = {name: tf.constant([row[name] for row in ROWS]) for name in spec}
  everything = outputs.transform(outputs.features_layer(), raw)
  features = {
    mode: {
      name.removeprefix(f"{mode}_"): value
      for name, value in everything.items()
      if name.startswith(f"{mode}_")
    }
    for mode in MODES
  }
  return features, outputs


@pytest.mark.parametrize("scaling", MODES)
def test_masks_come_to_the_models_scale(transformed, scaling):
  features, outputs = transformed
  pixels, targets = parse(features[scaling], config_of(scaling), outputs)
  assert pixels.shape == (4, HEIGHT, WIDTH, 3) and targets.dtype == tf.int32
  own, tall, wide, _ = targets.numpy()
  # The data set's void becomes 255, whatever it was.
  np.testing.assert_array_equal(own, np.where(MASKS[0] == 9, 255, MASKS[0]))
  assert set(np.unique(targets)) <= {0, 1, 2, 255}
  if scaling == "crop":
    np.testing.assert_array_equal(tall, MASKS[1][12:36])
  elif scaling == "stretch":
    # Of two rows that become one their middle is the lower one's upper edge.
    np.testing.assert_array_equal(tall, MASKS[1][1::2])
    np.testing.assert_array_equal(wide, MASKS[2].repeat(2, axis=0))
  else:
    # 48 x 32 becomes 24 x 16, in the middle; 12 x 32 has 6 rows above it.
    assert (tall[:, :8] == 255).all() and (tall[:, 24:] == 255).all() and (tall[:, 8:24] != 255).all()
    np.testing.assert_array_equal(wide[6:18], MASKS[2])
    assert (wide[:6] == 255).all() and (wide[18:] == 255).all()
  # Pixels lie where their classes lie.
  inside = targets[0].numpy() != 255
  np.testing.assert_array_equal(pixels[0].numpy()[inside][:, 0], MASKS[0][inside] * 20)
  np.testing.assert_array_equal(features[scaling]["size"], SIZES)


def test_pictures_without_masks_are_transformed_in_serving(transformed):
  features, outputs = transformed
  served = outputs.transform(outputs.features_layer(), {"image": tf.constant([row["image"] for row in ROWS])})
  pixels, _ = parse(served, config_of(), outputs)
  np.testing.assert_array_equal(pixels, parse(features["pad"], config_of(), outputs)[0])
  np.testing.assert_array_equal(served["size"], SIZES)


def model_of(class_ids, logit=8.0):
  """A model that is certain of the given classes, [batch, rows, columns], whatever it sees."""
  logits = logit * tf.one_hot(class_ids, len(CLASSES))
  return lambda inputs, training=None: logits[: tf.shape(inputs)[0]]


def to_model(mask, scaling):
  """A mask at the model's scale by OpenCV, with floats; class 0 where there is no picture."""
  rows, columns = mask.shape
  if scaling == "stretch":
    return cv2.resize(mask, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST_EXACT)
  factor = {"pad": min, "crop": max}[scaling](HEIGHT / rows, WIDTH / columns)
  new_rows, new_columns = (int(side * factor + 0.5) for side in (rows, columns))
  scaled = cv2.resize(mask, (new_columns, new_rows), interpolation=cv2.INTER_NEAREST_EXACT)
  if scaling == "crop":
    top, left = (new_rows - HEIGHT) // 2, (new_columns - WIDTH) // 2
    return scaled[top : top + HEIGHT, left : left + WIDTH]
  found = np.zeros((HEIGHT, WIDTH), np.uint8)
  top, left = (HEIGHT - new_rows) // 2, (WIDTH - new_columns) // 2
  found[top : top + new_rows, left : left + new_columns] = scaled
  return found


def halves_of(rows, columns):
  """The left third is a cat; of the rest the upper half is a dog. Borders are straight at any scale."""
  mask = np.zeros((rows, columns), np.uint8)
  mask[: rows // 2] = 2
  mask[:, : columns // 3] = 1
  return mask


@pytest.mark.parametrize("scaling", MODES)
def test_masks_come_back_in_the_sizes_of_the_pictures(scaling):
  sizes = [(96, 128), (240, 320), (400, 300), (24, 32), (101, 333)]
  masks = [halves_of(*size) for size in sizes]
  model = model_of(np.stack([to_model(mask, scaling) for mask in masks]))
  inputs = tf.zeros([len(sizes), HEIGHT, WIDTH, 3])
  found = predict(model, inputs, {"size": tf.constant(sizes, tf.int64)}, config_of(scaling), None)
  found = {name: value.numpy() for name, value in found.items()}
  assert found["class_ids"].dtype == np.uint8 and found["class_ids"].shape == (5, 400, 333)
  assert list(zip(found["height"], found["width"], strict=True)) == sizes
  assert found["class_names"].tolist() == [[name.encode() for name in CLASSES]] * 5
  for ids, (rows, columns), mask in zip(found["class_ids"], sizes, masks, strict=True):
    assert not ids[rows:].any() and not ids[:, columns:].any()
    # What "crop" cuts off goes on as it was at the border of what the model saw.
    seen = slice(None), slice(None)
    if scaling == "crop":
      factor = max(HEIGHT / rows, WIDTH / columns)
      top, left = (max(0, (side - kept / factor) / 2) for side, kept in ((rows, HEIGHT), (columns, WIDTH)))
      seen = slice(int(top), int(rows - top)), slice(int(left), int(columns - left))
    # A border lies within one pixel of the model's, and halfway on the average.
    pixel = 1 / (min if scaling == "pad" else max)(HEIGHT / rows, WIDTH / columns)
    allowed = 0.01 + (rows + columns) * 0.5 * max(pixel, 1) / (rows * columns)
    assert np.mean(ids[:rows, :columns][seen] != mask[seen]) <= allowed


@pytest.mark.parametrize("scaling", MODES)
def test_the_way_back_is_that_of_opencv(scaling):
  """Logits resized by another implementation, in the middle of what the model saw."""
  sizes = [(96, 128), (48, 96), (90, 64)]
  logits = RNG.normal(size=(3, HEIGHT // 8, WIDTH // 8, 3)).astype(np.float32).repeat(8, 1).repeat(8, 2)
  found = predict(
    lambda inputs, training=None: tf.constant(logits),
    tf.zeros([3, HEIGHT, WIDTH, 3]),
    {"size": tf.constant(sizes, tf.int64)},
    config_of(scaling),
    None,
  )
  for ids, (rows, columns), own in zip(found["class_ids"].numpy(), sizes, logits, strict=True):
    if scaling == "stretch":
      new_rows, new_columns = HEIGHT, WIDTH
    else:
      factor = {"pad": min, "crop": max}[scaling](HEIGHT / rows, WIDTH / columns)
      new_rows, new_columns = (int(side * factor + 0.5) for side in (rows, columns))
    if scaling == "crop":
      # What was cut off goes on as it was at the border.
      cut = [
        ((new - side) // 2, -((side - new) // 2)) for new, side in ((new_rows, HEIGHT), (new_columns, WIDTH))
      ]
      own = np.pad(own, (*cut, (0, 0)), "edge")
    else:
      top, left = (HEIGHT - new_rows) // 2, (WIDTH - new_columns) // 2
      own = own[top : top + new_rows, left : left + new_columns]
    expected = cv2.resize(own, (columns, rows), interpolation=cv2.INTER_LINEAR).argmax(-1)
    assert np.mean(ids[:rows, :columns] == expected) >= 0.99


def test_pixels_of_the_models_size_are_answered_in_its_own_size():
  mask = blocks(HEIGHT, WIDTH)
  found = predict(model_of(mask[None]), tf.zeros([1, HEIGHT, WIDTH, 3]), {}, config_of(), None)
  np.testing.assert_array_equal(found["class_ids"][0], mask)
  assert (int(found["height"][0]), int(found["width"][0])) == (HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def served(transformed, tmp_path_factory):
  """The export of a model that sees classes in the colours of `IMAGES`."""

  def model(inputs, training=None):
    return -tf.abs(inputs[..., :1] - tf.constant([0.0, 20.0, 40.0])) / 4

  directory = str(tmp_path_factory.mktemp("export") / "1")
  export_model(TASK, config_of(), model, transformed[1], directory)
  return tf.saved_model.load(directory)


def test_confusion_is_that_of_the_answer_with_the_mask_without_void(served):
  examples = tf.constant([to_example(row).SerializeToString() for row in ROWS])
  answer = served.signatures["serve_examples"](examples=examples)
  found = served.signatures["evaluate_examples"](examples=examples)
  assert found["confusion"].dtype == tf.int64 and found["class_names"].shape == (4, 3)
  for confusion, ids, mask in zip(
    found["confusion"].numpy(), answer["class_ids"].numpy(), MASKS, strict=True
  ):
    own, is_known = ids[: mask.shape[0], : mask.shape[1]], mask < 3
    expected = np.zeros((3, 3), np.int64)
    np.add.at(expected, (mask[is_known], own[is_known]), 1)
    np.testing.assert_array_equal(confusion, expected)
    assert np.trace(confusion) / confusion.sum() > 0.7
  assert found["confusion"][0].numpy().sum() == 24 * 32 - 16


def test_probabilities_belong_to_the_answer_and_sum_to_1(served):
  images = tf.constant([row["image"] for row in ROWS])
  answer = served.signatures["serving_default"](image=images)
  found = served.signatures["predict_probabilities"](image=images)
  assert found["probabilities"].shape == (4, 67, 41, 3)
  np.testing.assert_allclose(tf.reduce_sum(found["probabilities"], -1), np.ones((4, 67, 41)), atol=1e-5)
  for name, values in answer.items():
    np.testing.assert_array_equal(found[name], values)
  is_picture = np.zeros((4, 67, 41), bool)
  for place, (rows, columns) in enumerate(SIZES):
    is_picture[place, :rows, :columns] = True
  likeliest = np.argmax(found["probabilities"], axis=-1)
  np.testing.assert_array_equal(answer["class_ids"].numpy()[is_picture], likeliest[is_picture])


def test_tensors_of_a_client_are_answered_as_its_pictures(served):
  pixels = tf.constant(IMAGES[0][None], tf.float32)
  tensors = served.signatures["serve_tensors"](pixels=pixels)
  picture = served.signatures["serving_default"](image=tf.constant([ROWS[0]["image"]]))
  for name, values in tensors.items():
    np.testing.assert_array_equal(values, picture[name])
