"""Co-occurrence counts in Beam against a count of the whole text at once, for any number of workers."""

import os

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from components.cooccurrence_counting import CountCooccurrences, load_cooccurrences
from components.ngram_counting import Chunk
from trainers.embeddings.cooccurrence import Window, count_pairs, to_matrix

VOCABULARY_SIZE = 50
NUM_CHUNKS = 7


@pytest.fixture(scope="module")
def text(tmp_path_factory):
  """((ids, lengths) of the whole text, its chunks on disk as WriteChunks leaves them)."""
  directory = tmp_path_factory.mktemp("tokens")
  generator = np.random.default_rng(5)
  pieces, chunks = [], []
  for number in range(NUM_CHUNKS):
    lengths = generator.integers(0, 12, 60)
    ids = np.minimum(generator.zipf(1.4, lengths.sum()) - 1, VOCABULARY_SIZE - 1).astype(np.int32)
    if number == 3:
      # Only sentences of one word: nothing to count.
      lengths = np.ones(len(ids), np.int64)
    path = str(directory / f"{number}.npz")
    np.savez(path, ids=ids, lengths=lengths)
    pieces.append((ids, lengths))
    chunks.append(Chunk(number % 2, number, path))
  return [np.concatenate(arrays) for arrays in zip(*pieces, strict=True)], chunks


def count(chunks, directory, window, num_workers=1, pairs_per_part=300, vocabulary_size=VOCABULARY_SIZE):
  """Runs the transform; returns {part: its number of pairs}, which it leaves in a file."""
  os.makedirs(directory)
  options = PipelineOptions(direct_num_workers=num_workers, direct_running_mode="multi_processing")
  result = os.path.join(directory, "result")
  with beam.Pipeline(FnApiRunner(), options if num_workers > 1 else None) as pipeline:
    _ = (
      pipeline
      | beam.Create([(chunk, None) for chunk in chunks])
      | beam.Reshuffle()
      | CountCooccurrences(directory, vocabulary_size, window, pairs_per_part)
      | beam.Map(lambda pair: f"{pair[0]} {pair[1]}")
      | beam.io.WriteToText(result, num_shards=1, shard_name_template="")
    )
  with open(result) as file:
    pairs = dict(sorted(tuple(map(int, line.split())) for line in file))
  os.remove(result)
  return pairs


def contents(directory):
  """{file: {name: array}} of all that is in a directory."""
  found = {}
  for name in os.listdir(directory):
    with np.load(os.path.join(directory, name)) as arrays:
      found[name] = {key: arrays[key].tolist() for key in arrays}
  return found


@pytest.mark.parametrize("by_distance", [False, True])
def test_parts_together_are_the_count_of_the_whole_text(text, tmp_path, by_distance):
  (ids, lengths), chunks = text
  window = Window(4, by_distance)
  directory = str(tmp_path / "counts")
  pairs = count(chunks, directory, window)
  matrix = load_cooccurrences(directory)
  expected = to_matrix(count_pairs(ids, lengths, VOCABULARY_SIZE, window), VOCABULARY_SIZE, window.units)
  assert matrix.shape == (VOCABULARY_SIZE, VOCABULARY_SIZE)
  assert (matrix != expected).nnz == 0 and expected.nnz > 400
  assert len(pairs) == 4 and sum(pairs.values()) == expected.nnz
  # Nothing of the chunks is left.
  assert sorted(os.listdir(directory)) == [
    f"part-{part:05d}-of-{len(pairs):05d}.npz" for part in range(len(pairs))
  ]


def test_size_of_parts_does_not_show(text, tmp_path):
  _, chunks = text
  directories = [str(tmp_path / name) for name in ("one", "many")]
  counts = [
    count(chunks, directory, Window(3), pairs_per_part=size)
    for directory, size in zip(directories, (10**6, 10), strict=True)
  ]
  one, many = (load_cooccurrences(directory) for directory in directories)
  # No part has more than one row where every row is too long.
  assert len(counts[0]) == 1 and len(counts[1]) > 30
  assert (one != many).nnz == 0 and one.nnz > 300


# Every worker process imports Beam anew: ten seconds of one core each.
@pytest.mark.slow
@pytest.mark.parametrize("num_workers, by_distance", [(2, False), (4, True)])
def test_number_of_workers_does_not_show(text, tmp_path, by_distance, num_workers):
  _, chunks = text
  window = Window(5, by_distance)
  directories = [str(tmp_path / name) for name in ("one", "several")]
  one, several = (
    count(chunks, directory, window, workers)
    for directory, workers in zip(directories, (1, num_workers), strict=True)
  )
  assert one == several
  assert contents(directories[0]) == contents(directories[1])


def test_text_without_chunks_has_no_pairs(tmp_path):
  directory = str(tmp_path / "counts")
  assert count([], directory, Window(), vocabulary_size=6) == {0: 0}
  matrix = load_cooccurrences(directory)
  assert matrix.shape == (6, 6) and matrix.nnz == 0


def test_missing_parts_are_noticed(text, tmp_path):
  _, chunks = text
  directory = str(tmp_path / "counts")
  with pytest.raises(ValueError, match="0 of 1 parts"):
    os.makedirs(tmp_path / "empty")
    load_cooccurrences(str(tmp_path / "empty"))
  number = len(count(chunks, directory, Window(2)))
  os.remove(os.path.join(directory, f"part-00001-of-{number:05d}.npz"))
  with pytest.raises(ValueError, match=f"{number - 1} of {number} parts"):
    load_cooccurrences(directory)
