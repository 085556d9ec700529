"""Knowledge distillation: a student learns the labels and the teacher's softened answers.

Why not `keras.distillation.Distiller` of Keras 3.12: its LogitsDistillation, as it comes, applies the
divergence to the logits themselves (the name "kl_divergence" stands for a function, and only an instance of
the class is given softmaxed values and the factor T^2), and a loss function, unlike a Loss, is not divided by
the number of replicas.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras

# (model, inputs, training=...) -> logits [..., classes], of models that answer with something else.
Logits = Callable[..., Any]


class SoftTargetLoss(keras.losses.Loss):
  """T^2 times the divergence of the student's softened distribution from the teacher's.

  T^2 keeps the gradients' size independent of the temperature. As a Loss it is averaged over the batch and,
  under a tf.distribute strategy, divided by the number of replicas.

  Args:
    temperature: T > 0; logits are divided by it before the softmax.

  Source: Hinton, Vinyals and Dean 2015, arXiv:1503.02531, section 2.
  """

  def __init__(self, temperature: float):
    super().__init__(name="soft_target_loss")
    if temperature <= 0:
      raise ValueError(f"temperature is {temperature:g}; choose one above 0")
    self.temperature = temperature

  def call(self, y_true, y_pred):
    """Per-example loss.

    Args:
      y_true: the teacher's logits [..., classes].
      y_pred: the student's logits, of the same shape.

    Returns:
      float32 [...], in nats times T^2.
    """
    teacher = keras.ops.log_softmax(y_true / self.temperature, axis=-1)
    student = keras.ops.log_softmax(y_pred / self.temperature, axis=-1)
    divergence = keras.ops.sum(keras.ops.exp(teacher) * (teacher - student), axis=-1)
    return self.temperature**2 * divergence


class FeatureImitation(keras.layers.Layer):
  """How far a student's features, brought to the teacher's channels by a learned matrix, are from the teacher's.

  The mean of the squared differences over the mean of the teacher's squares: 0 is the same, 1 as far as zeros are.

  Args:
    teacher: functional model with layers of these names.
    student: another; its features have the same rows and columns.
    names: of the layers whose outputs are compared.

  Raises:
    ValueError: a model lacks one of the layers.

  Source: Romero et al. 2015, arXiv:1412.6550.
  """

  def __init__(self, teacher: keras.Model, student: keras.Model, names: Sequence[str]):
    super().__init__(name="feature_imitation")
    taught, learned = _features(teacher, names), _features(student, names)
    # A partial is not tracked: neither model's weights become this layer's.
    self._taught, self._learned = functools.partial(taught), functools.partial(learned)
    self._projections = [
      keras.layers.Dense(output.shape[-1], use_bias=False, name=f"imitate_{place}")
      for place, output in enumerate(taught.outputs)
    ]
    for projection, output in zip(self._projections, learned.outputs, strict=True):
      projection.build(output.shape)
    self.built = True

  def call(self, inputs: Any) -> Any:
    """float32 scalar, for the inputs of both models; gradients reach the student and the matrices."""
    taught = _as_list(self._taught(inputs, training=False))
    learned = _as_list(self._learned(inputs, training=True))
    total = 0.0
    for teacher, student, projection in zip(taught, learned, self._projections, strict=True):
      teacher = keras.ops.stop_gradient(keras.ops.cast(teacher, "float32"))
      distance = keras.ops.mean(keras.ops.square(teacher - keras.ops.cast(projection(student), "float32")))
      total += distance / (keras.ops.mean(keras.ops.square(teacher)) + 1e-6)
    return total / len(self._projections)


def _features(model: keras.Model, names: Sequence[str]) -> keras.Model:
  known = {layer.name for layer in model.layers}
  missing = [name for name in names if name not in known]
  if missing:
    raise ValueError(f"{model.name} has no layer {missing[0]!r}: give the student the levels of the teacher")
  return keras.Model(model.inputs, [model.get_layer(name).output for name in names])


def _as_list(outputs: Any) -> list[Any]:
  return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


class DistillationModel(keras.Model):
  """The student, trained on (1 - alpha) times the compiled loss plus alpha times the teacher's soft targets.

  With features to imitate, `feature_weight` times their distance is added.

  It answers as the student does, and its weights are the student's alone: the teacher is no part of
  checkpoints. The validation loss is the labels' alone, comparable with that of a student trained without a
  teacher.

  Args:
    teacher, student, temperature, alpha, logits, feature_layers, feature_weight, soft_loss: see `distill_model`.
  """

  def __init__(
    self,
    teacher: keras.Model,
    student: keras.Model,
    temperature: float,
    alpha: float,
    logits: Logits | None,
    feature_layers: Sequence[str] = (),
    feature_weight: float = 0.0,
    soft_loss: keras.losses.Loss | None = None,
  ):
    super().__init__(name=f"distilled_{student.name}")
    self.student = student
    self.alpha = alpha
    self._student_logits = logits and functools.partial(logits, student)
    # A partial is not tracked: the teacher's weights are neither trained nor saved.
    self._teacher_logits = functools.partial(logits, teacher) if logits else functools.partial(teacher)
    self._soft_target_loss = soft_loss or SoftTargetLoss(temperature)
    self.feature_weight = feature_weight
    self._imitation = FeatureImitation(teacher, student, feature_layers) if feature_weight else None
    self.built = True

  def call(self, inputs, training=None):
    """The student's answer."""
    return self.student(inputs, training=training)

  def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
    """Called by fit; see the class."""
    loss = super().compute_loss(x, y, y_pred, sample_weight, training)
    if not training:
      return loss
    if self.alpha:
      loss = self._with_soft_targets(loss, x, y_pred, sample_weight)
    if self._imitation is not None:
      replicas = self.distribute_strategy.num_replicas_in_sync
      loss += self.feature_weight * self._imitation(x) / replicas
    return loss

  def _with_soft_targets(self, loss: Any, x: Any, y_pred: Any, sample_weight: Any) -> Any:
    teacher_logits = keras.ops.stop_gradient(self._teacher_logits(x, training=False))
    student_logits = self._student_logits(x, training=True) if self._student_logits else y_pred
    soft = self._soft_target_loss(teacher_logits, student_logits, sample_weight)
    return (1 - self.alpha) * loss + self.alpha * soft


def distill_model(
  teacher: keras.Model,
  student: keras.Model,
  temperature: float,
  alpha: float,
  logits: Logits | None = None,
  feature_layers: Sequence[str] = (),
  feature_weight: float = 0.0,
  soft_loss: keras.losses.Loss | None = None,
) -> DistillationModel:
  """The model to hand to `trainers.fit.fit`, with the loss on the labels; it trains `student` in place.

  Args:
    teacher: trained model from inputs to logits [..., classes]; used in inference mode and left as it is.
    student: built model with inputs and outputs of the same shapes.
    temperature: T > 0.
    alpha: weight of the soft targets in [0, 1]; the labels' loss has 1 - alpha.
    logits: for models that answer with something else; what it gives is averaged over all but its last axis.
    feature_layers: names of layers of both models whose outputs the student imitates.
    feature_weight: of their distance, see `FeatureImitation`; 0: they are not looked at.
    soft_loss: of (the teacher's answer, the student's), for answers that are no distributions; None: `SoftTargetLoss`.

  Raises:
    ValueError: the shapes differ, or a number is out of its range.
  """
  if not 0 <= alpha <= 1:
    raise ValueError(f"alpha is {alpha:g}; choose a weight between 0 and 1")
  # With logits of their own, models need not even have one shape.
  for side in () if logits else ("input_shape", "output_shape"):
    taught, learned = getattr(teacher, side), getattr(student, side)
    if taught != learned:
      raise ValueError(f"{side} of the teacher is {taught}, of the student {learned}; they must be the same")
  return DistillationModel(
    teacher, student, temperature, alpha, logits, feature_layers, feature_weight, soft_loss
  )
