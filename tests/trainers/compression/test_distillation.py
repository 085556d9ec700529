"""The distillation loss against numbers worked out by hand and by numpy; the teacher stays as it is."""

import math

import keras
import numpy as np
import pytest

from trainers.compression.distillation import SoftTargetLoss, distill_model


def model(width, seed, classes=3, dropout=0.0):
  keras.utils.set_random_seed(seed)
  layers = [keras.layers.Input((5,)), keras.layers.Dense(width, activation="relu")]
  layers += [
    keras.layers.BatchNormalization(momentum=0.8),
    keras.layers.Dropout(dropout),
    keras.layers.Dense(classes),
  ]
  return keras.Sequential(layers)


def softmax(x):
  exponentials = np.exp(x - x.max(-1, keepdims=True))
  return exponentials / exponentials.sum(-1, keepdims=True)


def batch(size=16):
  rng = np.random.default_rng(1)
  return rng.normal(size=(size, 5)).astype("float32"), np.eye(3, dtype="float32")[rng.integers(0, 3, size)]


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_two_classes_by_hand(temperature):
  # Logits (T ln 3, 0) soften to (3/4, 1/4) and equal logits to (1/2, 1/2) at any T:
  # 3/4 ln((3/4)/(1/2)) + 1/4 ln((1/4)/(1/2)) = 3/4 ln 1.5 - 1/4 ln 2.
  teacher = np.array([[temperature * math.log(3), 0.0]], "float32")
  student = np.array([[7.0, 7.0]], "float32")
  expected = temperature**2 * (0.75 * math.log(1.5) - 0.25 * math.log(2))
  assert float(SoftTargetLoss(temperature)(teacher, student)) == pytest.approx(expected, rel=1e-5)


def test_equal_logits_cost_nothing_and_a_constant_added_changes_nothing():
  logits = np.array([[1.0, -2.0, 0.5], [3.0, 3.0, -1.0]], "float32")
  assert float(SoftTargetLoss(2.0)(logits, logits + 5)) == pytest.approx(0, abs=1e-6)


def test_large_logits_stay_finite():
  teacher, student = np.array([[2000.0, 0.0]], "float32"), np.array([[0.0, 2000.0]], "float32")
  assert float(SoftTargetLoss(2.0)(teacher, student)) == pytest.approx(4 * 1000.0, rel=1e-5)


def test_sequences_are_averaged_over_every_position():
  rng = np.random.default_rng(2)
  teacher, student = rng.normal(size=(2, 4, 7, 5)).astype("float32")
  p, q = softmax(teacher / 3), softmax(student / 3)
  expected = 9 * np.mean(np.sum(p * np.log(p / q), -1))
  assert float(SoftTargetLoss(3.0)(teacher, student)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_both_losses_are_weighted_and_validation_is_the_labels_alone(alpha):
  inputs, targets = batch()
  teacher, student = model(16, 1), model(4, 2)
  trained = distill_model(teacher, student, temperature=2.0, alpha=alpha)
  trained.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
  logits = student(inputs).numpy()
  labels_loss = -np.mean(np.sum(targets * np.log(softmax(logits)), -1))
  p, q = softmax(teacher(inputs, training=False).numpy() / 2), softmax(logits / 2)
  soft_loss = 4 * np.mean(np.sum(p * np.log(p / q), -1))
  loss = float(trained.compute_loss(inputs, targets, logits, training=True))
  assert loss == pytest.approx((1 - alpha) * labels_loss + alpha * soft_loss, rel=1e-5)
  assert float(trained.compute_loss(inputs, targets, logits, training=False)) == pytest.approx(
    labels_loss, rel=1e-5
  )


def test_the_student_comes_to_answer_as_the_teacher_and_the_teacher_stays():
  inputs, _ = batch(64)
  teacher, student = model(16, 1, dropout=0.5), model(16, 2)
  before = teacher.get_weights()
  wrong = np.roll(np.eye(3, dtype="float32")[teacher(inputs).numpy().argmax(-1)], 1, axis=-1)
  divergence = float(SoftTargetLoss(2.0)(teacher(inputs), student(inputs)))
  trained = distill_model(teacher, student, temperature=2.0, alpha=1.0)
  trained.compile(keras.optimizers.Adam(0.03), keras.losses.CategoricalCrossentropy(from_logits=True))
  trained.fit(inputs, wrong, epochs=40, batch_size=64, verbose=0)
  # The labels are all wrong and have weight 0: agreement can only come from the teacher.
  assert float(SoftTargetLoss(2.0)(teacher(inputs), student(inputs))) < 0.1 * divergence
  agreement = np.mean(student(inputs).numpy().argmax(-1) == teacher(inputs).numpy().argmax(-1))
  assert agreement > 0.8
  for old, new in zip(before, teacher.get_weights(), strict=True):
    np.testing.assert_array_equal(old, new)
  assert teacher.trainable and teacher.trainable_variables


def test_checkpoints_hold_the_student_only():
  teacher, student = model(16, 1), model(4, 2)
  trained = distill_model(teacher, student, temperature=2.0, alpha=0.5)
  assert [id(weight) for weight in trained.weights] == [id(weight) for weight in student.weights]
  np.testing.assert_array_equal(trained(batch()[0]), student(batch()[0]))


@pytest.mark.parametrize(
  "options, message",
  [
    ({"temperature": 0.0, "alpha": 0.5}, "temperature is 0"),
    ({"temperature": 1.0, "alpha": 1.5}, "alpha is 1.5"),
  ],
)
def test_numbers_out_of_range_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    distill_model(model(4, 1), model(4, 2), **options)


def test_a_student_with_other_classes_is_refused():
  with pytest.raises(
    ValueError, match=r"output_shape of the teacher is \(None, 3\), of the student \(None, 4\)"
  ):
    distill_model(model(4, 1), model(4, 2, classes=4), temperature=1.0, alpha=0.5)


def test_models_that_answer_with_something_else_are_compared_by_their_logits():
  inputs, targets = batch()
  teacher, student = model(16, 1), model(4, 2)

  def logits(network, x, training):
    return 3 * network(x, training=training)

  trained = distill_model(teacher, student, temperature=2.0, alpha=0.25, logits=logits)
  trained.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
  answer = student(inputs, training=True)
  labels_loss = -np.mean(np.sum(targets * np.log(softmax(answer.numpy())), -1))
  p, q = softmax(3 * teacher(inputs, training=False).numpy() / 2), softmax(3 * answer.numpy() / 2)
  soft_loss = 4 * np.mean(np.sum(p * np.log(p / q), -1))
  found = trained.compute_loss(inputs, targets, answer, training=True)
  assert float(found) == pytest.approx(0.75 * labels_loss + 0.25 * soft_loss, rel=1e-5)
  assert float(trained.compute_loss(inputs, targets, answer, training=False)) == pytest.approx(
    labels_loss, rel=1e-5
  )
