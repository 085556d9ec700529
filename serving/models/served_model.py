"""Which versions of a model are served: watching its base path, loading, swapping, unloading.

Source: tensorflow_serving/core/{availability_preserving_policy.h,loader_harness.cc}
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import logging
import threading
import time
from collections.abc import Callable, Iterator

import grpc

from serving.errors import CODES, RequestError
from serving.models.not_found import no_model, servable_not_found, version_not_found, versions_not_found
from serving.models.version_folders import VersionPolicy, contents, find_versions, holds_model

LOG = logging.getLogger(__name__)


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
  # What the folder held when the load failed, and when it was last looked at.
  failed_contents: frozenset = frozenset()
  seen_contents: frozenset = frozenset()


class ServedModel:
  """The versions of one model. Any number of threads may use it.

  Args:
    name: what clients call the model.
    base_path: folder of numbered versions.
    load: folder of a version -> a loaded and warmed-up session, with `close()`.
    policy: which of the versions found are to be served; may be changed at any time.
    max_num_load_retries, load_retry_interval_s: how often a version that failed to load is tried again.
  """

  def __init__(
    self,
    name: str,
    base_path: str,
    load: Callable[[str], object],
    policy: VersionPolicy | None = None,
    max_num_load_retries: int = 5,
    load_retry_interval_s: float = 60.0,
  ):
    self.name = name
    self.base_path = base_path
    self.policy = policy or VersionPolicy()
    self._load = load
    self._max_num_load_retries = max_num_load_retries
    self._load_retry_interval_s = load_retry_interval_s
    self._lock = threading.Lock()
    self._polling = threading.Lock()
    self._found: dict[int, str] | None = None
    self._versions: dict[int, Version] = {}
    self._closed = False
    self._trouble = ""

  @contextlib.contextmanager
  def acquire(self, number: int | None = None) -> Iterator[Version]:
    """A version that stays loaded as long as the context lasts; the highest available one for None.

    Raises:
      RequestError: NOT_FOUND, no such version is available.
    """
    version = self.take(number)
    try:
      yield version
    finally:
      self.release(version)

  def take(self, number: int | None = None) -> Version:
    """As `acquire`, until `release`."""
    with self._lock:
      version = self._find(number)
      version.requests_in_flight += 1
      return version

  def release(self, version: Version) -> None:
    """Ends the use of a version that was taken."""
    with self._lock:
      version.requests_in_flight -= 1
      idle = version.state == VersionState.UNLOADING and not version.requests_in_flight
    if idle:
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
        raise version_not_found(self.name, number)
      versions = [self._versions[number] for number in numbers]
      return [(version.number, version.state, version.error) for version in versions]

  def available(self) -> list[int]:
    """Numbers of the versions that answer requests now."""
    with self._lock:
      return sorted(v.number for v in self._versions.values() if v.state == VersionState.AVAILABLE)

  def poll(self, look: bool = True) -> None:
    """Compares the base path with what is loaded: loads what is new, then unloads what is no longer wanted.

    A base path that cannot be listed changes nothing.

    Args:
      look: False: goes by what the last look has found, and only tries again what failed.
    """
    with self._polling:
      if look and not self._look() or self._found is None:
        return
      wanted, unfinished = self._wanted()
      # The newest first, as it is the one that most requests ask for.
      for number in sorted(wanted, reverse=True):
        self._load_if_due(number, wanted[number])
      for number, path in unfinished.items():
        self._note_unfinished(number, path)
      # The old version goes only when a wanted one is there, so that there is always one to answer.
      if not (wanted or unfinished) or any(number in wanted for number in self.available()):
        self._retire_all_but({**wanted, **unfinished})

  def close(self) -> None:
    """Unloads everything for good, each version when its last request has been answered."""
    with self._lock:
      self._closed = True
    self._retire_all_but({})

  def is_unloaded(self) -> bool:
    """Whether nothing is loaded, or being loaded."""
    with self._lock:
      return all(v.state in (VersionState.START, VersionState.END) for v in self._versions.values())

  def _look(self) -> bool:
    try:
      self._found = find_versions(self.base_path)
    except OSError as error:
      self._report(f"cannot list {self.base_path}: {error.strerror}; {self.name} stays as it is")
      return False
    missing = self.policy.missing(self._found)
    if not self._found:
      self._report(f"no versions of {self.name} under {self.base_path}; waiting for one")
    elif missing:
      self._report(f"versions {missing} of {self.name} are not under {self.base_path}; waiting for them")
    else:
      self._report("")
    return True

  def _wanted(self) -> tuple[dict[int, str], dict[int, str]]:
    """The versions to serve, and those that would be if they were not still being copied: {number: folder}."""
    loaded = self.available()
    usable = {number: path for number, path in self._found.items() if number in loaded or holds_model(path)}
    unfinished = {n: path for n, path in self.policy.wanted(self._found).items() if n not in usable}
    return self.policy.wanted(usable), unfinished

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
      ended = version is not None and version.state == VersionState.END
      if version is None or (ended and (version.error is None or version.path != path)):
        version = self._versions[number] = Version(number, path)
    if version.state not in (VersionState.START, VersionState.END):
      return
    now = contents(path)
    if not self._is_due(version, now):
      return
    with self._lock:
      version.state, version.error = VersionState.LOADING, None
      version.attempts += 1
    try:
      session = self._load(path)
    except Exception as error:  # whatever the loader says goes to the operator and into GetModelStatus
      self._failed(version, now, error)
      return
    with self._lock:
      version.session = session
      version.state = VersionState.UNLOADING if self._closed else VersionState.AVAILABLE
    self._close_if_idle(version)
    if not self._closed:
      LOG.info("%s: version %d is available, from %s", self.name, number, path)

  def _note_unfinished(self, number: int, path: str) -> None:
    with self._lock:
      version = self._versions.setdefault(number, Version(number, path))
    error = no_model(path)
    if version.error is None or version.error.message != error.message:
      self._failed(version, contents(path), error)

  def _is_due(self, version: Version, now: frozenset) -> bool:
    if version.state == VersionState.START:
      return True
    if now != version.failed_contents:
      # Something was copied into it: another model, as soon as nothing more comes.
      settled, version.seen_contents = now == version.seen_contents, now
      if settled:
        version.attempts = 0
      return settled
    return 0 < version.attempts <= self._max_num_load_retries and time.monotonic() >= version.next_attempt_s

  def _failed(self, version: Version, now: frozenset, error: Exception) -> None:
    code = CODES.get(getattr(error, "error_code", None), grpc.StatusCode.UNKNOWN)
    if isinstance(error, RequestError):
      code = error.code
    reason = " ".join(str(getattr(error, "message", None) or error).split()) or type(error).__name__
    LOG.error(
      "%s: version %d could not be loaded from %s: %s", self.name, version.number, version.path, reason
    )
    with self._lock:
      version.state, version.error = VersionState.END, RequestError(code, reason)
      version.failed_contents = version.seen_contents = now
      version.next_attempt_s = time.monotonic() + self._load_retry_interval_s

  def _retire_all_but(self, wanted: dict[int, str]) -> None:
    with self._lock:
      retired = [version for number, version in self._versions.items() if number not in wanted]
      for version in retired:
        if version.state == VersionState.AVAILABLE:
          version.state = VersionState.UNLOADING
        elif version.state == VersionState.END and version.error is not None:
          # Should its folder come back, it is loaded afresh.
          version.attempts, version.failed_contents = 0, frozenset()
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
