"""The n-gram model's look-ups in the graph, against backing off word by word."""

import dataclasses
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.models.ngram import NgramModel
from trainers.ngram.arpa import BackoffModel, Section, backed_off
from trainers.ngram.arpa_reader import read_arpa
from trainers.ngram.counting import SENTENCE_END, SENTENCE_START, UNKNOWN

DATA = pathlib.Path(__file__).parents[2] / "data"


@pytest.fixture(scope="module")
def reference():
  return read_arpa(str(DATA / "genesis.arpa"))


@pytest.fixture(scope="module")
def model(reference):
  return NgramModel.from_backoff_model(reference)


@pytest.fixture(scope="module")
def quantized(model):
  return model.quantized()


def sentences(reference):
  """Seen ones, the same with their words shuffled, and one with unknown words: ids with the end."""
  ids = {word: number for number, word in enumerate(reference.vocabulary)}
  lines = (DATA / "genesis.txt").read_text(encoding="utf-8").splitlines()[:12]
  seen = [[ids[word] for word in line.split()] for line in lines]
  shuffled = [np.random.default_rng(1).permutation(sentence).tolist() for sentence in seen]
  return [[*sentence, SENTENCE_END] for sentence in [*seen, *shuffled, [UNKNOWN, 7, UNKNOWN, UNKNOWN], []]]


def expected_scores(reference, sentence):
  """Natural logarithms, one n-gram at a time."""
  padded, order = [SENTENCE_START, *sentence], len(reference.sections)
  values = []
  for end in range(1, len(padded)):
    ngram = np.array([padded[max(0, end - order + 1) : end + 1]])
    values.append(float(backed_off(reference.sections, ngram, len(reference.vocabulary))[0]) * np.log(10))
  return values


def assert_same_scores(one, other, reference, atol=0.0):
  """Of sentences, and of what comes after each of their first words."""
  batch = padded_batch(sentences(reference))
  np.testing.assert_allclose(one(batch), other(batch), atol=atol)
  states = [one.initial_state(len(batch)), other.initial_state(len(batch))]
  for token_ids in (np.full(len(batch), SENTENCE_START), *batch[:, :4].T):
    (expected, states[0]), (found, states[1]) = (
      one.step(token_ids, states[0]),
      other.step(token_ids, states[1]),
    )
    np.testing.assert_allclose(found, expected, atol=atol)


def padded_batch(rows):
  batch = np.full((len(rows), max(map(len, rows))), SENTENCE_END, np.int64)
  for row, sentence in zip(batch, rows, strict=True):
    row[: len(sentence)] = sentence
  return batch


def test_scores_equal_backing_off_one_by_one(reference, model):
  rows = sentences(reference)
  found = model(padded_batch(rows)).numpy()
  for sentence, scores in zip(rows, found, strict=True):
    np.testing.assert_allclose(scores[: len(sentence)], expected_scores(reference, sentence), atol=1e-5)


def test_the_next_words_are_a_distribution_and_equal_the_scores(reference, model):
  histories = np.array([[-1, SENTENCE_START], [SENTENCE_START, 3], [3, 4], [4, 3], [UNKNOWN, UNKNOWN]])
  found = model.next_token_log_probabilities(histories).numpy()
  assert found.shape == (5, len(reference.vocabulary))
  without_start = np.delete(found, SENTENCE_START, axis=1)
  np.testing.assert_allclose(np.exp(without_start.astype(np.float64)).sum(axis=1), 1, atol=1e-5)
  ngrams = np.array([[3, 4, word] for word in range(len(reference.vocabulary))])
  expected = backed_off(reference.sections, ngrams, len(reference.vocabulary)) * np.log(10)
  expected[SENTENCE_START] = -np.inf
  np.testing.assert_allclose(found[2], expected, atol=1e-5)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_histories_lead_to_the_scores(reference, order):
  model = NgramModel.from_backoff_model(BackoffModel(reference.vocabulary, reference.sections[:order]))
  batch = padded_batch(sentences(reference))
  histories = model.histories(batch).numpy()
  assert histories.shape == (*batch.shape, order - 1)
  assert np.array_equal(
    histories[:, 0], model.step(np.full(len(batch), SENTENCE_START), model.initial_state(len(batch)))[1]
  )
  found = model.next_token_log_probabilities(histories.reshape(batch.size, order - 1)).numpy()
  own = np.take_along_axis(found, batch.reshape(-1, 1), axis=1).reshape(batch.shape)
  np.testing.assert_allclose(own, model(batch).numpy(), atol=1e-5)


def test_the_export_answers_as_the_model_and_loads_in_a_session(reference, model, tmp_path):
  archive = keras.export.ExportArchive()
  archive.track(model)
  spec = tf.TensorSpec([None, None], tf.int64, name="token_ids")
  archive.add_endpoint("score", lambda token_ids: {"log_probability": model(token_ids)}, [spec])
  specs = [
    tf.TensorSpec([None], tf.int64, name="token_ids"),
    tf.TensorSpec([None, 2], tf.int64, name="state"),
  ]
  archive.add_endpoint(
    "step", lambda token_ids, state: {"log_probability": model.step(token_ids, state)[0]}, specs
  )
  archive.write_out(str(tmp_path / "export"), verbose=False)
  batch = padded_batch(sentences(reference))
  expected = model(batch).numpy()
  loaded = tf.saved_model.load(str(tmp_path / "export"))
  np.testing.assert_allclose(
    loaded.signatures["score"](token_ids=tf.constant(batch))["log_probability"], expected
  )
  states = np.array([[-1, SENTENCE_START], [3, 4]])
  answer = loaded.signatures["step"](token_ids=tf.constant([3, 5], tf.int64), state=tf.constant(states))
  np.testing.assert_allclose(answer["log_probability"], model.step(np.array([3, 5]), states)[0])
  with tf.compat.v1.Session(graph=tf.Graph()) as session:
    graph = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path / "export"))
    signature = graph.signature_def["score"]
    fetch, feed = signature.outputs["log_probability"].name, signature.inputs["token_ids"].name
    np.testing.assert_allclose(session.run(fetch, {feed: batch}), expected)


def test_padding_makes_no_difference(reference, model):
  rows = sentences(reference)
  batch = padded_batch(rows)
  is_token = np.arange(batch.shape[1]) < np.array([[len(row)] for row in rows])
  padded = np.where(is_token, batch, SENTENCE_START)
  np.testing.assert_array_equal(model(padded).numpy()[is_token], model(batch).numpy()[is_token])
  with_more = np.pad(padded, [[0, 3], [0, 5]], constant_values=SENTENCE_START)
  np.testing.assert_array_equal(model(with_more).numpy()[:-3, :-5][is_token], model(batch).numpy()[is_token])


def test_scores_follow_each_other_without_a_history_from_the_sentence_before(reference, model):
  rows = sentences(reference)
  for row, scores in zip(rows, model(padded_batch(rows)).numpy(), strict=True):
    np.testing.assert_allclose(model(np.array([row]))[0], scores[: len(row)], atol=1e-6)


def test_steps_say_what_the_scores_are(reference, model):
  rows = [row for row in sentences(reference) if len(row) > 4]
  batch = np.stack([row[:5] for row in rows])
  expected = model(batch).numpy()
  step = tf.function(model.step)
  state = model.initial_state(len(batch))
  assert state.shape == (len(batch), 2) and state.dtype == tf.int64
  token_ids = np.full(len(batch), SENTENCE_START)
  for place in range(5):
    log_probabilities, state = step(token_ids, state)
    token_ids = batch[:, place]
    found = log_probabilities.numpy()
    assert (found[:, SENTENCE_START] == -np.inf).all()
    np.testing.assert_allclose(np.exp(found.astype(np.float64)).sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found[np.arange(len(batch)), token_ids], expected[:, place], atol=1e-6)
  np.testing.assert_array_equal(state, batch[:, 2:4])


def test_models_of_words_alone_have_an_empty_state(reference):
  model = NgramModel.from_backoff_model(BackoffModel(reference.vocabulary, reference.sections[:1]))
  state = model.initial_state(2)
  found, after = model.step(np.array([3, 4]), state)
  assert state.shape == after.shape == (2, 0)
  expected = reference.sections[0].log10_probability * np.log(10)
  np.testing.assert_allclose(
    np.delete(found, SENTENCE_START, 1), [np.delete(expected, SENTENCE_START)] * 2, 1e-6
  )
  np.testing.assert_allclose(model(np.array([[5, 2]])), [expected[[5, 2]]], 1e-6)


def test_lengths_without_ngrams_are_left_out(reference, model):
  empty = dataclasses.replace(
    reference.sections[2],
    **{field.name: getattr(reference.sections[2], field.name)[:0] for field in dataclasses.fields(Section)},
  )
  longer = NgramModel.from_backoff_model(
    BackoffModel(reference.vocabulary, [*reference.sections, empty, empty])
  )
  assert longer.order == 3
  assert_same_scores(longer, model, reference)


def test_the_way_back_to_a_backoff_model(reference, model):
  back = model.to_backoff_model(reference.vocabulary)
  assert back.vocabulary == reference.vocabulary
  for section, expected in zip(back.sections, reference.sections, strict=True):
    assert np.array_equal(section.parent, expected.parent) and np.array_equal(section.word, expected.word)
    assert section.parent.dtype == np.int64 and section.word.dtype == np.int32
    np.testing.assert_allclose(section.log10_probability, expected.log10_probability, atol=1e-6)
    np.testing.assert_allclose(section.log10_backoff, expected.log10_backoff, atol=1e-6)
  assert_same_scores(NgramModel.from_backoff_model(back), model, reference, atol=1e-5)


def test_zero_stays_zero_on_the_way_back(reference):
  first = reference.sections[0]
  values = np.where(np.arange(len(first)) == UNKNOWN, np.float32(-99), first.log10_probability)
  sections = [dataclasses.replace(first, log10_probability=values), *reference.sections[1:]]
  back = NgramModel.from_backoff_model(BackoffModel(reference.vocabulary, sections)).to_backoff_model(())
  assert back.sections[0].log10_probability[UNKNOWN] == -99


def test_keys_that_need_it_are_long(reference):
  """As of a vocabulary of millions: rows of pairs times words are beyond 32 bits."""
  words = [*reference.vocabulary, *(f"word{number}" for number in range(2_000_000))]
  first = reference.sections[0]
  missing = len(words) - len(first)
  first = Section(
    np.zeros(len(words), np.int64),
    np.arange(len(words), dtype=np.int32),
    np.pad(first.log10_probability, (0, missing), constant_values=-99),
    np.pad(first.log10_backoff, (0, missing)),
  )
  model = NgramModel.from_backoff_model(BackoffModel(words, [first, *reference.sections[1:]]))
  assert {variable.dtype for variable in model.variables if "keys" in variable.name} == {"int64"}
  for row, scores in zip(
    sentences(reference), model(padded_batch(sentences(reference))).numpy(), strict=True
  ):
    np.testing.assert_allclose(scores[: len(row)], expected_scores(reference, row), atol=1e-5)


def test_a_policy_of_less_precision_changes_nothing(reference, model):
  keras.config.set_dtype_policy("mixed_bfloat16")
  try:
    assert_same_scores(NgramModel.from_backoff_model(reference), model, reference)
  finally:
    keras.config.set_dtype_policy("float32")


def test_quantized_scores_are_those_of_the_decoded_values(reference, model, quantized):
  decoded = quantized.to_backoff_model(reference.vocabulary)
  assert_same_scores(quantized, NgramModel.from_backoff_model(decoded), reference, atol=1e-5)
  for number, (section, exact) in enumerate(zip(decoded.sections, reference.sections, strict=True)):
    for name in ("log10_probability", "log10_backoff"):
      found, values = getattr(section, name), getattr(exact, name)
      # What is 0 stays 0, and words are not quantized.
      assert not found[values == 0].any()
      assert len(np.unique(found)) <= (len(values) if not number else 256)
      np.testing.assert_allclose(found, values, atol=1e-6 if not number else 0.07)


def test_quantized_distributions_nearly_sum_to_one(reference, quantized):
  states = np.array([[-1, SENTENCE_START], [SENTENCE_START, 3], [3, 4], [4, 3], [UNKNOWN, UNKNOWN], [9, 4]])
  found = np.delete(quantized.next_token_log_probabilities(states).numpy(), SENTENCE_START, axis=1)
  np.testing.assert_allclose(np.exp(found.astype(np.float64)).sum(axis=1), 1, atol=0.08)


def test_quantized_models_are_smaller(model, quantized):
  def num_bytes(of, name):
    found = [variable for variable in of.variables if name in variable.name]
    return sum(int(np.prod(variable.shape)) * np.dtype(variable.dtype).itemsize for variable in found)

  ngrams = sum(model.lengths[1:]) + model.lengths[1]
  assert num_bytes(model, "log_") - num_bytes(quantized, "log_") == 3 * ngrams - 3 * 256 * 4
  assert num_bytes(model, "keys") == num_bytes(quantized, "keys")


@pytest.mark.parametrize("kind", ["model", "quantized"])
def test_saved_models_and_weights_are_loaded_again(reference, kind, tmp_path, request):
  saved = request.getfixturevalue(kind)
  keras.saving.save_model(saved, tmp_path / "model.keras")
  loaded = keras.saving.load_model(tmp_path / "model.keras")
  assert type(loaded) is NgramModel and loaded.bits == saved.bits
  assert_same_scores(loaded, saved, reference)
  saved.save_weights(tmp_path / "model.weights.h5")
  empty = NgramModel(saved.vocabulary_size, saved.lengths, saved.bits)
  empty.load_weights(tmp_path / "model.weights.h5")
  assert_same_scores(empty, saved, reference)
