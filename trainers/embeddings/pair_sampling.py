"""Pairs of words near each other, and negative samples, drawn from text in whole chunks.

Source: Mikolov, Sutskever, Chen, Corrado and Dean 2013, "Distributed Representations of Words and Phrases and their
Compositionality"; where paper and program differ (the formula of subsampling), the authors' word2vec.c
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from trainers.ngram.counting import SENTENCE_END

# Reads the text once: (ids int [tokens], the sentences one after the other; lengths int [sentences]) of each chunk.
Chunks = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]

# Pairs that share their negative samples, and how many these are.
GROUP_PAIRS = 32
GROUP_SAMPLES = 16

_NOISE_POWER = 0.75
_TINY = np.finfo(np.float64).tiny


class PairSampler:
  """Draws pairs and negative samples.

  Frequent words are left out at random, and unknown words, sentence starts and ends always, before it is seen which
  words are near each other. Each word draws how far its window reaches, so that near pairs come more often.

  Args:
    word_counts: int [vocabulary].
    window: words to either side, at most.
    subsampling: relative frequency from which on words are left out at times; 0: none is.
    seed: not below 0. Every chunk of every epoch has draws of its own, which depend on it.
  """

  def __init__(self, word_counts: np.ndarray, window: int, subsampling: float, seed: int):
    counts = np.array(word_counts, np.float64)
    counts[: SENTENCE_END + 1] = 0
    frequency = counts / max(counts.sum(), 1)
    self._window = window
    self._seed = seed
    # float64 [vocabulary]: how likely an occurrence is to stay.
    self.kept = (frequency > 0).astype(np.float64)
    if subsampling:
      ratio = subsampling / np.maximum(frequency, _TINY)
      self.kept *= np.minimum(np.sqrt(ratio) + ratio, 1)
    # float64 [vocabulary]: how likely a negative sample is this word.
    self.noise = frequency**_NOISE_POWER
    self.noise /= max(self.noise.sum(), _TINY)
    ends = np.cumsum(self.noise)
    self._noise_ends = ends / max(ends[-1], _TINY)

  def count(self, chunks: Chunks) -> int:
    """How many pairs the first epoch has; the others have about as many."""
    return sum(pairs.shape[1] for pairs, _ in self._chunk_pairs(chunks, epoch=0))

  def batches(self, chunks: Chunks, epoch: int, batch_pairs: int) -> Iterator[dict[str, np.ndarray]]:
    """The pairs of an epoch, shuffled within each chunk.

    Args:
      batch_pairs: a multiple of `GROUP_PAIRS`.

    Yields:
      words, contexts int32 [groups, GROUP_PAIRS] and samples int32 [groups, GROUP_SAMPLES]. Pairs that do not fill the
      last batch are left out; an epoch's only ones are repeated until they do.
    """
    waiting = np.zeros((2, 0), np.int32)
    is_first = True
    for pairs, generator in self._chunk_pairs(chunks, epoch):
      pairs = np.concatenate([waiting, pairs[:, generator.permutation(pairs.shape[1])]], axis=1)
      num_full = pairs.shape[1] // batch_pairs
      for batch in np.split(pairs[:, : num_full * batch_pairs], max(num_full, 1), axis=1):
        if batch.size:
          is_first = False
          yield self._batch(batch, generator)
      waiting = pairs[:, num_full * batch_pairs :]
    if is_first and waiting.size:
      repeated = np.stack([np.resize(row, batch_pairs) for row in waiting])
      yield self._batch(repeated, np.random.default_rng([self._seed, epoch]))

  def _batch(self, pairs: np.ndarray, generator: np.random.Generator) -> dict[str, np.ndarray]:
    words, contexts = pairs.reshape(2, -1, GROUP_PAIRS)
    drawn = generator.random((len(words), GROUP_SAMPLES))
    samples = np.searchsorted(self._noise_ends, drawn, "right").astype(np.int32)
    return {"words": words, "contexts": contexts, "samples": samples}

  def _chunk_pairs(self, chunks: Chunks, epoch: int) -> Iterator[tuple[np.ndarray, np.random.Generator]]:
    """The pairs of each chunk, (word, context) int32 [2, pairs], and what further draws for it are made with."""
    for number, (ids, lengths) in enumerate(chunks()):
      generator = np.random.default_rng([self._seed, epoch, number])
      yield self._draw_pairs(ids, lengths, generator), generator

  def _draw_pairs(self, ids: np.ndarray, lengths: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    is_kept = generator.random(len(ids), np.float32) < self.kept[ids]
    sentence = np.repeat(np.arange(len(lengths)), lengths)[is_kept]
    ids = ids[is_kept].astype(np.int32)
    reach = generator.integers(1, self._window + 1, len(ids))
    found = [np.zeros((2, 0), np.int32)]
    for distance in range(1, min(self._window, len(ids) - 1) + 1):
      first, second = ids[:-distance], ids[distance:]
      is_near = sentence[:-distance] == sentence[distance:]
      forward = is_near & (reach[:-distance] >= distance)
      backward = is_near & (reach[distance:] >= distance)
      found.append(np.stack([first[forward], second[forward]]))
      found.append(np.stack([second[backward], first[backward]]))
    return np.concatenate(found, axis=1)
