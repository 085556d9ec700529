"""What a server is told about a model that it serves, and which changes of that it accepts.

Source: tensorflow_serving/model_servers/server_core.cc
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import grpc

from serving.errors import RequestError, invalid_argument
from serving.models.version_folders import VersionPolicy

if TYPE_CHECKING:
  from serving.telemetry.request_log import LogSettings

TENSORFLOW_PLATFORM = "tensorflow"


@dataclasses.dataclass(frozen=True)
class ModelConfig:
  """One model to serve.

  Args:
    name: what clients call it.
    base_path: absolute path of its folder of numbered versions.
    policy: which of the versions are served.
    labels: {label: version number}, other names by which clients may ask for versions.
    logging: how its requests are logged; None: not at all.
    platform: what it is made with; "tensorflow" is the only one.
  """

  name: str
  base_path: str
  policy: VersionPolicy = VersionPolicy()
  labels: dict[str, int] = dataclasses.field(default_factory=dict)
  logging: LogSettings | None = None
  platform: str = TENSORFLOW_PLATFORM


def check_models(configs: Sequence[ModelConfig]) -> None:
  """Makes sure that a list of models makes sense by itself.

  Raises:
    RequestError: INVALID_ARGUMENT: a name is missing or there twice, or a base path is relative.
  """
  names = set()
  for config in configs:
    if not config.name:
      raise invalid_argument(f"The model of base path {config.base_path} has no name")
    if config.name in names:
      raise invalid_argument(f"Illegal to list model {config.name} multiple times in config list")
    names.add(config.name)
    if not os.path.isabs(config.base_path):
      raise invalid_argument(
        f"Expected model {config.name} to have an absolute path or URI; got base_path()={config.base_path}"
      )


def check_change(
  new: ModelConfig, old: ModelConfig | None, available: Collection[int], allow_labels_for_unavailable: bool
) -> None:
  """Makes sure that a model can be served like this from now on.

  Args:
    old: how it is served so far; None for a model that is new.
    available: numbers of its versions that are available.
    allow_labels_for_unavailable: a label that is not in use yet may name another version.

  Raises:
    RequestError: INVALID_ARGUMENT: another platform, or no folder at its base path. FAILED_PRECONDITION: a label for
      a version that is not available.
  """
  if old is not None and new.platform != old.platform:
    raise invalid_argument(
      f"Illegal to change a model's platform. For model {new.name} platform was {old.platform} and new platform "
      f"requested is {new.platform}"
    )
  if new.platform != TENSORFLOW_PLATFORM:
    raise invalid_argument(f"Model {new.name} requests unsupported platform {new.platform}")
  # A base path that vanishes while it is served changes nothing; one that is not there to begin with is a mistake.
  if (old is None or new.base_path != old.base_path) and not os.path.isdir(new.base_path):
    raise invalid_argument(
      f"Could not find base path {new.base_path} for servable {new.name}: it is no directory; push a model there "
      "first"
    )
  for label, number in new.labels.items():
    is_new = old is None or old.labels.get(label, number) == number
    if number not in available and not (is_new and allow_labels_for_unavailable):
      raise RequestError(
        grpc.StatusCode.FAILED_PRECONDITION,
        f"Request to assign label to version {number} of model {new.name}, which is not currently available for "
        "inference",
      )
