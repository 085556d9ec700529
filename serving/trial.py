"""Tries an export as a server would use it, in a process of its own: a crash of the load ends only that."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from serving.client import PredictClient
from serving.errors import ServingError

Inputs = Mapping[str, np.ndarray]
Request = tuple[str, Inputs]

# The same graph on the same machine, but fused differently by each way of loading it.
RELATIVE_TOLERANCE = 1e-5
ABSOLUTE_TOLERANCE = 1e-6
_POLL_S = 0.05
_GRACE_S = 5.0


class TrialFailed(Exception):
  """Why an export is not fit to be served: one line."""


def try_export(export_dir: str, model_name: str, requests: Sequence[Request], timeout_s: float) -> None:
  """Loads an export in every way that matters, asks it, and compares the answers.

  In a fresh process, a TF1 session, tf.saved_model.load and at last the embedded server all get the same
  requests. The process is ended in any case.

  Args:
    export_dir: directory of a SavedModel.
    model_name: the name it is served under.
    requests: (signature name, {input name: array}).
    timeout_s: the longest that all of it may take.

  Raises:
    TrialFailed: a load or a request failed, the answers differ, or the time ran out.
  """
  deadline = time.monotonic() + timeout_s
  with tempfile.TemporaryDirectory(prefix="trial-") as directory:
    with _TrialProcess(directory, export_dir, model_name, requests) as process:
      try:
        expected = process.answers_without_server(deadline)
        answers = process.answers_of_server(requests, deadline)
      except TimeoutError as error:
        raise TrialFailed(f"timed out after {timeout_s:g} s {error}") from None
  for loader, of_loader in expected.items():
    for (signature_name, _), ours, theirs in zip(requests, answers, of_loader, strict=True):
      difference = find_difference(ours, theirs)
      if difference:
        raise TrialFailed(f"answers differ: {signature_name}: {difference} between the server and {loader}")


def find_difference(ours: Inputs, theirs: Inputs) -> str:
  """How two answers differ, in words; empty where they agree.

  Floats agree within a relative 1e-5 and an absolute 1e-6; everything else must be equal.
  """
  if set(ours) != set(theirs):
    return f"outputs {sorted(ours)} and {sorted(theirs)}"
  for name in sorted(ours):
    a, b = np.asarray(ours[name]), np.asarray(theirs[name])
    if a.shape != b.shape:
      return f"output {name} has shapes {list(a.shape)} and {list(b.shape)}"
    if a.dtype.kind in "OSU" or b.dtype.kind in "OSU":
      if a.tolist() != b.tolist():
        return f"output {name} has other strings"
    elif not np.allclose(a, b, RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE, equal_nan=True):
      largest = np.max(np.abs(a.astype(np.complex128) - b.astype(np.complex128)))
      return f"output {name} max abs difference {largest:.3g}"
  return ""


class _TrialProcess:
  """`serving.check` as a child of this process, which it does not outlive."""

  def __init__(self, directory: str, export_dir: str, model_name: str, requests: Sequence[Request]):
    asked, base_path = os.path.join(directory, "requests"), os.path.join(directory, "models")
    self._answers, self._port_file = os.path.join(directory, "answers"), os.path.join(directory, "port")
    self._log = os.path.join(directory, "log")
    self._model_name = model_name
    export_dir = os.path.abspath(export_dir)
    os.mkdir(base_path)
    os.symlink(export_dir, os.path.join(base_path, "1"))
    with open(asked, "wb") as file:
      pickle.dump(list(requests), file)
    self._command = [sys.executable, "-m", "serving.check", export_dir, asked, self._answers]
    self._command += [f"--parent_pid={os.getpid()}", f"--model_name={model_name}"]
    self._command += [f"--model_base_path={base_path}", "--port=0", f"--port_file={self._port_file}"]

  def __enter__(self) -> _TrialProcess:
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment = {
      **os.environ,
      "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
      "TF_CPP_MIN_LOG_LEVEL": "3",
      # The process that trained may hold all of a GPU's memory.
      "CUDA_VISIBLE_DEVICES": "-1",
    }
    with open(self._log, "wb") as log:
      self._process = subprocess.Popen(
        self._command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
      )
    return self

  def __exit__(self, *_: object) -> None:
    if not self._ended():
      self._process.terminate()
      with contextlib.suppress(subprocess.TimeoutExpired):
        self._process.wait(_GRACE_S)
    if not self._ended():
      self._process.kill()
    self._process.wait()

  def answers_without_server(self, deadline: float) -> dict[str, list[dict[str, np.ndarray]]]:
    """{loader: outputs of each request}; see `serving.check.answer_requests`."""
    for _ in _until(deadline, "while loading the export and asking it without a server"):
      if os.path.exists(self._answers):
        break
      if self._ended():
        words = self._last_words()
        known = words.startswith(("load failed", "request to"))
        raise TrialFailed(words if known else f"load failed: {words}")
    with open(self._answers, "rb") as file:
      return pickle.load(file)

  def answers_of_server(self, requests: Sequence[Request], deadline: float) -> list[dict[str, np.ndarray]]:
    """Outputs of each request, over gRPC."""
    for _ in _until(deadline, "while the server started"):
      self._check_alive("the server ended")
      if os.path.exists(self._port_file):
        break
    with open(self._port_file, encoding="utf-8") as file:
      address = f"127.0.0.1:{file.read()}"
    self._await_version(address, deadline)
    return [self._ask(address, request, deadline) for request in requests]

  def _await_version(self, address: str, deadline: float) -> None:
    for _ in _until(deadline, "waiting for the server to load the export"):
      self._check_alive("load failed: the server")
      # Before its first look at the base path the server knows no version.
      with contextlib.suppress(ServingError), _client(address, deadline) as client:
        (version,) = client.status(self._model_name)
        if version.state == "AVAILABLE":
          return
        if version.state == "END":
          raise TrialFailed(f"load failed: the server: {version.error}")

  def _ask(self, address: str, request: Request, deadline: float) -> dict[str, np.ndarray]:
    signature_name, inputs = request
    try:
      with _client(address, deadline) as client:
        return client.predict(self._model_name, inputs, signature_name)[0]
    except ServingError as error:
      if time.monotonic() >= deadline:
        raise TimeoutError(f"asking the server for {signature_name}") from error
      self._check_alive(f"request to {signature_name} failed: the server")
      raise TrialFailed(f"request to {signature_name} failed: the server: {error}") from error

  def _ended(self) -> bool:
    return self._process.poll() is not None

  def _check_alive(self, doing: str) -> None:
    if self._ended():
      raise TrialFailed(f"{doing}: {self._last_words()}")

  def _last_words(self) -> str:
    """How the process ended: the signal, or its last line."""
    status = self._process.returncode
    if status < 0:
      return f"the process was ended by {signal.Signals(-status).name}"
    with open(self._log, encoding="utf-8", errors="replace") as file:
      lines = [line.strip() for line in file if line.strip()]
    return lines[-1] if lines else f"the process ended with status {status}"


def _client(address: str, deadline: float) -> PredictClient:
  # One attempt: a server that is gone will not come back.
  return PredictClient(address, max(0.1, deadline - time.monotonic()), max_attempts=1)


def _until(deadline: float, doing: str) -> Iterator[None]:
  """Ticks until the deadline.

  Raises:
    TimeoutError: with `doing` as its text.
  """
  while time.monotonic() < deadline:
    yield
    time.sleep(_POLL_S)
  raise TimeoutError(doing)
