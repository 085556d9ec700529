"""Lines of text files: the reader, and how a line is checked."""

from __future__ import annotations

import array
import dataclasses
import gzip
import hashlib
import os
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

import numpy as np

from components.example_gen.folder import FolderSource
from components.example_gen.split_folders import has_split_folders, split_of_folder
from components.task import Reject, Row

TEXT_SUFFIXES = (".txt", ".txt.gz", ".gz")
EXPECTED_LAYOUT = "a .txt or .gz file, a folder of them, or {train,validation,test} folders or files"
_HEAD_BYTES = 1 << 13
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@dataclasses.dataclass(frozen=True)
class Piece:
  """Whole lines of one file, or what is wrong with the file.

  `name` is the file's name below the data set's root; its bytes are `start` to `stop` (None: to the end), and its first
  line has the number `first_line`, from 1. `repeated` are the numbers of lines that the data set has before.
  """

  name: str
  split: str | None
  start: int = 0
  stop: int | None = None
  first_line: int = 1
  problem: str = ""
  repeated: frozenset[int] = frozenset()


class TextReader:
  """Reader of one sentence or passage a line, from .txt files and gzipped ones.

  Each row has the features text (UTF-8, in Unicode's normal form C, without blanks around it), path and line. Its
  key is path:line. Blank lines are no rows. The splits are the data set's own where it has folders or files of
  their names at its top; otherwise `lines_per_group` neighbouring lines stay in one split together.

  Args:
    path: a file or a folder.
    lines_per_group: None: the lines of a file stay together.
    max_line_bytes: longer lines are rejects, which are never in memory as a whole.
    drop_duplicates: whether a line that occurred before, in any file, is a reject. This reads everything twice, and
      remembers eight bytes of each line.
    bytes_per_chunk: about as much is a piece of work; a gzipped file is one, whatever its size.

  Raises:
    ValueError: there is no such file or folder.
  """

  def __init__(
    self,
    path: str | None,
    lines_per_group: int | None = 1,
    max_line_bytes: int = 1 << 20,
    drop_duplicates: bool = False,
    bytes_per_chunk: int = 1 << 22,
  ):
    if not path or not os.path.exists(path):
      raise ValueError(f"{path}: no such file or folder; give {EXPECTED_LAYOUT}")
    self.path = path
    self.lines_per_group = lines_per_group
    self.max_line_bytes = max_line_bytes
    self.drop_duplicates = drop_duplicates
    self.bytes_per_chunk = bytes_per_chunk

  def chunks(self) -> Iterator[tuple[Piece, ...]]:
    """Pieces of work of about `bytes_per_chunk`: parts of large files, several small ones together.

    Raises:
      ValueError: there is no text, or splits are incomplete.
    """
    chunk: list[Piece] = []
    size = 0
    pieces = self._pieces()
    for piece in self._with_repeated(list(pieces)) if self.drop_duplicates else pieces:
      length = (
        0 if piece.problem else (piece.stop or os.path.getsize(self._full_path(piece.name))) - piece.start
      )
      if chunk and size + length > self.bytes_per_chunk:
        yield tuple(chunk)
        chunk, size = [], 0
      chunk.append(piece)
      size += length
    if chunk:
      yield tuple(chunk)

  def read(self, chunk: Iterable[Piece]) -> Iterator[Row | Reject]:
    """A Row or a Reject for every line that is not blank, and a Reject for every file that is no text."""
    for piece in chunk:
      if piece.problem:
        yield Reject(piece.name, piece.problem)
        continue
      try:
        with _open(self._full_path(piece.name)) as file:
          if piece.start:
            file.seek(piece.start)
          yield from self._rows(piece, file)
      except (OSError, EOFError, zlib.error) as error:
        yield Reject(piece.name, f"cannot be read to its end: {error}")

  def _rows(self, piece: Piece, file: IO[bytes]) -> Iterator[Row | Reject]:
    for number, line, is_cut in _lines(file, piece, self.max_line_bytes):
      key = f"{piece.name}:{number}"
      if is_cut:
        yield Reject(key, f"a line of more than {self.max_line_bytes} bytes (data.max_line_bytes)")
        continue
      try:
        text = clean_line(line)
      except ValueError as error:
        yield Reject(key, str(error))
        continue
      if number in piece.repeated:
        yield Reject(key, "the same line was there before (data.drop_duplicates)")
      elif text:
        features = {"text": text.encode("utf-8"), "path": piece.name, "line": number}
        yield Row(key, features, group=self._group(piece.name, number), split=piece.split)

  def _with_repeated(self, pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces with the numbers of their lines that an earlier line equals."""
    digests, places = array.array("Q"), array.array("Q")
    for index, piece in enumerate(pieces):
      for row in self.read([piece]):
        if isinstance(row, Row):
          digest = hashlib.blake2b(row.features["text"], digest_size=8).digest()
          digests.append(int.from_bytes(digest, "little"))
          places.extend((index, row.features["line"]))
    _, first = np.unique(np.array(digests, np.uint64), return_index=True)
    again = np.delete(np.array(places, np.uint64).reshape(-1, 2), first, axis=0)
    numbers: dict[int, list[int]] = {}
    for index, line in again.tolist():
      numbers.setdefault(index, []).append(line)
    return [
      dataclasses.replace(piece, repeated=frozenset(numbers.get(index, ())))
      for index, piece in enumerate(pieces)
    ]

  def _group(self, name: str, line: int) -> str:
    return f"{name}:{(line - 1) // self.lines_per_group}" if self.lines_per_group else name

  def _pieces(self) -> Iterator[Piece]:
    listing = self._files()
    texts = [name for name, problem in listing if not problem]
    if not texts:
      raise ValueError(f"{self.path}: no text there; expected {EXPECTED_LAYOUT}")
    has_splits = has_split_folders(self.path, {_top(name) for name in texts}, "files")
    for name, problem in listing:
      split = split_of_folder(_top(name)) if has_splits else None
      problem = problem or _problem_of_head(self._full_path(name))
      if problem or _is_gzipped(name):
        yield Piece(name, split, problem=problem)
      else:
        yield from self._cut(name, split)

  def _files(self) -> list[tuple[str, str]]:
    """(name, what is wrong with it by its name or place) of each file."""
    if os.path.isfile(self.path):
      return [(os.path.basename(self.path), "")]
    known = f"not a text by its name; known are {' '.join(TEXT_SUFFIXES)}"
    return [
      (entry.name, entry.problem or ("" if entry.name.lower().endswith(TEXT_SUFFIXES) else known))
      for entry in FolderSource(self.path).entries()
    ]

  def _full_path(self, name: str) -> str:
    return self.path if os.path.isfile(self.path) else os.path.join(self.path, name)

  def _cut(self, name: str, split: str | None) -> Iterator[Piece]:
    """Pieces of a plain file that end where lines end."""
    start, first_line, position, num_lines = 0, 1, 0, 0
    with open(self._full_path(name), "rb") as file:
      while block := file.read(self.bytes_per_chunk):
        end = block.rfind(b"\n") + 1
        if end and position + end - start >= self.bytes_per_chunk // 2:
          yield Piece(name, split, start, position + end, first_line)
          first_line += num_lines + block.count(b"\n", 0, end)
          num_lines, start = block.count(b"\n", end), position + end
        else:
          num_lines += block.count(b"\n")
        position += len(block)
    if position > start:
      yield Piece(name, split, start, position, first_line)


def clean_line(line: bytes) -> str:
  """The text of a line, in Unicode's normal form C, without blanks around it; "" for a blank one.

  Raises:
    ValueError: the reason, in words, why this is no text.
  """
  try:
    text = line.decode("utf-8")
  except UnicodeDecodeError as error:
    raise ValueError(f"not UTF-8 at byte {error.start} ({line[error.start]:#04x})") from None
  if "\0" in text:
    raise ValueError("not text: it holds a NUL character")
  return unicodedata.normalize("NFC", text).strip()


def _lines(file: IO[bytes], piece: Piece, max_bytes: int) -> Iterator[tuple[int, bytes, bool]]:
  """(number, line, whether it was too long and its rest was passed over) of each line of a piece."""
  number, position = piece.first_line, piece.start
  while piece.stop is None or position < piece.stop:
    line = file.readline(max_bytes + 1)
    if not line:
      return
    position += len(line)
    is_cut = len(line) > max_bytes and not line.endswith(b"\n")
    rest = line
    while is_cut and rest and not rest.endswith(b"\n"):
      rest = file.readline(max_bytes)
      position += len(rest)
    if number == 1:
      line = line.removeprefix(_UTF8_MARK)
    yield number, line, is_cut
    number += 1


def _is_gzipped(name: str) -> bool:
  return name.lower().endswith(".gz")


def _open(path: str) -> IO[bytes]:
  """A file for reading, unpacked where its name says that it is packed."""
  open_file = gzip.open if _is_gzipped(path) else open
  return open_file(path, "rb")


def _top(name: str) -> str:
  """The first folder, or the file without its suffixes: train/a.txt and train.txt.gz are both of train."""
  return name.split("/")[0].partition(".")[0]


def _problem_of_head(path: str) -> str:
  """What the first bytes of a file say against its being text."""
  try:
    with _open(path) as file:
      head = file.read(_HEAD_BYTES)
  except (OSError, EOFError, zlib.error) as error:
    return f"cannot be read: {getattr(error, 'strerror', None) or error}"
  if not head:
    return "empty file (0 bytes)"
  if head.startswith(_UTF16_MARKS):
    return "UTF-16, not UTF-8: save it as UTF-8"
  if b"\0" in head:
    return f"a binary file (a NUL byte at {head.index(0)}), not text"
  return ""
