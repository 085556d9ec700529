"""Files of a .tar, compressed or not."""

from __future__ import annotations

import bz2
import contextlib
import dataclasses
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from typing import IO

from components.example_gen.source import (
  Entry,
  Source,
  by_name,
  make_entry,
  open_descriptor,
  read_at,
  too_large,
)

_OPENERS = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
_BROKEN = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError)


def open_tar(path: str) -> Source:
  """The source that fits the file's content, whatever its suffix.

  Raises:
    ValueError: the file cannot be read.
  """
  try:
    with open(path, "rb") as file:
      is_compressed = file.read(2) in _OPENERS
  except OSError as error:
    raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
  return CompressedTarSource(path) if is_compressed else TarSource(path)


@dataclasses.dataclass(frozen=True)
class TarSource:
  """Files of an uncompressed .tar, in which they lie as they are."""

  path: str
  is_seekable = True

  def entries(self) -> list[Entry]:
    """See `Source`."""
    try:
      with open(self.path, "rb") as file:
        return by_name(
          make_entry(member.name, (member.offset_data, member.size), _problem(member))
          for _, member in _members(file)
        )
    except _BROKEN as error:
      raise ValueError(f"{self.path}: damaged or incomplete archive: {error}") from None

  def read(self, entries: Iterable[Entry], max_bytes: int) -> Iterator[tuple[Entry, bytes | None, str]]:
    """See `Source`."""
    with open_descriptor(self.path) as descriptor:
      for entry in entries:
        offset, size = entry.where
        if size > max_bytes:
          yield entry, None, too_large(size, max_bytes)
        else:
          yield entry, read_at(descriptor, size, offset), ""


@dataclasses.dataclass(frozen=True)
class CompressedTarSource:
  """Files of a .tar.gz, .tar.bz2 or .tar.xz; an entry's `where` is its number in the archive."""

  path: str
  is_seekable = False

  def entries(self) -> list[Entry]:
    """See `Source`."""
    with self._opened() as file:
      entries = [
        make_entry(member.name, number, _problem(member)) for number, (_, member) in enumerate(_members(file))
      ]
      # The checksum lies at the very end, behind the last member.
      while file.read(1 << 20):
        pass
    return [entry for entry in entries if entry]

  def read(self, entries: Iterable[Entry], max_bytes: int) -> Iterator[tuple[Entry, bytes | None, str]]:
    """See `Source`; in the archive's order, whatever the order of `entries`."""
    wanted = {entry.where: entry for entry in entries}
    with self._opened() as file:
      for number, (archive, member) in enumerate(_members(file)):
        if not wanted:
          return
        entry = wanted.pop(number, None)
        if entry is not None and member.size > max_bytes:
          yield entry, None, too_large(member.size, max_bytes)
        elif entry is not None:
          yield entry, archive.extractfile(member).read(), ""

  @contextlib.contextmanager
  def _opened(self) -> Iterator[IO[bytes]]:
    try:
      with open(self.path, "rb") as file:
        opener = _OPENERS[file.read(2)]
      with opener(self.path) as file:
        yield file
    except _BROKEN as error:
      raise ValueError(f"{self.path}: damaged or incomplete archive: {error}") from None


class _StrictTarInfo(tarfile.TarInfo):
  """Python's tarfile takes a damaged header, or none at all, for the archive's end; here it is an error."""

  @classmethod
  def frombuf(cls, buf: bytes, encoding: str, errors: str) -> _StrictTarInfo:
    try:
      return super().frombuf(buf, encoding, errors)
    except tarfile.EOFHeaderError:
      raise
    except tarfile.HeaderError as error:
      raise tarfile.ReadError(str(error)) from None


def _members(file: IO[bytes]) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
  with tarfile.open(fileobj=file, mode="r:", tarinfo=_StrictTarInfo) as archive:
    while (member := archive.next()) is not None:
      # tarfile would keep every member it has seen.
      archive.members.clear()
      if not member.isdir():
        yield archive, member


def _problem(member: tarfile.TarInfo) -> str:
  if member.issym() or member.islnk():
    return "a link inside the archive; pack the files themselves (tar --dereference --hard-dereference)"
  return "" if member.isreg() and not member.issparse() else "not a regular file"
