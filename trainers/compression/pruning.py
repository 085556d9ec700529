"""Magnitude pruning of Keras 3 models on the pruning core of tfmot, whose own wrappers take legacy Keras models only.

The core chooses the masks, from a Keras callback; a variable constraint multiplies them in after every optimizer step,
inside the compiled training step: weights are exactly sparse in every forward pass, whatever `steps_per_execution` is.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from trainers.compression.kernels import Kernel, all_kernels


def prunable_variables(
  model: keras.Model,
  skip: Sequence[str] = (),
  skip_first_layer: bool = False,
  skip_last_layer: bool = False,
  skip_embeddings: bool = False,
) -> list[Kernel]:
  """Kernels and embeddings: of dense, convolution, recurrent and attention layers; no biases or norms.

  Args:
    model: a built model, nested to any depth.
    skip: regular expressions; a layer is left out where one matches in full its name, its path ("encoder/dense_1"), or
      the name or path of a layer around it.
    skip_first_layer: leaves out the first layer that has such a weight, in the order of the model's layers: it
      holds few of a network's weights, and everything else sees the input through it.
    skip_last_layer: leaves out the last one.
    skip_embeddings: leaves out embedding tables.

  Returns:
    The weights in the order of the layers, each once, shared ones included.

  Raises:
    ValueError: a pattern is no regular expression or matches no layer, or nothing is left to prune.
  """
  weights = all_kernels(model)
  skipped = _matching(weights, skip)
  for is_skipped, end in ((skip_first_layer, weights[:1]), (skip_last_layer, weights[-1:])):
    if is_skipped and end:
      skipped |= {id(weight) for weight in weights if weight.layer is end[0].layer}
  if skip_embeddings:
    skipped |= {id(weight) for weight in weights if weight.is_embedding}
  kept = [weight for weight in weights if id(weight) not in skipped]
  if not kept:
    raise ValueError(f"nothing to prune in {model.name}: {len(weights)} kernels, all skipped; skip fewer")
  return kept


def _matching(weights: list[Kernel], patterns: Sequence[str]) -> set[int]:
  """Ids of the weights that any pattern names; every pattern must name one."""
  matched = set()
  for pattern in patterns:
    try:
      matches = re.compile(pattern).fullmatch
    except re.error as error:
      raise ValueError(f"skip: {pattern!r} is no regular expression ({error})") from None
    hits = {id(weight) for weight in weights if any(map(matches, _names(weight)))}
    if not hits:
      layers = ", ".join(weight.name for weight in weights)
      raise ValueError(f"skip: {pattern!r} matches no layer with a kernel; there are {layers}")
    matched |= hits
  return matched


def _names(weight: Kernel) -> list[str]:
  """What a pattern may match: "a/b/c" gives a, b, c, a/b and a/b/c."""
  parts = weight.name.split("/")
  return parts + ["/".join(parts[:count]) for count in range(2, len(parts) + 1)]


def matmul_shape(weight: Kernel) -> tuple[int, ...] | None:
  """The shape in which tfmot finds groups of four along the axis that the layer sums over, for 2:4 pruning.

  tfmot groups [inputs, outputs] along inputs and [height, width, inputs, outputs] along inputs.

  Returns:
    A shape of rank 2 or 4 with as many elements, or None for weights that are no such product: embeddings,
    depthwise and transposed convolutions, kernels of unknown layers with more than two axes.
  """
  shape = tuple(weight.variable.shape)
  layer = weight.layer
  if weight.is_embedding or weight.variable.name == "depthwise_kernel":
    return None
  if isinstance(layer, keras.layers.EinsumDense):
    return _einsum_matmul_shape(layer.equation, shape)
  if len(shape) == 2:
    return shape
  if weight.variable.name == "pointwise_kernel" or isinstance(
    layer, (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
  ):
    return (math.prod(shape[:-3]), *shape[-3:])
  return None


def _einsum_matmul_shape(equation: str, shape: tuple[int, ...]) -> tuple[int, int] | None:
  operands, output = equation.replace(" ", "").split("->")
  letters = operands.split(",")[1]
  summed = [letter not in output for letter in letters]
  count = sum(summed)
  if not all(summed[:count]):
    return None
  return math.prod(shape[:count]), math.prod(shape[count:])


def _tfmot():
  """tfmot's core, and its subclass for kernels of other ranks; keeps TF_USE_LEGACY_KERAS as it was."""
  before = os.environ.get("TF_USE_LEGACY_KERAS")
  try:
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl, pruning_schedule
  finally:
    os.environ.pop("TF_USE_LEGACY_KERAS", None)
    if before is not None:
      os.environ["TF_USE_LEGACY_KERAS"] = before

  class ReshapedPruning(pruning_impl.Pruning):
    """Finds 2:4 masks on the kernel's matrix shape, for attention and 1-D convolutions too."""

    def __init__(self, *args, matmul_shapes, **kwargs):
      super().__init__(*args, **kwargs)
      self._matmul_shapes = matmul_shapes

    def _update_mask_sparsity_m_by_n(self, weights, m_by_n=(2, 4)):
      view = tf.reshape(weights, self._matmul_shapes[id(weights)])
      return tf.reshape(super()._update_mask_sparsity_m_by_n(view, m_by_n), weights.shape)

  return ReshapedPruning, pruning_schedule


class MaskConstraint(keras.constraints.Constraint):
  """Multiplies a variable by its mask after every optimizer step, after the constraint it had before."""

  def __init__(self, mask: tf.Variable, inner: keras.constraints.Constraint | None):
    self.mask = mask
    self.inner = inner

  def __call__(self, w):
    w = w if self.inner is None else self.inner(w)
    return tf.convert_to_tensor(w) * self.mask


class PruningCallback(keras.callbacks.Callback):
  """Prunes while `fit` fine-tunes, so that what it leaves behind is exactly as sparse as asked.

  Sparsity grows from 0 along a cubic curve (Zhu and Gupta 2017) or is there from the start ("constant"); the
  masks are chosen anew a few dozen times until `ramp_fraction` of the steps are done and then stay, so that
  the rest of the fine-tuning runs at full sparsity. 2:4 masks are chosen once, at the start.

  Compile the model anew before `fit`, as `trainers.fit.fit` does: a training step traced before has no
  constraint in it. The masks are applied at the end of training; whoever loads other weights into the model
  afterwards (the best epoch's) calls `apply_masks` again.

  Args:
    weights: from `prunable_variables`.
    sparsity: fraction of each weight's elements to be zero, in (0, 1); for "2:4" it is 0.5 by definition and
      not read.
    pattern: "unstructured", or "2:4": at most two of each four neighbours along the summed axis are not zero.
      Weights that `matmul_shape` cannot bring to a matrix stay dense.
    schedule: "polynomial" or "constant".
    ramp_fraction: share of the training steps after which the masks are final.
    max_updates: how often masks are chosen anew, at most; each sorts every weight.

  Raises:
    ValueError: nothing can be pruned in this pattern.

  Source: Zhu and Gupta 2017, arXiv:1710.01878; Mishra et al. 2021, arXiv:2104.08378.
  """

  def __init__(
    self,
    weights: Sequence[Kernel],
    sparsity: float,
    pattern: str = "unstructured",
    schedule: str = "polynomial",
    ramp_fraction: float = 0.5,
    max_updates: int = 32,
  ):
    super().__init__()
    if pattern not in ("unstructured", "2:4"):
      raise ValueError(f"pattern {pattern!r} is unknown; use unstructured or 2:4")
    if schedule not in ("polynomial", "constant"):
      raise ValueError(f"schedule {schedule!r} is unknown; use polynomial or constant")
    if not 0 < sparsity < 1:
      raise ValueError(f"sparsity is {sparsity:g}; choose a fraction between 0 and 1")
    self.pattern = pattern
    self.weights = [weight for weight in weights if pattern != "2:4" or matmul_shape(weight)]
    if not self.weights:
      raise ValueError("no kernel can be pruned 2:4; use pattern unstructured")
    self._sparsity = 0.5 if pattern == "2:4" else sparsity
    self._schedule = schedule
    self._ramp_fraction = ramp_fraction
    self._max_updates = max_updates
    self._masks = []

  def on_train_begin(self, logs=None):
    """Sets up masks and constraints; chooses the first masks."""
    steps = self.params.get("steps")
    if not steps:
      raise ValueError("pruning needs to know the number of steps: call fit with steps_per_epoch")
    # `on_train_batch_end` runs once an execution of several steps: that is the schedule's unit.
    executions = self.params["epochs"] * math.ceil(steps / self.model.steps_per_execution)
    ramp = max(1, round(self._ramp_fraction * executions))
    frequency = math.ceil(ramp / self._max_updates)
    self._last_update = 1 + ramp // frequency * frequency
    self._strategy = self.model.distribute_strategy
    with self._strategy.scope():
      self._step = tf.Variable(1, trainable=False, dtype=tf.int64)
      self._masks = [
        tf.Variable(tf.ones_like(weight.variable.value), trainable=False) for weight in self.weights
      ]
      self._pruning = self._build_pruning(frequency)
    for weight, mask in zip(self.weights, self._masks, strict=True):
      weight.variable.constraint = MaskConstraint(mask, weight.variable.constraint)
    self._update()

  def _build_pruning(self, frequency: int):
    pruning_class, schedules = _tfmot()
    if self._schedule == "polynomial" and self.pattern == "unstructured":
      schedule = schedules.PolynomialDecay(0.0, self._sparsity, 1, self._last_update, frequency=frequency)
    else:
      schedule = schedules.ConstantSparsity(self._sparsity, 1, self._last_update, frequency=frequency)
    values = [weight.variable.value for weight in self.weights]
    thresholds = [tf.Variable(tf.zeros([], value.dtype), trainable=False) for value in values]
    return pruning_class(
      training_step_fn=lambda: self._step,
      pruning_vars=list(zip(values, self._masks, thresholds, strict=True)),
      pruning_schedule=schedule,
      block_size=(1, 1),
      block_pooling_type="AVG",
      sparsity_m_by_n=(2, 4) if self.pattern == "2:4" else None,
      matmul_shapes={id(v): matmul_shape(w) for v, w in zip(values, self.weights, strict=True)},
    )

  def _update(self):
    with self._strategy.scope():
      self._pruning.conditional_mask_update()
    self.apply_masks()

  def on_train_batch_end(self, batch, logs=None):
    """Moves the schedule on by one execution."""
    self._step.assign_add(1)
    self._update()

  def on_train_end(self, logs=None):
    """Finishes the schedule if training ended early, applies the masks and removes the constraints."""
    if self.pattern == "unstructured" and int(self._step.numpy()) < self._last_update:
      self._step.assign(self._last_update)
      self._update()
    self.apply_masks()
    for weight in self.weights:
      weight.variable.constraint = weight.variable.constraint.inner
    # The compiled step still has the masks in it.
    self.model.train_function = None

  def apply_masks(self) -> None:
    """Sets every masked weight to exactly 0, on every replica."""
    with self._strategy.scope():
      self._pruning.weight_mask_op()

  @property
  def masks(self) -> dict[str, np.ndarray]:
    """Weight name -> mask, 1 where the weight is kept and 0 where it is pruned."""
    return {weight.name: mask.numpy() for weight, mask in zip(self.weights, self._masks, strict=True)}
