"""Losses and metrics of class ids for each pixel."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

# Pixels of this class id belong to no class: they teach nothing and are not counted.
VOID_ID = 255


@keras.saving.register_keras_serializable(package="deepline")
class SegmentationLoss(keras.losses.Loss):
  """Softmax cross-entropy of the pixels, and one minus the soft Dice coefficient of the classes.

  Cross-entropy counts pixels, so that small classes hardly matter; Dice counts classes.

  Args:
    dice_weight: of the second; the first has 1.
    label_smoothing: share of each pixel's target that is spread evenly over all classes.

  Source: Milletari et al. 2016, arXiv:1606.04797 (Dice).
  """

  def __init__(self, dice_weight: float = 1.0, label_smoothing: float = 0.0, name: str = "segmentation_loss"):
    super().__init__(name=name)
    self.dice_weight = dice_weight
    self.label_smoothing = label_smoothing

  def get_config(self) -> dict[str, Any]:
    """Constructor arguments."""
    return {"name": self.name, "dice_weight": self.dice_weight, "label_smoothing": self.label_smoothing}

  def call(self, y_true: Any, y_pred: Any) -> Any:
    """Loss of each picture.

    Args:
      y_true: class ids, integers [batch, rows, columns]; `VOID_ID` for none.
      y_pred: logits float32 [batch, rows, columns, classes].

    Returns:
      float32 [batch]. The Dice coefficients are those of the whole batch: a class that a picture lacks says nothing.
    """
    num_classes = y_pred.shape[-1]
    y_true = ops.cast(y_true, "int32")
    is_known = ops.cast(ops.not_equal(y_true, VOID_ID), "float32")
    targets = ops.one_hot(ops.where(is_known > 0, y_true, -1), num_classes)
    smooth = targets * (1 - self.label_smoothing) + self.label_smoothing / num_classes
    log_probabilities = ops.log_softmax(y_pred, axis=-1)
    nats = -ops.sum(smooth * log_probabilities, axis=-1) * is_known
    # Every pixel of a batch counts the same, however many of its picture's are void.
    per_picture = ops.sum(nats, axis=(1, 2))
    batch = ops.cast(ops.shape(y_pred)[0], "float32")
    cross_entropy = per_picture * batch / ops.maximum(ops.sum(is_known), 1.0)

    probabilities = ops.exp(log_probabilities) * is_known[..., None]
    overlap = ops.sum(probabilities * targets, axis=(0, 1, 2))
    total = ops.sum(probabilities, axis=(0, 1, 2)) + ops.sum(targets, axis=(0, 1, 2))
    occurs = ops.cast(ops.sum(targets, axis=(0, 1, 2)) > 0, "float32")
    dice = ops.sum(occurs * 2 * overlap / ops.maximum(total, 1e-6)) / ops.maximum(ops.sum(occurs), 1.0)
    return cross_entropy + self.dice_weight * (1 - dice)


@keras.saving.register_keras_serializable(package="deepline")
class MeanIou(keras.metrics.Metric):
  """Mean over the classes that occur of intersection over union, all pixels since the last reset taken together.

  keras.metrics.MeanIoU counts in the dtype of its policy and takes no void pixels out of the prediction.

  Args:
    num_classes: number of classes.
  """

  def __init__(self, num_classes: int, name: str = "mean_iou", **kwargs: Any):
    super().__init__(name=name, **kwargs)
    self.num_classes = num_classes
    # Millions of pixels a batch: float32 would lose their digits.
    self._counts = self.add_variable(
      shape=(num_classes * num_classes,), initializer="zeros", name="counts", dtype="float64"
    )

  def get_config(self) -> dict[str, Any]:
    """Constructor arguments."""
    return {**super().get_config(), "num_classes": self.num_classes}

  def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
    """Adds pictures; arguments as in `SegmentationLoss.call`. `sample_weight` is not used."""
    del sample_weight
    actual = ops.reshape(ops.cast(y_true, "int32"), (-1,))
    predicted = ops.reshape(ops.cast(ops.argmax(y_pred, axis=-1), "int32"), (-1,))
    pair = ops.where(ops.equal(actual, VOID_ID), self.num_classes**2, actual * self.num_classes + predicted)
    counts = ops.bincount(pair, minlength=self.num_classes**2 + 1)[: self.num_classes**2]
    self._counts.assign_add(ops.cast(counts, "float64"))

  def result(self) -> Any:
    """float32; 0 where there was no pixel."""
    matrix = ops.reshape(self._counts, (self.num_classes, self.num_classes))
    hits = ops.diagonal(matrix)
    union = ops.sum(matrix, axis=0) + ops.sum(matrix, axis=1) - hits
    occurs = ops.cast(union > 0, "float64")
    iou = hits / ops.maximum(union, 1.0)
    return ops.cast(ops.sum(iou) / ops.maximum(ops.sum(occurs), 1.0), "float32")
