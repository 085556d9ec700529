"""A sample of the answered requests, kept in TFRecord files of PredictionLog messages.

tensorflow_model_server knows these settings (`logging_config` of a model) but its open-source build comes without
a collector that would write anything; this one writes files, any of which can be copied into an export as its
warm-up file.

Source: tensorflow_serving/core/{request_logger,server_request_logger,log_collector}.cc
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import itertools
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import grpc
import tensorflow as tf
from tensorflow_serving.apis import inference_pb2, logging_pb2, predict_pb2, prediction_log_pb2
from tensorflow_serving.config import logging_config_pb2

from serving.errors import RequestError, ServingError, invalid_argument
from serving.messages.wire import PredictAnswer, PredictCall, write_predict_request, write_predict_response
from serving.warmup import MAX_WARMUP_REQUESTS

LOG = logging.getLogger(__name__)

COLLECTOR_TYPES = ("", "tfrecord")
MAX_QUEUED_BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True)
class LogSettings:
  """How the requests of one model are logged.

  Args:
    filename_prefix: the files are FILENAME_PREFIX-TIME-PID-NUMBER.tfrecord; its folder is made if need be.
    sampling_rate: share of the requests that is logged, 0 to 1.
    type: kind of collector; "tfrecord" (or empty) is the only one.
  """

  filename_prefix: str
  sampling_rate: float = 0.0
  type: str = "tfrecord"

  def __post_init__(self) -> None:
    if self.type not in COLLECTOR_TYPES:
      raise RequestError(
        grpc.StatusCode.NOT_FOUND,
        f"Cannot find LogCollector::Factory for type: {self.type}; the type that there is: tfrecord",
      )
    if not self.filename_prefix:
      raise invalid_argument("log_collector_config has no filename_prefix; give it the start of a path")
    if not 0 <= self.sampling_rate <= 1:
      raise invalid_argument(f"sampling_rate is {self.sampling_rate}; it has to be between 0 and 1")

  @classmethod
  def from_config(cls, config: logging_config_pb2.LoggingConfig) -> LogSettings:
    """The settings that a model's `logging_config` holds.

    Raises:
      RequestError: NOT_FOUND for an unknown type of collector, INVALID_ARGUMENT for values that are wrong.
    """
    collector = config.log_collector_config
    return cls(collector.filename_prefix, config.sampling_config.sampling_rate, collector.type)


class RequestLog:
  """Writes a sample of requests and responses in a thread of its own. Any number of threads may call `record`.

  A request never waits for the disk: what does not fit into the queue is left out and counted in `dropped`.

  Args:
    max_queued_bytes: how much may wait to be written.
    max_records_per_file: a new file is begun after so many; the default is what a warm-up file may hold.
  """

  def __init__(
    self, max_queued_bytes: int = MAX_QUEUED_BYTES, max_records_per_file: int = MAX_WARMUP_REQUESTS
  ):
    self.dropped = 0
    self._max_queued_bytes = max_queued_bytes
    self._files = _RecordFiles(max_records_per_file)
    self._settings: dict[str, LogSettings] = {}
    self._changed = threading.Condition()
    self._queue: list[tuple[str, bytes]] = []
    # What is in the queue or being written.
    self._pending_bytes = 0
    self._closed = False
    self._thread: threading.Thread | None = None

  def configure(self, settings: Mapping[str, LogSettings]) -> None:
    """Sets which models are logged, {model name: settings}, in place of what was set before.

    Raises:
      ServingError: a folder for the files cannot be made or written to.
    """
    for name, setting in settings.items():
      _make_folder(name, setting.filename_prefix)
    with self._changed:
      self._settings = dict(settings)
      if settings and self._thread is None and not self._closed:
        self._thread = threading.Thread(target=self._write_until_closed, name="request-log", daemon=True)
        self._thread.start()

  def record(self, model_name: str, make_log: Callable[[], prediction_log_pb2.PredictionLog]) -> None:
    """Logs one answered request, if its model is logged and the request falls into the sample.

    Args:
      make_log: called for a sampled request only. The metadata (model_spec of the request, sampling, time) are
        filled in here.
    """
    setting = self._settings.get(model_name)
    if setting is None or random.random() >= setting.sampling_rate:
      return
    if self._pending_bytes >= self._max_queued_bytes:
      self._drop(1)
      return
    try:
      log = make_log()
      log.log_metadata.MergeFrom(_metadata(log, setting))
      record = log.SerializeToString()
    except Exception:
      # Whatever is wrong with its log, the request itself has been answered.
      LOG.exception("%s: a request could not be logged", model_name)
      self._drop(1)
      return
    with self._changed:
      if self._closed or self._pending_bytes + len(record) > self._max_queued_bytes:
        self.dropped += 1
        return
      self._queue.append((setting.filename_prefix, record))
      self._pending_bytes += len(record)
      self._changed.notify_all()

  def flush(self, timeout_s: float = 10.0) -> bool:
    """Waits until all that was recorded can be read from the files; False if that took too long."""
    with self._changed:
      return self._changed.wait_for(lambda: not self._pending_bytes, timeout_s)

  def close(self, timeout_s: float = 10.0) -> None:
    """Writes what is queued and closes the files. Nothing is recorded afterwards."""
    with self._changed:
      self._closed = True
      self._changed.notify_all()
    if self._thread is not None:
      self._thread.join(timeout_s)
    if self.dropped:
      LOG.warning("%d sampled requests were not logged", self.dropped)

  def _drop(self, count: int) -> None:
    with self._changed:
      self.dropped += count

  def _write_until_closed(self) -> None:
    while True:
      with self._changed:
        self._changed.wait_for(lambda: self._queue or self._closed)
        batch, self._queue = self._queue, []
        closed = self._closed
      by_prefix = collections.defaultdict(list)
      for prefix, record in batch:
        by_prefix[prefix].append(record)
      for prefix, records in by_prefix.items():
        if not self._files.append(prefix, records):
          self._drop(len(records))
      used = {setting.filename_prefix for setting in self._settings.values()}
      self._files.close_all_but(set() if closed else used)
      with self._changed:
        self._pending_bytes -= sum(len(record) for _, record in batch)
        self._changed.notify_all()
      if closed:
        return


class _RecordFiles:
  """The files being written, one for each prefix. Used by one thread."""

  def __init__(self, max_records: int):
    self._max_records = max_records
    self._numbers = itertools.count(1)
    self._writers: dict[str, tf.io.TFRecordWriter] = {}
    self._counts: dict[str, int] = {}
    self._failing: set[str] = set()

  def append(self, prefix: str, records: Sequence[bytes]) -> bool:
    """Writes records so that they can be read at once. False: some of them are lost, for a reason in the log."""
    try:
      for record in records:
        self._writer(prefix).write(record)
        self._counts[prefix] += 1
        if self._counts[prefix] == self._max_records:
          self._writers.pop(prefix).close()
      if prefix in self._writers:
        self._writers[prefix].flush()
    except (OSError, tf.errors.OpError) as error:
      # Told once, not with each request.
      if prefix not in self._failing:
        LOG.error("requests cannot be logged to %s: %s", prefix, error)
      self._failing.add(prefix)
      self._writers.pop(prefix, None)
      return False
    self._failing.discard(prefix)
    return True

  def close_all_but(self, prefixes: set[str]) -> None:
    """Closes the files of all other prefixes."""
    for prefix in set(self._writers) - prefixes:
      with contextlib.suppress(OSError, tf.errors.OpError):
        # All records have been flushed before.
        self._writers.pop(prefix).close()

  def _writer(self, prefix: str) -> tf.io.TFRecordWriter:
    if prefix not in self._writers:
      # The process's number keeps several servers of one port apart, the running number files of one second.
      moment = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
      path = f"{prefix}-{moment}-{os.getpid()}-{next(self._numbers):05d}.tfrecord"
      self._writers[prefix] = tf.io.TFRecordWriter(path)
      self._counts[prefix] = 0
    return self._writers[prefix]


def predict_log(call: PredictCall, answer: PredictAnswer) -> prediction_log_pb2.PredictionLog:
  """The log of an answered Predict request."""
  return prediction_log_pb2.PredictionLog(
    predict_log=prediction_log_pb2.PredictLog(
      request=predict_pb2.PredictRequest.FromString(write_predict_request(call)),
      response=predict_pb2.PredictResponse.FromString(write_predict_response(answer)),
    )
  )


def _metadata(log: prediction_log_pb2.PredictionLog, setting: LogSettings) -> logging_pb2.LogMetadata:
  request = getattr(log, log.WhichOneof("log_type")).request
  # The tasks of a multi-inference request ask the same model.
  asked = request.tasks[0] if isinstance(request, inference_pb2.MultiInferenceRequest) else request
  metadata = logging_pb2.LogMetadata(model_spec=asked.model_spec, timestamp_secs=int(time.time()))
  metadata.sampling_config.sampling_rate = setting.sampling_rate
  return metadata


def _make_folder(model_name: str, prefix: str) -> None:
  folder = os.path.dirname(prefix) or "."
  try:
    tf.io.gfile.makedirs(folder)
  except (OSError, tf.errors.OpError) as error:
    raise ServingError(
      f"{model_name}: cannot make the folder {folder} of logging_config's filename_prefix: {error}"
    ) from error
  if os.path.isdir(folder) and not os.access(folder, os.W_OK):
    raise ServingError(f"{model_name}: the folder {folder} of logging_config's filename_prefix is read-only")
