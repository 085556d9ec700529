"""The set of models that a server serves, and how it changes while it serves them.

Source: tensorflow_serving/model_servers/server_core.cc
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from serving.errors import RequestError, invalid_argument
from serving.models.load_workers import LoadWorkers
from serving.models.model_config import ModelConfig, check_change, check_models
from serving.models.not_found import servable_not_found, version_not_found, versions_not_found
from serving.models.served_model import ServedModel, Version, VersionState

LOG = logging.getLogger(__name__)

_CLOSE_POLL_S = 0.02
Status = tuple[int, VersionState, "RequestError | None"]


class ModelManager:
  """Finds the version that a request asks for, and keeps the models as configured. Any thread may call it.

  Args:
    load: folder of a version -> a loaded and warmed-up session, with `close()`.
    max_num_load_retries, load_retry_interval_s: how often a version that failed to load is tried again.
    num_load_threads: models that are loaded at once.
    allow_labels_for_unavailable: a new label may name a version that is not available yet.
    on_change: is called whenever models may have become available or gone.
  """

  def __init__(
    self,
    load: Callable[[str], object],
    *,
    max_num_load_retries: int = 5,
    load_retry_interval_s: float = 60.0,
    num_load_threads: int = 1,
    allow_labels_for_unavailable: bool = False,
    on_change: Callable[[], None] | None = None,
  ):
    self._load = load
    self._retries = {
      "max_num_load_retries": max_num_load_retries,
      "load_retry_interval_s": load_retry_interval_s,
    }
    self._allow_labels_for_unavailable = allow_labels_for_unavailable
    self._on_change = on_change
    self._models: dict[str, ServedModel] = {}
    # Models that are served no longer: their last states can still be asked for.
    self._removed: dict[str, ServedModel] = {}
    self._configs: dict[str, ModelConfig] = {}
    self._labels: dict[str, dict[str, int]] = {}
    self._configuring = threading.RLock()
    self._polled = threading.Condition()
    self._polls: dict[str, concurrent.futures.Future] = {}
    self._workers = LoadWorkers(num_load_threads)

  def check(self, configs: Sequence[ModelConfig]) -> None:
    """Makes sure that `configure` would accept these models now.

    Raises:
      RequestError: with TF Serving's code and text: a name twice, a base path that is relative or missing, another
        platform, a label for a version that is not available.
    """
    check_models(configs)
    with self._configuring:
      for config in configs:
        model = self._models.get(config.name)
        check_change(
          config,
          self._configs.get(config.name),
          model.available() if model is not None else [],
          self._allow_labels_for_unavailable,
        )

  def configure(self, configs: Sequence[ModelConfig], wait: bool = False) -> None:
    """Serves these models and no others. A model that is served already goes on without a break.

    Args:
      wait: load new models, and versions that a new policy adds, before returning.

    Raises:
      RequestError: see `check`: nothing has changed then. UNKNOWN: a new model did not become available, but will be
        served as soon as it can be loaded; where only its base path is new, the old one goes on instead.
    """
    with self._configuring:
      self.check(configs)
      self._labels = {config.name: config.labels for config in configs}
      models, moved, new = {}, {}, []
      for config in configs:
        model = self._models.get(config.name)
        if model is None:
          models[config.name] = self._make(config)
          new.append(models[config.name])
          continue
        models[config.name] = model
        if model.base_path != config.base_path:
          moved[config.name] = self._make(config)
        elif model.policy != config.policy:
          model.policy = config.policy
          self._run_poll(model)
      self._replace(models)
      if wait:
        self._load_all((*new, *moved.values()))
      failed = {name: model for name, model in moved.items() if not model.available()}
      self._replace({**models, **{name: model for name, model in moved.items() if name not in failed}})
      self._configs = {c.name: self._configs[c.name] if c.name in failed else c for c in configs}
      for model in failed.values():
        model.close()
    self._changed()
    if wait:
      _check_available((*new, *failed.values()))

  def get(self, name: str) -> ServedModel | None:
    """The model of that name, if it is served."""
    return self._models.get(name)

  def names(self) -> list[str]:
    """Names of the models that are served."""
    return sorted(self._models)

  def version(self, spec: Any) -> contextlib.AbstractContextManager[Version]:
    """A context with the version that a request asks for, which stays loaded as long as the context lasts.

    Args:
      spec: a ModelSpec, of serving.messages.protos or the official class.

    Raises:
      RequestError: INVALID_ARGUMENT for an empty name or an unknown label; NOT_FOUND if there is no such version,
        for that one on entering the context.
    """
    model, number = self._find(spec)
    return model.acquire(number)

  def take(self, spec: Any) -> tuple[ServedModel, Version]:
    """As `version`, for a caller who calls `model.release(version)` himself."""
    model, number = self._find(spec)
    return model, model.take(number)

  def model_statuses(self, spec: Any) -> list[Status]:
    """(number, state, error) of the version that a ModelSpec names, or of all that were seen, newest first.

    Raises:
      RequestError: NOT_FOUND, there are none; INVALID_ARGUMENT, an unknown label.
    """
    number = self._number(spec)
    model = self._models.get(spec.name) or self._removed.get(spec.name)
    if model is None:
      raise versions_not_found(spec.name) if number is None else version_not_found(spec.name, number)
    return model.statuses(number)

  def statuses(self) -> dict[str, list[Status]]:
    """{model name: (number, state, error) of the versions seen, newest first} of the models that are served."""
    found = {}
    for name, model in self._models.items():
      try:
        found[name] = model.statuses()
      except RequestError:
        found[name] = []
    return found

  def poll(self, look: bool = True, wait: bool = False) -> None:
    """Has every model compare its base path with what is loaded; those still busy with that are left alone.

    Args:
      look: False: only try again what failed to load.
      wait: until all of it is done.
    """
    for name, model in self._models.items():
      earlier = self._polls.get(name)
      if earlier is None or earlier.done():
        self._polls[name] = self._workers.submit(self._run_poll, model, look)
    if wait:
      concurrent.futures.wait(list(self._polls.values()))

  def all_available(self) -> bool:
    """Whether every model has a version that answers."""
    return all(model.available() for model in self._models.values())

  def wait_until_available(self, timeout_s: float | None = None) -> bool:
    """Waits until every model has a version that answers; False if that takes longer than `timeout_s`."""
    with self._polled:
      return self._polled.wait_for(self.all_available, timeout_s)

  def close(self, timeout_s: float = 10.0) -> bool:
    """Unloads everything; False if requests or loads were still under way after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    models = [*self._models.values(), *self._removed.values()]
    for model in models:
      model.close()
    ended = self._workers.close(timeout_s)
    while not all(model.is_unloaded() for model in models):
      if time.monotonic() >= deadline:
        return False
      time.sleep(_CLOSE_POLL_S)
    return ended

  def _make(self, config: ModelConfig) -> ServedModel:
    return ServedModel(config.name, config.base_path, self._load, config.policy, **self._retries)

  def _replace(self, models: dict[str, ServedModel]) -> None:
    """Serves these from now on, and lets go of the others."""
    gone = [model for name, model in self._models.items() if models.get(name) is not model]
    self._models = models
    self._removed = {n: m for n, m in self._removed.items() if n not in models}
    self._removed.update({model.name: model for model in gone if model.name not in models})
    for model in gone:
      model.close()

  def _run_poll(self, model: ServedModel, look: bool = True) -> None:
    try:
      model.poll(look)
    except Exception:
      LOG.exception("%s: watching %s failed; trying again", model.name, model.base_path)
    self._changed()

  def _changed(self) -> None:
    with self._polled:
      self._polled.notify_all()
    if self._on_change is not None:
      self._on_change()

  def _load_all(self, models: Sequence[ServedModel]) -> None:
    concurrent.futures.wait([self._workers.submit(self._run_poll, model) for model in models])

  def _find(self, spec: Any) -> tuple[ServedModel, int | None]:
    if not spec.name:
      raise invalid_argument("ModelSpec has no name specified.")
    number = self._number(spec)
    model = self._models.get(spec.name)
    if model is None:
      raise servable_not_found(spec.name, number)
    return model, number

  def _number(self, spec: Any) -> int | None:
    choice = spec.WhichOneof("version_choice")
    if choice == "version":
      return spec.version.value
    if choice == "version_label":
      number = self._labels.get(spec.name, {}).get(spec.version_label)
      if number is None:
        raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
      return number
    return None


def _check_available(models: Sequence[ServedModel]) -> None:
  """Raises what TF Serving answers where models of a new configuration could not be loaded."""
  failures = []
  for model in models:
    if not model.available():
      try:
        number, _, error = model.statuses()[0]
      except RequestError:
        number, error = "none", None
      reason = f"{error.code.name}: {error.message}" if error else f"no versions under {model.base_path}"
      failures.append(f"{{{{name: {model.name} version: {number}}} due to error: {reason}}}, ")
  if failures:
    text = f"{len(failures)} model(s) did not become available: {{{''.join(failures)}}}"
    raise RequestError(grpc.StatusCode.UNKNOWN, text)
