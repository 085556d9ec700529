"""Which picture file_name means."""

import importlib.util
import pathlib

import pytest

from components.example_gen.annotated_folder import open_data_set
from components.example_gen.coco_pictures import PictureFinder, split_of_words

_SPEC = importlib.util.spec_from_file_location(
  "annotated_data", pathlib.Path(__file__).with_name("annotated_data.py")
)
annotated_data = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(annotated_data)
write = annotated_data.write


@pytest.mark.parametrize(
  ("text", "split"),
  [
    ("instances_train2017", "train"),
    ("Val2014", "validation"),
    ("my_test", "test"),
    ("trainval", None),
    ("contest", None),
  ],
)
def test_splits_in_names(text, split):
  assert split_of_words(text) == split


def find(tmp_path, names, file_name, where="annotations/all.json"):
  data_set = open_data_set(write(tmp_path, dict.fromkeys((*names, where), b"")))
  return data_set.key(PictureFinder(data_set).find({"file_name": file_name}, where))


@pytest.mark.parametrize(
  ("names", "file_name", "where", "found"),
  [
    (["images/a/1.png", "images/b/1.png"], "a/1.png", "all.json", "images/a/1.png"),
    (["images/a/1.png", "images/b/1.png"], "images\\b\\1.png", "all.json", "images/b/1.png"),
    (["images/a/1.png", "images/b/1.png"], "./a/1.png", "all.json", "images/a/1.png"),
    (["train2017/1.png", "val2017/1.png"], "1.png", "annotations/instances_val2017.json", "val2017/1.png"),
    (["a/1.png", "b/1.png"], "1.png", "b/labels.json", "b/1.png"),
    (["a/images/1.png", "b/images/1.png"], "1.png", "a/labels.json", "a/images/1.png"),
    (["north/1.png", "south/1.png"], "1.png", "annotations/south.json", "south/1.png"),
    (["images/1.png"], "/home/me/set/1.png", "all.json", "images/1.png"),
  ],
)
def test_found(tmp_path, names, file_name, where, found):
  assert find(tmp_path, names, file_name, where) == found


def test_another_pictures_name_is_not_taken(tmp_path):
  with pytest.raises(ValueError, match="its picture 'b/1.png' is missing"):
    find(tmp_path, ["a/1.png"], "b/1.png")


def test_another_splits_picture_is_not_taken(tmp_path):
  with pytest.raises(ValueError, match="its picture '1.png' is missing"):
    find(tmp_path, ["train2017/1.png"], "1.png", "annotations/instances_val2017.json")


def test_several(tmp_path):
  with pytest.raises(ValueError, match="'1.png' may be a/1.png or b/1.png: write the folder before its name"):
    find(tmp_path, ["a/1.png", "b/1.png"], "1.png")
