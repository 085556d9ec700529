"""AtomicPusherExecutor: a pushed version is there completely or not at all, and replaces no other."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator

from tfx import types
from tfx.components.pusher import executor
from tfx.proto import pusher_pb2
from tfx.types import standard_component_specs
from tfx.utils import proto_utils

# Servers skip folders whose name is no number.
STAGING_PREFIX = ".staging-"


class AtomicPusherExecutor(executor.Executor):
  """TFX's Pusher by way of a hidden folder beside the versions, and a rename.

  The stock executor copies straight into the version's folder, where a server polls. Destinations on remote
  storage, where a folder cannot be renamed at once, are left to it.
  """

  def Do(self, input_dict: dict, output_dict: dict, exec_properties: dict) -> None:
    """Pushes the model if it is blessed."""
    key = standard_component_specs.PUSH_DESTINATION_KEY
    destination = pusher_pb2.PushDestination()
    proto_utils.json_to_proto(exec_properties[key], destination)
    base_directory = destination.filesystem.base_directory
    if not base_directory or "://" in base_directory or not self.CheckBlessing(input_dict):
      super().Do(input_dict, output_dict, exec_properties)
      return
    os.makedirs(base_directory, exist_ok=True)
    with _locked(base_directory):
      _remove_leftovers(base_directory)
      staging = os.path.join(base_directory, f"{STAGING_PREFIX}{os.getpid()}")
      os.mkdir(staging)
      try:
        destination.filesystem.base_directory = staging
        staged = {**exec_properties, key: proto_utils.proto_to_json(destination)}
        super().Do(input_dict, output_dict, staged)
      finally:
        shutil.rmtree(staging, ignore_errors=True)

  def _MarkPushed(
    self, model_push: types.Artifact, pushed_destination: str, pushed_version: str | None = None
  ) -> None:
    """Called when everything is copied: the model gets its place and its number."""
    staging, version = os.path.split(pushed_destination)
    base_directory, folder = os.path.split(staging)
    if folder.startswith(STAGING_PREFIX):
      version = str(_next_version(base_directory, int(version)))
      staged, pushed_destination = pushed_destination, os.path.join(base_directory, version)
      os.rename(staged, pushed_destination)
      pushed_version = version
    super()._MarkPushed(model_push, pushed_destination, pushed_version)


def _next_version(base_directory: str, wanted: int) -> int:
  """`wanted` or, where a version of that number or a later one exists, the number after the latest.

  So that the version pushed last is the latest, which servers take, also for two pushes within a second.
  """
  taken = [int(name) for name in os.listdir(base_directory) if name.isascii() and name.isdigit()]
  return max([wanted, *(number + 1 for number in taken)])


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
  """One push at a time. The lock goes with the process, however that ends."""
  descriptor = os.open(directory, os.O_RDONLY)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
  finally:
    os.close(descriptor)


def _remove_leftovers(base_directory: str) -> None:
  """What killed pushes left. The lock is held, so no other push is at work on them."""
  for name in os.listdir(base_directory):
    if name.startswith(STAGING_PREFIX):
      shutil.rmtree(os.path.join(base_directory, name))
