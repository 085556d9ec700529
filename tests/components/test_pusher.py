"""AtomicPusherExecutor: complete versions only, nothing replaced, nothing left behind."""

import fcntl
import os
import threading
import time

import pytest
from tfx.components.pusher import executor as tfx_pusher
from tfx.proto import pusher_pb2
from tfx.types import standard_artifacts
from tfx.utils import io_utils, proto_utils

from components.pusher import AtomicPusherExecutor

NOW = 1_700_000_000
FILES = {
  "saved_model.pb": b"graph",
  "variables/variables.index": b"index",
  "assets.extra/warmup": b"requests",
}


@pytest.fixture
def model(tmp_path):
  made = standard_artifacts.Model()
  made.uri = str(tmp_path / "model")
  write(tmp_path / "model" / "Format-Serving")
  return made


@pytest.fixture
def base(tmp_path, monkeypatch):
  monkeypatch.setattr(tfx_pusher.time, "time", lambda: float(NOW))
  return tmp_path / "serving" / "name"


def write(directory):
  for name, content in FILES.items():
    (directory / name).parent.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(content)


def read(directory):
  return {
    os.path.relpath(os.path.join(folder, name), directory): open(os.path.join(folder, name), "rb").read()
    for folder, _, names in os.walk(directory)
    for name in names
  }


def push(model, base, blessed=True, executor=AtomicPusherExecutor):
  """Runs the executor; returns the PushedModel."""
  pushed = standard_artifacts.PushedModel()
  pushed.uri = f"{model.uri}-pushed-{time.monotonic_ns()}"
  blessing = standard_artifacts.InfraBlessing()
  blessing.set_int_custom_property("blessed", int(blessed))
  filesystem = pusher_pb2.PushDestination.Filesystem(base_directory=str(base))
  destination = proto_utils.proto_to_json(pusher_pb2.PushDestination(filesystem=filesystem))
  inputs = {"model": [model], "infra_blessing": [blessing]}
  executor().Do(inputs, {"pushed_model": [pushed]}, {"push_destination": destination})
  return pushed


def test_a_push_is_recorded_as_tfx_records_it(model, base):
  pushed = push(model, base)
  assert os.listdir(base) == [str(NOW)]
  assert read(base / str(NOW)) == FILES
  assert read(pushed.uri) == FILES
  assert pushed.get_int_custom_property("pushed") == 1
  assert pushed.get_string_custom_property("pushed_destination") == str(base / str(NOW))
  assert pushed.get_string_custom_property("pushed_version") == str(NOW)


def test_the_version_never_appears_incomplete(model, base, monkeypatch):
  seen, done = [], threading.Event()

  def watch():
    while not done.is_set():
      if (base / str(NOW)).exists():
        seen.append(read(base / str(NOW)))
        return

  copy = io_utils.copy_dir

  def slow_copy(*args, **kwargs):
    copy(*args, **kwargs)
    time.sleep(0.2)

  monkeypatch.setattr(io_utils, "copy_dir", slow_copy)
  thread = threading.Thread(target=watch)
  thread.start()
  try:
    push(model, base)
  finally:
    time.sleep(0.1)
    done.set()
    thread.join()
  assert seen == [FILES]


def test_the_stock_executor_does_appear_incomplete(model, base, monkeypatch):
  # Why there is one of our own: the folder is visible before its last file.
  seen = []
  copy_file = io_utils.copy_file
  monkeypatch.setattr(
    io_utils, "copy_file", lambda *args: (seen.append(read(base / str(NOW))), copy_file(*args))
  )
  push(model, base, executor=tfx_pusher.Executor)
  assert seen and seen[0] != FILES


def test_a_second_push_in_the_same_second_gets_the_next_number(model, base):
  first = push(model, base)
  (base / str(NOW) / "mark").touch()
  versions = [push(model, base).get_string_custom_property("pushed_version") for _ in range(2)]
  assert first.get_string_custom_property("pushed_version") == str(NOW)
  assert versions == [str(NOW + 1), str(NOW + 2)]
  assert (base / str(NOW) / "mark").exists()
  assert read(base / str(NOW + 2)) == FILES


def test_the_new_version_is_always_the_latest(model, base):
  for name in (str(NOW + 50), "best", "0007"):
    (base / name).mkdir(parents=True)
  assert push(model, base).get_string_custom_property("pushed_version") == str(NOW + 51)


def test_leftovers_of_killed_pushes_go_at_the_next(model, base):
  write(base / ".staging-123" / str(NOW - 9))
  push(model, base)
  assert os.listdir(base) == [str(NOW)]


def test_a_push_that_fails_leaves_nothing(model, base, monkeypatch):
  def full(*_, **__):
    raise OSError("disk full")

  monkeypatch.setattr(io_utils, "copy_file", full)
  with pytest.raises(OSError, match="disk full"):
    push(model, base)
  assert os.listdir(base) == []


def test_a_model_that_is_not_blessed_is_not_pushed(model, base):
  pushed = push(model, base, blessed=False)
  assert pushed.get_int_custom_property("pushed") == 0
  assert not base.exists()


def test_two_pushes_wait_for_each_other(model, base):
  base.mkdir(parents=True)
  descriptor = os.open(base, os.O_RDONLY)
  fcntl.flock(descriptor, fcntl.LOCK_EX)
  thread = threading.Thread(target=push, args=(model, base))
  thread.start()
  time.sleep(0.3)
  assert os.listdir(base) == []
  os.close(descriptor)
  thread.join(10)
  assert os.listdir(base) == [str(NOW)]
