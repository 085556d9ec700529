"""Drawing tokens from hand-made distributions, and whole texts against a loop in numpy."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers import decoding
from trainers.decoding import choose, ranked
from trainers.models.neural_language_model import build_language_model
from trainers.ngram.counting import SENTENCE_END, SENTENCE_START, UNKNOWN

# <unk> and <s> are likely and must not be drawn.
PROBABILITIES = np.array([0.3, 0.2, 0.05, 0.2, 0.15, 0.1])


@pytest.fixture(scope="module")
def model():
  keras.utils.set_random_seed(3)
  made = build_language_model(30, "lstm", 16, 16, softmax="full")
  # Far from uniform, with sentences that end after a few words.
  made.embeddings.assign(made.embeddings * 3)
  return made


@pytest.fixture(scope="module")
def generate(model):
  """`decoding.generate` with the model, as a graph: in it the loop is many times as fast."""
  signature = [
    tf.TensorSpec([None, None], tf.int64),
    tf.TensorSpec([None], tf.int32),
    tf.TensorSpec([None], tf.float32),
    tf.TensorSpec([], tf.int32),
    tf.TensorSpec([], tf.float32),
    tf.TensorSpec([None], tf.int64),
  ]
  graph = tf.function(functools.partial(decoding.generate, model), input_signature=signature, autograph=False)

  def run(prompts, max_length, temperature=1.0, top_k=0, top_p=1.0, seed=0):
    rows = [
      np.broadcast_to(np.asarray(value, dtype), len(prompts))
      for value, dtype in ((max_length, np.int32), (temperature, np.float32), (seed, np.int64))
    ]
    return graph(*map(tf.constant, [np.asarray(prompts, np.int64), *rows[:2], top_k, top_p, rows[2]])).numpy()

  return run


def rank(temperature=1.0, top_k=0, top_p=1.0, probabilities=PROBABILITIES):
  """{word: probability} of what is left to draw from."""
  scores = tf.constant(np.log(probabilities)[np.newaxis], tf.float32)
  arguments = [tf.constant([temperature]), tf.constant([top_k]), tf.constant([top_p])]
  words, found = (values.numpy()[0] for values in ranked(scores, *arguments))
  assert np.all(np.diff(found) <= 0)
  return {word: value for word, value in zip(words.tolist(), found.tolist(), strict=True) if value > 0}


@pytest.mark.parametrize(
  "settings, expected",
  [
    ({}, {3: 0.4, 4: 0.3, 5: 0.2, 2: 0.1}),
    ({"top_k": 2}, {3: 4 / 7, 4: 3 / 7}),
    ({"top_k": 100}, {3: 0.4, 4: 0.3, 5: 0.2, 2: 0.1}),
    # 0.4 alone is less than 0.5, with 0.3 it is enough.
    ({"top_p": 0.5}, {3: 4 / 7, 4: 3 / 7}),
    ({"top_p": 0.75}, {3: 4 / 9, 4: 3 / 9, 5: 2 / 9}),
    ({"top_p": 0.0}, {3: 1.0}),
    # Of the three that top-k leaves, two have 7 / 9.
    ({"top_k": 3, "top_p": 0.7}, {3: 4 / 7, 4: 3 / 7}),
    ({"temperature": 0.5}, {3: 16 / 30, 4: 9 / 30, 5: 4 / 30, 2: 1 / 30}),
    ({"temperature": 0.5, "top_p": 0.6}, {3: 16 / 25, 4: 9 / 25}),
  ],
)
def test_what_is_left_to_draw_from(settings, expected):
  assert rank(**settings) == pytest.approx(expected, rel=1e-5)


def test_settings_are_each_rows_own():
  scores = tf.constant(np.log(np.tile(PROBABILITIES, (3, 1))), tf.float32)
  _, found = ranked(scores, tf.ones(3), tf.constant([1, 0, 2]), tf.constant([1.0, 0.5, 1.0]))
  assert np.count_nonzero(found, axis=1).tolist() == [1, 2, 2]


@pytest.mark.parametrize(
  "draw, word", [(0.0, 3), (0.39, 3), (0.41, 4), (0.69, 4), (0.71, 5), (0.89, 5), (0.91, 2), (0.9999999, 2)]
)
def test_a_draw_falls_into_a_words_share(draw, word):
  scores = tf.constant(np.log(PROBABILITIES)[np.newaxis], tf.float32)
  chosen = choose(scores, tf.constant([draw]), tf.ones(1), tf.zeros(1, tf.int32), tf.ones(1))
  assert chosen.numpy().tolist() == [word]
  greedy = choose(scores, tf.constant([draw]), tf.zeros(1), tf.zeros(1, tf.int32), tf.ones(1))
  assert greedy.numpy().tolist() == [3]


def greedy_loop(model, prompt, max_length):
  """The most likely word, again and again, each time scoring the sentence from its start."""
  sentence = list(prompt)
  for _ in range(max_length):
    scores = model.log_distribution(np.array([[*sentence, SENTENCE_END]])).numpy()[0, -1]
    scores[[UNKNOWN, SENTENCE_START]] = -np.inf
    sentence.append(int(np.argmax(scores)))
    if sentence[-1] == SENTENCE_END:
      break
  new = sentence[len(prompt) :]
  return new + [SENTENCE_START] * (max_length - len(new))


PROMPTS = [[7, 9, 4], [11], [], [3, 3, 3, 3], [22, 23]]


def padded(prompts):
  batch = np.full((len(prompts), max(map(len, prompts))), SENTENCE_START, np.int64)
  for row, prompt in zip(batch, prompts, strict=True):
    row[: len(prompt)] = prompt
  return batch


def test_without_temperature_the_most_likely_words(model, generate):
  found = generate(padded(PROMPTS), 12, temperature=0.0)
  assert found.tolist() == [greedy_loop(model, prompt, 12) for prompt in PROMPTS]


def test_a_row_is_the_same_alone_and_in_a_batch(generate):
  seeds, lengths = np.arange(5) + 40, np.array([9, 2, 20, 0, 14])
  together = generate(padded(PROMPTS), lengths, 1.3, 20, 0.95, seeds)
  assert together.shape == (5, 20)
  for row, prompt, seed, length in zip(together, PROMPTS, seeds, lengths, strict=True):
    alone = generate(padded([prompt]), length, 1.3, 20, 0.95, seed)[0]
    assert row[:length].tolist() == alone.tolist()
    assert np.all(row[length:] == SENTENCE_START)


def test_a_seed_gives_its_text(generate):
  prompt = np.tile([[7, 9]], (40, 1))
  settings = {"max_length": 15, "temperature": 1.5}
  first = generate(prompt, seed=np.arange(40), **settings)
  again = generate(prompt, seed=np.arange(40), **settings)
  assert first.tolist() == again.tolist()
  assert len(set(map(tuple, first.tolist()))) > 20
  assert len(set(map(tuple, generate(prompt, seed=7, **settings).tolist()))) == 1


def test_texts_end_once_and_have_no_special_words(generate):
  texts = generate(np.ones((200, 1)), 15, 2.0, seed=np.arange(200))
  assert UNKNOWN not in texts
  ended = 0
  for text in texts.tolist():
    words = text[: text.index(SENTENCE_END) + 1] if SENTENCE_END in text else text
    assert SENTENCE_START not in words
    assert all(word == SENTENCE_START for word in text[len(words) :])
    ended += len(words) < 15
  assert 20 < ended < 200


def test_words_come_as_often_as_they_are_likely(model, generate):
  """The first words of 4,000 sentences against the distribution that they are drawn from."""
  drawn = generate(np.ones((4000, 0)), 1, seed=np.arange(4000))[:, 0]
  expected = np.exp(model.log_distribution(np.array([[SENTENCE_END]])).numpy()[0, 0])
  expected[UNKNOWN] = 0
  expected /= expected.sum()
  share = np.bincount(drawn, minlength=30) / 4000
  assert np.all(np.abs(share - expected) < 4.5 * np.sqrt(expected / 4000) + 1e-9)


def test_a_signature_generates_the_same_text(model, generate, tmp_path):
  def predict(prompt_ids, max_length, temperature, seed):
    return decoding.generate(model, prompt_ids, max_length, temperature, seed=seed)

  archive = keras.export.ExportArchive()
  archive.track(model)
  signature = [
    tf.TensorSpec([None, None], tf.int64),
    tf.TensorSpec([], tf.int32),
    tf.TensorSpec([None], tf.float32),
    tf.TensorSpec([None], tf.int64),
  ]
  archive.add_endpoint("generate", tf.function(predict, input_signature=signature, autograph=False))
  archive.write_out(str(tmp_path), verbose=False)
  arguments = (padded(PROMPTS), 10, np.array([0, 1, 0.7, 1, 2], np.float32), np.arange(5))
  loaded = tf.saved_model.load(str(tmp_path))
  found = loaded.generate(*map(tf.constant, arguments))
  expected = generate(arguments[0], 10, arguments[2], seed=arguments[3])
  assert found.numpy().tolist() == expected.tolist()
