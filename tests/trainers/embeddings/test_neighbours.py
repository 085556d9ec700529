"""Neighbours by hand, and words that say something."""

import numpy as np
import pytest
import scipy.sparse

from trainers.embeddings import neighbours
from trainers.embeddings.cooccurrence import Window, count_pairs, to_matrix
from trainers.embeddings.neighbours import content_words, nearest_neighbours, neighbour_rows, unit_vectors

WORDS = ["<unk>", "<s>", "</s>", "east", "far east", "north", "north-east", "west", "nowhere"]
VECTORS = np.array([[1, 0], [1, 0], [1, 0], [1, 0], [9, 0], [0, 2], [3, 3], [-1, 0], [0, 0]], float)


def test_unit_vectors():
  units = unit_vectors(VECTORS)
  assert units.dtype == np.float32
  np.testing.assert_allclose(units[3:], [[1, 0], [1, 0], [0, 1], [0.5**0.5, 0.5**0.5], [-1, 0], [0, 0]])


def test_neighbours_by_hand():
  ids, cosines = nearest_neighbours(VECTORS, [3, 6, 7], 3)
  # Length does not matter; 5 and 7 are at 0 and -1; of 3 and 4, as near to 6 as 5 is, the lower ids come first.
  assert ids.tolist() == [[4, 6, 5], [3, 4, 5], [5, 6, 3]]
  half = 0.5**0.5
  np.testing.assert_allclose(cosines, [[1, half, 0], [half, half, half], [0, -half, -1]], atol=1e-6)


def test_candidates_and_missing_neighbours():
  ids, cosines = nearest_neighbours(VECTORS, [3, 8, 0], 4, candidates=[7, 6, 3, 2, 8])
  assert ids.tolist() == [[6, 7, -1, -1], [-1] * 4, [3, 6, 7, -1]]
  assert cosines[1].tolist() == [0] * 4
  ids, _ = nearest_neighbours(VECTORS, [3], 2, candidates=[])
  assert ids.tolist() == [[-1, -1]]


def test_blocks_of_queries_do_not_show(monkeypatch):
  vectors = np.random.default_rng(0).normal(size=(60, 8))
  queries = list(range(60))
  ids, cosines = nearest_neighbours(vectors, queries, 5)
  monkeypatch.setattr(neighbours, "_QUERIES_AT_ONCE", 7)
  again, values = nearest_neighbours(vectors, queries, 5)
  assert ids.tolist() == again.tolist()
  np.testing.assert_allclose(cosines, values, atol=1e-6)
  # Against one at a time.
  expected = unit_vectors(vectors) @ unit_vectors(vectors)[11]
  expected[[0, 1, 2, 11]] = -2
  assert ids[11].tolist() == np.argsort(-expected)[:5].tolist()


def test_rows_of_the_report():
  rows = neighbour_rows(WORDS, VECTORS, [6, 8], count=2)
  assert rows == [["north-east", "east, far east", pytest.approx(0.707)], ["nowhere", "", None]]


def strength(counts, word):
  """Resnik's, with Miller's correction, one pair at a time."""
  total = counts.sum()
  divergence = sum(
    counts[word, c]
    / counts[word].sum()
    * np.log(counts[word, c] / counts[word].sum() / (counts[c].sum() / total))
    for c in range(len(counts))
    if counts[word, c]
  )
  return divergence - (np.count_nonzero(counts[word]) - 1) / (2 * counts[word].sum())


def test_words_that_say_something():
  generator = np.random.default_rng(1)
  # 3 to 5 stand anywhere; 6 to 11 each with one of 12 to 17; 18 has no letter.
  sentences = []
  for _ in range(2000):
    kind = generator.integers(0, 6)
    function = generator.integers(3, 6, 3)
    sentences += [function[0], 6 + kind, function[1], 12 + kind, function[2]] + [18] * (kind == 0)
  ids = np.array(sentences, np.int32)
  words = ["<unk>", "<s>", "</s>", "the", "of", "a", *"bcdefghijklm", "?!"]
  lengths = np.full(len(ids) // 2, 2)
  counts = to_matrix(count_pairs(ids[: lengths.sum()], lengths, len(words), Window(1)), len(words), 1)
  found = content_words(counts, words, 50)
  dense = counts.toarray()
  occurring = [i for i in range(len(words)) if dense[i].any()]
  mean = sum(strength(dense, i) * dense[i].sum() for i in occurring) / dense.sum()
  expected = [i for i in occurring if strength(dense, i) > mean and i != 18]
  assert found == sorted(expected, key=lambda i: (-dense[i].sum(), i))
  assert content_words(counts, words, 2) == found[:2]


def test_function_words_are_left_out():
  generator = np.random.default_rng(1)
  lines = []
  for _ in range(3000):
    kind = generator.integers(0, 6)
    a, b, c = generator.integers(3, 6, 3)
    lines.append([a, 6 + kind, b, 12 + kind, c])
  ids, lengths = np.array(lines, np.int32).ravel(), np.full(len(lines), 5)
  words = ["<unk>", "<s>", "</s>", "the", "of", "a", *"bcdefghijklm"]
  counts = to_matrix(count_pairs(ids, lengths, len(words), Window(4)), len(words), 1)
  assert sorted(content_words(counts, words, 50)) == list(range(6, 18))
  assert content_words(scipy.sparse.csr_matrix((4, 4)), words[:4], 5) == []
