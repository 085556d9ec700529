"""Finds the span and version to ingest, and a fingerprint of its files, before TFX looks into its cache."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

from tfx.components.example_gen import driver, utils
from tfx.components.example_gen.input_processor import FileBasedInputProcessor
from tfx.proto import example_gen_pb2, range_config_pb2

from components.config import DataConfig
from components.task import load_task

RESOLVED_PATH = "resolved_path"


class Driver(driver.Driver):
  """As TFX's file-based driver, for data sets that are folders of folders or archives rather than file patterns."""

  def resolve_exec_properties(
    self, exec_properties: dict[str, Any], pipeline_info: Any, component_info: Any
  ) -> dict[str, Any]:
    """Adds the path, span, version and fingerprint of the data to the execution's properties."""
    _, config = load_task(exec_properties["task"], exec_properties["config"])
    path, span, version = resolve_span(config.data)
    exec_properties[RESOLVED_PATH] = path
    exec_properties[utils.SPAN_PROPERTY_NAME] = span
    exec_properties[utils.VERSION_PROPERTY_NAME] = version
    exec_properties[utils.FINGERPRINT_PROPERTY_NAME] = fingerprint(path)
    return exec_properties


def resolve_span(data: DataConfig) -> tuple[str, int, int | None]:
  """Path, span and version of the data to ingest.

  Args:
    data: without a `span_pattern` the data lies at `path` itself, span 0. With one, the newest span below `path` is
      taken (or `data.span`), and of it the newest version, as TFX's own ExampleGens do.

  Raises:
    ValueError: the path or the span is not there.
  """
  if not data.path or not os.path.exists(data.path):
    raise ValueError(f"data.path={data.path}: no such file or folder; name one with --data")
  if not data.span_pattern:
    if data.span is not None:
      raise ValueError("data.span needs data.span_pattern, for example span-{SPAN}")
    return data.path, 0, None
  if data.span is None:
    wanted = range_config_pb2.RangeConfig(rolling_range=range_config_pb2.RollingRange(num_spans=1))
  else:
    wanted = range_config_pb2.RangeConfig(
      static_range=range_config_pb2.StaticRange(start_span_number=data.span, end_span_number=data.span)
    )
  split = example_gen_pb2.Input.Split(name="all", pattern=f"{data.span_pattern}/*")
  which = "span" if data.span is None else f"span {data.span}"
  try:
    processor = FileBasedInputProcessor(data.path, [split], wanted)
    span, version = processor.resolve_span_and_version()
  except (ValueError, NotImplementedError) as error:
    raise ValueError(f"{data.path}: found no {which} as {data.span_pattern!r} ({error})") from error
  folder = processor.get_pattern_for_span_version(data.span_pattern, span, version)
  path = os.path.join(data.path, folder)
  # TFX takes a span that is asked for at its word where there are no versions.
  if not os.path.exists(path):
    raise ValueError(f"{data.path}: found no {which} as {data.span_pattern!r}")
  return path, span, version


def fingerprint(path: str) -> str:
  """Digest of names, sizes and modification times of the file or of everything in the folder."""
  digest = hashlib.sha256()
  for name, status in _walk(path):
    digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
  return digest.hexdigest()


def _walk(path: str) -> Iterator[tuple[str, os.stat_result]]:
  """(name below `path`, status) of each file, always in the same order; links are followed."""
  if os.path.isfile(path):
    yield os.path.basename(path), os.stat(path)
  else:
    yield from _walk_folder(path, "", ())


def _walk_folder(folder: str, prefix: str, around: tuple) -> Iterator[tuple[str, os.stat_result]]:
  status = os.stat(folder)
  identity = (status.st_dev, status.st_ino)
  # What cannot be read, links without an end and links to nothing are the reader's business: they become rejects.
  if identity in around or not os.access(folder, os.R_OK | os.X_OK):
    return
  for child in sorted(os.scandir(folder), key=lambda entry: entry.name):
    if os.path.isdir(child.path):
      yield from _walk_folder(child.path, f"{prefix}{child.name}/", (*around, identity))
    else:
      yield prefix + child.name, child.stat(follow_symlinks=os.path.exists(child.path))
