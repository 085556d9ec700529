"""Nearest neighbours of words by the cosine of their vectors, and which words are worth asking about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse

from trainers.ngram.counting import SENTENCE_END

# Rows of cosines that are in memory at once.
_QUERIES_AT_ONCE = 256


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
  """float32 [vocabulary, dim]: each row divided by its length; rows of zeros stay."""
  vectors = np.asarray(vectors, np.float32)
  lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
  return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def nearest_neighbours(
  vectors: np.ndarray, queries: Sequence[int], count: int, candidates: Sequence[int] | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """The words nearest to some words.

  Args:
    vectors: float [vocabulary, dim]; rows of zeros are words without a vector.
    queries: ids of words.
    count: of neighbours a word, at most.
    candidates: ids of the words that may be neighbours; None: all. Words without a vector, <unk>, <s> and </s> and the
      word itself are none.

  Returns:
    ids int64 [queries, count] and cosines float32 [queries, count], descending; where no neighbour is left (all of
    them, for a query without a vector) -1 and 0. Of equal ones the lower id comes first.
  """
  units = unit_vectors(vectors)
  queries = np.asarray(queries, np.int64)
  allowed = np.arange(len(units)) if candidates is None else np.unique(np.asarray(candidates, np.int64))
  allowed = allowed[(allowed > SENTENCE_END) & units[allowed].any(axis=1)]
  ids = np.full((len(queries), count), -1, np.int64)
  cosines = np.zeros((len(queries), count), np.float32)
  table = units[allowed]
  for start in range(0, len(queries), _QUERIES_AT_ONCE):
    block = queries[start : start + _QUERIES_AT_ONCE]
    found = units[block] @ table.T
    found[block[:, np.newaxis] == allowed] = -np.inf
    found[~units[block].any(axis=1)] = -np.inf
    order = np.argsort(-found, axis=1, kind="stable")[:, :count]
    values = np.take_along_axis(found, order, axis=1)
    rows, columns = slice(start, start + len(block)), slice(0, order.shape[1])
    ids[rows, columns] = np.where(np.isfinite(values), allowed[order], -1)
    cosines[rows, columns] = np.where(np.isfinite(values), values, 0)
  return ids, cosines


def neighbour_rows(
  words: Sequence[str],
  vectors: np.ndarray,
  queries: Sequence[int],
  count: int = 8,
  candidates: Sequence[int] | None = None,
) -> list[list]:
  """Rows of a table for the report: word, "neighbour, neighbour, ...", the first one's cosine (None without any)."""
  ids, cosines = nearest_neighbours(vectors, queries, count, candidates)
  rows = []
  for query, found, values in zip(queries, ids, cosines, strict=True):
    names = [words[i] for i in found if i >= 0]
    rows.append([words[query], ", ".join(names), round(float(values[0]), 3) if names else None])
  return rows


def content_words(counts: scipy.sparse.spmatrix, words: Sequence[str], num_words: int) -> list[int]:
  """Ids of the most frequent words that say something, in the order of their frequency; for any language.

  A word says something if it tells more about the words near it than words do on average: if the divergence of
  P(context | word) from P(context), Resnik's selectional preference strength, is above its mean over all occurrences,
  which is the mutual information of word and context. Function words occur with everything and are below. Entries
  without a letter are left out.

  Args:
    counts: [vocabulary, vocabulary], word and context, from `cooccurrence.to_matrix`.
    words: the vocabulary.
    num_words: how many, at most.

  Source: Resnik 1996, "Selectional constraints: an information-theoretic model and its computational realization";
    of the correction for few occurrences Miller 1955, "Note on the bias of information estimates"
  """
  pairs = scipy.sparse.coo_matrix(counts, dtype=np.float64)
  size = pairs.shape[0]
  totals = np.bincount(pairs.row, pairs.data, size)
  contexts = np.bincount(pairs.col, pairs.data, pairs.shape[1])
  share = pairs.data / totals[pairs.row]
  terms = share * np.log(share * totals.sum() / contexts[pairs.col])
  different = np.bincount(pairs.row, minlength=size)
  strength = np.bincount(pairs.row, terms, size) - (different - 1) / (2 * np.maximum(totals, 1))
  mean = (strength * totals).sum() / max(totals.sum(), 1)
  telling = np.flatnonzero((strength > mean) & (totals > 0))
  by_frequency = telling[np.argsort(-totals[telling], kind="stable")].tolist()
  return [i for i in by_frequency if any(letter.isalpha() for letter in words[i])][:num_words]
