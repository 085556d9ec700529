"""Both architectures with each softmax: the protocol of language models, training, export, replicas."""

import pathlib
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.compression.kernels import all_kernels
from trainers.fit import fit
from trainers.losses import Perplexity, TokenLoss
from trainers.models.neural_language_model import build_language_model

HERE = pathlib.Path(__file__).parent
VOCABULARY = 40
TOKEN_IDS = np.array([[5, 30, 12, 6, 7, 2, 1, 1], [9, 8, 39, 0, 3, 20, 11, 2], [2, 1, 1, 1, 1, 1, 1, 1]])
IS_TOKEN = TOKEN_IDS != 1
KINDS = [(body, softmax) for body in ("lstm", "transformer") for softmax in ("full", "adaptive", "sampled")]


def build(architecture="lstm", softmax="adaptive", **settings):
  """A small model that is not uniform."""
  keras.utils.set_random_seed(6)
  sizes = {"embedding_dim": 12, "hidden_dim": 16, "num_layers": 2, "num_heads": 2, "context_length": 5}
  softmaxes = {"softmax": softmax, "adaptive_cutoffs": (8, 20), "sampled_candidates": 15}
  model = build_language_model(VOCABULARY, architecture, **{**sizes, **softmaxes, **settings})
  model.embeddings.assign(model.embeddings * 2)
  return model


def copy_weights(source, target):
  """Of trained weights only: without dropout there are no states of random numbers."""
  for one, other in zip(source.trainable_variables, target.trainable_variables, strict=True):
    other.assign(one)


@pytest.fixture(scope="module")
def models():
  return {kind: build(*kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_scores_are_those_of_the_distribution_which_sums_to_one(models, kind):
  scores = models[kind](TOKEN_IDS).numpy()
  distribution = models[kind].log_distribution(TOKEN_IDS).numpy()
  assert scores.dtype == distribution.dtype == np.float32
  np.testing.assert_allclose(np.exp(distribution).sum(axis=-1), 1, atol=1e-5)
  assert np.all(distribution[..., 1] < -1e8) and np.all(np.isfinite(distribution))
  expected = np.take_along_axis(distribution, TOKEN_IDS[..., np.newaxis], axis=-1)[..., 0]
  np.testing.assert_allclose(scores[IS_TOKEN], expected[IS_TOKEN], atol=1e-5)
  assert np.all(scores[~IS_TOKEN] == 0)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_steps_give_the_same_distributions(models, kind):
  model = models[kind]
  expected = model.log_distribution(TOKEN_IDS).numpy()
  read, state = np.ones(3, np.int64), model.initial_state(3)
  for time in range(TOKEN_IDS.shape[1]):
    scores, state = model.step(tf.constant(read), state)
    assert np.all(np.isneginf(scores[:, 1]))
    rows = IS_TOKEN[:, time]
    found = np.where(np.isneginf(scores), expected[:, time], scores)
    np.testing.assert_allclose(found[rows], expected[rows, time], atol=1e-5)
    read = TOKEN_IDS[:, time]
  histories = model.histories(TOKEN_IDS).numpy()
  scores = model.next_token_log_probabilities(histories[IS_TOKEN]).numpy()
  assert np.all(np.isneginf(scores[:, 1]))
  found = np.where(np.isneginf(scores), expected[IS_TOKEN], scores)
  np.testing.assert_allclose(found, expected[IS_TOKEN], atol=1e-5)


@pytest.mark.parametrize("architecture", ["lstm", "transformer"])
def test_no_token_knows_a_later_one(models, architecture):
  model = models[architecture, "adaptive"]
  before = model.log_distribution(TOKEN_IDS).numpy()
  changed = TOKEN_IDS.copy()
  changed[:, 4] = 33
  after = model.log_distribution(changed).numpy()
  np.testing.assert_allclose(after[:, :5], before[:, :5], atol=1e-6)
  assert np.all(np.abs(after[1, 5:] - before[1, 5:]).max(axis=-1) > 1e-4)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_padding_changes_nothing(models, kind):
  wide = np.pad(TOKEN_IDS, [(0, 1), (0, 3)], constant_values=1)
  np.testing.assert_allclose(models[kind](wide).numpy()[:3, :8], models[kind](TOKEN_IDS), atol=1e-5)
  alone = models[kind](TOKEN_IDS[:1, :6]).numpy()
  np.testing.assert_allclose(models[kind](TOKEN_IDS).numpy()[:1, :6], alone, atol=1e-5)


@pytest.mark.parametrize("architecture", ["lstm", "transformer"])
def test_the_sampled_softmax_is_the_full_one_but_in_training(models, architecture):
  full, sampled = models[architecture, "full"], build(architecture, "sampled", dropout=0.0)
  copy_weights(full, sampled)
  np.testing.assert_allclose(sampled(TOKEN_IDS), full(TOKEN_IDS), atol=1e-5)
  first, second = (sampled(TOKEN_IDS, training=True).numpy() for _ in range(2))
  assert np.all(np.isfinite(first)) and np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_gradients_reach_every_weight_and_the_embeddings_from_both_sides(models, kind):
  model = models[kind]
  with tf.GradientTape() as tape:
    loss = TokenLoss()(TOKEN_IDS, model(TOKEN_IDS, training=True))
  gradients = tape.gradient(loss, model.trainable_variables)
  for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
    assert np.all(np.isfinite(gradient)) and np.abs(gradient).max() > 0, variable.path
  embeddings = np.abs(gradients[[v is model.embeddings for v in model.trainable_variables].index(True)])
  # The sentence start is only read, word 2 as the last one only predicted; in a full softmax all words are weights.
  assert embeddings[1].max() > 0 and embeddings[2].max() > 0
  if kind[1] == "full":
    assert np.all(embeddings.max(axis=1) > 0)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_xla_with_static_shapes_gives_the_same(models, kind):
  model = build(*kind, static_shapes=True, dropout=0.0)
  copy_weights(models[kind], model)
  expected = models[kind](TOKEN_IDS).numpy()
  compiled = tf.function(model, jit_compile=True, input_signature=[tf.TensorSpec(TOKEN_IDS.shape, tf.int64)])
  np.testing.assert_allclose(
    compiled(tf.constant(TOKEN_IDS)).numpy()[IS_TOKEN], expected[IS_TOKEN], atol=1e-5
  )


def settings(**changes):
  """Of fit; a stand-in for the configuration's section, which trainers do not know."""
  values = {
    "epochs": 2, "optimizer": "adamw", "learning_rate": 0.02, "warmup_fraction": 0.0, "weight_decay": 1e-4,
    "clip_norm": 1.0, "early_stopping_patience": 0, "steps_per_execution": 5, "precision": "float32",
    "jit_compile": False,
  }  # fmt: skip
  return types.SimpleNamespace(**{**values, **changes})


def fitted(model, **changes):
  data = tf.data.Dataset.from_tensors((TOKEN_IDS, TOKEN_IDS))
  arguments = {"loss": TokenLoss(), "metrics": [Perplexity()], "steps_per_epoch": 20, "seed": 1}
  return fit(model, data.repeat(), data, training=settings(**changes), log=lambda line: None, **arguments)


@pytest.mark.parametrize(
  "kind, jit",
  [(("lstm", "adaptive"), False), (("transformer", "sampled"), False)]
  + [(("lstm", "sampled"), True), (("transformer", "adaptive"), True)],
)
def test_fit_learns_the_sentences_by_heart(kind, jit):
  rows = fitted(build(*kind, num_layers=1, static_shapes=jit, dropout=0.1), jit_compile=jit)
  assert rows[-1]["val_perplexity"] < 2 < 3 < rows[0]["perplexity"]
  assert rows[-1]["val_perplexity"] == pytest.approx(np.exp(rows[-1]["val_loss"]), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_saved_weights_and_models_come_back(models, kind, tmp_path):
  model = models[kind]
  expected = model(TOKEN_IDS).numpy()
  model.save_weights(tmp_path / "a.weights.h5")
  other = build_language_model(VOCABULARY, kind[0], 12, 16, 2, 2, softmax=kind[1], adaptive_cutoffs=(8, 20),
                               sampled_candidates=15, context_length=5)  # fmt: skip
  assert np.abs(other(TOKEN_IDS) - expected).max() > 1e-3
  other.load_weights(tmp_path / "a.weights.h5")
  np.testing.assert_array_equal(other(TOKEN_IDS), expected)
  keras.saving.save_model(model, tmp_path / "a.keras")
  np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "a.keras")(TOKEN_IDS), expected)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_an_export_gives_the_same(models, kind, tmp_path):
  model = models[kind]
  archive = keras.export.ExportArchive()
  archive.track(model)
  spec = [tf.TensorSpec([None, None], tf.int64)]
  for name, run in (("score", lambda ids: model(ids, training=False)), ("all", model.log_distribution)):
    archive.add_endpoint(name, tf.function(run, input_signature=spec, autograph=False))
  archive.write_out(str(tmp_path), verbose=False)
  loaded = tf.saved_model.load(str(tmp_path))
  np.testing.assert_allclose(loaded.score(tf.constant(TOKEN_IDS)), model(TOKEN_IDS), atol=1e-5)
  np.testing.assert_allclose(loaded.all(tf.constant(TOKEN_IDS)), model.log_distribution(TOKEN_IDS), atol=1e-5)


def test_two_replicas_learn_what_one_device_learns(run_script):
  code, found = run_script(HERE / "neural_language_model_run.py")
  assert code == 0
  assert found["replicas"] == 2 and found["moved"] > 1e-2 and found["drift"] < 1e-5


def test_first_weights():
  counts = np.arange(VOCABULARY, 0, -1.0)
  given = np.random.default_rng(0).normal(size=(VOCABULARY, 12))
  model = build_language_model(
    VOCABULARY, embedding_dim=12, word_counts=counts, embeddings=given, softmax="full"
  )
  np.testing.assert_allclose(model.embeddings, given, rtol=1e-6)
  assert np.exp(model.softmax.bias.numpy()).sum() == pytest.approx(1, rel=1e-5)
  ratio = np.exp(model.softmax.bias[3] - model.softmax.bias[39])
  assert float(ratio) == pytest.approx(37)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("architecture", ["lstm", "transformer"])
def test_mixed_precision_gives_nearly_the_same(models, architecture, precision):
  keras.config.set_dtype_policy(precision)
  try:
    model = build(architecture)
  finally:
    keras.config.set_dtype_policy("float32")
  copy_weights(models[architecture, "adaptive"], model)
  scores = model(TOKEN_IDS)
  assert scores.dtype == tf.float32
  np.testing.assert_allclose(scores, models[architecture, "adaptive"](TOKEN_IDS), atol=0.2)
  distribution, _ = model.step(tf.ones([2], tf.int64), model.initial_state(2))
  np.testing.assert_allclose(np.exp(distribution).sum(axis=1), 1, atol=1e-4)


def test_pruning_finds_the_kernels(models):
  names = {kernel.name for kernel in all_kernels(models["lstm", "adaptive"])}
  assert {
    "embeddings",
    "body/lstm1",
    "body/lstm1/recurrent_kernel",
    "body/lstm2",
    "narrowed",
    "softmax",
  } <= names
  assert [kernel.name for kernel in all_kernels(models["lstm", "full"]) if kernel.is_embedding] == [
    "embeddings"
  ]


@pytest.mark.parametrize(
  "settings, message",
  [
    ({"architecture": "gru"}, "choose from lstm, transformer"),
    ({"softmax": "hierarchical"}, "choose from full, adaptive, sampled"),
    ({"architecture": "transformer", "hidden_dim": 30, "num_heads": 4}, "multiple of 8"),
    ({"softmax": "adaptive", "adaptive_cutoffs": (50,)}, "adaptive_cutoffs"),
    ({"embeddings": np.zeros((40, 5))}, r"expected \(40, 256\)"),
  ],
)
def test_settings_that_do_not_go_together(settings, message):
  with pytest.raises(ValueError, match=message):
    build_language_model(VOCABULARY, **settings)
