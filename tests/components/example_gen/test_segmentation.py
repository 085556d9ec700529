"""The reader of masks: pairs of files, COCO's regions, and everything that can be wrong with them."""

import importlib.util
import json
import pathlib
import random

import pytest

from components.example_gen.annotated_folder import PictureSizes
from components.example_gen.segmentation import SegmentationReader, find_classes

_SPEC = importlib.util.spec_from_file_location(
  "annotated_data", pathlib.Path(__file__).with_name("annotated_data.py")
)
annotated_data = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(annotated_data)
coco_json = annotated_data.coco_json
grey_png = annotated_data.grey_png
pack = annotated_data.pack
picture = annotated_data.picture
pixels = annotated_data.pixels
read_all = annotated_data.read_all
write = annotated_data.write


CLASSES = "background\ncat\ndog\n"
IDS = [[0, 1, 2], [2, 1, 0]]


def one(name="a", ids=IDS):
  return {f"images/{name}.png": picture(3, 2), f"masks/{name}.png": grey_png(ids)}


def read(tmp_path, files, **options):
  return read_all(SegmentationReader(write(tmp_path, {"classes.txt": CLASSES, **files}), **options))


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_rows(tmp_path, kind):
  files = {"images/a.jpg": picture(3, 2, ".jpg"), "masks/a.png": grey_png(IDS), "classes.txt": CLASSES}
  write(tmp_path / "set", {**files, "LICENSE": "text", "images/.hidden.png": b"", "masks/Thumbs.db": b""})
  rows, rejects = read_all(SegmentationReader(pack(tmp_path / "set", kind)))
  assert rejects == {}
  (row,) = rows.values()
  features = dict(row.features)
  assert features.pop("image") == picture(3, 2, ".jpg") and pixels(features.pop("mask")) == IDS
  assert features == {"path": "images/a.jpg", "width": 3, "height": 2, "format": "jpeg"}
  assert (row.key, row.group, row.split) == ("images/a.jpg", "images/a.jpg", None)


def test_a_compressed_tar_is_refused(tmp_path):
  write(tmp_path / "set", {**one(), "classes.txt": CLASSES})
  with pytest.raises(ValueError, match="a compressed tar cannot be read out of order: unpack it"):
    list(SegmentationReader(pack(tmp_path / "set", "tar.gz")).chunks())


def test_rejects(tmp_path):
  files = (
    one()
    | one("large", [[0] * 4] * 2)
    | one("unknown", [[0, 9, 0], [0, 3, 0]])
    | one("damaged")
    | one("color")
  )
  files |= {
    "images/lone.png": picture(3, 2),
    "masks/lost.png": grey_png(IDS),
    "masks/color.png": picture(3, 2),
  }
  files |= {"images/damaged.png": picture(3, 2)[:40], **one("cut"), "masks/cut.png": grey_png(IDS)[:-20]}
  files |= {"images/a.bmp": b"", **one("empty"), "masks/empty.png": b""}
  rows, rejects = read(tmp_path, files)
  assert rows == {}
  assert rejects["masks/large.png"] == (
    "a mask of 4x2 pixels for a picture of 3x2; its picture images/large.png is left out"
  )
  assert rejects["masks/unknown.png"].startswith("class ids 3, 9 are not declared, 0 to 2 are")
  assert rejects["masks/color.png"].startswith(
    "a PNG of RGB; expected a PNG of class ids, 8-bit grey or with a palette"
  )
  assert "truncated" in rejects["images/damaged.png"]
  assert rejects["masks/cut.png"] == "truncated PNG; its picture images/cut.png is left out"
  assert rejects["masks/empty.png"] == "empty file (0 bytes); its picture images/empty.png is left out"
  assert rejects["images/lone.png"] == "its mask is missing: none in masks/ has its name"
  assert rejects["masks/lost.png"] == "the picture of this mask is missing: none has its name"
  # The first of two pictures of one name is taken for the mask's.
  assert rejects["images/a.png"] == "has the same name as images/a.bmp, which is the one that counts"
  assert rejects["images/a.bmp"] == "empty file (0 bytes)"
  assert len(rejects) == 10


def test_void_id_and_classes(tmp_path):
  files = one("a", [[0, 255, 1], [0, 0, 0]])
  rows, _ = read(tmp_path, files, void_id=255)
  assert pixels(rows["images/a.png"].features["mask"]) == [[0, 255, 1], [0, 0, 0]]
  rows, rejects = read(tmp_path, files, void_id=255, classes=["background"])
  assert rows == {} and rejects["masks/a.png"].startswith("class ids 1 are not declared, 0 to 0 are")
  with pytest.raises(ValueError, match="void_id is 256: masks hold 0 to 255"):
    SegmentationReader(str(tmp_path), void_id=256)


@pytest.mark.parametrize("layout", ["{split}/{role}/a.png", "{role}/{split}/a.png"])
def test_three_splits(tmp_path, layout):
  files = {}
  for split in ("train", "val", "test"):
    files[layout.format(split=split, role="images")] = picture(3, 2)
    files[layout.format(split=split, role="masks")] = grey_png(IDS)
  rows, rejects = read(tmp_path, files)
  assert {key: row.split for key, row in rows.items()} == {
    layout.format(split="train", role="images"): "train",
    layout.format(split="val", role="images"): "validation",
    layout.format(split="test", role="images"): "test",
  }
  assert rejects == {}


def test_train_and_val_become_three(tmp_path):
  files = one("val/a")
  for number in range(60):
    files |= one(f"train/{number:02}")
  rows, rejects = read(tmp_path, files, validation_fraction=1 / 3)
  splits = [row.split for row in rows.values()]
  assert rejects == {} and rows["images/val/a.png"].split == "test"
  assert splits.count("test") == 1 and 10 <= splits.count("validation") <= 30 and splits.count(None) == 0


def test_chunks_depend_on_the_data_alone_and_hold_no_pictures(tmp_path):
  files = {name: content for number in range(5) for name, content in one(str(number)).items()}
  reader = SegmentationReader(write(tmp_path, {**files, "classes.txt": CLASSES}), examples_per_chunk=2)
  chunks = list(reader.chunks())
  assert [[item.key for item in chunk.items] for chunk in chunks] == [
    ["images/0.png", "images/1.png"],
    ["images/2.png", "images/3.png"],
    ["images/4.png"],
  ]
  assert chunks == list(reader.chunks()) and "PNG" not in repr(chunks)


def test_find_classes(tmp_path):
  files = {**one(), "classes.txt": "\ufeffbackground\r\n big cat \r\n\r\n", "masks/classes.txt": "wrong"}
  assert find_classes(write(tmp_path, files)) == ("background", "big cat")


@pytest.mark.parametrize(
  ("content", "reason"),
  [
    ("a\n\nb", "classes.txt line 2 is empty"),
    ("a\nb\na", "classes.txt line 3: 'a' stands there already"),
    ("", "classes.txt: 0 classes: 1 to 256 are possible"),
    ("\n".join(map(str, range(257))), "257 classes"),
    (b"\xff", "classes.txt: not UTF-8 at byte 0"),
    (None, "no classes.txt: add one with one class name a line"),
  ],
)
def test_classes_that_cannot_be_read(tmp_path, content, reason):
  path = write(tmp_path, one() if content is None else {**one(), "classes.txt": content})
  for call in (find_classes, lambda path: list(SegmentationReader(path).chunks())):
    with pytest.raises(ValueError, match=reason):
      call(path)


def test_nothing_known(tmp_path):
  with pytest.raises(
    ValueError, match=r"no pictures with masks; expected images/ and masks/ \(PNG of class ids"
  ):
    list(SegmentationReader(write(tmp_path, {"images/a.png": picture(), "classes.txt": "cat"})).chunks())


def coco_files(annotations, **options):
  return {"images/a.png": picture(), "all.json": coco_json([(1, "a.png")], annotations, **options)}


def test_coco(tmp_path):
  annotations = [
    {"segmentation": [[0, 0, 2, 0, 2, 10, 0, 10]], "category_id": 9},
    {"segmentation": {"size": [10, 20], "counts": [190, 10]}, "category_id": 3},
    {"segmentation": {"size": [10, 20], "counts": [100, 10, 90]}, "iscrowd": 1, "category_id": 3},
    {"segmentation": [[1, 1, 2, 2]], "category_id": 3},
    {"segmentation": [[1, 1, 99, 2, 2, 2]], "category_id": 3},
    {"segmentation": [], "category_id": 3},
    {"segmentation": [[0, 0, 2, 0, 2, 10, 0, 10]], "category_id": 4},
    {"image_id": 5},
  ]
  path = write(tmp_path, coco_files(annotations, categories=[(9, "cat"), (3, "dog")]))
  assert find_classes(path) == ("background", "dog", "cat")
  rows, rejects = read_all(SegmentationReader(path, void_id=255))
  row = [2] * 2 + [0] * 8 + [255] + [0] * 8 + [1]
  assert pixels(rows["images/a.png"].features["mask"]) == [row] * 10
  assert rejects == {
    "all.json#4": "polygon [1, 1, 2, 2] is not x, y of three or more points",
    "all.json#5": "polygon with x 99 outside its picture of 20x10 pixels",
    "all.json#6": "segmentation is [] where polygons or a run-length encoding are expected",
    "all.json#7": "category_id 4 is not among the categories",
    "all.json#8": "image_id 5 is not among the images",
  }
  rows, rejects = read_all(SegmentationReader(path, classes=["background", "cat"]))
  assert pixels(rows["images/a.png"].features["mask"]) == [[1] * 2 + [0] * 18] * 10
  assert rejects["all.json#2"] == "class 'dog' is not among the classes 'background, cat'"


def test_coco_pictures_that_are_rejects(tmp_path):
  files = coco_files([])
  files["all.json"]["images"][0]["width"] = 21
  rows, rejects = read_all(SegmentationReader(write(tmp_path, files)))
  assert rows == {}
  assert rejects == {"images/a.png": "its annotation file tells 21x10 pixels, the picture itself has 20x10"}


def test_coco_damaged_at_random_never_raises(tmp_path):
  generator = random.Random(3)
  annotations = [
    {"segmentation": [[0, 0, 2, 0, 2, 10]]},
    {"segmentation": {"size": [10, 20], "counts": "l1m4X1"}},
  ]
  files = coco_files(annotations)
  write(tmp_path, files)
  for _ in range(150):
    data = bytearray(json.dumps(files["all.json"]).encode())
    for _ in range(generator.randint(1, 4)):
      data[generator.randrange(len(data))] = generator.choice(b'0129 -.eloXm"\xff[]{},')
    (tmp_path / "all.json").write_bytes(data)
    reader = SegmentationReader(str(tmp_path), classes=["background", "cat", "dog"])
    try:
      chunks = list(reader.chunks())
    except ValueError as error:
      assert str(error).startswith(f"{tmp_path}: ")
      continue
    assert [item for chunk in chunks for item in reader.read(chunk)]


def test_coco_files_that_cannot_be_read(tmp_path):
  with pytest.raises(ValueError, match="all.json: broken JSON: "):
    find_classes(write(tmp_path, {"images/a.png": picture(), "all.json": "{"}))
  with pytest.raises(ValueError, match="no categories in its JSON"):
    find_classes(write(tmp_path, coco_files([], categories=())))


def test_coco_classes_of_several_files(tmp_path):
  files = {
    "train.json": coco_json([(1, "a.png")], [], categories=[(0, "background"), (2, "dog")]),
    "val.json": coco_json([(1, "b.png")], [], categories=[(1, "cat"), (2, "dog")]),
  }
  assert find_classes(write(tmp_path, {"images/a.png": picture(), **files})) == ("background", "cat", "dog")


def test_probe(tmp_path):
  files = {"classes.txt": CLASSES, **one(), **one("b")}
  files |= {"images/b.png": picture(5, 8), "images/lone.png": picture(90, 90)}
  assert SegmentationReader(write(tmp_path, files)).probe() == PictureSizes(5, 4, 3)
  assert SegmentationReader(str(tmp_path)).probe(1) == PictureSizes(2, 3, 3)
