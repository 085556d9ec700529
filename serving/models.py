"""Which versions of a model are served: watching its base path, loading, swapping, unloading.

Source: tensorflow_serving/sources/storage_path/file_system_storage_path_source.cc,
tensorflow_serving/core/availability_preserving_policy.h
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator

import grpc

from serving.errors import CODES, RequestError

LOG = logging.getLogger(__name__)
_NUMBER = re.compile(r"[0-9]+")
_MAX_VERSION = 2**63 - 1


class VersionState(enum.IntEnum):
  """Numbers as in ModelVersionStatus.State."""

  START = 10
  LOADING = 20
  AVAILABLE = 30
  UNLOADING = 40
  END = 50


@dataclasses.dataclass
class Version:
  """One version of a model that the server has seen. Guarded by its ServedModel's lock."""

  number: int
  path: str
  state: VersionState = VersionState.START
  error: RequestError | None = None
  session: object = None
  requests_in_flight: int = 0
  attempts: int = 0
  next_attempt_s: float = 0.0


def find_versions(base_path: str) -> dict[int, str]:
  """Complete versions below a base path: {number: directory}.

  Folders whose name is no number are skipped; leading zeros are accepted. A folder without saved_model.pb is
  still being copied and skipped too.

  Raises:
    OSError: the base path cannot be listed.
  """
  found = {}
  for name in sorted(os.listdir(base_path)):
    path = os.path.join(base_path, name)
    complete = _NUMBER.fullmatch(name) and os.path.isfile(os.path.join(path, "saved_model.pb"))
    if complete and int(name) <= _MAX_VERSION:
      found[int(name)] = path
  return found


def latest(found: dict[int, str]) -> dict[int, str]:
  """The default policy: the highest number alone."""
  return {number: found[number] for number in sorted(found)[-1:]}


class ServedModel:
  """The versions of one model.

  One thread calls `poll`; any number of threads use `acquire` and `statuses`.

  Args:
    name: what clients call the model.
    base_path: directory of numbered versions.
    load: path of a SavedModel -> a loaded and warmed-up session, with `close()`.
    policy: which of the versions found are to be served.
    max_num_load_retries, load_retry_interval_s: how often a version that failed to load is tried again.
  """

  def __init__(
    self,
    name: str,
    base_path: str,
    load: Callable[[str], object],
    policy: Callable[[dict[int, str]], dict[int, str]] = latest,
    max_num_load_retries: int = 5,
    load_retry_interval_s: float = 60.0,
  ):
    self.name = name
    self.base_path = base_path
    self._load = load
    self._policy = policy
    self._max_num_load_retries = max_num_load_retries
    self._load_retry_interval_s = load_retry_interval_s
    self._lock = threading.Lock()
    self._versions: dict[int, Version] = {}
    self._trouble = ""

  @contextlib.contextmanager
  def acquire(self, number: int | None = None) -> Iterator[Version]:
    """A version that stays loaded as long as the context lasts; the highest available one for None.

    Raises:
      RequestError: NOT_FOUND, no such version is available.
    """
    with self._lock:
      version = self._find(number)
      version.requests_in_flight += 1
    try:
      yield version
    finally:
      with self._lock:
        version.requests_in_flight -= 1
      self._close_if_idle(version)

  def statuses(self, number: int | None = None) -> list[tuple[int, VersionState, RequestError | None]]:
    """(number, state, error) of the versions seen so far, newest first, or of one of them.

    Raises:
      RequestError: NOT_FOUND, there are none.
    """
    with self._lock:
      numbers = sorted(self._versions, reverse=True) if number is None else [number]
      if not numbers:
        raise versions_not_found(self.name)
      if numbers[0] not in self._versions:
        raise RequestError(grpc.StatusCode.NOT_FOUND, f"Could not find version {number} of model {self.name}")
      versions = [self._versions[number] for number in numbers]
      return [(version.number, version.state, version.error) for version in versions]

  def available(self) -> list[int]:
    """Numbers of the versions that answer requests now."""
    with self._lock:
      return sorted(v.number for v in self._versions.values() if v.state == VersionState.AVAILABLE)

  def poll(self) -> None:
    """Compares the base path with what is loaded: loads what is new, then unloads what is no longer wanted.

    A base path that cannot be listed changes nothing.
    """
    try:
      wanted = self._policy(find_versions(self.base_path))
    except OSError as error:
      self._report(f"cannot list {self.base_path}: {error.strerror}; {self.name} stays as it is")
      return
    self._report("" if wanted else f"no versions of {self.name} under {self.base_path}; waiting for one")
    for number, path in wanted.items():
      self._load_if_due(number, path)
    # The old version goes only when a wanted one is there, so that there is always one to answer.
    if not wanted or any(number in wanted for number in self.available()):
      self._retire_all_but(wanted)

  def close(self) -> None:
    """Unloads everything."""
    self._retire_all_but({})

  def _find(self, number: int | None) -> Version:
    if number is None:
      ready = [n for n, v in self._versions.items() if v.state == VersionState.AVAILABLE]
      if not ready:
        raise servable_not_found(self.name)
      return self._versions[max(ready)]
    version = self._versions.get(number)
    if version is None or version.state != VersionState.AVAILABLE:
      raise servable_not_found(self.name, number)
    return version

  def _load_if_due(self, number: int, path: str) -> None:
    with self._lock:
      version = self._versions.get(number)
      if version is None or (version.state == VersionState.END and version.error is None):
        version = self._versions[number] = Version(number, path)
      due = version.attempts <= self._max_num_load_retries and time.monotonic() >= version.next_attempt_s
      if version.state not in (VersionState.START, VersionState.END) or not due:
        return
      version.state, version.error = VersionState.LOADING, None
    try:
      session = self._load(path)
    except Exception as error:  # whatever the loader says goes to the operator and into GetModelStatus
      self._failed(version, error)
      return
    with self._lock:
      version.session, version.state = session, VersionState.AVAILABLE
    LOG.info("%s: version %d is available, from %s", self.name, number, path)

  def _failed(self, version: Version, error: Exception) -> None:
    code = CODES.get(getattr(error, "error_code", None), grpc.StatusCode.UNKNOWN)
    if isinstance(error, RequestError):
      code = error.code
    reason = " ".join(str(getattr(error, "message", None) or error).split()) or type(error).__name__
    LOG.error(
      "%s: version %d could not be loaded from %s: %s", self.name, version.number, version.path, reason
    )
    with self._lock:
      version.state, version.error = VersionState.END, RequestError(code, reason)
      version.attempts += 1
      version.next_attempt_s = time.monotonic() + self._load_retry_interval_s

  def _retire_all_but(self, wanted: dict[int, str]) -> None:
    with self._lock:
      retired = [version for number, version in self._versions.items() if number not in wanted]
      for version in retired:
        if version.state == VersionState.AVAILABLE:
          version.state = VersionState.UNLOADING
        elif version.state == VersionState.END:
          # Should its folder come back, it is loaded afresh.
          version.attempts, version.next_attempt_s = 0, 0.0
    for version in retired:
      self._close_if_idle(version)

  def _close_if_idle(self, version: Version) -> None:
    """Closes a retired version when its last request has been answered, in whichever thread that happens."""
    with self._lock:
      if version.state != VersionState.UNLOADING or version.requests_in_flight or version.session is None:
        return
      session, version.session = version.session, None
    session.close()
    with self._lock:
      version.state = VersionState.END
    LOG.info("%s: version %d is unloaded", self.name, version.number)

  def _report(self, trouble: str) -> None:
    """Tells of a trouble once, not each second."""
    if trouble and trouble != self._trouble:
      LOG.warning("%s", trouble)
    self._trouble = trouble


def servable_not_found(name: str, number: int | None = None) -> RequestError:
  """What a request for a model or version that is not available is answered."""
  request = f"Latest({name})" if number is None else f"Specific({name}, {number})"
  return RequestError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {request}")


def versions_not_found(name: str) -> RequestError:
  """What a question for the status of a model that was never seen is answered."""
  return RequestError(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {name}")
