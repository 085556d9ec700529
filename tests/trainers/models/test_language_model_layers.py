"""The stacks: a Transformer block against numpy, positions, the ring of the cache, dropout."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.models.language_model_layers import Lstm, TransformerBlock, TransformerDecoder, rotate

WIDTH, HEADS = 8, 2


def built(layer, shape, seed=5):
  """With weights that are not those of the start: nothing is zero or one."""
  layer.build(shape)
  generator = np.random.default_rng(seed)
  for variable in layer.trainable_variables:
    variable.assign(generator.normal(size=variable.shape) * 0.4)
  return layer


def normalized(x, layer):
  deviation = x - x.mean(axis=-1, keepdims=True)
  x = deviation / np.sqrt((deviation**2).mean(axis=-1, keepdims=True) + 1e-5)
  return x * layer.gamma.numpy() + layer.beta.numpy()


def turned(x, position):
  """One vector of a head, pair by pair as complex numbers."""
  half = len(x) // 2
  pairs = x[:half] + 1j * x[half:]
  pairs = pairs * np.exp(1j * position * 10_000.0 ** (-np.arange(half) / half))
  return np.concatenate([pairs.real, pairs.imag])


def block_by_hand(block, x, context_length):
  """One sentence [length, width], word by word and head by head."""
  size = WIDTH // HEADS
  projected = normalized(x, block.attention_norm) @ block.query_key_value.kernel.numpy()
  parts = projected.reshape(len(x), 3, HEADS, size)
  attended = np.zeros_like(x)
  for word in range(len(x)):
    first = max(0, word - context_length + 1)
    for head in range(HEADS):
      query = turned(parts[word, 0, head], word)
      keys = np.stack([turned(parts[other, 1, head], other) for other in range(first, word + 1)])
      weights = np.exp(keys @ query / math.sqrt(size))
      values = parts[first : word + 1, 2, head]
      attended[word, head * size : (head + 1) * size] = weights @ values / weights.sum()
  x = x + attended @ block.attended.kernel.numpy()
  wide = normalized(x, block.feed_forward_norm) @ block.widened.kernel.numpy() + block.widened.bias.numpy()
  wide = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
  return x + wide @ block.narrowed.kernel.numpy() + block.narrowed.bias.numpy()


@pytest.mark.parametrize("context_length", [3, 100])
def test_a_block_equals_one_written_word_by_word(context_length):
  block = built(TransformerBlock(HEADS, context_length, 1), (None, WIDTH))
  x = np.random.default_rng(3).normal(size=(2, 7, WIDTH)).astype(np.float32)
  found = block(tf.reshape(x, [-1, WIDTH]), batch=2, length=7).numpy().reshape(2, 7, WIDTH)
  for sentence, rows in zip(x, found, strict=True):
    np.testing.assert_allclose(rows, block_by_hand(block, sentence, context_length), atol=2e-4)


def test_rotated_products_depend_on_the_distance_alone():
  generator = np.random.default_rng(1)
  query, key = (tf.constant(generator.normal(size=(1, 1, 1, 16)), tf.float32) for _ in range(2))

  def product(at, other):
    positions = [tf.constant([[position]]) for position in (at, other)]
    return float(tf.reduce_sum(rotate(query, positions[0]) * rotate(key, positions[1])))

  assert product(7, 4) == pytest.approx(product(103, 100), abs=1e-4)
  assert abs(product(7, 4) - product(7, 5)) > 1e-2
  np.testing.assert_allclose(rotate(query, tf.constant([[0]])), query, atol=1e-6)


BODIES = {
  "lstm": lambda: Lstm(WIDTH, 2, dropout=0.5),
  "transformer": lambda: TransformerDecoder(WIDTH, 2, HEADS, 100, dropout=0.5),
  # Twelve words do not fit into the ring.
  "short context": lambda: TransformerDecoder(WIDTH, 2, HEADS, 4, dropout=0.5),
  "lstm, wider": lambda: Lstm(2 * WIDTH, 2),
  "transformer, wider": lambda: TransformerDecoder(2 * WIDTH, 2, HEADS, 4),
}


@pytest.mark.parametrize("name", BODIES)
def test_steps_equal_the_whole(name):
  body = built(BODIES[name](), (None, None, WIDTH))
  x = np.random.default_rng(2).normal(size=(3, 12, WIDTH)).astype(np.float32)
  whole = body(tf.constant(x)).numpy()
  assert whole.shape == (3, 12, body.units)
  state = body.initial_state(3)
  for time in range(12):
    row, state = body.step(tf.constant(x[:, time]), state)
    np.testing.assert_allclose(row, whole[:, time], atol=2e-5)


def test_the_state_has_a_row_for_each_sentence():
  for make in BODIES.values():
    body = built(make(), (None, None, WIDTH))
    for batch in (3, tf.constant(3)):
      assert all(tensor.shape[0] == 3 for tensor in tf.nest.flatten(body.initial_state(batch)))


def test_what_an_lstm_drops_stays_dropped_for_the_sentence():
  keras.utils.set_random_seed(1)
  body = built(Lstm(WIDTH, 2, dropout=0.5), (None, None, WIDTH))
  mask = body.dropouts[0](tf.ones([6, 4, WIDTH]), training=True).numpy()
  assert np.all(mask == mask[:1])
  assert {0.0, 2.0} == set(mask.ravel().tolist())
  assert len({row.tobytes() for row in mask[0]}) > 1


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_dropout_acts_in_training_only(name):
  keras.utils.set_random_seed(1)
  body = built(BODIES[name](), (None, None, WIDTH))
  x = tf.ones([2, 5, WIDTH])
  np.testing.assert_array_equal(body(x, training=False), body(x))
  assert np.abs(body(x, training=True) - body(x)).max() > 1e-3
