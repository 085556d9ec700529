"""Which picture a COCO file means by file_name, and which split its names tell."""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from components.example_gen.annotated_folder import ROLES, DataSet
from components.example_gen.annotations import shorten
from components.example_gen.source import Entry
from components.example_gen.split_folders import split_of_folder


def split_of_words(text: str) -> str | None:
  """The split that a word of a name tells: train for instances_train2017."""
  return next(filter(None, map(split_of_folder, re.findall("[a-z]+", text.lower()))), None)


class PictureFinder:
  """Finds the pictures that file_name means: relative to any folder, that of the same split before others."""

  def __init__(self, data_set: DataSet):
    self._data_set = data_set
    self._by_name = collections.defaultdict(list)
    for entry in data_set.pictures:
      self._by_name[os.path.basename(entry.name)].append(entry)

  def find(self, record: Mapping[str, Any], where: str) -> Entry:
    """The picture; ValueError where there is none, or more than one."""
    file_name = "/".join(
      part for part in record["file_name"].replace("\\", "/").split("/") if part not in ("", ".")
    )
    folder, _, name = where.rpartition("/")
    split = split_of_words(name) or split_of_words(folder)
    candidates = [
      entry
      for entry in self._by_name[os.path.basename(file_name)]
      if split is None or (split_of_words(self._folder(entry)) or split) == split
    ]
    ends = [entry for entry in candidates if f"/{entry.name}".endswith(f"/{file_name}")]
    moved = [entry for entry in candidates if _may_be_moved(file_name, self._folder(entry))]
    found = self._nearest(ends or moved, where)
    if not found:
      raise ValueError(f"its picture {shorten(record['file_name'])} is missing")
    if len(found) > 1:
      names = " or ".join(self._data_set.key(entry) for entry in found[:2])
      raise ValueError(
        f"its picture {shorten(record['file_name'])} may be {names}: write the folder before its name"
      )
    return found[0]

  def _folder(self, entry: Entry) -> str:
    return self._data_set.key(entry).rpartition("/")[0]

  def _nearest(self, entries: list[Entry], where: str) -> list[Entry]:
    """Of several those that lie below the JSON's own folder, or in a folder that its name ends with."""
    folder, _, name = where.rpartition("/")
    stem = os.path.splitext(name)[0].lower()
    tests: Iterable[Callable[[str], bool]] = (
      lambda key: key.rpartition("/")[0] == folder,
      lambda key: (
        bool(key.rpartition("/")[0]) and stem.endswith(key.rpartition("/")[0].rpartition("/")[2].lower())
      ),
      lambda key: key.startswith(f"{folder}/"),
    )
    for test in tests:
      chosen = [entry for entry in entries if test(self._data_set.key(entry))]
      if len(entries) > 1 and chosen:
        entries = chosen
    return entries


def _may_be_moved(file_name: str, folder: str) -> bool:
  """Whether a picture in `folder` may be the one that lay elsewhere when the JSON was written.

  Of b/1.jpg, a/1.jpg is another picture; of /home/me/b/1.jpg, images/1.jpg may be the same.
  """
  last, old = folder.rpartition("/")[2], file_name.rpartition("/")[0].rpartition("/")[2]
  return not last or last == old or any(name.lower() in ROLES or split_of_words(name) for name in (last, old))
