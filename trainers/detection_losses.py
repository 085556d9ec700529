"""What a detector without anchors learns from: which location answers for which box, and three losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from trainers.models.fcos import NUM_DISTANCES, decode_boxes, locations

# Boxes are learned by the locations around their middle, at most so many strides away (arXiv:1904.01355v4).
CENTRE_RADIUS = 1.5
# A level learns boxes whose farthest side is between these multiples of its stride away; the finest level also smaller
# ones, the coarsest larger ones.
SMALLEST_REACH, LARGEST_REACH = 4.0, 8.0
_FAR = 1e8


def assign(boxes: Any, class_ids: Any, points: np.ndarray, scales: np.ndarray) -> tuple[Any, Any, Any]:
  """The box that each location answers for: of those it may, the smallest.

  Args:
    boxes: float32 [batch, boxes, 4]: x_min, y_min, x_max, y_max in pixels.
    class_ids: float32 or int [batch, boxes]; -1 is padding.
    points: float32 [locations, 2] of `trainers.models.fcos.locations`.
    scales: float32 [locations], strides.

  Returns:
    int32 [batch, locations], index of the box; bool [batch, locations], whether there is one; float32
    [batch, locations, 4], distances to its left, upper, right and lower side in pixels.

  Source: Tian et al. 2019, arXiv:1904.01355, section 3.
  """
  x, y = points[:, None, 0], points[:, None, 1]
  x_min, y_min, x_max, y_max = (boxes[:, None, :, side] for side in range(4))
  distances = ops.stack([x - x_min, y - y_min, x_max - x, y_max - y], axis=-1)
  is_inside = ops.min(distances, axis=-1) > 0
  radius = CENTRE_RADIUS * scales[:, None]
  off_centre = ops.maximum(ops.abs(x - (x_min + x_max) / 2), ops.abs(y - (y_min + y_max) / 2))
  reach = ops.max(distances, axis=-1)
  shortest = np.where(scales == scales.min(), 0.0, SMALLEST_REACH * scales)[:, None]
  longest = np.where(scales == scales.max(), _FAR, LARGEST_REACH * scales)[:, None]
  may = is_inside & (off_centre < radius) & (reach > shortest) & (reach <= longest)
  may = may & ops.expand_dims(class_ids >= 0, 1)
  area = (x_max - x_min) * (y_max - y_min)
  area = ops.where(may, area, _FAR)
  chosen = ops.argmin(area, axis=-1)
  found = ops.min(area, axis=-1) < _FAR
  picked = ops.take_along_axis(distances, chosen[..., None, None], axis=2)
  return chosen, found, ops.squeeze(picked, axis=2)


def sigmoid_focal_loss(targets: Any, logits: Any, alpha: float = 0.25, gamma: float = 2.0) -> Any:
  """Focal loss of independent classes, float32 of the logits' shape.

  Source: Lin et al. 2017, arXiv:1708.02002.
  """
  probability = ops.sigmoid(logits)
  cross_entropy = ops.relu(logits) - logits * targets + ops.softplus(-ops.abs(logits))
  missed = targets * (1 - probability) + (1 - targets) * probability
  weight = alpha * targets + (1 - alpha) * (1 - targets)
  return weight * ops.power(missed, gamma) * cross_entropy


def generalized_iou(first: Any, second: Any) -> Any:
  """Generalized intersection over union in [-1, 1] of boxes float32 [..., 4] (x_min, y_min, x_max, y_max).

  Source: Rezatofighi et al. 2019, arXiv:1902.09630.
  """
  intersection = _area(
    ops.maximum(first[..., :2], second[..., :2]), ops.minimum(first[..., 2:], second[..., 2:])
  )
  union = _area(first[..., :2], first[..., 2:]) + _area(second[..., :2], second[..., 2:]) - intersection
  hull = _area(ops.minimum(first[..., :2], second[..., :2]), ops.maximum(first[..., 2:], second[..., 2:]))
  tiny = 1e-7
  return intersection / (union + tiny) - (hull - union) / (hull + tiny)


def _area(low: Any, high: Any) -> Any:
  sides = ops.relu(high - low)
  return sides[..., 0] * sides[..., 1]


@keras.saving.register_keras_serializable(package="deepline")
class FcosLoss(keras.losses.Loss):
  """Focal loss of the classes, GIoU loss of the boxes weighted by their centerness, cross-entropy of the centerness.

  Every box of a batch counts the same, however many its picture has.

  Args:
    height: rows of the pictures.
    width: columns of the pictures.
    strides: of the model's levels.
    box_weight: of the GIoU loss.

  Source: Tian et al. 2019, arXiv:1904.01355.
  """

  def __init__(
    self, height: int, width: int, strides: Sequence[int], box_weight: float = 2.0, name: str = "fcos_loss"
  ):
    super().__init__(name=name)
    self._settings = {"height": height, "width": width, "strides": tuple(strides), "box_weight": box_weight}
    self._points, self._scales = locations(height, width, strides)
    self._box_weight = box_weight

  def get_config(self) -> dict[str, Any]:
    """Constructor arguments."""
    return {"name": self.name, **self._settings}

  def call(self, y_true: Any, y_pred: Any) -> Any:
    """Loss of each picture.

    Args:
      y_true: float32 [batch, boxes, 5]: x_min, y_min, x_max, y_max in pixels, class id; class -1 is padding.
      y_pred: float32 [batch, locations, classes + 5], see `trainers.models.fcos.build_fcos`.

    Returns:
      float32 [batch], scaled so that the mean is that of the batch's locations that answer for a box.
    """
    num_classes = y_pred.shape[-1] - NUM_DISTANCES - 1
    y_true = ops.cast(y_true, "float32")
    class_ids = y_true[..., 4]
    chosen, found, distances = assign(y_true[..., :4], class_ids, self._points, self._scales)
    is_found = ops.cast(found, "float32")
    assigned = ops.cast(ops.take_along_axis(class_ids, chosen, axis=1), "int32")
    class_targets = ops.one_hot(ops.where(found, assigned, -1), num_classes)
    classes = ops.sum(sigmoid_focal_loss(class_targets, y_pred[..., :num_classes]), axis=(1, 2))

    centerness = centerness_of(distances)
    weights = ops.where(found, centerness, 0.0)
    true_boxes = ops.concatenate(
      [self._points - distances[..., :2], self._points + distances[..., 2:]], axis=-1
    )
    predicted = decode_boxes(y_pred[..., num_classes:-1], self._points, self._scales)
    boxes = ops.sum(weights * (1 - generalized_iou(true_boxes, predicted)), axis=1)

    logits = y_pred[..., -1]
    cross_entropy = ops.relu(logits) - logits * weights + ops.softplus(-ops.abs(logits))
    centres = ops.sum(is_found * cross_entropy, axis=1)

    batch = ops.cast(ops.shape(y_pred)[0], "float32")
    per_location = batch / ops.maximum(ops.sum(is_found), 1.0)
    per_box = batch / ops.maximum(ops.sum(weights), 1.0)
    return (classes + centres) * per_location + self._box_weight * boxes * per_box


class SoftDetectionLoss(keras.losses.Loss):
  """How far a detector's answers are from a teacher's: its classes everywhere, its boxes where it sees something.

  The classes are independent of each other: for each the divergence of the student's softened probability from the
  teacher's, times T^2. Where the teacher sees nothing there is nothing to learn of boxes and centerness: the mean
  distance of their raw values is weighted by its best class's probability. The sum of these probabilities takes the
  place of the number of locations that answer for a box in `FcosLoss`.

  Args:
    temperature: T > 0; logits of classes are divided by it.

  Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531; for detectors Chen et al. 2017, "Learning Efficient Object
  Detection Models with Knowledge Distillation".
  """

  def __init__(self, temperature: float, name: str = "soft_detection_loss"):
    super().__init__(name=name)
    self.temperature = temperature

  def get_config(self) -> dict[str, Any]:
    """Constructor arguments."""
    return {"name": self.name, "temperature": self.temperature}

  def call(self, y_true: Any, y_pred: Any) -> Any:
    """Loss of each picture.

    Args:
      y_true: the teacher's output, float32 [batch, locations, classes + 5].
      y_pred: the student's, of the same shape.

    Returns:
      float32 [batch].
    """
    num_classes = y_pred.shape[-1] - NUM_DISTANCES - 1
    teacher, student = (y[..., :num_classes] / self.temperature for y in (y_true, y_pred))
    probability = ops.sigmoid(teacher)
    divergence = probability * (ops.log_sigmoid(teacher) - ops.log_sigmoid(student))
    divergence += (1 - probability) * (ops.log_sigmoid(-teacher) - ops.log_sigmoid(-student))
    classes = self.temperature**2 * ops.sum(divergence, axis=(1, 2))
    confidence = ops.max(ops.sigmoid(y_true[..., :num_classes]), axis=-1)
    distance = ops.mean(ops.abs(y_true[..., num_classes:] - y_pred[..., num_classes:]), axis=-1)
    boxes = ops.sum(confidence * distance, axis=1)
    batch = ops.cast(ops.shape(y_pred)[0], "float32")
    return (classes + boxes) * batch / ops.maximum(ops.sum(confidence), 1.0)


def centerness_of(distances: Any) -> Any:
  """How far a location is from its box's sides alike: 1 in the middle, 0 at a side; 0 outside too.

  Args:
    distances: float32 [..., 4]: to the left, upper, right and lower side.

  Returns:
    float32 [...].
  """
  left, upper, right, lower = (distances[..., side] for side in range(4))
  across = ops.minimum(left, right) / ops.maximum(ops.maximum(left, right), 1e-6)
  down = ops.minimum(upper, lower) / ops.maximum(ops.maximum(upper, lower), 1e-6)
  return ops.sqrt(ops.relu(across) * ops.relu(down) + 1e-12)
