"""What FCOS learns from: cases worked out by hand, and a plain loop over boxes and locations."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.detection_losses import (
  FcosLoss,
  assign,
  centerness_of,
  generalized_iou,
  sigmoid_focal_loss,
)
from trainers.models.fcos import locations

HEIGHT_PX, WIDTH_PX, STRIDES = 64, 96, (8, 16, 32)
POINTS, SCALES = locations(HEIGHT_PX, WIDTH_PX, STRIDES)
NUM_CLASSES = 3
PADDING = [0.0, 0.0, 0.0, 0.0, -1.0]


def random_boxes(rng, count):
  """float32 [count, 5] of all sizes, whole pixels apart from the middles of cells."""
  sides = np.exp(rng.uniform(np.log(3), np.log(90), (count, 2)))
  low = rng.uniform(-5, 1, (count, 2)) + rng.uniform(0, 1, (count, 2)) * ([WIDTH_PX, HEIGHT_PX] - sides)
  class_ids = rng.integers(0, NUM_CLASSES, (count, 1))
  return np.concatenate([low, low + sides, class_ids], axis=1).astype(np.float32)


def assigned_by_a_loop(boxes):
  """Index of each location's box, or -1: arXiv:1904.01355, sections 3.1 and 3.2, word for word."""
  found = np.full(len(POINTS), -1)
  for at, ((x, y), stride) in enumerate(zip(POINTS, SCALES, strict=True)):
    smallest = np.inf
    for number, (x_min, y_min, x_max, y_max, class_id) in enumerate(boxes):
      left, upper, right, lower = x - x_min, y - y_min, x_max - x, y_max - y
      if class_id < 0 or min(left, upper, right, lower) <= 0:
        continue
      reach = max(left, upper, right, lower)
      if (stride != 8 and reach <= 4 * stride) or (stride != 32 and reach > 8 * stride):
        continue
      if max(abs(x - (x_min + x_max) / 2), abs(y - (y_min + y_max) / 2)) >= 1.5 * stride:
        continue
      area = (x_max - x_min) * (y_max - y_min)
      if area < smallest:
        smallest, found[at] = area, number
  return found


@pytest.mark.parametrize("seed", range(6))
def test_locations_are_assigned_as_by_a_plain_loop(seed):
  boxes = np.stack([random_boxes(np.random.default_rng([seed, picture]), 12) for picture in range(2)])
  # Large ones for the coarser levels.
  boxes[:, 0, :4], boxes[1, 1, :4] = [-20, -30, 110, 90], [-90, -80, 180, 140]
  boxes[0, 8:] = PADDING
  chosen, found, distances = assign(boxes[..., :4], boxes[..., 4], POINTS, SCALES)
  chosen, found, distances = np.array(chosen), np.array(found), np.array(distances)
  levels = set()
  for picture in range(2):
    expected = assigned_by_a_loop(boxes[picture])
    np.testing.assert_array_equal(np.where(found[picture], chosen[picture], -1), expected)
    own = expected >= 0
    box = boxes[picture][expected[own]]
    sides = np.concatenate([POINTS[own] - box[:, :2], box[:, 2:4] - POINTS[own]], axis=1)
    np.testing.assert_allclose(distances[picture][own], sides, atol=1e-4)
    levels |= set(SCALES[own])
  assert levels == set(STRIDES)


def owners(*boxes):
  """{stride: sorted locations (x, y) that answer for a box} and their boxes' numbers in the same order."""
  boxes = np.array([boxes], np.float32)
  chosen, found, _ = assign(boxes[..., :4], boxes[..., 4], POINTS, SCALES)
  found = np.array(found)[0]
  return {(*POINTS[at].tolist(), int(SCALES[at])): int(chosen[0, at]) for at in np.flatnonzero(found)}


def test_a_small_box_belongs_to_the_finest_level_around_its_middle():
  # Middle (30, 30): within 12 px of it and inside are the locations at 20, 28 and 36.
  assert owners([10, 10, 50, 50, 1]) == {(x, y, 8): 0 for x in (20, 28, 36) for y in (20, 28, 36)}
  # A box of 3 px that no location is inside of has none.
  assert owners([13, 13, 16, 16, 0]) == {}
  assert owners([11, 11, 14, 14, 0]) == {(12.0, 12.0, 8): 0}


def test_the_farthest_side_says_which_level():
  # Locations of stride 16 from x = 40 on, of which the side at 96 or at 0 is 64 to 128 away.
  wide = owners([0, 20, 96, 44, 0])
  assert {stride for _, _, stride in wide} == {8}
  # From (40, 24) and (56, 40) the farthest sides are 56: not more than 4 * 16.
  whole = owners([-40, 0, 136, 64, 0])
  assert {stride for _, _, stride in whole} == {16}
  huge = owners([-100, -100, 196, 164, 0])
  assert {stride for _, _, stride in huge} == {32}


def test_the_smallest_box_wins_whatever_the_order():
  large, small = [10, 10, 50, 50, 1], [22, 22, 34, 34, 2]
  for order, number in [((large, small), 1), ((small, large), 0)]:
    found = owners(*order)
    assert found[(28, 28, 8)] == number and found[(20, 20, 8)] == 1 - number
    assert len(found) == 9


def test_padding_is_never_assigned_even_if_it_has_a_size():
  assert owners(PADDING, [10, 10, 50, 50, -1]) == {}


def test_focal_loss_by_hand():
  logits, targets = np.array([0.0, 0.0, np.log(3)], np.float32), np.array([1.0, 0.0, 0.0], np.float32)
  expected = [0.25 * 0.25 * np.log(2), 0.75 * 0.25 * np.log(2), 0.75 * 0.75**2 * np.log(4)]
  np.testing.assert_allclose(sigmoid_focal_loss(targets, logits), expected, rtol=1e-5)
  # Without focus, and with both sides alike: half the cross-entropy.
  np.testing.assert_allclose(sigmoid_focal_loss(targets, logits, 0.5, 0.0), np.log([2, 2, 4]) / 2, rtol=1e-5)
  far = np.array([500.0, -500.0], np.float32)
  np.testing.assert_allclose(sigmoid_focal_loss(np.array([1.0, 0.0]), far), 0, atol=1e-6)
  np.testing.assert_allclose(sigmoid_focal_loss(np.array([0.0, 1.0]), far), [375, 125], rtol=1e-5)


def test_generalized_iou_by_hand():
  first = np.array([[0, 0, 2, 2]] * 5, np.float32)
  second = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [1, 1, 3, 3], [2, 2, 4, 4], [3, 0, 5, 2]], np.float32)
  expected = [1, 1 / 3, 1 / 7 - 2 / 9, -8 / 16, -2 / 10]
  np.testing.assert_allclose(generalized_iou(first, second), expected, atol=1e-5)
  np.testing.assert_allclose(generalized_iou(second, first), expected, atol=1e-5)
  nothing = np.zeros((1, 4), np.float32)
  assert np.isfinite(generalized_iou(nothing, nothing)).all()


def test_centerness_by_hand():
  distances = np.array([[3, 3, 3, 3], [1, 2, 4, 2], [1, 2, 4, 8], [0, 1, 2, 1], [-1, 1, 3, 1]], np.float32)
  np.testing.assert_allclose(centerness_of(distances), [1, 0.5, 0.25, 0, 0], atol=1e-5)


def perfect(boxes):
  """The output that says each location's own box; float32 [locations, classes + 5]."""
  expected = assigned_by_a_loop(boxes)
  own = expected >= 0
  output = np.full((len(POINTS), NUM_CLASSES + 5), -30, np.float32)
  box = boxes[np.maximum(expected, 0)]
  output[own, box[own, 4].astype(int)] = 30
  sides = np.concatenate([POINTS - box[:, :2], box[:, 2:4] - POINTS], axis=1) / SCALES[:, None]
  output[:, NUM_CLASSES:-1] = np.where(own[:, None], np.log(np.expm1(np.maximum(sides, 1e-3))), 0)
  across = np.minimum(sides[:, 0], sides[:, 2]) / np.maximum(sides[:, 0], sides[:, 2])
  down = np.minimum(sides[:, 1], sides[:, 3]) / np.maximum(sides[:, 1], sides[:, 3])
  centres = np.sqrt(np.maximum(across * down, 1e-6)).clip(1e-6, 1 - 1e-6)
  output[:, -1] = np.where(own, np.log(centres / (1 - centres)), 0)
  entropy = -(centres * np.log(centres) + (1 - centres) * np.log(1 - centres))
  return output, float(entropy[own].mean())


def loss_of(boxes, outputs, **settings):
  return float(FcosLoss(HEIGHT_PX, WIDTH_PX, STRIDES, **settings)(np.array(boxes), np.array(outputs)))


def test_the_true_boxes_have_the_least_loss_the_entropy_of_the_centerness():
  boxes = random_boxes(np.random.default_rng(3), 6)
  output, entropy = perfect(boxes)
  assert loss_of([boxes], [output]) == pytest.approx(entropy, abs=1e-3)
  rng = np.random.default_rng(1)
  for part in (np.s_[:, :NUM_CLASSES], np.s_[:, NUM_CLASSES:-1], np.s_[:, -1]):
    for sign in (-1, 1):
      worse = output.copy()
      worse[part] += (
        sign * rng.uniform(0.5, 1, worse[part].shape) * (60 if part[1] == np.s_[:NUM_CLASSES] else 1)
      )
      assert loss_of([boxes], [worse]) > entropy + 0.01


def test_one_location_by_hand():
  loss = FcosLoss(8, 8, (8,))
  # Location (4, 4): 2, 3, 4 and 3 px to the sides; all logits 0, so all sides are predicted 8 ln 2 px away.
  box, output = np.array([[[2, 1, 8, 7, 1]]], np.float32), np.zeros((1, 1, 2 + 5), np.float32)
  centerness, log2 = np.sqrt(2 / 4), np.log(2)
  focal = 0.25 * 0.25 * log2 + 0.75 * 0.25 * log2
  predicted = (16 * log2) ** 2
  # The prediction covers the box, so that it is the hull; the box's loss is weighted by the centerness, of a sum of
  # less than 1.
  giou_loss = 1 - 36 / predicted
  expected = focal + log2 + 2 * centerness * giou_loss
  assert float(loss(box, output)) == pytest.approx(expected, rel=1e-5)
  assert float(FcosLoss(8, 8, (8,), box_weight=0.0)(box, output)) == pytest.approx(focal + log2, rel=1e-5)


def random_output(rng):
  return rng.normal(size=(len(POINTS), NUM_CLASSES + 5)).astype(np.float32)


def test_identical_pictures_equal_one_and_padding_does_not_matter():
  rng = np.random.default_rng(5)
  boxes, output = random_boxes(rng, 4), random_output(rng)
  one = loss_of([boxes], [output])
  assert loss_of([boxes] * 3, [output] * 3) == pytest.approx(one, rel=1e-5)
  padded = np.concatenate([np.tile(PADDING, (2, 1)), boxes, np.tile(PADDING, (5, 1))])
  assert loss_of([padded], [output]) == pytest.approx(one, rel=1e-5)
  assert loss_of([boxes[::-1]], [output]) == pytest.approx(one, rel=1e-5)


def test_every_box_of_a_batch_counts_the_same():
  rng = np.random.default_rng(6)
  boxes, output = random_boxes(rng, 5), random_output(rng)
  empty, silent = np.tile(PADDING, (5, 1)), np.full_like(output, -30)
  # A picture of nothing, seen as such, changes nothing.
  assert loss_of([boxes, empty], [output, silent]) == pytest.approx(loss_of([boxes], [output]), rel=1e-5)


def test_pictures_of_nothing_have_a_finite_loss_of_classes_only():
  output = random_output(np.random.default_rng(7))
  empty = np.tile(PADDING, (3, 1)).astype(np.float32)
  expected = float(np.sum(sigmoid_focal_loss(np.zeros((len(POINTS), NUM_CLASSES)), output[:, :NUM_CLASSES])))
  assert loss_of([empty], [output]) == pytest.approx(expected, rel=1e-5)
  gradient = gradient_of(empty[None], output[None])
  assert np.all(np.isfinite(gradient)) and np.all(gradient[..., NUM_CLASSES:] == 0)


def gradient_of(boxes, outputs):
  outputs = tf.Variable(outputs)
  with tf.GradientTape() as tape:
    loss = FcosLoss(HEIGHT_PX, WIDTH_PX, STRIDES)(boxes, outputs)
  return tape.gradient(loss, outputs).numpy()


@pytest.mark.parametrize("size", [1.0, 100.0])
def test_gradients_are_finite_and_boxes_learn_only_where_there_are_some(size):
  rng = np.random.default_rng(8)
  boxes, output = random_boxes(rng, 6), random_output(rng) * size
  # A box on whose side a location lies.
  boxes[0, :4] = [12, 12, 40, 40]
  gradient = gradient_of(boxes[None], output[None])[0]
  assert np.all(np.isfinite(gradient))
  own = assigned_by_a_loop(boxes) >= 0
  assert np.all(gradient[~own, NUM_CLASSES:] == 0)
  assert np.any(gradient[own, NUM_CLASSES:-1] != 0)


def test_it_trains_in_fit_and_is_the_same_after_a_round_trip():
  rng = np.random.default_rng(9)
  boxes = np.stack([random_boxes(rng, 4) for _ in range(4)])
  keras.utils.set_random_seed(1)
  inputs = keras.Input((4,))
  outputs = keras.layers.Dense(len(POINTS) * (NUM_CLASSES + 5))(inputs)
  model = keras.Model(inputs, keras.layers.Reshape((len(POINTS), -1))(outputs))
  loss = FcosLoss(HEIGHT_PX, WIDTH_PX, STRIDES, box_weight=1.5, name="mine")
  again = keras.losses.deserialize(keras.losses.serialize(loss))
  assert isinstance(again, FcosLoss) and again.get_config() == loss.get_config()
  model.compile(keras.optimizers.Adam(0.05), again)
  history = model.fit(np.eye(4, dtype=np.float32), boxes, batch_size=2, epochs=2, verbose=0).history["loss"]
  assert np.all(np.isfinite(history)) and history[1] < history[0]
  predicted = model.predict(np.eye(4), verbose=0)
  assert float(again(boxes, predicted)) == pytest.approx(float(loss(boxes, predicted)))
