"""An LSTM layer whose gradient does as little as possible in its loop over time.

On a CPU it takes about half the time of keras.layers.LSTM, forward and backward: the gradient of a TensorFlow loop adds
up the gradient of the recurrent weights step by step, each time a pass over a whole matrix; here it is one product of
matrices after the loop, and all that does not depend on the next step is computed for all steps at once before it.

Source: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory"; Gers, Schmidhuber and Cummins 2000 (forget gate)
"""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf
from keras import layers


class LstmLayer(layers.Layer):
  """One LSTM layer from the zero state, time first.

  Args:
    units: width of the state.
    recurrent_dropout: share of the recurrent weights that a training step leaves out.
    **kwargs: of keras.layers.Layer.

  Source: Merity, Keskar and Socher 2018, arXiv:1708.02182, section 2 (dropped recurrent weights)
  """

  def __init__(self, units: int, recurrent_dropout: float = 0.0, **kwargs: Any):
    super().__init__(**kwargs)
    self.units = units
    self.weight_dropout = layers.Dropout(recurrent_dropout, name="weight_dropout", dtype="float32")

  def build(self, input_shape: Any) -> None:
    """Makes the weights; the gates' order is that of `lstm_recurrence`."""
    width = 4 * self.units
    bound = 1 / math.sqrt(self.units)
    uniform = keras.initializers.RandomUniform(-bound, bound)
    self.kernel = self.add_weight(name="kernel", shape=(input_shape[-1], width), initializer=uniform)
    self.recurrent_kernel = self.add_weight(
      name="recurrent_kernel", shape=(self.units, width), initializer=uniform.clone(), autocast=False
    )
    self.bias = self.add_weight(name="bias", shape=(width,), initializer=_forget_nothing, autocast=False)

  def call(self, x: Any, training: bool | None = None) -> Any:
    """float32 [length, batch, units] from [length, batch, width]."""
    length, batch = tf.unstack(tf.shape(x)[:2])
    # The inputs of all steps in one product: only the recurrent one is left to the loop.
    projected = tf.reshape(self._project(tf.reshape(x, [-1, x.shape[-1]])), [length, batch, 4 * self.units])
    projected.set_shape([*x.shape[:2], 4 * self.units])
    kernel = tf.cast(tf.convert_to_tensor(self.recurrent_kernel), tf.float32)
    return lstm_recurrence(projected, self.weight_dropout(kernel, training=training))

  def step(self, x: Any, state: Any) -> tuple[Any, Any]:
    """[batch, units] and the new state, from [batch, width] and (hidden, cell), each float32 [batch, units]."""
    hidden, cell = state
    kernel = tf.cast(tf.convert_to_tensor(self.recurrent_kernel), tf.float32)
    gates = self._project(x) + tf.matmul(hidden, kernel)
    opened = tf.sigmoid(gates[:, : 3 * self.units])
    add, keep, show = tf.split(opened, 3, axis=1)
    cell = keep * cell + add * tf.tanh(gates[:, 3 * self.units :])
    hidden = show * tf.tanh(cell)
    return hidden, (hidden, cell)

  def _project(self, x: tf.Tensor) -> tf.Tensor:
    kernel = tf.cast(tf.convert_to_tensor(self.kernel), self.compute_dtype)
    product = tf.matmul(tf.cast(x, self.compute_dtype), kernel)
    # The recurrence is float32 whatever the precision policy: its errors would add up over the steps.
    return tf.cast(product, tf.float32) + tf.cast(tf.convert_to_tensor(self.bias), tf.float32)


def _forget_nothing(shape: Any, dtype: Any = None) -> Any:
  """Zeros, and 1 for the forget gates (Jozefowicz, Zaremba and Sutskever 2015)."""
  quarter = shape[0] // 4
  return tf.concat([tf.zeros([quarter], dtype), tf.ones([quarter], dtype), tf.zeros([2 * quarter], dtype)], 0)


@tf.custom_gradient
def lstm_recurrence(inputs: tf.Tensor, kernel: tf.Tensor) -> Any:
  """The hidden states of one layer from the zero state.

  Args:
    inputs: float32 [length, batch, 4 * units]: what the input adds to the gates, bias included, in the order
      input gate, forget gate, output gate, candidate.
    kernel: float32 [units, 4 * units], recurrent weights.

  Returns:
    float32 [length, batch, units].
  """
  gates, cells, hidden = _forward(inputs, kernel)

  def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    of_inputs = _backward(upstream, gates, cells, kernel)
    units = kernel.shape[0]
    before = tf.reshape(_one_later(hidden), [-1, units])
    return of_inputs, tf.matmul(before, tf.reshape(of_inputs, [-1, 4 * units]), transpose_a=True)

  return hidden, gradient


def _forward(inputs: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """[length, batch, ...]: the gates as they are opened, the cells and the hidden states."""
  units = kernel.shape[0]
  length, batch = tf.unstack(tf.shape(inputs)[:2])

  def step(time: tf.Tensor, hidden: tf.Tensor, cell: tf.Tensor, outputs: Any) -> Any:
    gates = read.read(time) + tf.matmul(hidden, kernel)
    opened, candidate = tf.sigmoid(gates[:, : 3 * units]), tf.tanh(gates[:, 3 * units :])
    add, keep, show = tf.split(opened, 3, axis=1)
    cell = keep * cell + add * candidate
    hidden = show * tf.tanh(cell)
    written = (tf.concat([opened, candidate], axis=1), cell, hidden)
    return time + 1, hidden, cell, tuple(a.write(time, b) for a, b in zip(outputs, written, strict=True))

  read = _array(inputs, length, 4 * units).unstack(inputs)
  outputs = tuple(_array(inputs, length, width) for width in (4 * units, units, units))
  zeros = tf.zeros([batch, units])
  zeros.set_shape([inputs.shape[1], units])
  *_, outputs = tf.while_loop(
    lambda time, *_: time < length, step, (0, zeros, zeros, outputs), maximum_iterations=length
  )
  gates, cells, hidden = (array.stack() for array in outputs)
  hidden.set_shape([*inputs.shape[:2], units])
  return gates, cells, hidden


def _backward(upstream: tf.Tensor, gates: tf.Tensor, cells: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
  """Gradient of the inputs [length, batch, 4 * units] from that of the hidden states."""
  units = kernel.shape[0]
  length = tf.shape(upstream)[0]
  add, keep, show, candidate = tf.split(gates, 4, axis=2)
  shown = tf.tanh(cells)
  # What the gradients of a step's cell and hidden state are multiplied by to give those of its gates.
  by_cell = tf.concat(
    [add * (1 - add) * candidate, keep * (1 - keep) * _one_later(cells), add * (1 - candidate**2)], axis=2
  )
  by_hidden = show * (1 - show) * shown
  hidden_to_cell = show * (1 - shown**2)
  transposed = tf.transpose(kernel)

  def step(time: tf.Tensor, of_hidden: tf.Tensor, of_cell: tf.Tensor, outputs: tf.TensorArray) -> Any:
    of_hidden += upstream[time]
    of_cell += of_hidden * hidden_to_cell[time]
    of_add, of_keep, of_candidate = tf.split(tf.tile(of_cell, [1, 3]) * by_cell[time], 3, axis=1)
    of_gates = tf.concat([of_add, of_keep, of_hidden * by_hidden[time], of_candidate], axis=1)
    outputs = outputs.write(time, of_gates)
    return time - 1, tf.matmul(of_gates, transposed), of_cell * keep[time], outputs

  zeros = tf.zeros_like(upstream[0])
  start = (length - 1, zeros, zeros, _array(upstream, length, 4 * units))
  *_, outputs = tf.while_loop(lambda time, *_: time >= 0, step, start, maximum_iterations=length)
  return outputs.stack()


def _array(like: tf.Tensor, length: tf.Tensor, width: int) -> tf.TensorArray:
  return tf.TensorArray(tf.float32, length, element_shape=[like.shape[1], width])


def _one_later(states: tf.Tensor) -> tf.Tensor:
  """The states before each step: zeros, then all but the last."""
  return tf.concat([tf.zeros_like(states[:1]), states[:-1]], axis=0)
