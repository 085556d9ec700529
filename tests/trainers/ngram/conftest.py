"""A small text, models estimated from it, and what their probabilities sum to."""

import functools
import pathlib

import numpy as np
import pytest

from trainers.ngram.arpa import backed_off
from trainers.ngram.counting import SENTENCE_START, UNKNOWN
from trainers.ngram.passes import (
  Plan,
  all_discounts,
  build_part,
  count_words,
  part_ranges,
  part_sections,
  sum_contexts,
  total_contexts,
  write_windows,
)
from trainers.ngram.smoothing import Smoothing
from trainers.ngram.tables import join_pieces, load_model, save_piece, save_vocabulary

DATA = pathlib.Path(__file__).parents[2] / "data"
KNESER_NEY = Smoothing()


@pytest.fixture(scope="session")
def read_text():
  """A function: ids and lengths of the text's sentences; words that are not in the vocabulary are unknown."""

  def read(vocabulary):
    ids = {word: number for number, word in enumerate(vocabulary)}
    sentences = [line.split() for line in (DATA / "genesis.txt").read_text(encoding="utf-8").splitlines()]
    flat = np.array([ids.get(word, UNKNOWN) for sentence in sentences for word in sentence], np.int32)
    return flat, np.array([len(sentence) for sentence in sentences])

  return read


def whole_model(folder, vocabulary, parts):
  """The model of which each part has the given sections, by way of its files."""
  for number in range(len(parts[0])):
    prefixes = [str(folder / f"piece-{part}-{number}") for part in range(len(parts))]
    for prefix, sections in zip(prefixes, parts, strict=True):
      save_piece(prefix, sections[number])
    join_pieces(
      str(folder), number, prefixes, [len(sections[number - 1]) for sections in parts] if number else []
    )
  save_vocabulary(str(folder), vocabulary)
  return load_model(str(folder))


@pytest.fixture(scope="session")
def estimate():
  """A function: all passes, one piece after the other; the model, the plan and the counts."""

  def run(
    folder, ids, lengths, vocabulary, order, smoothing=KNESER_NEY, windows_per_part=10**9, num_chunks=1
  ):
    folder.mkdir(exist_ok=True)
    size = len(vocabulary)
    ranges = part_ranges(count_words(ids, lengths, size), windows_per_part)
    plan = Plan(str(folder), order, size, ranges, num_chunks, smoothing)
    edges = np.linspace(0, len(lengths), num_chunks + 1).astype(int)
    tokens = np.append(0, np.cumsum(lengths))
    for chunk, (start, stop) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
      write_windows(plan, chunk, ids[tokens[start] : tokens[stop]], lengths[start:stop])
    parts = range(len(ranges))
    counts = functools.reduce(lambda a, b: a + b, [build_part(plan, part) for part in parts])
    taken = all_discounts(counts)
    unigram_discount = sum(sum_contexts(plan, part, taken) for part in parts)
    for part in parts:
      total_contexts(plan, part)
    sections = [part_sections(plan, part, taken, counts.unigrams, unigram_discount) for part in parts]
    return whole_model(folder, vocabulary, sections), plan, counts

  return run


@pytest.fixture(scope="session")
def small_model(estimate, read_text, tmp_path_factory):
  """A function: a model of the text in which all but the 120 first words are unknown, from an order and a smoothing."""

  def run(order, smoothing=KNESER_NEY):
    words = (DATA / "genesis.txt").read_text(encoding="utf-8").split()
    vocabulary = ("<unk>", "<s>", "</s>", *list(dict.fromkeys(words))[:117])
    folder = tmp_path_factory.mktemp("model")
    return estimate(folder, *read_text(vocabulary), vocabulary, order, smoothing, windows_per_part=500)[0]

  return run


@pytest.fixture(scope="session")
def sums(read_text):
  """A function: what probabilities sum to after histories of every length, seen, unseen and with unknown words."""

  def run(model):
    size, order = len(model.vocabulary), len(model.sections)
    words = np.delete(np.arange(size), SENTENCE_START)
    generator = np.random.default_rng(5)
    ids, _ = read_text(model.vocabulary)
    totals = []
    for length in range(order):
      starts = generator.integers(0, len(ids) - length, 20)
      seen = ids[starts[:, None] + np.arange(length)]
      unseen = generator.integers(2, size, (20, length))
      after_start = np.concatenate([seen, unseen])
      after_start[:, :1] = SENTENCE_START
      histories = np.concatenate([seen, unseen, after_start, np.full((1, length), UNKNOWN)]).astype(np.int64)
      ngrams = np.concatenate(
        [np.repeat(histories, len(words), axis=0), np.tile(words, len(histories))[:, None]], axis=1
      )
      scores = backed_off(model.sections, ngrams, size).astype(np.float64)
      totals.append((10.0**scores).reshape(len(histories), -1).sum(axis=1))
    return np.concatenate(totals)

  return run
