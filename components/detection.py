"""What object detection does with TensorFlow: boxes through preprocessing, and the model's answer as boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from components.config import RunConfig
from components.export import EXAMPLES_SPEC
from components.input import parse_raw
from components.picture_labels import BOXES, IMAGE
from components.preprocessing import geometry
from components.preprocessing import image as ops
from trainers.models.fcos import NUM_DISTANCES, decode_boxes, locations

VOCABULARY_NAME = "classes"


def preprocess(inputs: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
  """Pixels at one scale, the boxes at theirs, class ids, and the statistics of the training pixels.

  Crowds are no single objects: their boxes are left out.
  """
  section = config.preprocessing
  pixels, sizes = ops.decode_with_sizes(
    inputs["image"], section.height, section.width, section.channels, section.scaling
  )
  classes = tf.where(inputs["is_crowd"] == 0, inputs["classes"], "")
  boxes = _in_fours(inputs["boxes"], tf.shape(classes)[1])
  moved = tf.concat([boxes, tf.cast(classes != "", tf.float32)[..., tf.newaxis] - 1], axis=-1)
  moved = _to_model(moved, sizes, section)
  kept = moved[..., 4] >= 0
  # Ragged in between: without gaps, as the boxes are.
  kept_classes = tf.ragged.boolean_mask(classes, kept).to_sparse()
  class_ids = tft.compute_and_apply_vocabulary(kept_classes, vocab_filename=VOCABULARY_NAME)
  return {
    **ops.pixel_features(pixels),
    "size": sizes,
    "object_boxes": _flattened(moved[..., :4], kept),
    "object_class_ids": class_ids,
  }


def _in_fours(values: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
  """float32 [batch, 4 * count] -> [batch, count, 4]; in serving tf.Transform puts one value in the labels' place."""
  missing = tf.maximum(4 * count - tf.shape(values)[1], 0)
  return tf.reshape(tf.pad(values, [[0, 0], [0, missing]])[:, : 4 * count], [-1, count, 4])


def _flattened(boxes: tf.Tensor, kept: tf.Tensor) -> tf.SparseTensor:
  """Four numbers of each box that is kept, float32 [batch, 4 * boxes]."""
  ragged = tf.ragged.boolean_mask(boxes, kept)
  return ragged.merge_dims(1, 2).to_sparse()


def _to_model(boxes: tf.Tensor, sizes: tf.Tensor, section: Any) -> tf.Tensor:
  """Boxes of pictures as they came -> at the model's scale; what is cut off, or nothing is left of, has class -1."""
  a, b, c, d = tf.unstack(ops.placement(sizes, section.height, section.width, section.scaling), axis=-1)
  zero = tf.zeros_like(a)
  moves = geometry.affine(a, zero, b, zero, c, d)
  windows = geometry.frame(tf.shape(boxes)[0], section.height, section.width)
  return geometry.move_boxes(boxes, moves, windows, section.min_visible)


def parse(features: Mapping[str, Any], config: RunConfig, outputs: Any) -> tuple[Any, Any]:
  """float32 pixels [batch, height, width, channels] in [0, 255], and targets float32 [batch, max_boxes, 5].

  A target is x_min, y_min, x_max, y_max in pixels of the model's picture and a class id; class -1 is padding.
  """
  section = config.preprocessing
  shape = (section.height, section.width, section.channels)
  pixels = tf.cast(ops.unpack_uint8(features["pixels"], shape), tf.float32)
  if "object_class_ids" not in features:
    return pixels, None
  class_ids = _dense(features["object_class_ids"], -1)
  boxes = tf.reshape(_dense(features["object_boxes"], 0), [tf.shape(class_ids)[0], -1, 4])
  targets = tf.concat([boxes, tf.cast(class_ids, tf.float32)[..., tf.newaxis]], axis=-1)
  return pixels, geometry.keep_boxes(targets, section.max_boxes)


def _dense(values: Any, filler: int) -> tf.Tensor:
  if not isinstance(values, tf.SparseTensor):
    return values
  return tf.sparse.to_dense(values, default_value=tf.cast(filler, values.dtype))


def detect(output: tf.Tensor, config: RunConfig) -> dict[str, tf.Tensor]:
  """What is found in pictures, in pixels of the model's own.

  Args:
    output: of the model, float32 [batch, locations, classes + 5].
    config: `preprocessing` has the size, `model` the strides, `detection` the thresholds.

  Returns:
    boxes float32 [batch, detections, 4]: x_min, y_min, x_max, y_max; scores float32 and class_ids int64
    [batch, detections], the best first, of `num_detections` int64 [batch] rows that count.
  """
  section, settings = config.preprocessing, config.detection
  points, scales = locations(section.height, section.width, config.model.strides)
  num_classes = output.shape[-1] - NUM_DISTANCES - 1
  boxes = decode_boxes(output[..., num_classes:-1], points, scales)
  limits = tf.constant([section.width, section.height] * 2, tf.float32)
  boxes = tf.clip_by_value(boxes, 0.0, limits)
  # Far from its middle a location sees a box badly: the geometric mean takes that into account (arXiv:1904.01355v4).
  scores = tf.sqrt(tf.sigmoid(output[..., :num_classes]) * tf.sigmoid(output[..., -1:]))
  found = tf.image.combined_non_max_suppression(
    boxes[:, :, tf.newaxis],
    scores,
    max_output_size_per_class=settings.max_detections,
    max_total_size=settings.max_detections,
    iou_threshold=settings.iou_threshold,
    score_threshold=settings.score_threshold,
    clip_boxes=False,
  )
  return {
    "boxes": found.nmsed_boxes,
    "scores": found.nmsed_scores,
    "class_ids": tf.cast(found.nmsed_classes, tf.int64),
    "num_detections": tf.cast(found.valid_detections, tf.int64),
  }


def predict(model: Any, inputs: Any, features: Any, config: RunConfig, outputs: Any) -> dict[str, Any]:
  """Boxes in pixels of the pictures that were sent, or of the model's own where those came; see `detect`.

  `labels` are the classes in words, [batch, detections], and `class_names` all of them in the order of their ids.
  """
  found = detect(tf.cast(model(inputs, training=False), tf.float32), config)
  if "size" in features:
    found["boxes"] = _to_picture(found["boxes"], features["size"], config.preprocessing)
  names = tf.constant(outputs.vocabulary(VOCABULARY_NAME))
  counts = tf.range(tf.shape(found["boxes"])[1], dtype=tf.int64) < found["num_detections"][:, tf.newaxis]
  # Rows that do not count are zeros, whatever the way from the model's pixels makes of them.
  found["boxes"] = tf.where(counts[..., tf.newaxis], found["boxes"], 0.0)
  found["labels"] = tf.where(counts, tf.gather(names, found["class_ids"]), "")
  found["class_names"] = tf.tile(names[tf.newaxis], [tf.shape(counts)[0], 1])
  return found


def _to_picture(boxes: tf.Tensor, sizes: tf.Tensor, section: Any) -> tf.Tensor:
  """The way back of `_to_model`, cut off at the picture's borders."""
  a, b, c, d = tf.unstack(
    ops.placement(sizes, section.height, section.width, section.scaling)[:, tf.newaxis], axis=-1
  )
  x_min, y_min, x_max, y_max = tf.unstack(boxes, axis=-1)
  rows, columns = (tf.cast(sizes[:, side, tf.newaxis], tf.float32) for side in (0, 1))
  x_min, x_max = (tf.clip_by_value((x - b) / a, 0.0, columns) for x in (x_min, x_max))
  y_min, y_max = (tf.clip_by_value((y - d) / c, 0.0, rows) for y in (y_min, y_max))
  return tf.stack([x_min, y_min, x_max, y_max], axis=-1)


def signatures(
  model: Any, to_inputs: Callable, config: RunConfig, outputs: Any
) -> dict[str, tuple[Callable, dict[str, Any]]]:
  """`evaluate_examples`: serialized raw examples -> what is found beside what is there.

  See `components.metrics.detection`.
  """

  def evaluate_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
    raw = parse_raw(examples, {**IMAGE, **BOXES})
    inputs, features = to_inputs(image=raw["image"])
    found = predict(model, inputs, features, config, outputs)
    del found["labels"]
    names = tf.constant(outputs.vocabulary(VOCABULARY_NAME))
    is_class = tf.equal(raw["classes"][..., tf.newaxis], names)
    # What the training split has no class for is -1: nothing can be found there.
    known = tf.where(tf.reduce_any(is_class, -1), tf.argmax(is_class, -1), tf.constant(-1, tf.int64))
    return {
      **found,
      "true_boxes": tf.reshape(raw["boxes"], [tf.shape(known)[0], -1, 4]),
      "true_class_ids": known,
      "true_is_crowd": raw["is_crowd"],
      "true_areas": raw["areas"],
      "num_true": tf.math.count_nonzero(raw["classes"], axis=1),
      "example_id": tf.strings.to_hash_bucket_fast(raw["image"], 2**62),
    }

  return {"evaluate_examples": (evaluate_examples, dict(EXAMPLES_SPEC))}
