"""A model's versions: loading, swapping, failing, what requests see of it. The sessions have no content."""

import logging
import shutil
import threading

import pytest

from serving.errors import RequestError
from serving.models.served_model import ServedModel, VersionState
from serving.models.version_folders import ALL_VERSIONS, VersionPolicy


class Session:
  """A loaded model of no content, which knows whether it was closed."""

  def __init__(self, path):
    self.path = path
    self.closed = False

  def close(self):
    assert not self.closed
    self.closed = True


def add(base_path, name, complete=True):
  (base_path / name).mkdir()
  if complete:
    (base_path / name / "saved_model.pb").touch()


def test_a_version_stays_loaded_while_it_is_in_use(tmp_path):
  model = ServedModel("m", str(tmp_path), Session)
  add(tmp_path, "1")
  model.poll()
  with model.acquire() as version, model.acquire(1) as same:
    assert version is same
    add(tmp_path, "2")
    model.poll()
    assert model.available() == [2] and not version.session.closed
    assert model.statuses(1) == [(1, VersionState.UNLOADING, None)]
    session = version.session
    with pytest.raises(RequestError, match=r"Specific\(m, 1\)"), model.acquire(1):
      pass
  assert session.closed
  assert model.statuses() == [(2, VersionState.AVAILABLE, None), (1, VersionState.END, None)]


def test_an_emptied_base_path_unloads_as_tf_serving_does(tmp_path):
  model = ServedModel("m", str(tmp_path), Session)
  add(tmp_path, "1")
  model.poll()
  shutil.rmtree(tmp_path / "1")
  model.poll()
  assert model.available() == [] and model.is_unloaded()
  with pytest.raises(RequestError, match=r"Latest\(m\)"), model.acquire():
    pass
  add(tmp_path, "2")
  model.poll()
  assert model.available() == [2]


def test_a_policy_may_change(tmp_path):
  model = ServedModel("m", str(tmp_path), Session)
  for name in ("1", "2", "3"):
    add(tmp_path, name)
  model.poll()
  assert model.available() == [3]
  for policy, numbers in (
    (ALL_VERSIONS, [1, 2, 3]),
    (VersionPolicy(latest=2), [2, 3]),
    (VersionPolicy(latest=None, specific=frozenset({1})), [1]),
    (VersionPolicy(latest=None, specific=frozenset({9})), []),
  ):
    model.policy = policy
    model.poll()
    assert model.available() == numbers


def test_without_a_look_nothing_new_is_found(tmp_path):
  model = ServedModel("m", str(tmp_path), Session)
  add(tmp_path, "1")
  model.poll(look=False)
  assert model.available() == []
  model.poll()
  add(tmp_path, "2")
  model.poll(look=False)
  assert model.available() == [1]


class Failing:
  """A loader that fails as often as told, then loads."""

  def __init__(self, failures):
    self.failures = failures
    self.attempts = 0

  def __call__(self, path):
    self.attempts += 1
    if self.attempts <= self.failures:
      raise OSError("bad\n  file")
    return Session(path)


def test_failed_loads_are_tried_again_as_often_as_allowed(tmp_path):
  load = Failing(100)
  model = ServedModel("m", str(tmp_path), load, max_num_load_retries=2, load_retry_interval_s=0)
  add(tmp_path, "1")
  for _ in range(6):
    model.poll()
  assert load.attempts == 3
  ((number, state, error),) = model.statuses()
  assert (number, state, error.message) == (1, VersionState.END, "bad file")


def test_a_failed_load_waits_before_it_is_tried_again(tmp_path):
  load = Failing(1)
  model = ServedModel("m", str(tmp_path), load, load_retry_interval_s=60)
  add(tmp_path, "1")
  model.poll()
  model.poll()
  model.poll(look=False)
  assert load.attempts == 1


def test_a_failed_version_whose_folder_changes_is_tried_again_when_the_change_is_over(tmp_path):
  load = Failing(1)
  model = ServedModel("m", str(tmp_path), load, max_num_load_retries=0, load_retry_interval_s=60)
  add(tmp_path, "1")
  model.poll()
  for i in range(3):
    (tmp_path / "1" / f"variables-{i}").touch()
    model.poll()
    assert load.attempts == 1
  model.poll()
  assert load.attempts == 2 and model.available() == [1]
  assert model.statuses() == [(1, VersionState.AVAILABLE, None)]


def test_a_failed_folder_that_went_and_came_back_is_new(tmp_path):
  load = Failing(1)
  model = ServedModel("m", str(tmp_path), load, max_num_load_retries=0)
  add(tmp_path, "1")
  model.poll()
  shutil.rmtree(tmp_path / "1")
  model.poll()
  add(tmp_path, "1")
  model.poll()
  model.poll()
  assert load.attempts == 2 and model.available() == [1]


def test_a_folder_without_a_model_is_reported_and_leaves_the_old_version(tmp_path, caplog):
  model = ServedModel("m", str(tmp_path), Session)
  add(tmp_path, "1")
  model.poll()
  add(tmp_path, "2", complete=False)
  (tmp_path / "2" / "model.keras").touch()
  with caplog.at_level(logging.ERROR, "serving.models.served_model"):
    for _ in range(4):
      model.poll()
  # Other tests may have turned on the messages of lower levels.
  assert [record.levelno for record in caplog.records if record.levelno >= logging.ERROR] == [logging.ERROR]
  (newest, old) = model.statuses()
  assert newest[:2] == (2, VersionState.END) and newest[2].code.name == "NOT_FOUND"
  assert newest[2].message.startswith(
    f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {tmp_path / '2'}"
  )
  assert old == (1, VersionState.AVAILABLE, None)
  (tmp_path / "2" / "saved_model.pb").touch()
  model.poll()
  model.poll()
  assert model.available() == [2]


def test_a_load_that_ends_after_the_model_was_closed_is_undone(tmp_path):
  loading, go_on, sessions = threading.Event(), threading.Event(), []

  def load(path):
    loading.set()
    assert go_on.wait(30)
    sessions.append(Session(path))
    return sessions[0]

  model = ServedModel("m", str(tmp_path), load)
  add(tmp_path, "1")
  thread = threading.Thread(target=model.poll)
  thread.start()
  assert loading.wait(30)
  model.close()
  assert not model.is_unloaded() and model.statuses()[0][1] == VersionState.LOADING
  go_on.set()
  thread.join()
  assert sessions[0].closed and model.is_unloaded()
