"""ARPA files: what is written is read again, what others write is understood, what is no such file is told."""

import gzip

import numpy as np
import pytest

from trainers.ngram.arpa import backed_off, write_arpa
from trainers.ngram.arpa_reader import read_arpa, read_arpa_words

SMALL = """
\\data\\
ngram 1=5
ngram 2=3
ngram 3=1

\\1-grams:
-1.0\t<unk>
-99\t<s>\t-0.3
-0.7\t</s>
-0.5\ta\t-0.2
-0.6\tb\t-0.1

\\2-grams:
-0.25\t<s> a\t-0.15
-0.35\ta b\t-0.05
-0.45\tb </s>

\\3-grams:
-0.125\t<s> a b

\\end\\
"""


@pytest.fixture
def small(tmp_path):
  path = tmp_path / "small.arpa"
  path.write_text(SMALL)
  return str(path)


def scores(model, *ngrams):
  ids = {word: number for number, word in enumerate(model.vocabulary)}
  words = np.array([[ids[word] for word in ngram.split()] for ngram in ngrams])
  return backed_off(model.sections, words, len(model.vocabulary))


def test_the_longest_ngram_counts_and_backoffs_are_added(small):
  model = read_arpa(small)
  assert model.vocabulary == ("<unk>", "<s>", "</s>", "a", "b")
  found = scores(model, "<s> a b", "b a b", "a b </s>", "a b a", "b b <unk>")
  expected = [-0.125, -0.35, -0.05 - 0.45, -0.05 - 0.1 - 0.5, -0.1 - 1.0]
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_is_written_is_read_again(small, tmp_path):
  model = read_arpa(small)
  write_arpa(str(tmp_path / "again.arpa"), model)
  again = read_arpa(str(tmp_path / "again.arpa"))
  assert again.vocabulary == model.vocabulary
  for ours, theirs in zip(again.sections, model.sections, strict=True):
    for name in ("parent", "word", "log10_probability", "log10_backoff"):
      assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name


def test_a_gzipped_file_with_windows_line_ends(tmp_path):
  path = tmp_path / "small.arpa.gz"
  path.write_bytes(gzip.compress(SMALL.replace("\n", "\r\n").encode()))
  assert [len(section) for section in read_arpa(str(path)).sections] == [5, 3, 1]


def test_missing_suffixes_are_added_with_their_backed_off_probability(tmp_path):
  path = tmp_path / "pruned.arpa"
  path.write_text(SMALL.replace("ngram 2=3", "ngram 2=2").replace("-0.35\ta b\t-0.05\n", ""))
  model = read_arpa(str(path))
  assert [len(section) for section in model.sections] == [5, 3, 1]
  np.testing.assert_allclose(scores(model, "<s> a b", "b a b"), [-0.125, -0.2 - 0.6], atol=1e-6)


@pytest.mark.parametrize(
  "old, new, message",
  [
    ("\\data\\", "", r"no \\data\\ section: this is no ARPA file"),
    ("ngram 2=3", "ngram 3=3", "line 4: expected 'ngram 2=COUNT', found 'ngram 3=3'"),
    ("-0.5\ta\t-0.2", "-0.5", "line 11: no probability with 1 words, found '-0.5'"),
    ("-0.35\ta b", "-0.35\ta c", "line 16: 'c' is not among the words of length 1"),
    ("\\3-grams:", "\\end\\", "line 19: expected .*3-grams:, found"),
    ("-0.125", "x", "line 20: no probability with 3 words"),
    ("\\end\\", "", r"expected \\end\\, found ''"),
  ],
)
def test_files_that_are_damaged_are_named_with_the_line(tmp_path, old, new, message):
  path = tmp_path / "bad.arpa"
  path.write_text(SMALL.replace(old, new))
  with pytest.raises(ValueError, match=message) as caught:
    read_arpa(str(path))
  assert str(caught.value).startswith(f"{path}, line ")


def test_words_alone(small, tmp_path):
  assert read_arpa_words(small) == (3, ("<unk>", "<s>", "</s>", "a", "b"))
  path = tmp_path / "small.arpa.gz"
  path.write_bytes(gzip.compress(SMALL.split("\\2-grams:")[0].encode()))
  assert read_arpa_words(str(path)) == (3, ("<unk>", "<s>", "</s>", "a", "b"))
  path = tmp_path / "notes.txt"
  path.write_text("no model\n")
  with pytest.raises(ValueError, match=r"notes\.txt, line 1: no .data. section"):
    read_arpa_words(str(path))
