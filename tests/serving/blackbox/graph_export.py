"""A model whose answers tell version, batch and deadline apart, written as TF Serving's own test models are.

One graph with placeholders, so that signatures may share an input tensor, as MultiInference demands.
"""

from __future__ import annotations

import os
import shutil

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

PREDICT = "tensorflow/serving/predict"
CLASSIFY = "tensorflow/serving/classify"
REGRESS = "tensorflow/serving/regress"
# Large enough that a version which is not freed shows in the process's resident memory.
WEIGHTS_SHAPE = (1024, 1024)
ECHOED = ("float32", "float64", "float16", "bfloat16", "int8", "uint8", "int16", "uint16", "int32", "uint32")
ECHOED += ("int64", "uint64", "bool", "string", "complex64", "complex128")
LONG_TEXT = "long " * 600


def export(directory: str) -> None:
  """Writes version 1 to `directory`; `publish` makes the others from it."""
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    signatures = _signatures()
    session.run(tf.compat.v1.global_variables_initializer())
    builder = tf.compat.v1.saved_model.Builder(directory)
    builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map=signatures)
    builder.save()


def publish(exported: str, base_path: str, version: int, name: str | None = None) -> str:
  """A version appears under `base_path` at once, as a pusher does it; its folder is `name` or the number."""
  staging = os.path.join(base_path, f".staging-{version}")
  shutil.copytree(exported, staging)
  path = os.path.join(staging, "saved_model.pb")
  model = saved_model_pb2.SavedModel()
  with open(path, "rb") as file:
    model.ParseFromString(file.read())
  (node,) = [node for node in model.meta_graphs[0].graph_def.node if node.name == "version"]
  node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(float(version)))
  with open(path, "wb") as file:
    file.write(model.SerializeToString())
  directory = os.path.join(base_path, name or str(version))
  os.rename(staging, directory)
  return directory


def _placeholder(dtype, *shape):
  return tf.compat.v1.placeholder(dtype, shape)


def _signature(inputs, outputs, method_name=PREDICT):
  build_info = tf.compat.v1.saved_model.utils.build_tensor_info
  return tf.compat.v1.saved_model.build_signature_def(
    {name: build_info(tensor) for name, tensor in inputs.items()},
    {name: build_info(tensor) for name, tensor in outputs.items()},
    method_name,
  )


def _signatures():
  weights = tf.compat.v1.get_variable(
    "weights", WEIGHTS_SHAPE, initializer=tf.compat.v1.constant_initializer(0.5)
  )
  version = tf.constant(1.0, name="version")
  x = _placeholder(tf.float32, None)
  rows = _placeholder(tf.float32, None, None)
  threes = _placeholder(tf.float32, None, 3)
  a, b = _placeholder(tf.float32, None), _placeholder(tf.float32, None)
  value = _placeholder(tf.float32)
  text = _placeholder(tf.string, None)
  at = _placeholder(tf.int32, None)
  num_elements = _placeholder(tf.int64, None)
  return {
    # Half plus version: y = 0.5 x + version.
    "serving_default": _signature({"x": x}, {"y": x * weights[0, 0] + version}),
    "batch": _signature({"x": x}, {"y": 2.0 * x, "ran_with": tf.fill(tf.shape(x), tf.size(x))}),
    "over_zero": _signature({"x": x}, {"y": x / tf.zeros_like(x)}),
    "rows": _signature(
      {"rows": rows},
      {"sum": tf.reduce_sum(rows, 1), "width": tf.fill(tf.shape(rows)[:1], tf.shape(rows)[1])},
    ),
    "threes": _signature({"rows": threes}, {"sum": tf.reduce_sum(threes, 1)}),
    "two": _signature({"a": a, "b": b}, {"sum": a + b, "difference": a - b}),
    "scalar": _signature({"value": value}, {"doubled": 2.0 * value}),
    "text": _signature({"text": text}, {"upper": tf.strings.upper(text), "same_bytes": tf.identity(text)}),
    "index": _signature({"at": at}, {"value": tf.gather(tf.constant([10, 20, 30]), at)}),
    "allocate": _signature(
      {"num_elements": num_elements}, {"sum": tf.reduce_sum(tf.fill(num_elements, 1.0))}
    ),
    "slow": _slow(),
    "checked": _checked(),
    "echo": _echo(),
    **_of_examples(),
  }


def _slow():
  steps = _placeholder(tf.int64, None)
  most = tf.reduce_max(steps)
  count = tf.while_loop(lambda i: i < most, lambda i: [i + 1], [tf.constant(0, tf.int64)])[0]
  return _signature({"steps": steps}, {"count": tf.minimum(tf.fill(tf.shape(steps), count), steps)})


def _checked():
  """Fails with a long message where an element is negative."""
  x = _placeholder(tf.float32, None)
  check = tf.debugging.Assert(tf.reduce_all(x >= 0), [tf.constant(LONG_TEXT)])
  with tf.control_dependencies([check]):
    return _signature({"x": x}, {"y": tf.identity(x)})


def _echo():
  tensors = {dtype: _placeholder(tf.as_dtype(dtype), None, None) for dtype in ECHOED}
  return _signature(
    {f"{dtype}_in": tensor for dtype, tensor in tensors.items()},
    {f"{dtype}_out": tf.identity(tensor) for dtype, tensor in tensors.items()},
  )


def _of_examples():
  """Signatures that share one tensor of serialized tf.Examples with a float "a" and, by default 0, a "b"."""
  examples = _placeholder(tf.string, None)
  features = tf.io.parse_example(
    examples,
    {"a": tf.io.FixedLenFeature([], tf.float32), "b": tf.io.FixedLenFeature([], tf.float32, 0.0)},
  )
  total = features["a"] + features["b"]
  scores = tf.stack([total, -total], axis=1)
  classes = tf.tile(tf.constant([["up", "down"]]), [tf.size(total), 1])
  classification = ({"inputs": examples}, {"classes": classes, "scores": scores})
  regression = ({"inputs": examples}, {"outputs": total[:, tf.newaxis]})
  return {
    "classify": _signature(*classification, CLASSIFY),
    "regress": _signature(*regression, REGRESS),
    # The same under another method name: nobody checks it by default.
    "classify_as_predict": _signature(*classification),
    "regress_as_predict": _signature(*regression),
    "only_scores": _signature({"inputs": examples}, {"scores": scores}, CLASSIFY),
    "misnamed": _signature({"inputs": examples}, {"logits": scores}, CLASSIFY),
  }
