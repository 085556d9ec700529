"""COCO's boxes: one JSON a data set or a split, and everything that can be wrong in it."""

import importlib.util
import pathlib

import pytest

from components.example_gen.detection import DetectionReader

_SPEC = importlib.util.spec_from_file_location(
  "annotated_data", pathlib.Path(__file__).with_name("annotated_data.py")
)
annotated_data = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(annotated_data)
boxes_of = annotated_data.boxes_of
coco_json = annotated_data.coco_json
picture = annotated_data.picture
read_all = annotated_data.read_all
write = annotated_data.write


def read(tmp_path, files, **options):
  return read_all(DetectionReader(write(tmp_path, files), **options))


def one(annotations, **options):
  return {"images/a.png": picture(), "all.json": coco_json([(1, "a.png")], annotations, **options)}


def test_rows(tmp_path):
  annotations = [
    {"bbox": [1, 2, 10, 4], "area": 33.5, "segmentation": [[1, 2, 11, 2, 11, 6]]},
    {
      "bbox": [0, 0, 20.05, 10],
      "category_id": 2,
      "iscrowd": 1,
      "segmentation": {"counts": [200], "size": [10, 20]},
    },
  ]
  files = {"images/b.png": picture(), **one(annotations)}
  files["all.json"] = coco_json([(1, "a.png"), (7, "b.png")], annotations)
  rows, rejects = read(tmp_path, files)
  assert rejects == {}
  features = dict(rows["images/a.png"].features)
  assert features.pop("image") == picture()
  assert features == {
    "path": "images/a.png",
    "width": 20,
    "height": 10,
    "format": "png",
    "boxes": [1.0, 2.0, 11.0, 6.0, 0.0, 0.0, 20.0, 10.0],
    "classes": ["cat", "dog"],
    "is_crowd": [0, 1],
    "areas": [33.5, 200.0],
  }
  assert rows["images/b.png"].features["boxes"] == [] and rows["images/b.png"].split is None


def test_bad_annotations_are_rejects_and_the_picture_stays(tmp_path):
  annotations = [
    {"bbox": [5, 2, 0, 4]},
    {"bbox": [1, 2, 10, 4]},
    {"bbox": [15, 2, 6, 4]},
    {"bbox": [1, 2, 3]},
    {"bbox": [1, 2, "wide", 4]},
    {"bbox": [1, 2, float("nan"), 4]},
    {"bbox": [1, 2, 10, 4], "category_id": 9},
    {"bbox": [1, 2, 10, 4], "image_id": 55},
    {"bbox": [1, 2, 10, 4], "id": 2},
    {},
    {"bbox": [1, 2, -4, 4]},
    {"bbox": [1, 2, 10, 4], "id": None, "category_id": [1]},
    "nonsense",
  ]
  files = one(annotations[:-1])
  files["all.json"]["annotations"].append("nonsense")
  rows, rejects = read(tmp_path, files)
  assert boxes_of(rows["images/a.png"]) == [("cat", 1.0, 2.0, 11.0, 6.0)]
  assert rejects == {
    "all.json#1": "'cat' box with x_min 5, y_min 2, x_max 5, y_max 6 is of no area",
    "all.json#3": "'cat' box with x_min 15, y_min 2, x_max 21, y_max 6 reaches outside its picture of 20x10 pixels",
    "all.json#4": "bbox is [1, 2, 3] where [x, y, width, height] is expected",
    "all.json#5": "bbox [1, 2, 'wide', 4]: a value is 'wide', which is not a number",
    "all.json#6": "bbox [1, 2, nan, 4]: a value is nan, which is not finite",
    "all.json#7": "category_id 9 is not among the categories",
    "all.json#8": "image_id 55 is not among the images",
    "all.json#2": "annotation id 2 stands there twice; the first one counts",
    "all.json#10": "bbox is None where [x, y, width, height] is expected",
    "all.json#11": "'cat' box with x_min 1, y_min 2, x_max -3, y_max 6 is inverted",
    "all.json annotation 12": "category_id [1] is not among the categories",
    "all.json annotation 13": "'nonsense' is no annotation",
  }


@pytest.mark.parametrize("area", [None, float("nan"), "12", 0, -5, [3]])
def test_an_area_of_no_use_falls_back_to_the_boxs(tmp_path, area):
  rows, rejects = read(tmp_path, one([{"bbox": [1, 2, 10, 4], "area": area}]))
  assert rows["images/a.png"].features["areas"] == [40.0] and rejects == {}


def test_a_class_that_is_not_among_those_given(tmp_path):
  rows, rejects = read(tmp_path, one([{"bbox": [1, 2, 10, 4]}]), classes=["dog"])
  assert boxes_of(rows["images/a.png"]) == []
  assert rejects == {"all.json#1": "class 'cat' is not among the classes 'dog'"}


def test_pictures_that_are_rejects(tmp_path):
  images = [
    (1, "a.png"),
    (2, "lost.png"),
    (3, "turned.png"),
    (4, "damaged.png"),
    (1, "again.png"),
    (6, "images/a.png"),
  ]
  document = coco_json(images, [{"bbox": [1, 2, 10, 4]}])
  document["images"][2] |= {"width": 10, "height": 20}
  document["images"] += [{"id": 7}, None]
  files = {"images/a.png": picture(), "images/turned.png": picture(), "images/damaged.png": picture()[:50]}
  files |= {"images/unlisted.png": picture(), "elsewhere/b.png": picture(), "annotations/all.json": document}
  rows, rejects = read(tmp_path, files)
  assert set(rows) == {"images/a.png"}
  assert "PNG" in rejects.pop("images/damaged.png")
  where = "annotations/all.json"
  assert rejects == {
    f"{where} image 2": "its picture 'lost.png' is missing",
    "images/turned.png": "its annotation file tells 10x20 pixels, the picture itself has 20x10",
    f"{where} image 1": "image id 1 stands there twice; the first one counts ('again.png' does not)",
    f"{where} image 6": f"its picture images/a.png is told a second time; first in {where} image 1",
    f"{where} image number 7": "{'id': 7} lacks an id or a file_name",
    f"{where} image number 8": "None lacks an id or a file_name",
    "images/unlisted.png": "listed in no annotation file",
  }


def test_a_broken_file_among_others(tmp_path):
  files = {**one([]), "broken.json": '{"images": [', "notes.json": {"images": 3}, "list.json": [1]}
  files |= {"captions.json": coco_json([(1, "a.png")], [{"caption": "a cat"}])}
  rows, rejects = read(tmp_path, files)
  assert set(rows) == {"images/a.png"} and set(rejects) == {"broken.json"}
  assert rejects["broken.json"].startswith("broken JSON: Expecting value: line 1")


@pytest.mark.parametrize("content", ["{", b"\xff\xfe\xff", "[" * 100_000])
def test_a_broken_file_alone(tmp_path, content):
  path = write(tmp_path, {"images/a.png": picture(), "annotations/all.json": content})
  with pytest.raises(ValueError, match="annotations/all.json: broken JSON: "):
    list(DetectionReader(path).chunks())


def split_files(*splits, folder="{}2017", json_name="annotations/instances_{}2017.json"):
  """A picture of the same name in each split, as COCO itself has it."""
  files = {}
  for split in splits:
    files[f"{folder.format(split)}/1.png"] = picture()
    files[json_name.format(split)] = coco_json([(1, "1.png")], [{"bbox": [1, 2, 3, 4]}])
  return files


def test_train_and_val_of_coco_itself(tmp_path):
  files = split_files("train", "val") | {"test2017/1.png": picture()}
  files["annotations/captions_train2017.json"] = coco_json([(1, "1.png")], [{"caption": "a cat"}])
  files["annotations/person_keypoints_val2017.json"] = coco_json([(1, "1.png")], [{"bbox": [1, 2, 3, 4]}])
  rows, rejects = read(tmp_path, files, validation_fraction=0)
  assert {key: row.split for key, row in rows.items()} == {
    "train2017/1.png": "train",
    "val2017/1.png": "test",
  }
  assert rejects == {}


@pytest.mark.parametrize(
  ("folder", "json_name"),
  [
    ("{}2017", "annotations/instances_{}2017.json"),
    ("{}", "{}/_annotations.coco.json"),
    ("images/{}", "{}.json"),
    ("{}/images", "{}/labels.json"),
  ],
)
def test_three_splits(tmp_path, folder, json_name):
  rows, rejects = read(tmp_path, split_files("train", "val", "test", folder=folder, json_name=json_name))
  splits = {folder.format(name) + "/1.png": name for name in ("train", "val", "test")}
  assert {key: row.split for key, row in rows.items()} == {
    key: {"val": "validation"}.get(name, name) for key, name in splits.items()
  }
  assert rejects == {}


def test_splits_of_folders_under_one_file(tmp_path):
  names = ["train/a.png", "val/a.png", "test/a.png"]
  document = coco_json(list(enumerate(names, 1)), [])
  rows, _ = read(tmp_path, {"all.json": document, **{f"images/{name}": picture() for name in names}})
  assert {key: row.split for key, row in rows.items()} == {
    "images/train/a.png": "train",
    "images/val/a.png": "validation",
    "images/test/a.png": "test",
  }
