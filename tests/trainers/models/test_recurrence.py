"""The LSTM layer against that of Keras: outputs and gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.models.recurrence import LstmLayer

UNITS, WIDTH = 6, 5


def in_our_order(weights):
  """Keras has the gates in the order input, forget, candidate, output; here the candidate is the last."""
  add, keep, candidate, show = np.split(weights, 4, axis=-1)
  return np.concatenate([add, keep, show, candidate], axis=-1)


@pytest.fixture(scope="module")
def pair():
  keras.utils.set_random_seed(2)
  reference = keras.layers.LSTM(UNITS, return_sequences=True)
  reference.build((None, None, WIDTH))
  layer = LstmLayer(UNITS)
  layer.build((None, None, WIDTH))
  layer.set_weights([in_our_order(weights) for weights in reference.get_weights()])
  return layer, reference


def inputs(length, batch=3):
  return np.random.default_rng(length).normal(size=(batch, length, WIDTH)).astype(np.float32)


def run(layer, x, upstream, time_first):
  """Outputs, and the gradients of the inputs and the weights for a gradient of the outputs."""

  @tf.function(autograph=False)
  def compute(x, upstream):
    with tf.GradientTape() as tape:
      tape.watch(x)
      values = layer(tf.transpose(x, [1, 0, 2]) if time_first else x)
      values = tf.transpose(values, [1, 0, 2]) if time_first else values
      total = tf.reduce_sum(values * upstream)
    return values, tape.gradient(total, [x, *layer.trainable_variables])

  values, gradients = compute(tf.constant(x), tf.constant(upstream, tf.float32))
  return values.numpy(), [gradient.numpy() for gradient in gradients]


@pytest.mark.parametrize("length", [1, 2, 7])
def test_outputs_and_gradients_equal_those_of_keras(pair, length):
  layer, reference = pair
  x = inputs(length)
  upstream = np.random.default_rng(1).normal(size=(3, length, UNITS))
  values, gradients = run(layer, x, upstream, time_first=True)
  expected, expected_gradients = run(reference, x, upstream, time_first=False)
  np.testing.assert_allclose(values, expected, atol=1e-6)
  expected_gradients[1:] = map(in_our_order, expected_gradients[1:])
  for found, wanted in zip(gradients, expected_gradients, strict=True):
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_steps_equal_the_whole(pair):
  layer, _ = pair
  x = inputs(6)
  whole = layer(tf.transpose(x, [1, 0, 2])).numpy()
  state = (tf.zeros([3, UNITS]), tf.zeros([3, UNITS]))
  for time in range(6):
    hidden, state = layer.step(tf.constant(x[:, time]), state)
    np.testing.assert_allclose(hidden, whole[time], atol=1e-6)


def test_xla_with_static_shapes_gives_the_same(pair):
  layer, _ = pair
  x = tf.constant(inputs(5).transpose(1, 0, 2))

  def compute():
    with tf.GradientTape() as tape:
      values = layer(x)
      total = tf.reduce_sum(values**2)
    return values, tape.gradient(total, layer.trainable_variables)

  plain = tf.nest.flatten(tf.function(compute)())
  compiled = tf.nest.flatten(tf.function(compute, jit_compile=True)())
  for one, other in zip(plain, compiled, strict=True):
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_recurrent_weights_are_dropped_in_training_only():
  keras.utils.set_random_seed(2)
  layer = LstmLayer(UNITS, recurrent_dropout=0.5)
  layer.build((None, None, WIDTH))
  x = tf.constant(inputs(4).transpose(1, 0, 2))
  plain = layer(x, training=False).numpy()
  np.testing.assert_array_equal(layer(x, training=False), plain)
  trained = layer(x, training=True).numpy()
  # The first step has no state to multiply.
  np.testing.assert_allclose(trained[0], plain[0], atol=1e-6)
  assert np.abs(trained[1:] - plain[1:]).max() > 1e-3


def test_the_recurrence_is_float32_under_mixed_precision():
  layer = LstmLayer(UNITS, dtype="mixed_bfloat16")
  layer.build((None, None, WIDTH))
  assert layer(tf.constant(inputs(3).transpose(1, 0, 2), tf.bfloat16)).dtype == tf.float32
