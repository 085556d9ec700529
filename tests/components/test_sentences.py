"""What a served language model says, against hand computations on a model of single words."""

import numpy as np
import pytest
import tensorflow as tf

from components.sentences import (
  embed_signature,
  evaluation_sums,
  next_token_log_probabilities,
  parse_sentences,
  score_and_rank,
  score_sentences,
  token_distributions,
)
from trainers.models.neural_language_model import build_language_model
from trainers.models.ngram import NgramModel
from trainers.ngram.arpa_reader import read_arpa

WORDS = ["<unk>", "<s>", "</s>", "a", "b", "c"]
ARPA = """\\data\\
ngram 1=6
ngram 2=3

\\1-grams:
-1.0\t<unk>\t0
-99\t<s>\t-0.5
-0.7\t</s>
-0.4\ta\t-0.3
-0.8\tb\t0
-1.2\tc\t0

\\2-grams:
-0.2\t<s> a
-0.3\ta b
-0.6\ta </s>

\\end\\
"""
LN_10 = np.log(10)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
  path = tmp_path_factory.mktemp("arpa") / "small.arpa"
  path.write_text(ARPA)
  counted = read_arpa(str(path))
  assert list(counted.vocabulary) == WORDS
  return NgramModel.from_backoff_model(counted)


def ids_of(*sentences):
  return parse_sentences({"token_ids": tf.ragged.constant(sentences, tf.int64, ragged_rank=1)})


def test_sentences_get_their_ends_and_are_filled_up():
  assert ids_of([3, 4], [], [5]).numpy().tolist() == [[3, 4, 2], [2, 1, 1], [5, 2, 1]]
  sparse = {"token_ids": tf.ragged.constant([[3, 4], []], tf.int64).to_sparse()}
  assert parse_sentences(sparse).numpy().tolist() == [[3, 4, 2], [2, 1, 1]]
  assert ids_of([], []).numpy().tolist() == [[2], [2]]


def test_scores_are_those_of_the_chain_rule(model):
  scores = score_sentences(model, ids_of([3, 4], [0], []), {"num_characters": tf.constant([4, 6, 1])}, WORDS)
  scores = {name: value.numpy() for name, value in scores.items()}
  # <s> a: -0.2, a b: -0.3, b </s>: backed off, 0 and -0.7. An unknown word: <s> backs off with -0.5.
  expected = np.array([[-0.2, -0.3, -0.7], [-0.5 - 1.0, -0.7, 0], [-0.5 - 0.7, 0, 0]]) * LN_10
  np.testing.assert_allclose(scores["token_log_probs"], expected, rtol=1e-5)
  np.testing.assert_allclose(scores["log_prob"], expected.sum(axis=1), rtol=1e-5)
  assert scores["num_tokens"].tolist() == [3, 2, 1]
  np.testing.assert_allclose(scores["perplexity"], np.exp(-expected.sum(axis=1) / [3, 2, 1]), rtol=1e-5)
  assert scores["num_unknown"].tolist() == [0, 1, 0]
  np.testing.assert_allclose(scores["unknown_log_prob"], [0, -1.5 * LN_10, 0], rtol=1e-5)
  assert scores["num_characters"].tolist() == [4, 6, 1]
  assert scores["tokens"].tolist() == [[b"a", b"b", b"</s>"], [b"<unk>", b"</s>", b""], [b"</s>", b"", b""]]


@pytest.mark.parametrize("tokens_at_once", [7, 128])
def test_ranks_count_what_is_more_likely(model, monkeypatch, tokens_at_once):
  monkeypatch.setattr("components.sentences._TOKENS_AT_ONCE", tokens_at_once)
  token_ids = tf.concat([ids_of([3, 4], [5])] * 10, axis=0)
  scores, ranks = (values.numpy() for values in score_and_rank(model, token_ids))
  np.testing.assert_allclose(scores[:2], np.array([[-0.2, -0.3, -0.7], [-1.7, -0.7, 0]]) * LN_10, rtol=1e-5)
  # After <s>: a -0.2, </s> -1.2, b -1.3, <unk> -1.5, c -1.7. After a: b -0.3, </s> -0.6, a -0.7. After b or c: a first.
  assert ranks[0].tolist() == [0, 0, 1]
  assert ranks[1].tolist() == [4, 1, 0]
  assert (ranks[::2] == ranks[0]).all() and (ranks[1::2] == ranks[1]).all()
  sums = evaluation_sums(model, token_ids, {}, top_k=2)
  assert sums["top_1_hits"].numpy()[:2].tolist() == [2, 0]
  assert sums["top_k_hits"].numpy()[:2].tolist() == [3, 1]
  assert "tokens" not in sums and "token_log_probs" not in sums


def test_the_next_token_of_prompts_of_different_lengths(model):
  prompts = tf.constant([[3, 1], [1, 1], [5, 3]], tf.int64)
  found = next_token_log_probabilities(model, prompts).numpy() / LN_10
  np.testing.assert_allclose(found[0, [0, 2, 3, 4, 5]], [-1.3, -0.6, -0.7, -0.3, -1.5], atol=1e-5)
  np.testing.assert_allclose(found[1, [0, 2, 3, 4, 5]], [-1.5, -1.2, -0.2, -1.3, -1.7], atol=1e-5)
  np.testing.assert_allclose(found[2], found[0])


def test_distributions_are_the_networks_and_equal_where_there_is_no_token():
  network = build_language_model(6, "lstm", 4, 4, dropout=0.0, softmax="full")
  token_ids = ids_of([3, 4], [5])
  found = token_distributions(network, token_ids, training=False).numpy()
  assert found.shape == (2, 3, 6)
  # What the network says of the token that is there, and a distribution over the words that can be.
  own = np.take_along_axis(found, token_ids.numpy()[..., None], axis=-1)[..., 0]
  np.testing.assert_allclose(own, network(token_ids).numpy(), atol=1e-5)
  np.testing.assert_allclose(np.exp(found[0]).sum(axis=-1), 1, atol=1e-5)
  assert not found[1, 2].any()


def test_a_text_is_embedded_by_its_words():
  vectors = np.array([[9, 9], [9, 9], [9, 9], [2, 0], [0, 5], [3, 4]], np.float32)
  embed, inputs = embed_signature(vectors, lambda text: (ids_of([3, 4], [0, 5]), {}))
  assert list(inputs) == ["text"]
  found = embed(tf.constant(["a b", "? c"]))["embedding"].numpy()
  np.testing.assert_allclose(found, [[0.5, 0.5], [0.6, 0.8]], atol=1e-6)
