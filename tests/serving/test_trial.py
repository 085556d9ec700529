"""The trial of an export: real processes, real failures, nothing left behind."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import tensorflow as tf

from serving.export import export_saved_model
from serving.trial import TrialFailed, find_difference, try_export

ROOT = Path(__file__).resolve().parents[2]
FEATURES = np.array([[1.0, 2.0, 3.0]], np.float32)
REQUESTS = [("serving_default", {"features": FEATURES})]


def trial_processes(of=None):
  """Processes of a trial below this one, or below another."""
  found = []
  for process in (of or psutil.Process()).children(recursive=True):
    try:
      if "serving.check" in process.cmdline():
        found.append(process)
    except psutil.NoSuchProcess:
      pass
  return found


def wait_for(condition, timeout_s=120):
  deadline = time.monotonic() + timeout_s
  while not condition():
    assert time.monotonic() < deadline, "timed out"
    time.sleep(0.02)


def test_answers_that_differ_are_named(tmp_path):
  # The clock, and not a random op: with a global seed set by an earlier test, that would answer alike after each load.
  def serve(x):
    milliseconds = tf.math.floormod(tf.timestamp(), 1000) * 1000
    return {"noise": tf.fill(tf.shape(x), milliseconds), "same": x}

  endpoints = {"serving_default": (serve, {"x": tf.TensorSpec([None], tf.float32)})}
  export_saved_model(str(tmp_path / "export"), [], endpoints)
  requests = [("serving_default", {"x": np.float32([1, 2])})]
  with pytest.raises(
    TrialFailed, match=r"^answers differ: serving_default: output noise max abs difference \d"
  ):
    try_export(str(tmp_path / "export"), "noisy", requests, timeout_s=600)
  assert not trial_processes()


def test_running_out_of_time(exports):
  with pytest.raises(TrialFailed, match=r"^timed out after 0\.5 s while loading the export"):
    try_export(exports[1], "affine", REQUESTS, timeout_s=0.5)
  assert not trial_processes()


def test_a_process_that_crashes_is_named(exports):
  raised = []

  def attempt():
    try:
      try_export(exports[1], "affine", REQUESTS, timeout_s=60)
    except TrialFailed as error:
      raised.append(str(error))

  thread = threading.Thread(target=attempt)
  thread.start()
  wait_for(trial_processes)
  trial_processes()[0].send_signal(signal.SIGSEGV)
  thread.join()
  assert raised == ["load failed: the process was ended by SIGSEGV"]
  assert not trial_processes()


def test_no_process_outlives_a_killed_parent(exports):
  code = f"""
import numpy as np
from serving.trial import try_export
try_export({exports[1]!r}, "affine", [("serving_default", {{"features": np.zeros((1, 3), np.float32)}})], 60)
"""
  parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
  try:
    wait_for(lambda: trial_processes(psutil.Process(parent.pid)))
    (child,) = trial_processes(psutil.Process(parent.pid))
    # Far enough to have asked to end with its parent.
    wait_for(lambda: any("numpy" in mapped.path for mapped in child.memory_maps()))
    time.sleep(1)
  finally:
    parent.kill()
    parent.wait()
  wait_for(lambda: not child.is_running() or child.status() == "zombie")


@pytest.mark.parametrize(
  ("ours", "theirs", "difference"),
  [
    ({"a": np.float32([1, 2])}, {"a": np.float32([1, 2.00001])}, ""),
    ({"a": np.float32([np.nan, np.inf])}, {"a": np.float32([np.nan, np.inf])}, ""),
    ({"a": np.float32([1, 2])}, {"a": np.float32([1, 2.5])}, "output a max abs difference 0.5"),
    ({"a": np.int64([1, 2])}, {"a": np.int64([1, 4])}, "output a max abs difference 2"),
    ({"a": np.float32([1])}, {"a": np.float32([[1]])}, "output a has shapes [1] and [1, 1]"),
    ({"a": np.float32([1])}, {"b": np.float32([1])}, "outputs ['a'] and ['b']"),
    ({"a": np.array([b"x"], object)}, {"a": np.array([b"y"], object)}, "output a has other strings"),
    ({"a": np.array([b"x"], object)}, {"a": np.array([b"x"])}, ""),
  ],
)
def test_differences(ours, theirs, difference):
  assert find_difference(ours, theirs) == difference
