"""Which span and version is ingested, and when a data set counts as changed."""

import os

import pytest

from components.config import DataConfig
from components.example_gen import driver
from components.example_gen.driver import fingerprint, resolve_span


def write(path, text="x"):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(text)


@pytest.fixture
def spans(tmp_path):
  """span-2, span-10 with two versions each, and things that are no spans."""
  for folder in ("span-2/version-1", "span-2/version-12", "span-10/version-3", "span-10/version-7", "other"):
    write(tmp_path / folder / "cat" / "1.jpg")
  return tmp_path


def test_without_a_pattern_the_path_itself_is_span_0(tmp_path):
  assert resolve_span(DataConfig(path=str(tmp_path))) == (str(tmp_path), 0, None)


def test_newest_span_by_number_not_by_name(spans):
  path, span, version = resolve_span(DataConfig(path=str(spans), span_pattern="span-{SPAN}"))
  assert (path, span, version) == (str(spans / "span-10"), 10, None)


def test_newest_version_of_the_newest_span(spans):
  data = DataConfig(path=str(spans), span_pattern="span-{SPAN}/version-{VERSION}")
  assert resolve_span(data) == (str(spans / "span-10" / "version-7"), 10, 7)


def test_a_span_that_is_asked_for(spans):
  data = DataConfig(path=str(spans), span_pattern="span-{SPAN}/version-{VERSION}", span=2)
  assert resolve_span(data) == (str(spans / "span-2" / "version-12"), 2, 12)
  data = DataConfig(path=str(spans), span_pattern="span-{SPAN}", span=2)
  assert resolve_span(data) == (str(spans / "span-2"), 2, None)


def test_a_new_span_is_found_next_time(spans):
  data = DataConfig(path=str(spans), span_pattern="span-{SPAN}")
  write(spans / "span-11" / "cat" / "1.jpg")
  assert resolve_span(data)[1] == 11


@pytest.mark.parametrize(
  "settings, message",
  [
    ({"path": None}, "data.path=None: no such file or folder; name one with --data"),
    ({"path": "missing"}, "data.path=missing: no such file or folder; name one with --data"),
    ({"span": 3}, "data.span needs data.span_pattern"),
    ({"span_pattern": "day-{SPAN}"}, "found no span as 'day-{SPAN}'"),
    ({"span_pattern": "span-{SPAN}", "span": 3}, "found no span 3 as 'span-{SPAN}'"),
    ({"span_pattern": "span-{SPAN}/version-{VERSION}", "span": 3}, "found no span 3 as"),
    ({"span_pattern": "{VERSION}"}, "found no span as '{VERSION}'"),
  ],
)
def test_what_is_not_there_is_named_in_one_line(spans, settings, message):
  with pytest.raises(ValueError) as caught:
    resolve_span(DataConfig(**{"path": str(spans), **settings}))
  assert message in str(caught.value)
  assert "\n" not in str(caught.value)


def test_fingerprint_follows_names_sizes_and_times(tmp_path):
  write(tmp_path / "cat" / "1.jpg", "meow")
  write(tmp_path / "dog" / "1.jpg", "woof")
  seen = [fingerprint(str(tmp_path))]
  assert fingerprint(str(tmp_path)) == seen[0]

  write(tmp_path / "cat" / "2.jpg", "purr")
  seen.append(fingerprint(str(tmp_path)))
  (tmp_path / "cat" / "2.jpg").rename(tmp_path / "dog" / "2.jpg")
  seen.append(fingerprint(str(tmp_path)))
  before = os.stat(tmp_path / "cat" / "1.jpg")
  write(tmp_path / "cat" / "1.jpg", "hiss")
  os.utime(tmp_path / "cat" / "1.jpg", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
  seen.append(fingerprint(str(tmp_path)))
  write(tmp_path / "cat" / "1.jpg", "miaow")
  os.utime(tmp_path / "cat" / "1.jpg", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
  seen.append(fingerprint(str(tmp_path)))
  (tmp_path / "dog" / "1.jpg").unlink()
  seen.append(fingerprint(str(tmp_path)))
  assert len(set(seen)) == 6


def test_fingerprint_of_one_file(tmp_path):
  write(tmp_path / "data.zip", "PK")
  first = fingerprint(str(tmp_path / "data.zip"))
  write(tmp_path / "data.zip", "PK!")
  assert fingerprint(str(tmp_path / "data.zip")) != first


def test_fingerprint_follows_links_and_survives_those_without_an_end(tmp_path):
  data = tmp_path / "data"
  write(data / "cat" / "1.jpg")
  write(tmp_path / "elsewhere" / "2.jpg")
  (data / "dog").symlink_to(tmp_path / "elsewhere")
  # Two links back double the work at each level: without a check this would not end in a lifetime.
  (data / "cat" / "back").symlink_to(data)
  (data / "cat" / "again").symlink_to(data)
  (data / "cat" / "3.jpg").symlink_to(tmp_path / "missing")
  first = fingerprint(str(data))
  write(tmp_path / "elsewhere" / "2.jpg", "changed")
  assert fingerprint(str(data)) != first


def test_the_driver_hands_on_what_it_found(spans):
  from pipeline.tasks.image_classification import TASK

  data = {"path": str(spans), "span_pattern": "span-{SPAN}/version-{VERSION}"}
  config = TASK.config_class(data=data)
  properties = {"task": TASK.path, "config": config.only("data")}
  found = driver.Driver(None).resolve_exec_properties(properties, None, None)
  path = str(spans / "span-10" / "version-7")
  assert found["resolved_path"] == path
  assert (found["span"], found["version"]) == (10, 7)
  assert found["input_fingerprint"] == fingerprint(path)
