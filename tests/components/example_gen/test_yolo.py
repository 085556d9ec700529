"""YOLO: one text file a picture, names by their numbers."""

import importlib.util
import pathlib

import pytest

from components.example_gen.annotated_folder import open_data_set
from components.example_gen.detection import DetectionReader
from components.example_gen.yolo import class_names

_SPEC = importlib.util.spec_from_file_location(
  "annotated_data", pathlib.Path(__file__).with_name("annotated_data.py")
)
annotated_data = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(annotated_data)
boxes_of = annotated_data.boxes_of
picture = annotated_data.picture
read_all = annotated_data.read_all
write = annotated_data.write


NAMES = "names: [cat, dog]\n"


def read(tmp_path, files, **options):
  return read_all(DetectionReader(write(tmp_path, files), **options))


def one(text, name="a"):
  return {f"images/{name}.png": picture(), f"labels/{name}.txt": text, "data.yaml": NAMES}


def test_rows(tmp_path):
  files = one("0 0.5 0.5 0.5 0.4\n\n1 0.25 0.75 0.5 0.5\r\n") | {"images/b.png": picture()} | one("", "c")
  rows, rejects = read(tmp_path, files)
  assert rejects == {}
  features = dict(rows["images/a.png"].features)
  assert features.pop("image") == picture()
  assert features == {
    "path": "images/a.png",
    "width": 20,
    "height": 10,
    "format": "png",
    "boxes": [5.0, 3.0, 15.0, 7.0, 0.0, 5.0, 10.0, 10.0],
    "classes": ["cat", "dog"],
    "is_crowd": [0, 0],
    "areas": [40.0, 50.0],
  }
  # Without a file, or with an empty one: a picture without objects.
  assert rows["images/b.png"].features["boxes"] == rows["images/c.png"].features["boxes"] == []


def test_rounded_fractions_reach_the_edge(tmp_path):
  rows, rejects = read(tmp_path, one("0 0.951563 0.5 0.096876 1.0"))
  assert rejects == {} and rows["images/a.png"].features["boxes"] == pytest.approx([18.0625, 0, 20, 10])
  assert rows["images/a.png"].features["boxes"][2] == 20.0


def test_bad_lines_are_rejects_and_the_picture_stays(tmp_path):
  lines = [
    "0 0.5 0.5 0.5 0.4",
    "2 0.5 0.5 0.5 0.4",
    "-1 0.5 0.5 0.5 0.4",
    "0.5 0.5 0.5 0.5 0.4",
    "cat 0.5 0.5 0.5 0.4",
    "0 0.5 0.5 0.5",
    "0 0.1 0.1 0.2 0.1 0.2 0.2",
    "0 0.5 0.5 nan 0.4",
    "0 0.5 0.5 wide 0.4",
    "0 0.9 0.5 0.5 0.4",
    "0 0.5 0.5 0 0.4",
    "0 0.5 0.5 -0.5 0.4",
  ]
  rows, rejects = read(tmp_path, one("\n".join(lines)))
  assert boxes_of(rows["images/a.png"]) == [("cat", 5.0, 3.0, 15.0, 7.0)]
  expected = "class_id cx cy width height are expected"
  assert rejects == {
    "labels/a.txt line 2": "class_id is 2, and there are names for 0 to 1",
    "labels/a.txt line 3": "class_id is -1, and there are names for 0 to 1",
    "labels/a.txt line 4": "class_id is 0.5, and there are names for 0 to 1",
    "labels/a.txt line 5": "class_id is 'cat', which is not a number",
    "labels/a.txt line 6": f"4 values ('0 0.5 0.5 0.5') where {expected}",
    "labels/a.txt line 7": f"7 values ('0 0.1 0.1 0.2 0.1 0.2 0.2') where {expected}",
    "labels/a.txt line 8": "width is 'nan', which is not finite",
    "labels/a.txt line 9": "width is 'wide', which is not a number",
    "labels/a.txt line 10": "'cat' box with x_min 13, y_min 3, x_max 23, y_max 7 reaches outside its picture of "
    "20x10 pixels",
    "labels/a.txt line 11": "'cat' box with x_min 10, y_min 3, x_max 10, y_max 7 is of no area",
    "labels/a.txt line 12": "'cat' box with x_min 15, y_min 3, x_max 5, y_max 7 is inverted",
  }


def test_pictures_and_files_that_do_not_belong_together(tmp_path):
  files = one("0 0.5 0.5 0.5 0.4") | {
    "labels/lost.txt": "",
    "labels/b.txt": b"\xff\xfe0",
    "images/b.png": picture(),
  }
  files |= {
    "labels/classes.txt": "cat",
    "README.txt": "hello",
    "images/damaged.png": b"no picture",
    "train.txt": "a",
  }
  rows, rejects = read(tmp_path, files)
  assert set(rows) == {"images/a.png"}
  assert rejects == {
    "labels/lost.txt": "its picture is missing: none is named 'lost'",
    "labels/b.txt": "not UTF-8 at byte 0; its picture images/b.png is left out",
    "images/damaged.png": "not a JPEG, PNG, BMP, GIF or WebP picture (begins with b'no pictu')",
  }


def test_labels_beside_pictures(tmp_path):
  files = {"set/a.png": picture(), "set/a.txt": "1 0.5 0.5 0.5 0.4", "set/classes.txt": "cat\ndog\n"}
  rows, rejects = read(tmp_path, files)
  assert boxes_of(rows["a.png"]) == [("dog", 5.0, 3.0, 15.0, 7.0)] and rejects == {}


@pytest.mark.parametrize("layout", ["images/{}/{}", "{}/images/{}"])
def test_three_splits(tmp_path, layout):
  files = {"data.yaml": NAMES}
  for split in ("train", "valid", "test"):
    place = layout.format(split, "a")
    files |= {f"{place}.png": picture(), f"{place.replace('images', 'labels')}.txt": "0 0.5 0.5 0.5 0.4"}
  rows, rejects = read(tmp_path, files)
  assert {key: row.split for key, row in rows.items()} == {
    layout.format("train", "a.png"): "train",
    layout.format("valid", "a.png"): "validation",
    layout.format("test", "a.png"): "test",
  }
  assert rejects == {} and {len(row.features["classes"]) for row in rows.values()} == {1}


def test_train_and_val_become_three(tmp_path):
  files = {f"images/train/{number:03}.png": picture() for number in range(90)}
  files |= {
    "images/val/a.png": picture(),
    "labels/val/a.txt": "",
    "images/stray.png": picture(),
    "data.yaml": NAMES,
  }
  rows, rejects = read(tmp_path, files)
  splits = [row.split for row in rows.values()]
  assert rows["images/val/a.png"].split == "test" and splits.count("test") == 1
  assert 4 <= splits.count("validation") <= 18 and splits.count("train") == 90 - splits.count("validation")
  assert rejects == {"images/stray.png": "in no folder of a split"}


def names_of(tmp_path, files):
  return class_names(open_data_set(write(tmp_path, {"images/a.png": picture(), **files})))


@pytest.mark.parametrize(
  ("files", "expected"),
  [
    ({"data.yaml": "names: [cat, dog]"}, ("cat", "dog")),
    ({"data.yaml": "nc: 2\nnames:\n  1: dog\n  0: cat\n"}, ("cat", "dog")),
    ({"data.yaml": "names: [yes, no, 3]"}, ("yes", "no", "3")),
    ({"animals.yml": "names: [cat]", "other.yaml": "a: ["}, ("cat",)),
    ({"classes.txt": "cat\r\nbig dog\n\n"}, ("cat", "big dog")),
    ({"obj.names": "cat"}, ("cat",)),
    ({"data.yaml": "path: .", "classes.txt": "cat"}, ("cat",)),
    ({"data.yaml": "names: [cat]", "classes.txt": "dog"}, ("cat",)),
    ({}, None),
  ],
)
def test_names(tmp_path, files, expected):
  assert names_of(tmp_path, files) == expected


@pytest.mark.parametrize(
  ("content", "reason"),
  [
    ("names: [", "data.yaml: broken YAML: "),
    ("names: {0: cat, 2: dog}", "data.yaml: the ids of names are not 0 to 1"),
    ("names: cat", "data.yaml: names is 'cat': make it a list"),
    ("names: [[cat]]", r"data.yaml: names is \[\['cat'\]\]: make it a list"),
    (b"\xff", "data.yaml: not UTF-8 at byte 0"),
  ],
)
def test_names_that_cannot_be_read(tmp_path, content, reason):
  with pytest.raises(ValueError, match=reason):
    names_of(tmp_path, {"data.yaml": content})


def test_no_names(tmp_path):
  files = one("1 0.5 0.5 0.5 0.4")
  del files["data.yaml"]
  with pytest.raises(ValueError, match="YOLO's labels without names: add classes.txt"):
    read(tmp_path, files)
  rows, rejects = read(tmp_path, files, classes=["cat", "dog"])
  assert boxes_of(rows["images/a.png"]) == [("dog", 5.0, 3.0, 15.0, 7.0)] and rejects == {}
