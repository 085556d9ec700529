"""Files of a data set, wherever they lie: what a folder, a .zip and a .tar have in common.

A source lists its files once, as `Entry`s, and reads the bytes of those it is given, one at a time; nothing
is unpacked to disk. Entries of a folder, a zip and an uncompressed tar carry what it takes to read them
alone; a compressed tar can only be read from its beginning to its end.
"""

from __future__ import annotations

import contextlib
import operator
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

# Hidden files, and what file managers leave behind; ".." is neither.
_IGNORED = re.compile(
  r"(?:^|/)(?:\.(?!\.(?:/|$))[^/]*|__macosx|thumbs\.db|desktop\.ini)(?:/|$)", re.IGNORECASE
)
# A name that needs no second look, as most: ASCII, no part that is empty, hidden, ignored, "." or "..".
_PART = r"(?!(?:__macosx|thumbs\.db|desktop\.ini)(?:/|\Z))[^/.]+(?:\.[^/.]+)*"
_PLAIN = re.compile(f"{_PART}(?:/{_PART})*\\Z", re.IGNORECASE)


class Entry(NamedTuple):
  """One file: its name below the source with forward slashes, where its bytes are, what is wrong with it."""

  name: str
  where: Any = None
  problem: str = ""


class Source(Protocol):
  """A folder or an archive; small and picklable, so that every worker reads from its own copy."""

  path: str
  # False where reading an entry means reading everything before it.
  is_seekable: bool

  def entries(self) -> list[Entry]:
    """All files but the ignored ones, sorted by name (in the archive's order where it is not seekable).

    Raises:
      ValueError: the source cannot be listed to its end.
    """

  def read(self, entries: Iterable[Entry], max_bytes: int) -> Iterator[tuple[Entry, bytes | None, str]]:
    """Yields (entry, its bytes, "") or (entry, None, the reason) for each; larger files are not read."""


def is_ignored(name: str) -> bool:
  """Whether any part of a path is hidden, or left there by a file manager, and so no data."""
  return _IGNORED.search(name) is not None


def make_entry(name: str, where: Any = None, problem: str = "") -> Entry | None:
  """Entry of a name as it stands in a folder or an archive; None where it is ignored."""
  if name.isascii() and _PLAIN.match(name):
    return Entry(name, where, problem)
  printable = name.encode("utf-8", "backslashreplace").decode("utf-8")
  if printable != name:
    name, problem = printable, problem or "its name is not UTF-8"
  parts = [part for part in name.split("/") if part not in ("", ".")]
  name = "/".join(parts)
  if ".." in parts:
    problem = problem or "its name leads out of the archive (..)"
  return Entry(name, where, problem) if name and not is_ignored(name) else None


def by_name(entries: Iterable[Entry | None]) -> list[Entry]:
  """The entries that are not ignored, sorted by name; those of one name keep their order."""
  return sorted(filter(None, entries), key=operator.itemgetter(0))


@contextlib.contextmanager
def open_descriptor(path: str) -> Iterator[int]:
  """A file descriptor for reading, closed at the end."""
  descriptor = os.open(path, os.O_RDONLY)
  try:
    yield descriptor
  finally:
    os.close(descriptor)


def read_at(descriptor: int, size: int, offset: int) -> bytes:
  """`size` bytes from `offset`; fewer only where the file ends before."""
  data = os.pread(descriptor, size, offset)
  while len(data) < size:
    more = os.pread(descriptor, size - len(data), offset + len(data))
    if not more:
      break
    data += more
  return data


def too_large(size: int, max_bytes: int) -> str:
  """The reason for refusing a file by its size alone."""
  return f"{size} bytes are more than any picture allowed here needs ({max_bytes})"
