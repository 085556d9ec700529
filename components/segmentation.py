"""What semantic segmentation does with TensorFlow: masks through preprocessing, and the model's answer as masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from components.config import RunConfig
from components.export import EXAMPLES_SPEC
from components.input import parse_raw
from components.picture_labels import IMAGE, MASK
from components.preprocessing import image as ops
from trainers.segmentation_losses import VOID_ID


def preprocess(inputs: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
  """Pixels and class ids at one scale, and the statistics of the training pixels."""
  section = config.preprocessing
  pixels, sizes = ops.decode_with_sizes(
    inputs["image"], section.height, section.width, section.channels, section.scaling
  )
  masks = ops.decode_and_scale_masks(inputs["mask"], section.height, section.width, section.scaling, VOID_ID)
  return {
    **ops.pixel_features(pixels),
    "size": sizes,
    "class_ids": ops.pack_uint8(known_ids(masks, len(section.classes))),
  }


def known_ids(masks: tf.Tensor, num_classes: int) -> tf.Tensor:
  """The masks with `VOID_ID` in the place of every id that is no class, such as the data set's own void."""
  return tf.where(masks < num_classes, masks, tf.cast(VOID_ID, masks.dtype))


def parse(features: Mapping[str, Any], config: RunConfig, outputs: Any) -> tuple[Any, Any]:
  """float32 pixels [batch, height, width, channels] in [0, 255], and class ids int32 [batch, height, width]."""
  shape = config.preprocessing.shape
  pixels = tf.cast(ops.unpack_uint8(features["pixels"], shape), tf.float32)
  if "class_ids" not in features:
    return pixels, None
  return pixels, tf.cast(ops.unpack_uint8(features["class_ids"], shape[:2]), tf.int32)


def predict(model: Any, inputs: Any, features: Any, config: RunConfig, outputs: Any) -> dict[str, Any]:
  """The class of every pixel of the pictures that were sent, or of the model's own where those came.

  Returns:
    class_ids uint8 [batch, rows, columns]: pictures of different sizes are filled up below and on the right with zeros;
    height and width int64 [batch], what of it is the picture; class_names string [batch, classes].
  """
  return _answer(model, inputs, features, config)[0]


def _answer(model: Any, inputs: Any, features: Any, config: RunConfig) -> tuple[dict[str, Any], tf.Tensor]:
  """What `predict` returns; and probabilities float32 [batch, rows, columns, classes]."""
  logits = tf.cast(model(inputs, training=False), tf.float32)
  sizes = _sizes(features, logits)
  probabilities = tf.nn.softmax(_to_pictures(logits, sizes, config, bool(features)), axis=-1)
  return {**_masks(probabilities, sizes), "class_names": _names(config, logits)}, probabilities


def _masks(probabilities: tf.Tensor, sizes: tf.Tensor) -> dict[str, tf.Tensor]:
  rows, columns = (tf.range(tf.shape(probabilities, tf.int64)[axis]) for axis in (1, 2))
  is_picture = (rows < sizes[:, :1])[:, :, tf.newaxis] & (columns < sizes[:, 1:])[:, tf.newaxis]
  class_ids = tf.cast(tf.argmax(probabilities, axis=-1), tf.uint8)
  return {
    "class_ids": tf.where(is_picture, class_ids, tf.zeros_like(class_ids)),
    "height": sizes[:, 0],
    "width": sizes[:, 1],
  }


def _sizes(features: Mapping[str, Any], logits: tf.Tensor) -> tf.Tensor:
  """int64 [batch, 2], rows and columns of the answer."""
  if "size" in features:
    return features["size"]
  return tf.tile(tf.shape(logits, tf.int64)[tf.newaxis, 1:3], [tf.shape(logits)[0], 1])


def _names(config: RunConfig, logits: tf.Tensor) -> tf.Tensor:
  return tf.tile(tf.constant(config.preprocessing.classes)[tf.newaxis], [tf.shape(logits)[0], 1])


def _to_pictures(logits: tf.Tensor, sizes: tf.Tensor, config: RunConfig, are_scaled: bool) -> tf.Tensor:
  """Logits at the pictures' own sizes, float32 [batch, largest rows, largest columns, classes].

  Where a picture was cut by "crop", its border's logits go on to its edges.
  """
  if not are_scaled:
    return logits
  section = config.preprocessing
  a, b, c, d = tf.unstack(ops.placement(sizes, section.height, section.width, section.scaling), axis=-1)
  zero = tf.zeros_like(a)
  # From indices of the picture's pixels to indices of the model's: the middle of pixel 0 is at 0.5.
  lookup = tf.stack([a, zero, (a - 1) / 2 + b, zero, c, (c - 1) / 2 + d, zero, zero], axis=-1)
  return tf.raw_ops.ImageProjectiveTransformV3(
    images=logits,
    transforms=lookup,
    output_shape=tf.cast(tf.reduce_max(sizes, axis=0), tf.int32),
    fill_value=0.0,
    interpolation="BILINEAR",
    fill_mode="NEAREST",
  )


def signatures(
  model: Any, to_inputs: Callable, config: RunConfig, outputs: Any
) -> dict[str, tuple[Callable, dict[str, Any]]]:
  """`predict_probabilities`: what `serving_default` answers, and the classes' probabilities, float32
  [batch, rows, columns, classes]; `evaluate_examples`: serialized raw examples -> the pixels of each class that are
  taken for each class, int64 [batch, classes, classes]; see `components.metrics.segmentation`.
  """
  num_classes = len(config.preprocessing.classes)

  def predict_probabilities(image: tf.Tensor) -> dict[str, tf.Tensor]:
    found, probabilities = _answer(model, *to_inputs(image=image), config)
    return {**found, "probabilities": probabilities}

  def evaluate_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
    raw = parse_raw(examples, {**IMAGE, **MASK})
    inputs, features = to_inputs(image=raw["image"])
    found = predict(model, inputs, features, config, outputs)

    def count(answer: tuple[tf.Tensor, ...]) -> tf.Tensor:
      class_ids, height, width, mask = answer
      actual = tf.reshape(known_ids(tf.io.decode_png(mask, channels=1), num_classes), [-1])
      predicted = tf.reshape(class_ids[:height, :width], [-1])
      is_known = actual != VOID_ID
      actual, predicted = (tf.boolean_mask(ids, is_known) for ids in (actual, predicted))
      return tf.math.confusion_matrix(actual, predicted, num_classes, dtype=tf.int64)

    answers = (found["class_ids"], found["height"], found["width"], raw["mask"])
    confusion = tf.map_fn(
      count, answers, fn_output_signature=tf.TensorSpec([num_classes, num_classes], tf.int64)
    )
    return {"confusion": confusion, "class_names": found["class_names"]}

  image = {"image": tf.TensorSpec([None], tf.string, name="image")}
  return {
    "predict_probabilities": (predict_probabilities, image),
    "evaluate_examples": (evaluate_examples, dict(EXAMPLES_SPEC)),
  }
