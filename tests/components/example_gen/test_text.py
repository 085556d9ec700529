"""The text reader: every line that is not blank is a row or a reject, whatever the size of the pieces."""

import gzip
import tracemalloc
import unicodedata

import pytest

from components.example_gen.text import TextReader
from components.task import Reject, Row


def read_all(path, **settings):
  """({key: text}, {path: reason}, the rows)."""
  reader = TextReader(str(path), **settings)
  items = [item for chunk in reader.chunks() for item in reader.read(chunk)]
  rows = [item for item in items if isinstance(item, Row)]
  rejects = {item.path: item.reason for item in items if isinstance(item, Reject)}
  assert len({row.key for row in rows}) == len(rows)
  assert len(rows) + len(rejects) == len(items)
  return {row.key: row.features["text"].decode() for row in rows}, rejects, rows


def test_one_file_with_blank_lines(tmp_path):
  path = tmp_path / "a.txt"
  path.write_bytes(b"\xef\xbb\xbffirst \r\n\n  \n\tsecond\nlast")
  texts, rejects, rows = read_all(path)
  assert texts == {"a.txt:1": "first", "a.txt:4": "second", "a.txt:5": "last"}
  assert not rejects
  assert rows[1].features == {"text": b"second", "path": "a.txt", "line": 4}


def test_text_comes_in_normal_form_c(tmp_path):
  decomposed = unicodedata.normalize("NFD", "한국어 café")
  (tmp_path / "a.txt").write_text(decomposed + "\n", encoding="utf-8")
  assert read_all(tmp_path)[0] == {"a.txt:1": "한국어 café"}


@pytest.mark.parametrize("bytes_per_chunk", [1, 7, 50, 333, 10**6])
def test_the_size_of_pieces_changes_nothing(tmp_path, bytes_per_chunk):
  lines = [f"line {number} {'x' * (number * 7 % 90)}" if number % 5 else "" for number in range(1, 200)]
  (tmp_path / "long.txt").write_text("\n".join(lines), encoding="utf-8")
  (tmp_path / "short.txt").write_text("one\ntwo\n", encoding="utf-8")
  (tmp_path / "packed.txt.gz").write_bytes(gzip.compress(b"drei\nvier\n"))
  texts, rejects, _ = read_all(tmp_path, bytes_per_chunk=bytes_per_chunk)
  expected = {f"long.txt:{number}": line.strip() for number, line in enumerate(lines, 1) if line}
  expected |= {
    "short.txt:1": "one",
    "short.txt:2": "two",
    "packed.txt.gz:1": "drei",
    "packed.txt.gz:2": "vier",
  }
  assert texts == expected and not rejects
  assert [
    len(list(TextReader(str(tmp_path), bytes_per_chunk=size).chunks())) > 1 for size in (50, 10**6)
  ] == [True, False]


def test_what_is_no_text_is_named_with_its_reason(tmp_path):
  (tmp_path / "good.txt").write_text("fine\n", encoding="utf-8")
  (tmp_path / "empty.txt").write_bytes(b"")
  (tmp_path / "binary.txt").write_bytes(b"\x7fELF\x02\x00\x00rest")
  (tmp_path / "wide.txt").write_text("wide", encoding="utf-16")
  (tmp_path / "mixed.txt").write_bytes(
    "été\n".encode() + "été\n".encode("latin-1") + b" " * 9000 + b"\nnul\0\n"
  )
  (tmp_path / "notes.doc").write_bytes(b"word")
  (tmp_path / "damaged.gz").write_bytes(b"not gzip")
  whole = gzip.compress(b"".join(b"%d\n" % number for number in range(30_000)))
  (tmp_path / "cut.gz").write_bytes(whole[: len(whole) // 2])
  texts, rejects, _ = read_all(tmp_path)
  assert texts.pop("good.txt:1") == "fine" and texts.pop("mixed.txt:1") == "été"
  assert texts and all(key.startswith("cut.gz:") for key in texts)
  assert rejects.pop("cut.gz").startswith("cannot be read to its end: Compressed file ended before")
  assert rejects.pop("damaged.gz").startswith("cannot be read: Not a gzipped file")
  assert rejects == {
    "binary.txt": "a binary file (a NUL byte at 5), not text",
    "empty.txt": "empty file (0 bytes)",
    "mixed.txt:2": "not UTF-8 at byte 0 (0xe9)",
    "mixed.txt:4": "not text: it holds a NUL character",
    "notes.doc": "not a text by its name; known are .txt .txt.gz .gz",
    "wide.txt": "UTF-16, not UTF-8: save it as UTF-8",
  }


def test_a_line_without_end_is_never_in_memory_as_a_whole(tmp_path):
  path = tmp_path / "a.txt"
  path.write_bytes(b"before\n" + b"x" * 50_000_000 + b"\nafter\n")
  tracemalloc.start()
  texts, rejects, _ = read_all(path)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert texts == {"a.txt:1": "before", "a.txt:3": "after"}
  assert rejects == {"a.txt:2": "a line of more than 1048576 bytes (data.max_line_bytes)"}
  assert peak < 20_000_000


def test_a_line_of_just_the_longest_size(tmp_path):
  (tmp_path / "a.txt").write_bytes(b"12345678\n123456789\n12345678")
  texts, rejects, _ = read_all(tmp_path, max_line_bytes=8)
  assert list(texts) == ["a.txt:1", "a.txt:3"] and list(rejects) == ["a.txt:2"]


@pytest.mark.parametrize(
  "names", [("train/a.txt", "valid/a.txt", "test/b.txt"), ("train.txt", "dev.txt", "test.txt.gz")]
)
def test_the_data_sets_own_splits(tmp_path, names):
  for name in names:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(b"x\n") if name.endswith(".gz") else b"x\n")
  assert {row.split for row in read_all(tmp_path)[2]} == {"train", "validation", "test"}


def test_incomplete_splits_are_an_error(tmp_path):
  for name in ("train.txt", "test.txt"):
    (tmp_path / name).write_text("x\n")
  with pytest.raises(
    ValueError, match="test, train without validation: add .* or put the files themselves there"
  ):
    read_all(tmp_path)


def test_groups_of_lines_and_of_files(tmp_path):
  (tmp_path / "a.txt").write_text("1\n2\n3\n4\n5\n")
  groups = [row.group for row in read_all(tmp_path, lines_per_group=2)[2]]
  assert groups == ["a.txt:0", "a.txt:0", "a.txt:1", "a.txt:1", "a.txt:2"]
  assert {row.group for row in read_all(tmp_path, lines_per_group=None)[2]} == {"a.txt"}


def test_no_text_is_an_error(tmp_path):
  with pytest.raises(ValueError, match="no text there; expected a .txt or .gz file"):
    read_all(tmp_path)
  with pytest.raises(ValueError, match="no such file or folder"):
    TextReader(str(tmp_path / "missing"))


def test_lines_that_were_there_before_are_rejects_on_request(tmp_path):
  (tmp_path / "a.txt").write_text("one\ntwo\none \n\n\nthree\n", encoding="utf-8")
  (tmp_path / "b.txt").write_text("four\ntwo\n", encoding="utf-8")
  keys = {}
  for bytes_per_chunk in (4, 1 << 20):
    reader = TextReader(str(tmp_path), drop_duplicates=True, bytes_per_chunk=bytes_per_chunk)
    items = [item for chunk in reader.chunks() for item in reader.read(chunk)]
    keys[bytes_per_chunk] = [item.key for item in items if isinstance(item, Row)]
    rejects = [(item.path, item.reason) for item in items if isinstance(item, Reject)]
    reason = "the same line was there before (data.drop_duplicates)"
    assert rejects == [("a.txt:3", reason), ("b.txt:2", reason)]
  assert keys[4] == keys[1 << 20] == ["a.txt:1", "a.txt:2", "a.txt:6", "b.txt:1"]
