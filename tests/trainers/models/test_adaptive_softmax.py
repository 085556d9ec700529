"""The output layers against brute force in numpy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.models.adaptive_softmax import (
  NEVER,
  AdaptiveSoftmax,
  FullSoftmax,
  SampledSoftmax,
  default_cutoffs,
  gather_rows,
)

VOCABULARY, WIDTH, TOKENS = 60, 12, 80


@pytest.fixture(scope="module")
def data():
  generator = np.random.default_rng(8)
  hidden = generator.normal(size=(TOKENS, WIDTH)).astype(np.float32)
  table = generator.normal(size=(VOCABULARY, WIDTH)).astype(np.float32)
  words = generator.integers(2, VOCABULARY, TOKENS)
  return hidden, table, words


def built(layer):
  """With weights that are not zero."""
  layer.build((None, WIDTH))
  generator = np.random.default_rng(9)
  for variable in layer.weights:
    if "seed" not in variable.path:
      variable.assign(generator.normal(size=variable.shape))
  return layer


def log_softmax(logits):
  return logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))


def expected_full(layer, hidden, table):
  logits = hidden.astype(np.float64) @ table.T + layer.bias.numpy()
  logits[:, 1] = -np.inf
  return log_softmax(logits)


def expected_adaptive(layer, hidden, table):
  """P(word) = P(cluster) P(word | cluster), word by word."""
  hidden, bias = hidden.astype(np.float64), layer.bias.numpy()
  edges = [*layer.cutoffs, VOCABULARY]
  of_words = hidden @ table.T + bias
  of_words[:, 1] = -np.inf
  of_clusters = hidden @ layer.kernel.numpy().T + layer.cluster_bias.numpy()
  head = log_softmax(np.concatenate([of_words[:, : edges[0]], of_clusters], axis=1))
  result = head[:, : edges[0]]
  for number, (low, high) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
    inside = log_softmax(of_words[:, low:high]) + head[:, edges[0] + number, np.newaxis]
    result = np.concatenate([result, inside], axis=1)
  return result


LAYERS = {
  "full": (lambda: FullSoftmax(VOCABULARY), expected_full),
  "one cluster": (lambda: AdaptiveSoftmax(VOCABULARY, (20,)), expected_adaptive),
  "three clusters": (lambda: AdaptiveSoftmax(VOCABULARY, (3, 17, 40)), expected_adaptive),
  "static shapes": (lambda: AdaptiveSoftmax(VOCABULARY, (17, 40), static_shapes=True), expected_adaptive),
  "sampled": (lambda: SampledSoftmax(VOCABULARY, 10), expected_full),
}


@pytest.mark.parametrize("name", LAYERS)
def test_distributions_and_single_words_are_those_of_brute_force(name, data):
  hidden, table, words = data
  make, brute_force = LAYERS[name]
  layer = built(make())
  expected = brute_force(layer, hidden, table)
  distribution = layer.log_distribution(tf.constant(hidden), tf.constant(table)).numpy()
  np.testing.assert_allclose(np.delete(distribution, 1, 1), np.delete(expected, 1, 1), atol=2e-5)
  assert np.all(distribution[:, 1] == pytest.approx(NEVER))
  np.testing.assert_allclose(np.exp(distribution).sum(axis=1), 1, atol=1e-5)
  single = layer(tf.constant(hidden), tf.constant(words), tf.constant(table), training=False)
  np.testing.assert_allclose(single, expected[np.arange(TOKENS), words], atol=2e-5)


def gradients(layer, data):
  hidden, table, words = (tf.constant(values) for values in data)

  @tf.function
  def compute():
    with tf.GradientTape() as tape:
      tape.watch([hidden, table])
      total = tf.reduce_sum(layer(hidden, words, table, training=True))
    return tape.gradient(total, [hidden, table, *layer.trainable_variables])

  return compute()


def test_the_gradients_do_not_depend_on_static_shapes(data):
  layers = [AdaptiveSoftmax(VOCABULARY, (17, 40), static_shapes=static) for static in (False, True)]
  for one, other in zip(*(gradients(built(layer), data) for layer in layers), strict=True):
    np.testing.assert_allclose(one, other, atol=2e-5)


def test_the_gradient_is_that_of_the_distribution(data):
  """d log P(word) / d bias = 1 for the word - P of every word, cluster by cluster."""
  layer = built(FullSoftmax(VOCABULARY))
  hidden, table, words = data
  expected = np.bincount(words, minlength=VOCABULARY) - np.exp(expected_full(layer, hidden, table)).sum(
    axis=0
  )
  np.testing.assert_allclose(gradients(layer, data)[2], expected, atol=2e-4)


@pytest.mark.parametrize("where", ["head", "first cluster"])
def test_clusters_may_be_empty(where, data):
  hidden, table, words = data
  words = np.where(words % 2, 2, 5) if where == "head" else np.full(TOKENS, 25)
  layer = built(AdaptiveSoftmax(VOCABULARY, (20, 40)))
  found = layer(tf.constant(hidden), tf.constant(words), tf.constant(table))
  np.testing.assert_allclose(
    found, expected_adaptive(layer, hidden, table)[np.arange(TOKENS), words], atol=2e-5
  )
  assert all(np.all(np.isfinite(gradient)) for gradient in gradients(layer, (hidden, table, words)))


def test_the_sampled_sum_is_unbiased(data):
  """The mean of the sums that 3,000 samples give is the exact sum; their logarithms have a bias."""
  hidden, table, words = (values[:4] for values in data)
  table = data[1] * 0.5
  keras.utils.set_random_seed(4)
  layer = built(SampledSoftmax(VOCABULARY, 25))

  @tf.function
  def estimate():
    return layer(tf.constant(hidden), tf.constant(words), tf.constant(table), training=True)

  exact = expected_full(layer, hidden, table)[np.arange(4), words]
  # 1 / P(word) is the sum, in units of the word's own weight.
  ratios = np.exp(-np.stack([estimate().numpy() for _ in range(3000)])) / np.exp(-exact)
  assert np.all(ratios.std(axis=0) > 0.02)
  error = np.abs(ratios.mean(axis=0) - 1)
  assert np.all(error < 4.5 * ratios.std(axis=0) / 3000**0.5)


def test_sampling_nearly_all_words_is_nearly_exact(data):
  hidden, table, words = data
  layer = built(SampledSoftmax(VOCABULARY, VOCABULARY - 1))
  sampled = layer(tf.constant(hidden), tf.constant(words), tf.constant(table * 0.3), training=True)
  exact = expected_full(layer, hidden, table * 0.3)[np.arange(TOKENS), words]
  assert np.abs(sampled - exact).mean() < 0.1


@pytest.mark.parametrize("name", LAYERS)
def test_frequencies_are_the_first_distribution(name):
  layer = LAYERS[name][0]()
  layer.build((None, WIDTH))
  frequencies = np.random.default_rng(2).dirichlet(np.ones(VOCABULARY))
  frequencies[1] = 0
  frequencies /= frequencies.sum()
  with np.errstate(divide="ignore"):
    layer.assign_frequencies(np.maximum(np.log(frequencies), -50))
  found = layer.log_distribution(tf.zeros([1, WIDTH]), tf.zeros([VOCABULARY, WIDTH]))
  np.testing.assert_allclose(np.exp(found)[0], frequencies, atol=1e-6)


def test_rows_have_a_dense_gradient_in_which_repeated_rows_add_up():
  table = tf.Variable(np.arange(12.0, dtype=np.float32).reshape(4, 3))
  with tf.GradientTape() as tape:
    rows = gather_rows(tf.convert_to_tensor(table), tf.constant([2, 0, 2], tf.int64))
    total = tf.reduce_sum(rows * [[1.0], [10.0], [100.0]])
  assert rows.numpy().tolist() == [[6, 7, 8], [0, 1, 2], [6, 7, 8]]
  gradient = tape.gradient(total, table)
  assert isinstance(gradient, tf.Tensor)
  assert gradient.numpy().tolist() == [[10] * 3, [0] * 3, [101] * 3, [0] * 3]


def num_logits(cutoffs, counts):
  edges = [*cutoffs, len(counts)]
  tails = sum(counts[a:].sum() * (b - a) for a, b in zip(edges[:-1], edges[1:], strict=True))
  return edges[0] + tails / counts.sum()


def test_default_cutoffs_save_work():
  zipf = 1 / np.arange(1.0, 50_001)
  cutoffs = default_cutoffs(50_000)
  assert len(cutoffs) == 2
  assert num_logits(cutoffs, zipf) < min(num_logits((one,), zipf) for one in range(100, 50_000, 100)) < 20_000
  assert default_cutoffs(50_000, zipf) == cutoffs
  # All tokens are the same few words: the head ends after them.
  counts = np.where(np.arange(10_000) < 50, 1000, 1e-6)
  assert 50 <= default_cutoffs(10_000, counts)[0] < 100
  assert default_cutoffs(100) == ()


@pytest.mark.parametrize("cutoffs", [(), (2,), (20, 20), (30, 20), (60,), (20, 70)])
def test_cutoffs_that_make_no_clusters(cutoffs):
  with pytest.raises(ValueError, match="adaptive_cutoffs"):
    AdaptiveSoftmax(VOCABULARY, cutoffs)


@pytest.mark.parametrize("candidates", [0, 60])
def test_candidates_that_make_no_sample(candidates):
  with pytest.raises(ValueError, match="sampled_candidates"):
    SampledSoftmax(VOCABULARY, candidates)
