"""Cross-entropy, Dice and IoU of pixels: worked out by hand and with numpy; void pixels do not exist."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.segmentation_losses import VOID_ID, MeanIou, SegmentationLoss

NUM_CLASSES = 4


def drawn(seed=0, void_share=0.2):
  rng = np.random.default_rng(seed)
  class_ids = rng.integers(0, NUM_CLASSES, (3, 5, 6))
  class_ids[rng.uniform(size=class_ids.shape) < void_share] = VOID_ID
  return class_ids, rng.normal(size=(3, 5, 6, NUM_CLASSES)).astype(np.float32)


def loss_by_numpy(class_ids, logits, dice_weight=1.0, label_smoothing=0.0):
  known = class_ids != VOID_ID
  p = np.exp(logits[known].astype(np.float64))
  p /= p.sum(axis=-1, keepdims=True)
  targets = np.eye(logits.shape[-1])[class_ids[known]]
  smooth = targets * (1 - label_smoothing) + label_smoothing / logits.shape[-1]
  cross_entropy = -(smooth * np.log(p)).sum(axis=-1).mean()
  dice = [
    2 * (p[:, c] * targets[:, c]).sum() / (p[:, c].sum() + targets[:, c].sum())
    for c in range(logits.shape[-1])
    if targets[:, c].any()
  ]
  return cross_entropy + dice_weight * (1 - np.mean(dice))


def test_two_pixels_by_hand():
  class_ids = np.array([[[0, 1]]])
  # Probabilities 3/4 and 1/4, and one half each.
  logits = np.log(np.array([[[[3.0, 1.0], [1.0, 1.0]]]], np.float32))
  cross_entropy = (np.log(4 / 3) + np.log(2)) / 2
  dice = (2 * 0.75 / (1.25 + 1) + 2 * 0.5 / (0.75 + 1)) / 2
  assert float(SegmentationLoss(0.0)(class_ids, logits)) == pytest.approx(cross_entropy, rel=1e-5)
  assert float(SegmentationLoss(1.0)(class_ids, logits)) == pytest.approx(cross_entropy + 1 - dice, rel=1e-5)
  smoothed = (0.9 * np.log(4 / 3) + 0.1 * np.log(4) + np.log(2)) / 2
  found = float(SegmentationLoss(0.0, label_smoothing=0.2)(class_ids, logits))
  assert found == pytest.approx(smoothed, rel=1e-5)


@pytest.mark.parametrize("dice_weight, label_smoothing", [(0.0, 0.0), (1.0, 0.0), (2.5, 0.1)])
@pytest.mark.parametrize("seed", range(3))
def test_it_equals_numpys(seed, dice_weight, label_smoothing):
  class_ids, logits = drawn(seed)
  loss = SegmentationLoss(dice_weight, label_smoothing)
  expected = loss_by_numpy(class_ids, logits, dice_weight, label_smoothing)
  for dtype in (np.int32, np.uint8, np.float32):
    assert float(loss(class_ids.astype(dtype), logits)) == pytest.approx(expected, rel=1e-5)


def test_a_class_that_does_not_occur_has_no_dice():
  class_ids, logits = np.zeros((1, 2, 2), int), np.zeros((1, 2, 2, 2), np.float32)
  # Of class 0: 2 * (4 * 0.5) / (2 + 4).
  assert float(SegmentationLoss()(class_ids, logits)) == pytest.approx(np.log(2) + 1 / 3, rel=1e-5)


def test_the_truth_has_no_loss():
  class_ids, _ = drawn()
  known = np.where(class_ids == VOID_ID, 0, class_ids)
  logits = (50 * np.eye(NUM_CLASSES)[known]).astype(np.float32)
  assert float(SegmentationLoss()(class_ids, logits)) == pytest.approx(0, abs=1e-5)


def test_void_pixels_have_no_effect_on_loss_or_gradient():
  class_ids, logits = drawn(4)
  void = class_ids == VOID_ID
  other = logits.copy()
  other[void] += 100 * np.random.default_rng(1).normal(size=other[void].shape)
  for loss in (SegmentationLoss(), SegmentationLoss(0.5, 0.1)):
    first, second = tf.Variable(logits), tf.Variable(other)
    with tf.GradientTape(persistent=True) as tape:
      losses = loss(class_ids, first), loss(class_ids, second)
    assert float(losses[0]) == pytest.approx(float(losses[1]), rel=1e-6)
    gradients = [tape.gradient(*pair).numpy() for pair in zip(losses, (first, second), strict=True)]
    for gradient in gradients:
      assert np.all(gradient[void] == 0) and np.all(np.abs(gradient[~void]).max(axis=-1) > 0)
    np.testing.assert_allclose(gradients[0][~void], gradients[1][~void], rtol=1e-4, atol=1e-7)


def test_a_picture_that_is_all_void_changes_nothing_and_alone_has_a_finite_loss():
  class_ids, logits = drawn(2)
  loss = SegmentationLoss()
  more = np.concatenate([class_ids, np.full((2, 5, 6), VOID_ID)])
  longer = np.concatenate([logits, logits[:2]])
  assert float(loss(more, longer)) == pytest.approx(float(loss(class_ids, logits)), rel=1e-5)
  only = tf.Variable(logits[:1])
  with tf.GradientTape() as tape:
    value = loss(np.full((1, 5, 6), VOID_ID), only)
  assert np.isfinite(value) and np.all(tape.gradient(value, only).numpy() == 0)


def test_identical_pictures_equal_one():
  class_ids, logits = drawn(3)
  one = float(SegmentationLoss()(class_ids[:1], logits[:1]))
  repeated = SegmentationLoss()(np.repeat(class_ids[:1], 4, axis=0), np.repeat(logits[:1], 4, axis=0))
  assert float(repeated) == pytest.approx(one, rel=1e-5)


def iou_by_numpy(class_ids, logits):
  known = class_ids != VOID_ID
  actual, predicted = class_ids[known], logits.argmax(axis=-1)[known]
  values = []
  for number in range(NUM_CLASSES):
    union = np.count_nonzero((actual == number) | (predicted == number))
    if union:
      values.append(np.count_nonzero((actual == number) & (predicted == number)) / union)
  return np.mean(values)


def test_mean_iou_adds_up_pixels_and_starts_anew():
  metric = MeanIou(NUM_CLASSES)
  assert float(metric.result()) == 0
  batches = [drawn(seed) for seed in range(3)]
  for class_ids, logits in batches:
    metric.update_state(class_ids, logits)
  class_ids, logits = (np.concatenate(parts) for parts in zip(*batches, strict=True))
  assert metric.result().dtype == tf.float32
  assert float(metric.result()) == pytest.approx(iou_by_numpy(class_ids, logits), rel=1e-6)
  metric.reset_state()
  assert float(metric.result()) == 0
  metric.update_state(*batches[0])
  assert float(metric.result()) == pytest.approx(iou_by_numpy(*batches[0]), rel=1e-6)


def test_mean_iou_by_hand():
  metric = MeanIou(3)
  # Class 0: 2 of 3 pixels; class 1: 1 of 2; class 2 does not occur, nor is it found.
  metric.update_state(np.array([[[0, 0, 0, 1, VOID_ID]]]), np.eye(3)[[[[0, 0, 1, 1, 2]]]])
  assert float(metric.result()) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_mean_iou_of_more_pixels_than_float32_counts():
  metric = MeanIou(2)
  class_ids, logits = np.zeros((1, 1, 3), int), np.eye(2, dtype=np.float32)[[[[0, 0, 1]]]]
  metric.update_state(class_ids, logits)
  metric.variables[0].assign([2.0**24, 0, 0, 0])
  metric.update_state(class_ids, logits)
  np.testing.assert_array_equal(metric.variables[0], [2**24 + 2, 1, 0, 0])


def test_both_work_in_fit_and_are_the_same_after_a_round_trip():
  class_ids, _ = drawn(6)
  loss = SegmentationLoss(0.5, 0.1, name="mine")
  again = keras.losses.deserialize(keras.losses.serialize(loss))
  assert isinstance(again, SegmentationLoss) and again.get_config() == loss.get_config()
  metric = keras.metrics.deserialize(keras.metrics.serialize(MeanIou(NUM_CLASSES, name="iou")))
  assert isinstance(metric, MeanIou) and metric.name == "iou" and metric.num_classes == NUM_CLASSES

  keras.utils.set_random_seed(3)
  model = keras.Sequential([keras.Input((5, 6, 2)), keras.layers.Conv2D(NUM_CLASSES, 3, padding="same")])
  model.compile(keras.optimizers.SGD(0.5), again, metrics=[metric])
  pictures = np.random.default_rng(1).normal(size=(3, 5, 6, 2)).astype(np.float32)
  history = model.fit(pictures, class_ids.astype(np.int32), batch_size=3, epochs=2, verbose=0).history
  assert np.all(np.isfinite(history["loss"])) and history["loss"][1] < history["loss"][0]
  logits = model.predict(pictures, verbose=0)
  values = model.evaluate(pictures, class_ids.astype(np.int32), verbose=0, return_dict=True)
  assert values["iou"] == pytest.approx(iou_by_numpy(class_ids, logits), rel=1e-5)
  assert values["loss"] == pytest.approx(loss_by_numpy(class_ids, logits, 0.5, 0.1), rel=1e-4)
