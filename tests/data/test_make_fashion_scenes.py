"""fashion_scenes.zip is what its script makes, and its boxes and masks say the same."""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDER = Path(__file__).parent
SCRIPT = FOLDER / "make_fashion_scenes.py"
NAMES = ["background", "t-shirt", "trouser", "dress", "shoe", "bag"]


@pytest.fixture(scope="module")
def script():
  spec = importlib.util.spec_from_file_location("make_fashion_scenes", SCRIPT)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(scope="module")
def files():
  with zipfile.ZipFile(FOLDER / "fashion_scenes.zip") as archive:
    assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    return {name: archive.read(name) for name in archive.namelist()}


def decode(data, kind, mode):
  with Image.open(io.BytesIO(data)) as picture:
    assert (picture.format, picture.mode) == (kind, mode)
    return np.asarray(picture)


def test_the_layout(files):
  numbers = [f"{number:04d}" for number in range(1, 161)]
  pictures = [f"images/{number}.jpg" for number in numbers] + [f"masks/{number}.png" for number in numbers]
  assert sorted(files) == sorted(["LICENSE", "annotations.json", "classes.txt", *pictures])
  assert files["classes.txt"].decode().splitlines() == NAMES
  assert files["LICENSE"] == (FOLDER / "LICENSE.fashion-mnist").read_bytes()
  assert (FOLDER / "fashion_scenes.zip").stat().st_size < 3_000_000


def test_boxes_are_tight_around_what_the_masks_show(files):
  coco = json.loads(files["annotations.json"])
  assert coco["categories"] == [{"id": class_id, "name": NAMES[class_id]} for class_id in range(1, 6)]
  assert [annotation["id"] for annotation in coco["annotations"]] == list(
    range(1, len(coco["annotations"]) + 1)
  )
  of_image = {image["id"]: [] for image in coco["images"]}
  for annotation in coco["annotations"]:
    of_image[annotation["image_id"]].append(annotation)
  for image in coco["images"]:
    assert decode(files["images/" + image["file_name"]], "JPEG", "RGB").shape == (120, 160, 3)
    mask = decode(files[f"masks/{image['file_name'][:-4]}.png"], "PNG", "L")
    assert mask.shape == (image["height"], image["width"]) == (120, 160)
    annotations = of_image[image["id"]]
    assert 1 <= len(annotations) <= 5
    check_class_extents(mask, annotations)


def check_class_extents(mask, annotations):
  """Areas add up to the mask's, and the boxes of a class together end where its pixels do."""
  class_ids = {annotation["category_id"] for annotation in annotations}
  assert class_ids == set(np.unique(mask)) - {0}
  for class_id in class_ids:
    own = [annotation for annotation in annotations if annotation["category_id"] == class_id]
    assert sum(annotation["area"] for annotation in own) == (mask == class_id).sum()
    assert all(annotation["iscrowd"] == 0 for annotation in own)
    x, y, width, height = np.array([annotation["bbox"] for annotation in own]).T
    rows, columns = np.nonzero(mask == class_id)
    assert (x.min(), y.min()) == (columns.min(), rows.min())
    assert ((x + width).max(), (y + height).max()) == (columns.max() + 1, rows.max() + 1)


def test_every_class_is_well_represented(files):
  class_ids = [
    annotation["category_id"] for annotation in json.loads(files["annotations.json"])["annotations"]
  ]
  assert np.bincount(class_ids, minlength=6)[1:].min() >= 60


def test_the_script_makes_these_scenes(script, files):
  made = script.make_files(4, 0, 160, 120)
  for number in range(1, 5):
    for name, kind, mode in (
      (f"images/{number:04d}.jpg", "JPEG", "RGB"),
      (f"masks/{number:04d}.png", "PNG", "L"),
    ):
      np.testing.assert_array_equal(decode(made[name], kind, mode), decode(files[name], kind, mode))
  annotations, made_annotations = (
    json.loads(some["annotations.json"])["annotations"] for some in (files, made)
  )
  assert made_annotations == annotations[: len(made_annotations)]


def test_the_same_seed_makes_the_same_bytes_and_another_does_not(script):
  first, again, other = (script.make_files(2, seed, 100, 80) for seed in (3, 3, 4))
  assert first == again
  assert first["images/0001.jpg"] != other["images/0001.jpg"]
  assert decode(first["images/0002.jpg"], "JPEG", "RGB").shape == (80, 100, 3)


def test_enough_of_every_garment_is_seen(script):
  """In a crowd too: squares of at least 28 pixels, most of them larger, on a ground of 64."""
  rng = np.random.default_rng(0)
  decks = [script.deal([np.full((28, 28), 200, np.uint8)], rng) for _ in script.CLASSES]
  for _ in range(40):
    _, owners, class_ids = script.make_scene(64, 64, decks, rng)
    visible_px = np.bincount(owners.ravel(), minlength=len(class_ids) + 1)[1:]
    assert len(visible_px) == len(class_ids) >= 1 and visible_px.min() >= 0.4 * 28 * 28


def test_holes_are_filled_and_specks_left_out(script):
  pixels = np.zeros((28, 28), np.uint8)
  pixels[5:15, 8:20] = 200
  pixels[8:10, 10:12] = 0
  pixels[20, 2], pixels[4, 8:20] = 255, 3
  grey, thing = script.cut_out(pixels)
  assert thing.shape == (10, 12) and thing.all()
  np.testing.assert_array_equal(grey, pixels[5:15, 8:20])


def test_wrong_numbers_are_named(script):
  assert script.bounded(64, 4096)("64") == 64
  for text in ("63", "4097"):
    with pytest.raises(argparse.ArgumentTypeError, match=f"{text} is not from 64 to 4096"):
      script.bounded(64, 4096)(text)
