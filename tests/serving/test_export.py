"""Exports, loaded by tf.saved_model.load and by a TF1 session: Keras variables, tables and a tft layer."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from serving.export import export_saved_model

WORDS = np.array([b"b", b"a", b"never seen"], object)
AMOUNTS = np.array([1.0, 2.0, 10.0], np.float32)
# Three rows: b twice, a once; the mean of the amounts is 3.
ROWS = [{"word": word, "amount": amount} for word, amount in (("b", 1.0), ("a", 2.0), ("b", 6.0))]


@pytest.fixture(scope="module")
def transform_layer(tmp_path_factory):
  """The layer of a tiny tf.Transform run: word -> id by a vocabulary, amount -> amount minus its mean."""
  import tensorflow_transform as tft
  import tensorflow_transform.beam as tft_beam
  from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

  def preprocessing_fn(inputs):
    ids = tft.compute_and_apply_vocabulary(inputs["word"], vocab_filename="word")
    return {"word_id": ids, "centred": inputs["amount"] - tft.mean(inputs["amount"])}

  spec = {"word": tf.io.FixedLenFeature([], tf.string), "amount": tf.io.FixedLenFeature([], tf.float32)}
  metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
  directory = tmp_path_factory.mktemp("tft")
  with tft_beam.Context(temp_dir=str(directory / "tmp")):
    _, transform_fn = (ROWS, metadata) | tft_beam.AnalyzeAndTransformDataset(preprocessing_fn)
    _ = transform_fn | tft_beam.WriteTransformFn(str(directory / "out"))
  return tft.TFTransformOutput(str(directory / "out")).transform_features_layer()


@pytest.fixture(scope="module")
def export(transform_layer, tmp_path_factory):
  """word, amount -> tft layer -> a Keras model with an embedding -> score; and a name from a hash table."""
  word_id, centred = keras.Input((), dtype="int64"), keras.Input((1,))
  embedded = keras.layers.Embedding(3, 2)(word_id + 1)
  model = keras.Model(
    [word_id, centred], keras.layers.Dense(1)(keras.ops.concatenate([embedded, centred], -1))
  )
  model.set_weights([np.array([[1, 2], [3, 4], [5, 6]]), np.array([[1], [10], [100]]), np.array([0.5])])
  signs = tf.lookup.StaticHashTable(
    tf.lookup.KeyValueTensorInitializer(tf.constant([0, 1], tf.int64), tf.constant(["below", "above"])), "?"
  )

  def serve(amount, word):
    features = transform_layer({"word": word, "amount": amount})
    ids, centred = tf.reshape(features["word_id"], [-1]), tf.reshape(features["centred"], [-1, 1])
    score = model([ids, centred], training=False)
    return {"score": score, "word_id": ids, "side": signs.lookup(tf.cast(centred[:, 0] > 0, tf.int64))}

  inputs = {
    "word": tf.TensorSpec([None], tf.string, name="other"),
    "amount": tf.TensorSpec([None], tf.float32),
  }
  directory = tmp_path_factory.mktemp("export") / "below" / "model"
  return export_saved_model(str(directory), [transform_layer, signs], {"serving_default": (serve, inputs)})


def expected(words, amounts):
  """By hand: vocabulary by frequency (b, a), unknown is -1; embedding row id + 1; then the dense layer."""
  ids = np.array([{b"b": 0, b"a": 1}.get(word, -1) for word in words])
  embedding = np.array([[1, 2], [3, 4], [5, 6]])[ids + 1]
  centred = amounts - 3
  score = embedding @ np.array([1, 10]) + 100 * centred + 0.5
  return score[:, np.newaxis], ids, np.where(centred > 0, b"above", b"below")


def test_loads_with_saved_model_load(export):
  signature = tf.saved_model.load(export).signatures["serving_default"]
  outputs = signature(word=tf.constant(WORDS), amount=tf.constant(AMOUNTS))
  score, ids, side = expected(WORDS, AMOUNTS)
  assert set(outputs) == {"score", "word_id", "side"}
  np.testing.assert_allclose(outputs["score"], score, rtol=1e-6)
  np.testing.assert_array_equal(outputs["word_id"], ids)
  np.testing.assert_array_equal(outputs["side"], side)


def test_loads_through_a_tf1_session_with_variables_tables_and_vocabularies(export):
  with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
    signature = tf.compat.v1.saved_model.load(session, ["serve"], export).signature_def["serving_default"]
    assert set(signature.inputs) == {"word", "amount"} and set(signature.outputs) == {
      "score",
      "word_id",
      "side",
    }
    values = session.run(
      {name: info.name for name, info in signature.outputs.items()},
      {signature.inputs["word"].name: WORDS, signature.inputs["amount"].name: AMOUNTS},
    )
  score, ids, side = expected(WORDS, AMOUNTS)
  np.testing.assert_allclose(values["score"], score, rtol=1e-6)
  np.testing.assert_array_equal(values["word_id"], ids)
  np.testing.assert_array_equal(values["side"], side)


def test_the_vocabulary_is_an_asset_and_the_export_can_move(export, tmp_path):
  assert any("word" in name for name in os.listdir(os.path.join(export, "assets")))
  moved = tmp_path / "moved"
  os.rename(export, moved)
  try:
    signature = tf.saved_model.load(str(moved)).signatures["serving_default"]
    ids = signature(word=tf.constant(WORDS), amount=tf.constant(AMOUNTS))["word_id"]
    np.testing.assert_array_equal(ids, [0, 1, -1])
  finally:
    os.rename(moved, export)


def _scaled(factor):
  weight = tf.Module()
  weight.factor = tf.Variable(factor)

  def serve(x):
    return {"y": weight.factor * x}

  return weight, {"serving_default": (serve, {"x": tf.TensorSpec([None], tf.float32)})}


def _answer(directory):
  loaded = tf.saved_model.load(directory)
  return float(loaded.signatures["serving_default"](x=tf.constant([3.0]))["y"][0])


def test_an_export_replaces_the_older_one_and_leaves_nothing_else(tmp_path):
  directory = str(tmp_path / "model")
  for factor in (2.0, 5.0):
    weight, endpoints = _scaled(factor)
    export_saved_model(directory, [weight], endpoints)
    assert _answer(directory) == 3 * factor
    assert os.listdir(tmp_path) == ["model"]
  # Others than the owner may read it as the umask says: a server often runs as another user.
  umask = os.umask(0)
  os.umask(umask)
  assert os.stat(directory).st_mode & 0o777 == 0o777 & ~umask


def test_a_failed_export_leaves_the_older_one(tmp_path, monkeypatch):
  directory = str(tmp_path / "model")
  weight, endpoints = _scaled(2.0)
  export_saved_model(directory, [weight], endpoints)

  def half_written(archive, path, **_):
    os.makedirs(path)
    raise OSError("disk full")

  monkeypatch.setattr(keras.export.ExportArchive, "write_out", half_written)
  weight, endpoints = _scaled(5.0)
  with pytest.raises(OSError, match="disk full"):
    export_saved_model(directory, [weight], endpoints)
  assert os.listdir(tmp_path) == ["model"] and _answer(directory) == 6.0


SPEC = {"x": tf.TensorSpec([None], tf.float32)}


@pytest.mark.parametrize(
  ("endpoints", "text"),
  [
    ({"other": (lambda x: {"y": x}, SPEC)}, 'lack "serving_default"'),
    ({"serving_default": (lambda: {"y": 1}, {})}, "has no inputs"),
    (
      {"serving_default": (lambda x: {"y": x}, {"x": tf.TensorSpec([4], tf.float32)})},
      "must begin with None",
    ),
    ({"serving_default": (lambda x: {"y": x}, {"x": tf.TensorSpec([], tf.float32)})}, "must begin with None"),
    ({"serving_default": (lambda x: {"y": x}, {"a b": SPEC["x"]})}, '"a b" of endpoint "serving_default"'),
    ({"serving_default": (lambda x: x, SPEC)}, "return {output name: tensor}"),
  ],
)
def test_bad_endpoints_are_named(tmp_path, endpoints, text):
  with pytest.raises(ValueError, match=text):
    export_saved_model(str(tmp_path / "model"), [], endpoints)
  assert os.listdir(tmp_path) == []
