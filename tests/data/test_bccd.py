"""bccd.zip holds what tests/data/README.md says."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

FOLDER = Path(__file__).parent


@pytest.fixture(scope="module")
def files():
  with zipfile.ZipFile(FOLDER / "bccd.zip") as archive:
    assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    return {name: archive.read(name) for name in archive.namelist()}


def test_pictures_annotations_and_lists_belong_together(files):
  splits = {split: files[f"ImageSets/Main/{split}.txt"].decode().split() for split in ("train", "val")}
  assert {split: len(names) for split, names in splits.items()} == {"train": 70, "val": 30}
  names = splits["train"] + splits["val"]
  expected = {"LICENSE", "ImageSets/Main/train.txt", "ImageSets/Main/val.txt"}
  expected |= {f"Annotations/{name}.xml" for name in names} | {f"JPEGImages/{name}.jpg" for name in names}
  assert set(files) == expected
  assert files["LICENSE"].startswith(b"MIT License")


def test_two_boxes_have_no_area_and_all_others_lie_in_their_pictures(files):
  counts, empty = Counter(), []
  for name in sorted(files):
    if not name.startswith("Annotations/"):
      continue
    with Image.open(io.BytesIO(files[f"JPEGImages/{Path(name).stem}.jpg"])) as picture:
      assert (picture.format, picture.size) == ("JPEG", (640, 480))
    for item in ElementTree.fromstring(files[name]).iter("object"):
      x_min, y_min, x_max, y_max = (
        int(item.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")
      )
      counts[item.findtext("name")] += 1
      assert 0 <= x_min <= x_max <= 640 and 0 <= y_min <= y_max <= 480
      if x_max == x_min or y_max == y_min:
        empty.append(Path(name).stem)
  assert empty == ["BloodImage_00338", "BloodImage_00343"]
  assert counts == {"RBC": 1156, "Platelets": 104, "WBC": 103}
