"""Reads a run's configuration: the task's default YAML, the user's file over it, single values over both."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import pathlib
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pydantic
import yaml

from components.config import RunConfig
from components.task import Task

CONFIGS_DIR = pathlib.Path(__file__).parent / "configs"
SAMPLES_DIR = pathlib.Path(__file__).parent.parent / "tests" / "data"


class ConfigError(ValueError):
  """A configuration that cannot be used; the message is one line for the user."""


def load_config(
  task: Task,
  config_file: str | None = None,
  overrides: Sequence[str] = (),
  data: str | None = None,
  must_exist: bool = True,
) -> RunConfig:
  """The validated configuration of a run.

  Args:
    task: the application; its defaults are pipeline/configs/TASK.yaml.
    config_file: YAML of keys to change.
    overrides: "a.b=value" texts, the value in YAML's notation; they win over the file.
    data: path of the data set; None: the configured one, which by default is the task's sample.
    must_exist: whether the data set has to be on this machine; if not, an absolute path is taken as it is.

  Raises:
    ConfigError: the file cannot be read, or a key or value is not valid. One line that names it.
  """
  values = _read_yaml(CONFIGS_DIR / f"{task.name}.yaml")
  if config_file:
    values = _merge(values, _read_yaml(pathlib.Path(config_file)))
  for text in overrides:
    values = _merge(values, _parse_override(text))
  if data:
    values = _merge(values, {"data": {"path": data}})
  values.setdefault("task", task.name)
  try:
    config = task.config_class.model_validate(values)
  except pydantic.ValidationError as error:
    raise ConfigError(_explain(error, task.config_class)) from error
  path = pathlib.Path(config.data.path or "")
  if not config.data.path:
    raise ConfigError("data.path is not set: name the data with --data")
  if not path.is_absolute() and not data and not path.exists():
    path = SAMPLES_DIR / path
  if not path.exists():
    if must_exist:
      raise ConfigError(f"data.path={config.data.path}: no such file or folder; name one with --data")
    if not path.is_absolute():
      raise ConfigError(
        f"data.path={config.data.path}: no such file or folder here; name the pods' absolute path"
      )
    return config
  section = config.data.model_copy(update={"path": str(path.resolve())})
  return config.model_copy(update={"data": section})


def _read_yaml(path: pathlib.Path) -> dict[str, Any]:
  try:
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
  except OSError as error:
    raise ConfigError(f"{path}: cannot read the configuration ({error.strerror})") from error
  except (yaml.YAMLError, UnicodeDecodeError) as error:
    raise ConfigError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from error
  if values is None:
    return {}
  if not isinstance(values, dict):
    raise ConfigError(f"{path}: has to hold keys and values, not a {type(values).__name__}")
  return values


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
  """`above` over `below`, section by section; lists are replaced, and {} empties what was there."""
  merged = dict(below)
  for key, value in above.items():
    if value and isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
      merged[key] = _merge(merged[key], value)
    else:
      merged[key] = value
  return merged


def _parse_override(text: str) -> dict[str, Any]:
  key, equals, value = text.partition("=")
  if not equals or not key.strip():
    raise ConfigError(f"--set {text}: write it as key=value, for example --set training.epochs=20")
  try:
    parsed: Any = yaml.safe_load(value)
  except yaml.YAMLError as error:
    raise ConfigError(f"--set {text}: the value is not valid YAML") from error
  # YAML 1.1 reads 1e-3 as text.
  if isinstance(parsed, str):
    with contextlib.suppress(ValueError):
      parsed = float(parsed)
  for part in reversed(key.strip().split(".")):
    parsed = {part: parsed}
  return parsed


def _explain(error: pydantic.ValidationError, config_class: type[RunConfig]) -> str:
  """All that is wrong, in one line."""
  problems = []
  for problem in error.errors():
    location = _without_variants(problem["loc"])
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
      close = _closest_key(location, list(_known_keys(config_class)))
      problems.append(f"{key}: no such key" + (f"; did you mean {close}?" if close else ""))
    else:
      message = problem["msg"].removeprefix("Value error, ")
      problems.append(f"{key}={problem['input']!r}: {message}" if key else message)
  return "; ".join(problems)


def _without_variants(location: Sequence[str | int]) -> list[str]:
  """A location without the name of a recipe step's variant, which Pydantic puts behind the step's number."""
  return [
    str(part)
    for index, part in enumerate(location)
    if isinstance(part, int) or not index or not isinstance(location[index - 1], int)
  ]


def _closest_key(location: Sequence[str], known: Sequence[str]) -> str | None:
  """The key meant by a misspelt one: one of the same section, else one of any, with its section."""
  *section, name = location
  prefix = "".join(f"{part}." for part in section if not part.isdigit())
  siblings = {key.removeprefix(prefix): key for key in known if key.rpartition(".")[0] == prefix.rstrip(".")}
  anywhere = {key.rpartition(".")[2]: key for key in reversed(known)}
  for candidates, cutoff in ((siblings, 0.6), (anywhere, 0.75)):
    close = difflib.get_close_matches(name, candidates, n=1, cutoff=cutoff)
    if close:
      return close[0] if candidates is siblings else candidates[close[0]]
  return None


def _known_keys(annotation: Any, prefix: str = "") -> Iterator[str]:
  """Dotted names of all keys of a section, those of sections inside lists and alternatives included."""
  if not (inspect.isclass(annotation) and issubclass(annotation, pydantic.BaseModel)):
    for part in typing.get_args(annotation):
      yield from _known_keys(part, prefix)
    return
  for name, field in annotation.model_fields.items():
    yield prefix + name
    yield from _known_keys(field.annotation, f"{prefix}{name}.")
