"""The set of models: configuring and reconfiguring it, labels, look-ups. The sessions have no content."""

import threading

import pytest

from serving.errors import RequestError
from serving.messages.protos import ModelSpec
from serving.models.manager import ModelManager
from serving.models.model_config import ModelConfig
from serving.models.served_model import VersionState
from serving.models.version_folders import ALL_VERSIONS


class Session:
  """A loaded model of no content, which knows whether it was closed."""

  def __init__(self, path):
    with open(f"{path}/saved_model.pb") as file:
      if file.read() == "broken":
        raise OSError("no model")
    self.path = path
    self.closed = False

  def close(self):
    assert not self.closed
    self.closed = True


@pytest.fixture
def base(tmp_path):
  """(name, {version: content}) -> a base path."""

  def make(name, *versions, content=""):
    for version in versions:
      (tmp_path / name / str(version)).mkdir(parents=True)
      (tmp_path / name / str(version) / "saved_model.pb").write_text(content)
    (tmp_path / name).mkdir(exist_ok=True)
    return str(tmp_path / name)

  return make


@pytest.fixture
def manager():
  made = ModelManager(Session, num_load_threads=2)
  yield made
  assert made.close()


def spec(name, version=None, label=None):
  made = ModelSpec(name=name)
  if version is not None:
    made.version.value = version
  if label is not None:
    made.version_label = label
  return made


def used(manager, *arguments, **named):
  """The number of the version that a request gets."""
  with manager.version(spec(*arguments, **named)) as version:
    return version.number


def error_of(call, *arguments, **named):
  with pytest.raises(RequestError) as caught:
    call(*arguments, **named)
  return caught.value.code.name, caught.value.message


def test_the_first_configuration_loads_with_the_polls(manager, base):
  manager.configure([ModelConfig("a", base("a", 1, 2)), ModelConfig("b", base("b", 7), ALL_VERSIONS)])
  assert manager.names() == ["a", "b"] and not manager.all_available()
  assert manager.statuses() == {"a": [], "b": []}
  manager.poll()
  assert manager.wait_until_available(30)
  assert manager.statuses() == {
    "a": [(2, VersionState.AVAILABLE, None)],
    "b": [(7, VersionState.AVAILABLE, None)],
  }
  assert used(manager, "a") == used(manager, "a", 2) == 2 and used(manager, "b") == 7


def test_what_a_request_may_ask_for(manager, base):
  manager.configure([ModelConfig("a", base("a", 1, 2))], wait=True)
  assert error_of(used, manager, "") == ("INVALID_ARGUMENT", "ModelSpec has no name specified.")
  assert error_of(used, manager, "x") == ("NOT_FOUND", "Servable not found for request: Latest(x)")
  assert error_of(used, manager, "x", 3) == ("NOT_FOUND", "Servable not found for request: Specific(x, 3)")
  assert error_of(used, manager, "a", 1) == ("NOT_FOUND", "Servable not found for request: Specific(a, 1)")
  unknown = ("INVALID_ARGUMENT", "Unrecognized servable version label: beta")
  assert error_of(used, manager, "a", label="beta") == error_of(used, manager, "x", label="beta") == unknown


def test_statuses(manager, base):
  manager.configure([ModelConfig("a", base("a", 1, 2), ALL_VERSIONS)], wait=True)
  manager.configure([ModelConfig("a", base("a"), ALL_VERSIONS, {"old": 1})])
  available = VersionState.AVAILABLE
  assert manager.model_statuses(spec("a")) == [(2, available, None), (1, available, None)]
  assert manager.model_statuses(spec("a", 1)) == manager.model_statuses(spec("a", label="old"))
  assert manager.model_statuses(spec("a", 1)) == [(1, available, None)]
  error = error_of(manager.model_statuses, spec("x"))
  assert error == ("NOT_FOUND", "Could not find any versions of model x")
  error = error_of(manager.model_statuses, spec("a", 5))
  assert error == ("NOT_FOUND", "Could not find version 5 of model a")
  assert error_of(manager.model_statuses, spec("a", label="x"))[0] == "INVALID_ARGUMENT"


def test_models_come_and_go(manager, base):
  a, b = ModelConfig("a", base("a", 1)), ModelConfig("b", base("b", 1))
  manager.configure([a], wait=True)
  with manager.version(spec("a")) as version:
    manager.configure([b], wait=True)
    assert manager.names() == ["b"] and used(manager, "b") == 1
    assert error_of(used, manager, "a")[0] == "NOT_FOUND"
    assert manager.model_statuses(spec("a"))[0][1] == VersionState.UNLOADING
    session = version.session
    assert not session.closed
  assert session.closed
  assert manager.model_statuses(spec("a")) == [(1, VersionState.END, None)]
  manager.configure([a, b], wait=True)
  assert used(manager, "a") == used(manager, "b") == 1
  manager.configure([], wait=True)
  assert manager.names() == [] and manager.all_available()


def test_a_model_that_stays_goes_on_with_its_session(manager, base):
  path = base("a", 1, 2)
  manager.configure([ModelConfig("a", path)], wait=True)
  with manager.version(spec("a")) as version:
    session = version.session
  manager.configure([ModelConfig("a", path, ALL_VERSIONS), ModelConfig("b", base("b", 1))], wait=True)
  with manager.version(spec("a")) as version:
    assert version.session is session
  assert used(manager, "a", 1) == 1


@pytest.mark.parametrize(
  ("changed", "code", "message"),
  [
    ({"name": ""}, "INVALID_ARGUMENT", "The model of base path {path} has no name"),
    ({"base_path": "models/b"}, "INVALID_ARGUMENT",
     "Expected model b to have an absolute path or URI; got base_path()=models/b"),
    ({"base_path": "/missing"}, "INVALID_ARGUMENT",
     "Could not find base path /missing for servable b: it is no directory; push a model there first"),
    ({"name": "a"}, "INVALID_ARGUMENT", "Illegal to list model a multiple times in config list"),
    ({"platform": "caffe"}, "INVALID_ARGUMENT", "Model b requests unsupported platform caffe"),
    ({"labels": {"stable": 1}}, "FAILED_PRECONDITION",
     "Request to assign label to version 1 of model b, which is not currently available for inference"),
  ],
)  # fmt: skip
def test_a_configuration_that_is_refused_changes_nothing(manager, base, changed, code, message):
  a = ModelConfig("a", base("a", 1))
  manager.configure([a], wait=True)
  path = base("b", 1)
  b = ModelConfig(**{"name": "b", "base_path": path, **changed})
  assert error_of(manager.configure, [a, b], wait=True) == (code, message.format(path=path))
  assert error_of(manager.check, [a, b]) == (code, message.format(path=path))
  assert manager.names() == ["a"] and used(manager, "a") == 1


def test_another_platform_is_illegal(manager, base):
  path = base("a", 1)
  manager.configure([ModelConfig("a", path)], wait=True)
  error = error_of(manager.configure, [ModelConfig("a", path, platform="caffe")])
  assert error == (
    "INVALID_ARGUMENT",
    "Illegal to change a model's platform. For model a platform was tensorflow and new platform requested is caffe",
  )


def test_labels_name_available_versions(manager, base):
  path = base("a", 1, 2)
  manager.configure([ModelConfig("a", path, ALL_VERSIONS)], wait=True)
  manager.configure([ModelConfig("a", path, ALL_VERSIONS, {"stable": 1, "canary": 2})])
  assert used(manager, "a", label="stable") == 1 and used(manager, "a", label="canary") == 2
  error = error_of(manager.configure, [ModelConfig("a", path, ALL_VERSIONS, {"stable": 3})])
  assert error[0] == "FAILED_PRECONDITION" and "version 3 of model a" in error[1]
  assert used(manager, "a", label="stable") == 1
  manager.configure([ModelConfig("a", path, ALL_VERSIONS, {"stable": 2})])
  assert used(manager, "a", label="stable") == 2
  assert error_of(used, manager, "a", label="canary")[0] == "INVALID_ARGUMENT"


def test_the_flag_lets_new_labels_name_versions_to_come(base):
  manager = ModelManager(Session, allow_labels_for_unavailable=True)
  path = base("a", 1)
  manager.configure([ModelConfig("a", path, labels={"stable": 2})], wait=True)
  assert error_of(used, manager, "a", label="stable") == (
    "NOT_FOUND",
    "Servable not found for request: Specific(a, 2)",
  )
  # A label in use is not moved to a version that is not there.
  error = error_of(manager.configure, [ModelConfig("a", path, labels={"stable": 3})])
  assert error[0] == "FAILED_PRECONDITION"
  base("a", 2)
  manager.poll(wait=True)
  assert used(manager, "a", label="stable") == 2
  assert manager.close()


def test_new_models_that_cannot_be_loaded_are_told_and_tried_again(base):
  manager = ModelManager(Session, load_retry_interval_s=0)
  good, bad = ModelConfig("good", base("good", 1)), ModelConfig("bad", base("bad", 4, content="broken"))
  empty = ModelConfig("empty", base("empty"))
  code, message = error_of(manager.configure, [good, bad, empty], wait=True)
  assert (code, message) == (
    "UNKNOWN",
    "2 model(s) did not become available: {{{name: bad version: 4} due to error: UNKNOWN: no model}, "
    f"{{{{name: empty version: none}} due to error: no versions under {empty.base_path}}}, }}",
  )
  assert manager.names() == ["bad", "empty", "good"] and used(manager, "good") == 1
  with open(f"{bad.base_path}/4/saved_model.pb", "w") as file:
    file.write("mended")
  manager.poll(wait=True)
  manager.poll(wait=True)
  assert used(manager, "bad") == 4
  assert manager.close()


def test_a_new_base_path_takes_over_when_it_is_loaded(manager, base):
  manager.configure([ModelConfig("a", base("a", 1))], wait=True)
  with manager.version(spec("a")) as version:
    old = version.session
  broken = ModelConfig("a", base("broken", 9, content="broken"))
  assert error_of(manager.configure, [broken], wait=True)[0] == "UNKNOWN"
  assert used(manager, "a") == 1 and not old.closed
  manager.configure([ModelConfig("a", base("other", 1))], wait=True)
  with manager.version(spec("a")) as version:
    assert version.session.path == base("other") + "/1"
  assert old.closed


def test_a_base_path_that_vanished_can_be_configured_again(manager, base, tmp_path):
  config = ModelConfig("a", base("a", 1))
  manager.configure([config], wait=True)
  (tmp_path / "a").rename(tmp_path / "elsewhere")
  manager.configure([config, ModelConfig("b", base("b", 1))], wait=True)
  manager.poll(wait=True)
  assert used(manager, "a") == used(manager, "b") == 1


def test_a_slow_load_holds_up_no_other_model(base):
  go_on = threading.Event()

  def load(path):
    if "/slow/" in path:
      assert go_on.wait(30)
    return Session(path)

  manager = ModelManager(load, num_load_threads=2)
  manager.configure([ModelConfig("slow", base("slow", 1)), ModelConfig("a", base("a", 1))])
  manager.poll()
  while not manager.get("a").available():
    manager.wait_until_available(0.01)
  base("a", 2)
  while manager.get("a").available() != [2]:
    manager.poll()
    manager.wait_until_available(0.01)
  assert manager.get("slow").statuses() == [(1, VersionState.LOADING, None)]
  # It does not hold up the end either.
  assert not manager.close(0.1)
  go_on.set()
  assert manager.close(30)


def test_changes_are_told(base):
  seen = []
  manager = ModelManager(Session, on_change=lambda: seen.append(manager.all_available()))
  manager.configure([ModelConfig("a", base("a", 1))])
  manager.poll(wait=True)
  assert seen == [False, True]
  assert manager.close()
