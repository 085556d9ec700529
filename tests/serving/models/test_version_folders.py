"""Version folders and policies."""

from serving.models.version_folders import ALL_VERSIONS, VersionPolicy, contents, find_versions, holds_model


def test_version_folders(tmp_path):
  for name in ("1", "007", "12", ".staging-3", "best", "-5", "1.5", "9" * 30, "٣", "20"):
    (tmp_path / name).mkdir()
  (tmp_path / "30").touch()
  found = find_versions(str(tmp_path))
  assert found == {
    number: str(tmp_path / name) for number, name in ((1, "1"), (7, "007"), (12, "12"), (20, "20"))
  }


def test_policies():
  found = {1: "a", 3: "b", 12: "c"}
  assert VersionPolicy().wanted(found) == {12: "c"}
  assert VersionPolicy(latest=2).wanted(found) == {3: "b", 12: "c"}
  assert VersionPolicy(latest=9).wanted(found) == found
  assert ALL_VERSIONS.wanted(found) == found
  specific = VersionPolicy(latest=None, specific=frozenset({1, 2}))
  assert specific.wanted(found) == {1: "a"} and specific.missing(found) == [2]
  assert VersionPolicy().missing(found) == []
  assert all(policy.wanted({}) == {} for policy in (VersionPolicy(), ALL_VERSIONS, specific))


def test_a_folder_without_a_model_file(tmp_path):
  (tmp_path / "model.keras").touch()
  assert not holds_model(str(tmp_path))
  (tmp_path / "saved_model.pb").touch()
  assert holds_model(str(tmp_path))


def test_contents_tell_of_every_change(tmp_path):
  seen = [contents(str(tmp_path))]
  (tmp_path / "variables").mkdir()
  (tmp_path / "variables" / "data").write_text("a")
  seen.append(contents(str(tmp_path)))
  (tmp_path / "variables" / "data").write_text("ab")
  seen.append(contents(str(tmp_path)))
  assert len(set(seen)) == 3 and seen[0] == frozenset()
  assert contents(str(tmp_path)) == seen[-1]
