"""Skip-gram's loss and update by hand, and what it learns."""

import keras
import numpy as np
import pytest

from trainers.embeddings.neighbours import nearest_neighbours
from trainers.embeddings.skip_gram import SkipGram, SkipGramSettings, train_skip_gram

# Two kinds of things, each with words of its own around it.
BIRDS, STONES = (3, 4, 5), (6, 7, 8)
OF_BIRDS, OF_STONES = range(9, 15), range(15, 21)
SIZE = 24
SETTINGS = SkipGramSettings(dim=16, window=2, subsampling=0, epochs=6, learning_rate=0.05, batch_pairs=512)


def toy_text(seed=0, num_sentences=3000):
  generator = np.random.default_rng(seed)
  is_bird = generator.random(num_sentences) < 0.5
  columns = [
    np.where(is_bird, generator.choice(birds, num_sentences), generator.choice(stones, num_sentences))
    for birds, stones in ((OF_BIRDS, OF_STONES), (BIRDS, STONES), (OF_BIRDS, OF_STONES))
  ]
  ids = np.stack(columns, axis=1).astype(np.int32).ravel()
  return ids, np.full(num_sentences, 3)


def make_model(seed=1):
  model = SkipGram(10, 4, negatives=5, seed=seed)
  generator = np.random.default_rng(seed)
  for table in (model.word_vectors, model.context_vectors):
    table.assign(generator.normal(size=(10, 4)))
  return model


def make_batch(seed=2, groups=2, pairs=3, samples=4):
  generator = np.random.default_rng(seed)
  shapes = {"words": (groups, pairs), "contexts": (groups, pairs), "samples": (groups, samples)}
  return {name: generator.integers(3, 10, shape).astype(np.int32) for name, shape in shapes.items()}


def losses_by_hand(words, contexts, batch, negatives=5):
  """Of each pair, one by one."""

  def log_sigmoid(value):
    return -np.log1p(np.exp(-value))

  found = np.zeros(batch["words"].shape)
  for group, pair in np.ndindex(found.shape):
    word = words[batch["words"][group, pair]]
    samples = batch["samples"][group]
    drawn = [log_sigmoid(-word @ contexts[sample]) for sample in samples]
    context = contexts[batch["contexts"][group, pair]]
    found[group, pair] = -log_sigmoid(word @ context) - negatives / len(samples) * sum(drawn)
  return found


def test_loss_by_hand():
  model, batch = make_model(), make_batch(groups=20, pairs=32, samples=16)
  words, contexts = (np.array(table) for table in (model.word_vectors, model.context_vectors))
  np.testing.assert_allclose(
    keras.ops.convert_to_numpy(model(batch)), losses_by_hand(words, contexts, batch), rtol=1e-5
  )


def test_one_update_by_hand():
  """Ids occur more than once in the batch: their gradients add up."""
  model, batch = make_model(), make_batch()
  tables = [np.array(table, np.float64) for table in (model.word_vectors, model.context_vectors)]
  gradients = []
  for table in tables:
    gradient = np.zeros_like(table)
    for place in np.ndindex(table.shape):
      kept, values = table[place], []
      for step in (1e-5, -1e-5):
        table[place] = kept + step
        values.append(losses_by_hand(*tables, batch).mean())
      table[place] = kept
      gradient[place] = (values[0] - values[1]) / 2e-5
    gradients.append(gradient)
  model.compile(keras.optimizers.SGD(0.7), jit_compile=False)
  loss = model.train_on_batch(batch)
  assert loss == pytest.approx(losses_by_hand(*tables, batch).mean(), rel=1e-5)
  for table, before, gradient in zip(
    (model.word_vectors, model.context_vectors), tables, gradients, strict=True
  ):
    assert np.abs(gradient).max() > 0.01
    np.testing.assert_allclose(np.array(table), before - 0.7 * gradient, atol=1e-5)


@pytest.fixture(scope="module")
def trained():
  ids, lengths = toy_text()
  lines = []
  counts = np.bincount(ids, minlength=SIZE)
  vectors, losses = train_skip_gram(lambda: [(ids, lengths)], counts, SETTINGS, seed=3, log=lines.append)
  return vectors, losses, lines


def test_words_with_the_same_contexts_become_neighbours(trained):
  vectors, losses, lines = trained
  for kind, around in ((BIRDS, OF_BIRDS), (STONES, OF_STONES)):
    ids, cosines = nearest_neighbours(vectors, [*kind, *around], 2)
    for word, found in zip(kind, ids[: len(kind)].tolist(), strict=True):
      assert set(found) == set(kind) - {word}
    assert set(ids[len(kind) :].ravel().tolist()) <= {*kind, *around}
    assert (cosines[: len(kind)] > 0.9).all()
  assert len(losses) == SETTINGS.epochs and losses[-1] < losses[0] - 0.3
  assert lines[-1] == f"skip-gram epoch 6/6: loss {losses[-1]:.4f}"


def test_words_that_do_not_occur_have_no_vector(trained):
  vectors = trained[0]
  assert vectors.shape == (SIZE, 16) and vectors.dtype == np.float32
  assert vectors.any(axis=1).tolist() == [False] * 3 + [True] * 18 + [False] * 3


def test_seed_decides(trained):
  ids, lengths = toy_text()
  counts = np.bincount(ids, minlength=SIZE)

  def train(seed):
    return train_skip_gram(lambda: [(ids, lengths)], counts, SETTINGS, seed=seed, log=lambda line: None)

  vectors, losses = train(3)
  np.testing.assert_array_equal(vectors, trained[0])
  assert losses == trained[1]
  assert np.abs(train(4)[0] - trained[0]).max() > 0.01


def test_a_few_words_are_enough():
  ids = np.array([3, 4, 5], np.int32)
  settings = SkipGramSettings(dim=8, subsampling=0, epochs=2)
  vectors, losses = train_skip_gram(
    lambda: [(ids, np.array([3]))], np.bincount(ids), settings, log=lambda line: None
  )
  assert np.isfinite(vectors).all() and vectors[3:].any(axis=1).all() and len(losses) == 2


def test_text_without_pairs_is_refused():
  ids = np.array([3, 0, 4], np.int32)
  with pytest.raises(ValueError, match="too short"):
    train_skip_gram(lambda: [(ids, np.array([2, 1]))], np.bincount(ids, minlength=5), SETTINGS)


@pytest.mark.parametrize(
  "settings", [{"dim": 0}, {"epochs": 0}, {"batch_pairs": 100}, {"subsampling": -1}, {"learning_rate": 0}]
)
def test_settings_are_checked(settings):
  with pytest.raises(ValueError, match=next(iter(settings))):
    SkipGramSettings(**settings)
