"""Which files are pictures of which class and split, and what becomes of the others."""

import os

import pytest

from components.example_gen.image_folder import Layout, find_layout, list_pictures, parse_metadata


def touch(root, *names):
  for name in names:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not looked at here")
  return str(root)


def good(listing):
  return {listing.layout.key(entry.name) for entry in listing.entries if not entry.problem}


def problems(listing):
  return {listing.layout.key(entry.name): entry.problem for entry in listing.entries if entry.problem}


def labels_and_splits(listing):
  layout = listing.layout
  return {key: (layout.label(key), layout.split(key)) for key in good(listing)}


def test_class_folders(tmp_path):
  listing = list_pictures(touch(tmp_path, "dog/2.PNG", "cat/1.jpg", "cat/indoor/old/3.jpeg", "cat/4.webp"))
  assert labels_and_splits(listing) == {
    "cat/1.jpg": ("cat", None),
    "cat/4.webp": ("cat", None),
    "cat/indoor/old/3.jpeg": ("cat", None),
    "dog/2.PNG": ("dog", None),
  }
  assert [entry.name for entry in listing.entries] == sorted(good(listing))


@pytest.mark.parametrize("validation", ["validation", "val", "valid", "dev", "eval", "Validation"])
def test_split_folders(tmp_path, validation):
  names = [f"{split}/{label}/x.bmp" for split in ("train", validation, "test") for label in ("cat", "dog")]
  listing = list_pictures(touch(tmp_path, *names))
  assert labels_and_splits(listing) == {
    **{f"train/{label}/x.bmp": (label, "train") for label in ("cat", "dog")},
    **{f"{validation}/{label}/x.bmp": (label, "validation") for label in ("cat", "dog")},
    **{f"test/{label}/x.bmp": (label, "test") for label in ("cat", "dog")},
  }


@pytest.mark.parametrize("around", ["photos", "archive/photos", "train"])
def test_folders_around_everything_are_left_out(tmp_path, around):
  listing = list_pictures(
    touch(tmp_path, f"{around}/cat/1.jpg", f"{around}/dog/2.jpg", f"{around}/stray.jpg")
  )
  assert labels_and_splits(listing) == {"cat/1.jpg": ("cat", None), "dog/2.jpg": ("dog", None)}
  assert problems(listing) == {"stray.jpg": "not inside a class folder"}


def test_a_file_beside_the_folder_around_everything(tmp_path):
  listing = list_pictures(touch(tmp_path, "photos/cat/1.jpg", "photos/dog/2.jpg", "README.md", "extra.jpg"))
  assert good(listing) == {"cat/1.jpg", "dog/2.jpg"}
  assert set(problems(listing)) == {"README.md", "extra.jpg"}


def test_a_single_class_is_no_folder_around_everything(tmp_path):
  assert good(list_pictures(touch(tmp_path, "cat/1.jpg", "cat/2.jpg"))) == {"cat/1.jpg", "cat/2.jpg"}


def test_a_class_may_be_called_train(tmp_path):
  listing = list_pictures(touch(tmp_path, "train/1.jpg", "bus/2.jpg"))
  assert labels_and_splits(listing) == {"train/1.jpg": ("train", None), "bus/2.jpg": ("bus", None)}


@pytest.mark.parametrize(
  ("folders", "message"),
  [
    (("train", "test"), "split folders test, train without validation: add a folder validation"),
    (("train", "val"), "split folders train, val without test"),
    (("val", "test"), "split folders test, val without train"),
    (("train", "test", "val", "unlabeled"), r"split folders and others \(unlabeled\) side by side"),
    (("train", "test", "val", "valid"), "two folders for one split"),
  ],
)
def test_splits_that_do_not_add_up(tmp_path, folders, message):
  path = touch(tmp_path, *(f"{folder}/{label}/1.jpg" for folder in folders for label in ("cat", "dog")))
  with pytest.raises(ValueError, match=f"^{path}: {message}") as error:
    list_pictures(path)
  assert "\n" not in str(error.value)


def test_files_that_are_no_pictures_of_a_class(tmp_path):
  path = touch(
    tmp_path, "cat/1.jpg", "dog/2.jpg", "cat/notes.txt", "cat/raw.tif", "top.jpg", "dog/noextension"
  )
  found = problems(list_pictures(path))
  assert found.pop("top.jpg") == "not inside a class folder"
  assert set(found) == {"cat/notes.txt", "cat/raw.tif", "dog/noextension"}
  assert all(problem.startswith("not a picture by its name") for problem in found.values())


def test_files_between_split_and_class(tmp_path):
  names = [f"{split}/cat/1.jpg" for split in ("train", "val", "test")]
  listing = list_pictures(touch(tmp_path, *names, "train/stray.jpg", "test/list.txt", "notes.txt"))
  assert good(listing) == set(names)
  assert set(problems(listing).values()) == {"not inside a class folder"}
  assert set(problems(listing)) == {"train/stray.jpg", "test/list.txt", "notes.txt"}


def test_classes_that_training_never_sees(tmp_path):
  names = [f"{split}/{label}/1.jpg" for split in ("train", "val", "test") for label in ("cat", "dog")]
  listing = list_pictures(touch(tmp_path, *names, "test/bird/1.jpg", "val/cow/1.txt"))
  assert good(listing) == set(names)
  assert problems(listing)["test/bird/1.jpg"] == "its class 'bird' is not in the train folder"
  assert problems(listing)["val/cow/1.txt"].startswith("not a picture by its name")


def test_what_file_managers_leave_is_no_data(tmp_path):
  ignored = (
    "cat/.DS_Store",
    "cat/Thumbs.db",
    "__MACOSX/cat/._1.jpg",
    ".git/config",
    ".hidden/a/1.jpg",
    "desktop.ini",
  )
  listing = list_pictures(touch(tmp_path, "cat/1.jpg", "dog/2.jpg", *ignored))
  assert {entry.name for entry in listing.entries} == {"cat/1.jpg", "dog/2.jpg"}


def test_links_and_things_that_are_no_files(tmp_path):
  path = touch(tmp_path / "data", "cat/1.jpg", "dog/2.jpg")
  touch(tmp_path / "elsewhere", "3.jpg")
  os.symlink(tmp_path / "elsewhere", tmp_path / "data/bird")
  os.symlink(tmp_path / "nowhere", tmp_path / "data/cat/broken.jpg")
  os.symlink(tmp_path / "data", tmp_path / "data/cat/around")
  os.symlink("self.jpg", tmp_path / "data/cat/self.jpg")
  os.mkfifo(tmp_path / "data/dog/pipe.jpg")
  listing = list_pictures(path)
  assert good(listing) == {"cat/1.jpg", "dog/2.jpg", "bird/3.jpg"}
  assert set(problems(listing)) == {"cat/broken.jpg", "cat/around", "cat/self.jpg", "dog/pipe.jpg"}


def test_names_of_other_alphabets_and_of_none(tmp_path):
  touch(tmp_path, "고양이/첫째.jpg", "café/a..b.jpg", "café/.. .jpg")
  with open(os.fsencode(tmp_path) + b"/caf\xc3\xa9/\xff\xfe.jpg", "wb"):
    pass
  listing = list_pictures(str(tmp_path))
  assert good(listing) == {"고양이/첫째.jpg", "café/a..b.jpg"}
  assert list(problems(listing).values()) == ["its name is not UTF-8"]
  assert all(key.encode("utf-8") for key in problems(listing))


def test_nothing_to_read(tmp_path):
  for path, message in (
    (None, "data.path is not set"),
    (str(tmp_path / "missing"), f"{tmp_path}/missing: no such file or folder"),
    (touch(tmp_path / "empty"), "no such file or folder"),
    (
      touch(tmp_path / "flat", "1.jpg", "2.jpg"),
      "no picture in a class folder; expected <class>/<picture> or",
    ),
    (touch(tmp_path / "words", "cat/1.txt"), "no picture in a class folder"),
    (os.path.join(touch(tmp_path / "file", "cat.jpg"), "cat.jpg"), "neither a folder nor an archive"),
  ):
    with pytest.raises(ValueError, match=message) as error:
      list_pictures(path)
    assert "\n" not in str(error.value)


def test_layout_does_not_depend_on_the_order_of_names():
  names = ["data/train/cat/1.jpg", "data/val/cat/1.jpg", "data/test/cat/1.jpg"]
  assert find_layout("data", names) == find_layout("data", names[::-1]) == Layout("data/", has_splits=True)


def metadata(text, keys=("cat/1.jpg", "dog/2.jpg"), prefix=""):
  return parse_metadata(text, "data: metadata.csv", Layout(prefix, has_splits=False), set(keys))


def test_metadata():
  columns, values, bad = metadata('camera,path,note\r\nA,cat/1.jpg,"one, two"\r\nB,./dog\\2.jpg,\r\n')
  assert columns == ("camera", "note")
  assert values == {"cat/1.jpg": ("A", "one, two"), "dog/2.jpg": ("B", "")}
  assert bad == []
  columns, values, bad = metadata("path,place\nphotos/cat/1.jpg,새\n", prefix="photos/")
  assert values == {"cat/1.jpg": ("새",)}


def test_bad_rows_of_metadata_are_named_by_their_line():
  rows = [
    "cat/1.jpg,A",
    "bird/1.jpg,B",
    "",
    "dog/2.jpg",
    "dog/2.jpg,A,B",
    "cat/1.jpg,C",
    "dog/2.jpg,\0",
    "dog/2.jpg,D",
  ]
  _, values, bad = metadata("path,camera\n" + "\n".join(rows))
  assert values == {"cat/1.jpg": ("A",), "dog/2.jpg": ("D",)}
  assert [(entry.name, entry.problem) for entry in bad] == [
    ("metadata.csv line 3", "names 'bird/1.jpg', which is not in the data set"),
    ("metadata.csv line 5", "1 cells where the header has 2"),
    ("metadata.csv line 6", "3 cells where the header has 2"),
    ("metadata.csv line 7", "names 'cat/1.jpg' a second time"),
    ("metadata.csv line 8", "line contains NUL"),
  ]


@pytest.mark.parametrize(
  ("header", "message"),
  [
    ("file,camera", "needs one column 'path', has file, camera"),
    ("", "needs one column 'path', has none"),
    ("path,label", "column 'label' is empty, doubled or a name that pictures have already"),
    ("path,camera,camera", "column 'camera' is empty, doubled"),
    ("path,,camera", "column '' is empty"),
  ],
)
def test_headers_of_metadata_that_cannot_be_used(header, message):
  with pytest.raises(ValueError, match=f"^data: metadata.csv: {message}"):
    metadata(header + "\ncat/1.jpg,A\n")
