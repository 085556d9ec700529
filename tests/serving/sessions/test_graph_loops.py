"""Which tensors of a real export are computed without a loop."""

import pytest
import tensorflow as tf

from serving.export import export_saved_model
from serving.sessions.graph_loops import loop_free


def doubled(x):
  return {"y": 2 * x}


def counted(x):
  count = tf.while_loop(lambda i: i < 3.0, lambda i: [i + 1.0], [tf.constant(0.0)])[0]
  return {"y": x + count}


def mapped(x):
  return {"y": tf.map_fn(lambda row: row + 1.0, x), "z": x - 1.0}


@tf.function
def inner(x):
  return tf.map_fn(lambda row: row + 1.0, x)


def nested(x):
  return {"y": tf.cond(tf.reduce_sum(x) > 0.0, lambda: inner(x), lambda: x)}


def chosen(x):
  return {"y": tf.cond(tf.reduce_sum(x) > 0.0, lambda: x + 1.0, lambda: x)}


def scripted(x):
  return {"y": tf.reshape(tf.numpy_function(lambda rows: rows, [x], tf.float32, stateful=False), [-1])}


@pytest.mark.parametrize(
  ("signature", "free"),
  [(doubled, True), (chosen, True), (counted, False), (mapped, False), (nested, False), (scripted, False)],
)
def test_loops_are_found_wherever_they_are(tmp_path, signature, free):
  spec = {"x": tf.TensorSpec([None], tf.float32)}
  directory = str(tmp_path / "1")
  export_saved_model(directory, [], {"serving_default": (doubled, spec), "asked": (signature, spec)})
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], directory)
  outputs = {
    name: [info.name for info in meta_graph.signature_def[name].outputs.values()]
    for name in ("serving_default", "asked")
  }
  found = loop_free(meta_graph.graph_def, outputs["serving_default"] + outputs["asked"])
  assert found == {*outputs["serving_default"], *(outputs["asked"] if free else [])}


def test_loops_in_the_graph_itself():
  with tf.Graph().as_default() as graph:
    x = tf.compat.v1.placeholder(tf.float32, [None], "x")
    tf.compat.v1.disable_control_flow_v2()
    count = tf.while_loop(lambda i: i < 3.0, lambda i: [i + 1.0], [tf.constant(0.0)])[0]
    tf.compat.v1.enable_control_flow_v2()
    looping, straight = tf.add(x, count, "looping"), tf.add(x, 1.0, "straight")
  assert loop_free(graph.as_graph_def(), [looping.name, straight.name]) == {straight.name}
