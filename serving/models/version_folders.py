"""The numbered folders below a model's base path, and which of them are to be served.

Source: tensorflow_serving/sources/storage_path/file_system_storage_path_source.cc
"""

from __future__ import annotations

import dataclasses
import os
import re

_NUMBER = re.compile(r"[0-9]+")
_MAX_VERSION = 2**63 - 1
# A folder with none of these is no model yet, or none at all.
MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt", "model.tflite")


@dataclasses.dataclass(frozen=True)
class VersionPolicy:
  """Which of the versions found are served: the newest `latest` of them, or `specific` numbers, or all.

  Args:
    latest: how many of the highest numbers; None where another policy is meant.
    specific: the numbers; None where another policy is meant.
  """

  latest: int | None = 1
  specific: frozenset[int] | None = None

  def wanted(self, found: dict[int, str]) -> dict[int, str]:
    """The part of {number: folder} that is to be served."""
    if self.specific is not None:
      numbers = sorted(self.specific & set(found))
    elif self.latest is not None:
      numbers = sorted(found)[-self.latest :]
    else:
      numbers = sorted(found)
    return {number: found[number] for number in numbers}

  def missing(self, found: dict[int, str]) -> list[int]:
    """Numbers that were asked for by name and are not there."""
    return sorted((self.specific or frozenset()) - set(found))


ALL_VERSIONS = VersionPolicy(latest=None)


def find_versions(base_path: str) -> dict[int, str]:
  """Version folders below a base path: {number: folder}. Leading zeros are accepted, other names skipped.

  Raises:
    OSError: the base path cannot be listed.
  """
  found = {}
  for name in sorted(os.listdir(base_path)):
    path = os.path.join(base_path, name)
    if _NUMBER.fullmatch(name) and int(name) <= _MAX_VERSION and os.path.isdir(path):
      found[int(name)] = path
  return found


def holds_model(path: str) -> bool:
  """Whether a version folder holds a file that a model is loaded from."""
  return any(os.path.isfile(os.path.join(path, name)) for name in MODEL_FILES)


def contents(path: str) -> frozenset[tuple[str, int, int]]:
  """What lies in a folder, to tell whether it has changed: (path, size in bytes, time of change in ns)."""
  found = set()
  for directory, _, names in os.walk(path):
    for name in names:
      file = os.path.join(directory, name)
      try:
        status = os.stat(file)
      except OSError:  # gone since it was listed
        continue
      found.add((os.path.relpath(file, path), status.st_size, status.st_mtime_ns))
  return frozenset(found)
