"""Which picture belongs to which annotation, what the root is, and the splits."""

import importlib.util
import pathlib

import pytest

from components.example_gen.annotated_folder import (
  Item,
  Listing,
  in_pieces,
  open_data_set,
  pair_by_stem,
  place_of,
  settle_splits,
  split_of_path,
)
from components.example_gen.source import Entry
from components.task import Reject

_SPEC = importlib.util.spec_from_file_location(
  "annotated_data", pathlib.Path(__file__).with_name("annotated_data.py")
)
annotated_data = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(annotated_data)
write = annotated_data.write


def entries(*names):
  return [Entry(name) for name in names]


def names(pairs):
  return [tuple(entry.name for entry in pair) for pair in pairs]


@pytest.mark.parametrize(
  ("files", "prefix"),
  [
    (["a/b/images/1.png", "a/b/labels/1.txt", "a/b/data.yaml"], "a/b/"),
    (["a/images/1.png", "a/labels/1.txt", "a/data.yaml", "LICENSE", "README.txt"], "a/"),
    (["a/images/1.png", "all.json"], ""),
    (["images/1.png", "images/1.xml"], ""),
    (["train/1.png", "train/1.xml"], ""),
    (["pictures of mine/1.png", "pictures of mine/1.xml"], "pictures of mine/"),
    (["1.png", "1.xml"], ""),
  ],
)
def test_folders_around_everything(tmp_path, files, prefix):
  data_set = open_data_set(write(tmp_path, dict.fromkeys(files, b"")))
  assert data_set.prefix == prefix
  assert data_set.key(data_set.pictures[0]) == data_set.pictures[0].name[len(prefix) :]


def test_a_folder_that_cannot_be_read_is_a_reject(tmp_path):
  write(tmp_path, {"images/1.png": b""})
  (tmp_path / "images/again").symlink_to(tmp_path / "images")
  (tmp_path / "images/with.dot").symlink_to(tmp_path / "images")
  reason = "a link to a folder that it lies in"
  assert open_data_set(str(tmp_path)).rejects == (
    Reject("images/again", reason),
    Reject("images/with.dot", reason),
  )


@pytest.mark.parametrize(
  ("name", "place"),
  [("VOC/JPEGImages/a/1.x.jpg", "VOC/a/1.x"), ("1.png", "1"), ("images/labels/1.txt", "1"), ("image/b", "b")],
)
def test_places(name, place):
  assert place_of(name) == place


def test_pairs_in_the_same_place():
  found = pair_by_stem(
    entries("images/a/1.png", "images/b/1.jpg"), entries("labels/a/1.txt", "labels/b/1.txt")
  )
  assert names(found.pairs) == [("images/a/1.png", "labels/a/1.txt"), ("images/b/1.jpg", "labels/b/1.txt")]
  assert found.lone_pictures == found.lone_annotations == found.doubled == []


def test_pairs_by_unique_stems():
  found = pair_by_stem(entries("pics/1.png", "pics/2.png", "more/2.png"), entries("xml/1.xml", "xml/2.xml"))
  assert names(found.pairs) == [("pics/1.png", "xml/1.xml")]
  assert found.lone_pictures == entries("pics/2.png", "more/2.png")
  assert found.lone_annotations == entries("xml/2.xml")


def test_no_pairs_across_splits():
  found = pair_by_stem(entries("train/images/1.png"), entries("val/labels/1.txt"))
  assert found.pairs == [] and found.lone_pictures == entries("train/images/1.png")


def test_the_first_of_one_name_counts():
  found = pair_by_stem(entries("images/1.jpg", "images/1.png"), entries("images/1.txt", "labels/1.txt"))
  assert names(found.pairs) == [("images/1.jpg", "images/1.txt")]
  assert names(found.doubled) == [("images/1.png", "images/1.jpg"), ("labels/1.txt", "images/1.txt")]


@pytest.mark.parametrize(
  ("name", "split"),
  [
    ("images/valid/1.png", "validation"),
    ("Test/images/train.png", "test"),
    ("images/1.png", None),
    ("train.png", None),
  ],
)
def test_split_of_path(name, split):
  assert split_of_path(name) == split


def items(**splits):
  return [Item(Entry(key), key, split=split) for key, split in splits.items()]


def settled(listing):
  return {item.key: item.split for item in listing.items}


def test_three_splits_stay():
  splits = {"a": "train", "b": "validation", "c": "test"}
  listing = settle_splits(items(**splits, d=None), 0.5)
  assert settled(listing) == splits
  assert listing.rejects == (Reject("d", "in no folder of a split"),)


@pytest.mark.parametrize("held_out", ["validation", "test"])
def test_of_two_the_other_is_held_out(held_out):
  named = {**{f"a{number}": "train" for number in range(400)}, "b": held_out}
  splits = settled(settle_splits(items(**named), 0.25))
  assert splits.pop("b") == "test"
  counts = {split: list(splits.values()).count(split) for split in set(splits.values())}
  assert set(counts) == {"train", "validation"} and 75 <= counts["validation"] <= 125
  # sha256 modulo 10,000 is 3,060 of "a1", 1,995 of "a4" and 1,113 of "a5".
  assert [splits[key] for key in ("a1", "a4", "a5")] == ["train", "validation", "validation"]


@pytest.mark.parametrize("named", [{"a": "train"}, {"a": None}, {"a": "test", "b": "validation"}, {}])
def test_fewer_leave_the_split_open(named):
  listing = settle_splits(items(**named, z=None), 0.5)
  assert settled(listing) == dict.fromkeys((*named, "z")) and listing.rejects == ()


def test_pieces():
  listing = Listing(tuple(items(a=None, b=None, c=None)), (Reject("x", "y"),) * 3)
  assert [(len(piece.items), len(piece.rejects)) for piece in in_pieces(listing, 2)] == [
    (2, 0),
    (1, 0),
    (0, 2),
    (0, 1),
  ]
