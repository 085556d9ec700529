"""A SavedModel whose signatures take serialized tf.Examples, right ones and every kind of wrong one."""

from __future__ import annotations

import tensorflow as tf

PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"


def example(**features):
  """A tf.Example of floats."""
  return tf.train.Example(
    features=tf.train.Features(
      feature={
        name: tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
        for name, value in features.items()
      }
    )
  )


def export(directory):
  """Writes the model: total = a + b, where an example without b has b = 0.

  One graph, so that signatures share an input tensor, as MultiInference demands.
  """
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    builder = tf.compat.v1.saved_model.Builder(directory)
    builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=_signatures())
    builder.save()
  return directory


def _signatures():
  examples = tf.compat.v1.placeholder(tf.string, [None])
  others = tf.compat.v1.placeholder(tf.string, [None])
  x = tf.compat.v1.placeholder(tf.float32, [None])
  scalar = tf.io.FixedLenFeature([], tf.float32)
  features = tf.io.parse_example(
    examples, {"a": scalar, "b": tf.io.FixedLenFeature([], tf.float32, default_value=0.0)}
  )
  total = features["a"] + features["b"]
  scores = tf.stack([total, -total], axis=1)
  classes = tf.tile(tf.constant([["up", "down"]]), [tf.size(total), 1])
  inputs = {"inputs": examples}
  classified = {"classes": classes, "scores": scores}
  return {
    "serving_default": _signature(inputs, classified, CLASSIFY),
    "regress": _signature(inputs, {"outputs": total}, REGRESS),
    "regress_column": _signature(inputs, {"outputs": 10.0 * total[:, tf.newaxis]}, REGRESS),
    "only_scores": _signature(inputs, {"scores": scores}, CLASSIFY),
    "only_classes": _signature(inputs, {"classes": classes}, CLASSIFY),
    "as_predict": _signature(inputs, classified, PREDICT),
    "regress_as_predict": _signature(inputs, {"outputs": total}, PREDICT),
    "predict": _signature({"x": x}, {"y": 2.0 * x}, PREDICT),
    "two_inputs": _signature({"inputs": examples, "x": x}, classified),
    "three_outputs": _signature(inputs, {**classified, "total": total}),
    "input_misnamed": _signature({"examples": examples}, {"scores": scores}),
    "outputs_misnamed": _signature(inputs, {"logits": scores}),
    "flat_scores": _signature(inputs, {"scores": total}),
    "double_scores": _signature(inputs, {"scores": tf.cast(scores, tf.float64)}),
    "numbers_as_classes": _signature(inputs, {"classes": scores}),
    "too_many_rows": _signature(inputs, {"scores": tf.concat([scores, scores], 0)}),
    "unequal_widths": _signature(inputs, {"classes": classes, "scores": scores[:, :1]}),
    "no_text": _signature(inputs, {"classes": tf.fill([tf.size(total), 1], tf.constant(b"\xff"))}),
    "wide_outputs": _signature(inputs, {"outputs": scores}),
    "too_many_outputs": _signature(inputs, {"outputs": tf.concat([total, total], 0)}),
    "double_outputs": _signature(inputs, {"outputs": tf.cast(total, tf.float64)}),
    "other_input": _signature(
      {"inputs": others}, {"outputs": tf.io.parse_example(others, {"a": scalar})["a"]}, REGRESS
    ),
  }


def _signature(inputs, outputs, method_name=PREDICT):
  build_info = tf.compat.v1.saved_model.utils.build_tensor_info
  return tf.compat.v1.saved_model.build_signature_def(
    {name: build_info(tensor) for name, tensor in inputs.items()},
    {name: build_info(tensor) for name, tensor in outputs.items()},
    method_name,
  )
