"""Pascal VOC: one XML a picture, lists of the splits, and everything that can be wrong with them."""

import importlib.util
import pathlib
import time

import pytest

from components.example_gen.detection import DetectionReader
from components.example_gen.voc import parse_voc

_SPEC = importlib.util.spec_from_file_location(
  "annotated_data", pathlib.Path(__file__).with_name("annotated_data.py")
)
annotated_data = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(annotated_data)
boxes_of = annotated_data.boxes_of
picture = annotated_data.picture
read_all = annotated_data.read_all
voc_xml = annotated_data.voc_xml
write = annotated_data.write


def read(tmp_path, files, **options):
  return read_all(DetectionReader(write(tmp_path, files), **options))


def one(xml, name="a"):
  return {f"JPEGImages/{name}.png": picture(), f"Annotations/{name}.xml": xml}


def test_rows(tmp_path):
  xml = voc_xml(("cat", 1, 2, 11, 6), ("dog", 0, 0, "20.0", 10), name="another.jpg")
  rows, rejects = read(tmp_path, {**one(xml), **one(voc_xml(), "b")})
  assert rejects == {}
  features = dict(rows["JPEGImages/a.png"].features)
  assert features.pop("image") == picture()
  assert features == {
    "path": "JPEGImages/a.png",
    "width": 20,
    "height": 10,
    "format": "png",
    "boxes": [1.0, 2.0, 11.0, 6.0, 0.0, 0.0, 20.0, 10.0],
    "classes": ["cat", "dog"],
    "is_crowd": [0, 0],
    "areas": [40.0, 200.0],
  }
  assert rows["JPEGImages/a.png"].group == "JPEGImages/a.png" and rows["JPEGImages/a.png"].split is None
  empty = rows["JPEGImages/b.png"].features
  assert [empty[name] for name in ("boxes", "classes", "is_crowd", "areas")] == [[], [], [], []]


@pytest.mark.parametrize(
  ("place", "xml_place"),
  [("photos/a.png", "photos/a.xml"), ("a.png", "a.xml"), ("pics/a.png", "Annotations/a.xml")],
)
def test_other_places(tmp_path, place, xml_place):
  rows, rejects = read(tmp_path, {place: picture(), xml_place: voc_xml(("cat", 1, 2, 11, 6))})
  assert [boxes_of(row) for row in rows.values()] == [[("cat", 1.0, 2.0, 11.0, 6.0)]] and rejects == {}


def test_bad_objects_are_rejects_and_the_picture_stays(tmp_path):
  xml = voc_xml(
    ("cat", 5, 2, 3, 6),
    ("cat", 1, 2, 11, 6),
    ("cat", "left", 2, 3, 6),
    ("dog", 5, 2, 21, 6),
    ("", 1, 2, 3, 4),
  )
  xml = xml.replace("</annotation>", "<object><name>cow</name></object></annotation>")
  xml = xml.replace("</annotation>", "<object><bndbox><xmin>1</xmin></bndbox></object></annotation>")
  rows, rejects = read(tmp_path, one(xml))
  assert boxes_of(rows["JPEGImages/a.png"]) == [("cat", 1.0, 2.0, 11.0, 6.0)]
  assert rejects == {
    "Annotations/a.xml object 1": "'cat' box with x_min 5, y_min 2, x_max 3, y_max 6 is inverted",
    "Annotations/a.xml object 3": "xmin is 'left', which is not a number",
    "Annotations/a.xml object 4": "'dog' box with x_min 5, y_min 2, x_max 21, y_max 6 reaches outside its picture of "
    "20x10 pixels",
    "Annotations/a.xml object 5": "object without a class name",
    "Annotations/a.xml object 6": "'cow' object without bndbox",
    "Annotations/a.xml object 7": "'' object whose bndbox has no ymin",
  }


def test_clip_boxes_and_classes(tmp_path):
  files = one(voc_xml(("cat", 5, 2, 30, 6), ("dog", 1, 2, 3, 4)))
  rows, rejects = read(tmp_path, files, clip_boxes=True, classes=["cat"])
  assert boxes_of(rows["JPEGImages/a.png"]) == [("cat", 5.0, 2.0, 20.0, 6.0)]
  assert rejects == {"Annotations/a.xml object 2": "class 'dog' is not among the classes 'cat'"}


def test_pictures_and_files_that_do_not_belong_together(tmp_path):
  files = {
    **one(voc_xml()),
    "JPEGImages/a.jpg": picture(suffix=".jpg"),
    "JPEGImages/lone.png": picture(),
    "Annotations/lost.xml": voc_xml(),
    "SegmentationClass/a.png": picture(),
    "LICENSE": "text",
    "JPEGImages/.hidden.png": b"",
    "JPEGImages/Thumbs.db": b"",
  }
  rows, rejects = read(tmp_path, files)
  assert set(rows) == {"JPEGImages/a.jpg"}
  assert rejects == {
    "JPEGImages/a.png": "has the same name as JPEGImages/a.jpg, which is the one that counts",
    "JPEGImages/lone.png": "no annotation file: no XML has its name",
    "Annotations/lost.xml": "its picture is missing: none is named 'lost'",
  }


def test_whole_pictures_that_are_rejects(tmp_path):
  files = {**one(voc_xml()), **one("<annotation><object>", "broken"), **one(voc_xml(size=(10, 20)), "turned")}
  files |= one(voc_xml(), "damaged") | {"JPEGImages/damaged.png": picture()[:50]}
  files |= one("<html></html>", "page") | one("", "empty") | one(voc_xml(size=(0, 0)), "untold")
  rows, rejects = read(tmp_path, files)
  assert set(rows) == {"JPEGImages/a.png", "JPEGImages/untold.png"}
  assert "PNG" in rejects.pop("JPEGImages/damaged.png")
  told = rejects.pop("JPEGImages/turned.png")
  assert told == "its annotation Annotations/turned.xml tells 10x20 pixels, the picture itself has 20x10"
  assert rejects["Annotations/broken.xml"].startswith("broken XML: no element found")
  assert rejects["Annotations/broken.xml"].endswith("; its picture JPEGImages/broken.png is left out")
  assert "root is <'html'> and not <annotation>" in rejects["Annotations/page.xml"]
  assert rejects["Annotations/empty.xml"].startswith("broken XML")
  assert len(rejects) == 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused_at_once(encoding):
  levels = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 30))
  bomb = (
    f'<!DOCTYPE annotation [<!ENTITY a0 "x">{levels}]><annotation><filename>&a29;</filename></annotation>'
  )
  start = time.perf_counter()
  with pytest.raises(ValueError, match="document type"):
    parse_voc(bomb.encode(encoding), "a.xml")
  assert time.perf_counter() - start < 1


def test_a_hundred_thousand_nested_elements_are_no_crash():
  xml = b"<annotation>" + b"<a>" * 100_000 + b"</a>" * 100_000 + b"</annotation>"
  assert parse_voc(xml, "a.xml").objects == ()


def lists(**names):
  return {f"ImageSets/Main/{split}.txt": "\n".join(lines) for split, lines in names.items()}


def test_three_lists(tmp_path):
  files = {}
  for name in "abcdef":
    files |= one(voc_xml(), name)
  files |= lists(
    train=["a", "a b", "", "e"],
    val=["b  1"],
    test=["c", "e", "nowhere"],
    trainval=["a", "b"],
    cat_train=["d 1"],
  )
  rows, rejects = read(tmp_path, files)
  assert {key: row.split for key, row in rows.items()} == {
    "JPEGImages/a.png": "train",
    "JPEGImages/b.png": "validation",
    "JPEGImages/c.png": "test",
  }
  assert rejects == {
    "JPEGImages/d.png": "in no list of ImageSets/Main",
    "JPEGImages/e.png": "in the lists of test and train of ImageSets/Main: one split a picture",
    "JPEGImages/f.png": "in no list of ImageSets/Main",
    "ImageSets/Main/train.txt line 2": "names 'a b', and there is no such picture",
    "ImageSets/Main/test.txt line 3": "names 'nowhere', and there is no such picture",
  }


def test_train_and_val_become_three(tmp_path):
  names = [f"{number:03}" for number in range(120)]
  files = {name: content for n in names for name, content in one(voc_xml(), n).items()}
  rows, rejects = read(tmp_path, files | lists(train=names[:90], val=names[90:]), validation_fraction=1 / 3)
  splits = {key[11:14]: row.split for key, row in rows.items()}
  assert rejects == {} and {splits[name] for name in names[90:]} == {"test"}
  validation = [name for name in names[:90] if splits[name] == "validation"]
  assert 18 <= len(validation) <= 42 and {splits[name] for name in names[:90]} == {"train", "validation"}
  # A hash of the key chooses: the same pictures among fewer.
  fewer = files | lists(train=names[:45], val=names[90:])
  for name in names[45:90]:
    del fewer[f"JPEGImages/{name}.png"], fewer[f"Annotations/{name}.xml"]
  rows, _ = read(tmp_path / "fewer", fewer, validation_fraction=1 / 3)
  assert [key[11:14] for key, row in sorted(rows.items()) if row.split == "validation"] == [
    name for name in validation if name < "045"
  ]


def test_trainval_is_train_where_there_is_no_train(tmp_path):
  files = one(voc_xml()) | one(voc_xml(), "b") | lists(trainval=["a"], test=["b"])
  rows, _ = read(tmp_path, files, validation_fraction=0)
  assert [rows[f"JPEGImages/{name}.png"].split for name in "ab"] == ["train", "test"]


def test_lists_of_two_years(tmp_path):
  files = {}
  for year, split in (("VOC2007", "train"), ("VOC2012", "val")):
    files |= {
      f"{year}/{name}": content for name, content in (one(voc_xml()) | lists(**{split: ["a"]})).items()
    }
  rows, rejects = read(tmp_path, files, validation_fraction=0)
  assert {key: row.split for key, row in rows.items()} == {
    "VOC2007/JPEGImages/a.png": "train",
    "VOC2012/JPEGImages/a.png": "test",
  }
  assert rejects == {}


def test_a_list_of_one_split_leaves_it_open(tmp_path):
  rows, rejects = read(tmp_path, one(voc_xml()) | one(voc_xml(), "b") | lists(train=["a"]))
  assert {key: row.split for key, row in rows.items()} == {"JPEGImages/a.png": None}
  assert rejects == {"JPEGImages/b.png": "in no list of ImageSets/Main"}
