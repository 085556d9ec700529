"""Files of a folder, and which source a path stands for."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator

from components.example_gen import tar_archive, zip_archive
from components.example_gen.source import Entry, Source, by_name, is_ignored, make_entry, read_at, too_large

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_SMALL_FILE_BYTES = 2**16


def open_source(path: str | None) -> Source:
  """A folder, an archive, or a folder that holds one archive and nothing else.

  Raises:
    ValueError: there is nothing at `path`, or it is neither a folder nor an archive.
  """
  if not path:
    raise ValueError("data.path is not set: give a folder or an archive")
  path = os.fspath(path)
  if not os.path.exists(path):
    raise ValueError(f"{path}: no such file or folder")
  if os.path.isdir(path):
    archive = _only_archive(path)
    return _open_archive(archive) if archive else FolderSource(path)
  return _open_archive(path)


def _is_archive(path: str) -> bool:
  return path.lower().endswith(ARCHIVE_SUFFIXES) and os.path.isfile(path)


def _only_archive(folder: str) -> str | None:
  try:
    names = [name for name in os.listdir(folder) if not is_ignored(name)]
  except OSError as error:
    raise ValueError(f"{folder}: this folder cannot be read: {error.strerror}") from None
  path = os.path.join(folder, names[0]) if len(names) == 1 else ""
  return path if _is_archive(path) else None


def _open_archive(path: str) -> Source:
  if not _is_archive(path):
    raise ValueError(f"{path}: neither a folder nor an archive ({' '.join(ARCHIVE_SUFFIXES)})")
  if path.lower().endswith(".zip"):
    return zip_archive.ZipSource(path)
  return tar_archive.open_tar(path)


@dataclasses.dataclass(frozen=True)
class FolderSource:
  """Files below a folder; links are followed."""

  path: str
  is_seekable = True

  def entries(self) -> list[Entry]:
    """See `Source`."""
    found: list[Entry | None] = []
    pending: list[tuple[str, tuple]] = [("", ())]
    while pending:
      prefix, around = pending.pop()
      folder = os.path.join(self.path, prefix)
      try:
        status = os.stat(folder)
        with os.scandir(folder) as listing:
          children = list(listing)
      except OSError as error:
        if not prefix:
          raise ValueError(f"{self.path}: this folder cannot be read: {error.strerror}") from None
        found.append(make_entry(prefix, None, f"this folder cannot be read: {error.strerror}"))
        continue
      around = (*around, (status.st_dev, status.st_ino))
      for child in children:
        problem = _problem(child, around)
        if problem is None and not is_ignored(child.name):
          pending.append((f"{prefix}{child.name}/", around))
        elif problem is not None:
          found.append(make_entry(prefix + child.name, None, problem))
    return by_name(found)

  def read(self, entries: Iterable[Entry], max_bytes: int) -> Iterator[tuple[Entry, bytes | None, str]]:
    """See `Source`."""
    root = os.path.join(self.path, "")
    for entry in entries:
      try:
        data, problem = _read_file(root + entry[0], max_bytes)
      except OSError as error:
        data, problem = None, f"cannot be read: {error.strerror}"
      yield entry, data, problem


def _read_file(path: str, max_bytes: int) -> tuple[bytes | None, str]:
  descriptor = os.open(path, os.O_RDONLY)
  try:
    # Asking for the size first, or for a Python file object, costs as much as decoding a small picture.
    data = os.read(descriptor, _SMALL_FILE_BYTES)
    if len(data) < _SMALL_FILE_BYTES:
      return data, ""
    size = os.fstat(descriptor).st_size
    if size > max_bytes:
      return None, too_large(size, max_bytes)
    return read_at(descriptor, size, 0), ""
  finally:
    os.close(descriptor)


def _problem(child: os.DirEntry, around: tuple) -> str | None:
  """None for a folder to go into, "" for a file, and otherwise what it is instead."""
  try:
    if child.is_file():
      return ""
    if not child.is_dir():
      return "not a regular file (a broken link, a pipe or a device)"
    if child.is_symlink():
      status = child.stat()
      return "a link to a folder that it lies in" if (status.st_dev, status.st_ino) in around else None
    return None
  except OSError as error:
    return f"cannot be read: {error.strerror}"
