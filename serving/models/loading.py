"""Loading a version: a session of its SavedModel or TFLite file, batched, warmed up with the requests in its export.

Source: tensorflow_serving/servables/tensorflow/saved_model_bundle_source_adapter.cc
"""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Union

import grpc

from serving.errors import CODES, RequestError
from serving.sessions.batching import BatchingSession
from serving.sessions.batching_settings import BatchingSettings
from serving.sessions.session import SERVE_TAG, SavedModelSession
from serving.sessions.tflite_session import TfliteSession
from serving.warmup import replay

if TYPE_CHECKING:
  from serving.telemetry.monitoring import Monitoring

Session = Union[SavedModelSession, TfliteSession, BatchingSession]

# TF Serving's name first; then what the compression stage writes beside a SavedModel, the smallest first.
SERVED_TFLITE_FILE = "model.tflite"
TFLITE_FILES = (
  SERVED_TFLITE_FILE,
  *(os.path.join("assets.extra", f"model_{fmt}.tflite") for fmt in ("int8", "dynamic", "float16", "float32")),
)
# Below this, in variables, ops are so short that handing them to other threads costs more than it gains.
SMALL_MODEL_BYTES = 4 << 20


@dataclasses.dataclass(frozen=True)
class LoadSettings:
  """How every version is loaded.

  Attributes:
    intra_op_threads: threads within one op; 0: one for a small model, and else as TensorFlow chooses. TensorFlow
      has one pool of them in a process: the first model that is loaded decides for all.
    inter_op_threads: threads of ops side by side; 0: TensorFlow chooses. The first model decides here too.
    session_config_file: a tensorflow.ConfigProto in text format; "": none.
    saved_model_tags: tags of the meta graph, separated by commas.
    enable_model_warmup: replays the requests in the export before it is served.
    num_warmup_iterations: how often each of them is replayed.
    prefer_tflite_model: serves the TFLite file that lies in the version's directory instead of its SavedModel.
    batching: how concurrent requests are joined; None: each runs alone.
  """

  intra_op_threads: int = 0
  inter_op_threads: int = 0
  session_config_file: str = ""
  saved_model_tags: str = SERVE_TAG
  enable_model_warmup: bool = True
  num_warmup_iterations: int = 1
  prefer_tflite_model: bool = False
  batching: BatchingSettings | None = BatchingSettings()


def load_warmed_up(
  path: str, settings: LoadSettings | None = None, monitoring: Monitoring | None = None
) -> Session:
  """Loads a version and replays its warm-up requests. If one fails, so does the load, as in TF Serving.

  A TFLite file of the compression stage answers other signatures than the SavedModel that it lies beside: the warm-up
  requests, which are meant for that, are left out.

  Args:
    path: the version's directory.
    settings: None for the defaults.
    monitoring: is told of the load, the warm-up and every batch.

  Raises:
    Exception: the export cannot be loaded (whatever TensorFlow raises).
    RequestError: a warm-up request fails, or the warm-up file cannot be read.
    ServingError: the session's configuration file cannot be read.
  """
  settings = settings or LoadSettings()
  tflite = find_tflite(path) if settings.prefer_tflite_model else None
  with _timed(monitoring.load if monitoring else None, path):
    session = _load(path, tflite, settings)
  if settings.batching is not None:
    session = BatchingSession(session, settings.batching, monitoring)
  is_for_saved_model = tflite is not None and os.path.basename(tflite) != SERVED_TFLITE_FILE
  if settings.enable_model_warmup and not is_for_saved_model:
    try:
      with _timed(monitoring.warmup if monitoring else None, path):
        replay(session, path, settings.num_warmup_iterations)
    except Exception:
      session.close()
      raise
  return session


def find_tflite(path: str) -> str | None:
  """The TFLite file that is served for a version's directory; None where there is none."""
  candidates = (os.path.join(path, name) for name in TFLITE_FILES)
  return next((candidate for candidate in candidates if os.path.isfile(candidate)), None)


def _load(path: str, tflite: str | None, settings: LoadSettings) -> SavedModelSession | TfliteSession:
  if tflite is not None:
    return TfliteSession(tflite, settings.intra_op_threads)
  threads = (settings.intra_op_threads, settings.inter_op_threads)
  chosen_by_us = threads == (0, 0) and not settings.session_config_file
  is_small = chosen_by_us and _is_small(path)
  return SavedModelSession(
    path,
    *((1, 0) if is_small else threads),
    tags=settings.saved_model_tags.split(","),
    config_file=settings.session_config_file,
    in_caller_thread=is_small,
  )


def _is_small(path: str) -> bool:
  files = glob.glob(os.path.join(glob.escape(path), "variables", "*"))
  return sum(map(os.path.getsize, files)) < SMALL_MODEL_BYTES


@contextlib.contextmanager
def _timed(report: Callable[[str, str, float], None] | None, path: str) -> Iterator[None]:
  """Reports how a block ended, and how long it took in microseconds."""
  start_s = time.monotonic()
  status = "OK"
  try:
    yield
  except Exception as error:
    status = _code(error).name
    raise
  finally:
    if report is not None:
      report(path, status, (time.monotonic() - start_s) * 1e6)


def _code(error: Exception) -> grpc.StatusCode:
  if isinstance(error, RequestError):
    return error.code
  return CODES.get(getattr(error, "error_code", None), grpc.StatusCode.UNKNOWN)
