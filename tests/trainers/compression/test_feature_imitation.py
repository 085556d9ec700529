"""How far features are from the teacher's, by hand; whose weights are trained, saved and left alone."""

import keras
import numpy as np
import pytest

from components.compression_steps import check_recipe
from pipeline.tasks import TASKS
from trainers.compression.distillation import FeatureImitation, distill_model

NAMES = ("low", "high")


def model(width, seed, dropout=0.0):
  """Two layers of features by name, the first one normalized, and three logits."""
  keras.utils.set_random_seed(seed)
  inputs = keras.Input((5,), name="pixels")
  x = keras.layers.Dense(width, activation="relu")(inputs)
  x = keras.layers.BatchNormalization(momentum=0.5)(x)
  x = keras.layers.Dropout(dropout, name="low")(x)
  x = keras.layers.Dense(2 * width, activation="relu", name="high")(x)
  return keras.Model(inputs, keras.layers.Dense(3, name="logits")(x), name=f"width{width}")


def batch(size=16):
  rng = np.random.default_rng(1)
  return rng.normal(size=(size, 5)).astype("float32"), np.eye(3, dtype="float32")[rng.integers(0, 3, size)]


def features(network, inputs, training=False):
  cut = keras.Model(network.inputs, [network.get_layer(name).output for name in NAMES])
  return [np.asarray(values) for values in cut(inputs, training=training)]


def matrices(imitation):
  return [weight for weight in imitation.trainable_weights if "imitate" in weight.path]


def test_the_distance_by_hand():
  inputs, _ = batch()
  teacher, student = model(6, 1), model(4, 2)
  imitation = FeatureImitation(teacher, student, NAMES)
  own = matrices(imitation)
  assert [tuple(matrix.shape) for matrix in own] == [(4, 6), (8, 12)]
  rng = np.random.default_rng(3)
  for matrix in own:
    matrix.assign(rng.normal(size=matrix.shape))
  expected = np.mean(
    [
      np.mean((taught - learned @ np.asarray(matrix)) ** 2) / (np.mean(taught**2) + 1e-6)
      for taught, learned, matrix in zip(
        features(teacher, inputs), features(student, inputs, training=True), own, strict=True
      )
    ]
  )
  assert float(imitation(inputs)) == pytest.approx(expected, rel=1e-5)


def test_it_is_0_for_the_same_features_and_1_for_none():
  inputs, _ = batch()
  # Without a layer that behaves otherwise in training.
  teacher = model(6, 1)
  imitation = FeatureImitation(teacher, teacher, ("high",))
  (matrix,) = matrices(imitation)
  matrix.assign(np.zeros(matrix.shape))
  assert float(imitation(inputs)) == pytest.approx(1, abs=1e-4)
  plain = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, name="high"), keras.layers.Dense(3)])
  imitation = FeatureImitation(plain, plain, ("high",))
  (matrix,) = matrices(imitation)
  matrix.assign(np.eye(4))
  assert float(imitation(inputs)) == pytest.approx(0, abs=1e-6)


def compiled(teacher, student, **settings):
  trained = distill_model(teacher, student, 2.0, 0.0, None, NAMES, **settings)
  trained.compile(keras.optimizers.Adam(0.02), keras.losses.CategoricalCrossentropy(from_logits=True))
  return trained


def test_it_is_added_to_the_loss_with_its_weight():
  inputs, targets = batch()
  trained = compiled(model(6, 1), model(4, 2), feature_weight=0.3)
  answer = trained(inputs)
  labels = float(trained.compute_loss(inputs, targets, answer, training=False))
  distance = float(trained._imitation(inputs))
  assert distance > 0.1
  loss = float(trained.compute_loss(inputs, targets, answer, training=True))
  assert loss == pytest.approx(labels + 0.3 * distance, rel=1e-5)


def test_the_student_comes_to_have_the_teachers_features_and_the_teacher_stays():
  inputs, targets = batch(64)
  teacher, student = model(6, 1, dropout=0.5), model(6, 2)
  before = teacher.get_weights()
  trained = compiled(teacher, student, feature_weight=10.0)
  projections = [np.asarray(matrix) for matrix in matrices(trained._imitation)]
  first = float(trained._imitation(inputs))
  trained.fit(inputs, targets, epochs=40, batch_size=32, verbose=0)
  assert float(trained._imitation(inputs)) < 0.3 * first
  for old, matrix in zip(projections, matrices(trained._imitation), strict=True):
    assert np.abs(old - np.asarray(matrix)).max() > 0.01
  for old, new in zip(before, teacher.get_weights(), strict=True):
    np.testing.assert_array_equal(old, new)
  assert teacher.trainable and teacher.trainable_variables


def test_the_teachers_weights_are_neither_trained_nor_saved():
  teacher, student = model(6, 1), model(4, 2)
  trained = compiled(teacher, student, feature_weight=1.0)
  own, taught = ({id(weight) for weight in network.weights} for network in (trained, teacher))
  assert not own & taught
  assert {id(weight) for weight in student.weights} <= own
  extra = [weight for weight in trained.weights if id(weight) not in {id(other) for other in student.weights}]
  assert sorted(tuple(weight.shape) for weight in extra) == [(4, 6), (8, 12)]
  # No weight comes twice: checkpoints would hold it twice, and the optimizer would move it twice.
  assert len(own) == len(trained.weights)


def test_without_a_weight_nothing_is_added():
  inputs, targets = batch()
  teacher, student = model(6, 1), model(4, 2)
  trained = compiled(teacher, student, feature_weight=0.0)
  answer = trained(inputs)
  losses = [float(trained.compute_loss(inputs, targets, answer, training=mode)) for mode in (True, False)]
  assert losses[0] == pytest.approx(losses[1], rel=1e-6)
  assert [id(weight) for weight in trained.weights] == [id(weight) for weight in student.weights]


def test_a_layer_that_there_is_not_is_named():
  teacher, student = model(6, 1), model(4, 2)
  with pytest.raises(
    ValueError, match="^width6 has no layer 'middle': give the student the levels of the teacher$"
  ):
    FeatureImitation(teacher, student, ("low", "middle"))
  shallow = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, name="low")], name="shallow")
  with pytest.raises(ValueError, match="^shallow has no layer 'high'"):
    distill_model(teacher, shallow, 1.0, 0.5, None, NAMES, 0.1)


def recipe_of(task, **step):
  return task.config_class(compression={"recipe": [{"step": "distill", **step}]})


def test_a_task_that_names_no_features_is_told_so():
  task = TASKS["image_classification"]
  assert task.feature_layers is None
  with pytest.raises(
    ValueError,
    match=r"^compression.recipe\[0\].feature_weight: image_classification names no features; leave it 0$",
  ):
    check_recipe(task, recipe_of(task, feature_weight=0.1))
  check_recipe(task, recipe_of(task))
  for name in ("object_detection", "semantic_segmentation"):
    check_recipe(TASKS[name], recipe_of(TASKS[name], feature_weight=0.1))
