"""Models as files of arrays."""

import numpy as np
import pytest

from trainers.ngram.arpa import Section
from trainers.ngram.tables import join_pieces, load_model, save_piece, save_vocabulary


def section(parent, word):
  count = len(word)
  return Section(
    np.array(parent, np.int64),
    np.array(word, np.int32),
    -np.arange(count, dtype=np.float32),
    np.arange(count, dtype=np.float32),
  )


def test_pieces_of_parts_make_one_model(tmp_path):
  pieces = [[section([0, 0], [0, 1]), section([0, 1], [5, 6])], [section([0], [2]), section([0, 0], [7, 8])]]
  for number in range(2):
    prefixes = [str(tmp_path / f"piece-{part}-{number}") for part in range(2)]
    for prefix, part in zip(prefixes, pieces, strict=True):
      save_piece(prefix, part[number])
    join_pieces(str(tmp_path), number, prefixes, [2, 1] if number else [])
  save_vocabulary(str(tmp_path), ["<unk>", "<s>", "</s>", "\u2028", "가"])
  model = load_model(str(tmp_path))
  assert model.vocabulary == ["<unk>", "<s>", "</s>", "\u2028", "가"]
  assert [section.word.tolist() for section in model.sections] == [[0, 1, 2], [5, 6, 7, 8]]
  # Rows of the second part's words count on from the first part's two.
  assert model.sections[1].parent.tolist() == [0, 1, 2, 2]
  assert model.sections[1].log10_probability.tolist() == [0, -1, 0, -1]
  assert model.sections[0].log10_backoff.dtype == np.float32
  assert sorted(path.name for path in tmp_path.glob("piece*")) == []


def test_a_length_without_ngrams(tmp_path):
  save_piece(str(tmp_path / "piece"), section([], []))
  join_pieces(str(tmp_path), 0, [str(tmp_path / "piece")], [])
  save_vocabulary(str(tmp_path), ["<unk>"])
  assert len(load_model(str(tmp_path)).sections[0]) == 0


def test_no_model(tmp_path):
  with pytest.raises(ValueError, match="no n-gram model there"):
    load_model(str(tmp_path))
