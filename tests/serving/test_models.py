"""Version folders, the default policy and what a version's requests see, without TensorFlow."""

import pytest

from serving.errors import RequestError
from serving.models import ServedModel, VersionState, find_versions, latest


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


def test_version_folders(tmp_path):
  for name in ("1", "007", "12", ".staging-3", "best", "-5", "1.5", "9" * 30, "٣"):
    add(tmp_path, name)
  add(tmp_path, "20", complete=False)
  (tmp_path / "30").touch()
  found = find_versions(str(tmp_path))
  assert found == {1: str(tmp_path / "1"), 7: str(tmp_path / "007"), 12: str(tmp_path / "12")}
  assert latest(found) == {12: str(tmp_path / "12")}
  assert latest({}) == {}


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
  (tmp_path / "1" / "saved_model.pb").unlink()
  model.poll()
  assert model.available() == []
  with pytest.raises(RequestError, match=r"Latest\(m\)"), model.acquire():
    pass
  add(tmp_path, "2")
  model.poll()
  assert model.available() == [2]


def test_failed_loads_are_tried_again_as_often_as_allowed(tmp_path):
  attempts = []

  def fail(path):
    attempts.append(path)
    raise OSError("bad\n  file")

  model = ServedModel("m", str(tmp_path), fail, max_num_load_retries=2, load_retry_interval_s=0)
  add(tmp_path, "1")
  for _ in range(6):
    model.poll()
  assert len(attempts) == 3
  ((number, state, error),) = model.statuses()
  assert (number, state, error.message) == (1, VersionState.END, "bad file")
  # A folder that went and came back is new.
  (tmp_path / "1" / "saved_model.pb").unlink()
  model.poll()
  (tmp_path / "1" / "saved_model.pb").touch()
  model.poll()
  assert len(attempts) == 4


def test_a_failed_load_waits_before_it_is_tried_again(tmp_path):
  attempts = []

  def fail(path):
    attempts.append(path)
    raise OSError("bad")

  model = ServedModel("m", str(tmp_path), fail, load_retry_interval_s=60)
  add(tmp_path, "1")
  model.poll()
  model.poll()
  assert len(attempts) == 1
