"""The reader of boxes as a whole: which format it sees, archives, chunks and the look at a sample."""

import importlib.util
import json
import pathlib
import random
import subprocess
import sys

import pytest

from components.example_gen.annotated_folder import PictureSizes
from components.example_gen.detection import DetectionReader

_SPEC = importlib.util.spec_from_file_location(
  "annotated_data", pathlib.Path(__file__).with_name("annotated_data.py")
)
annotated_data = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(annotated_data)
boxes_of = annotated_data.boxes_of
coco_json = annotated_data.coco_json
pack = annotated_data.pack
picture = annotated_data.picture
read_all = annotated_data.read_all
voc_xml = annotated_data.voc_xml
write = annotated_data.write
zip_with = annotated_data.zip_with


VOC = {"JPEGImages/a.png": picture(), "Annotations/a.xml": voc_xml(("cat", 1, 2, 11, 6))}
COCO = {
  "images/a.png": picture(),
  "annotations/all.json": coco_json([(1, "a.png")], [{"bbox": [1, 2, 10, 4]}]),
}
YOLO = {"images/a.png": picture(), "labels/a.txt": "0 0.3 0.4 0.5 0.4", "data.yaml": "names: [cat]"}


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
@pytest.mark.parametrize("files", [VOC, COCO, YOLO], ids=["voc", "coco", "yolo"])
def test_formats_in_folders_and_archives(tmp_path, files, kind):
  write(tmp_path / "set", files)
  rows, rejects = read_all(DetectionReader(pack(tmp_path / "set", kind)))
  (row,) = rows.values()
  assert rejects == {} and row.key == next(iter(files))
  assert boxes_of(row) == [
    ("cat", pytest.approx(1.0), pytest.approx(2.0), pytest.approx(11.0), pytest.approx(6.0))
  ]


def test_a_compressed_tar_is_refused(tmp_path):
  write(tmp_path / "set", VOC)
  with pytest.raises(ValueError, match="set.tar.gz: a compressed tar cannot be read out of order: unpack it"):
    list(DetectionReader(pack(tmp_path / "set", "tar.gz")).chunks())


def test_a_picture_twice_in_a_zip(tmp_path):
  members = [("JPEGImages/a.png", picture(5, 5)), *VOC.items()]
  with pytest.warns(UserWarning):
    path = zip_with(tmp_path / "set.zip", members)
  items = [item for chunk in DetectionReader(path).chunks() for item in DetectionReader(path).read(chunk)]
  assert sorted((type(item).__name__, getattr(item, "reason", "")) for item in items) == [
    ("Reject", "listed twice in the archive; the last one counts"),
    ("Row", ""),
  ]


@pytest.mark.parametrize(
  "files",
  [
    {"cat/a.png": picture()},
    {"images/a.png": picture(), "masks/a.png": picture(), "classes.txt": "cat"},
    {"notes.txt": "x"},
  ],
)
def test_nothing_known(tmp_path, files):
  with pytest.raises(ValueError) as error:
    list(DetectionReader(write(tmp_path, files)).chunks())
  text = str(error.value)
  assert text.startswith(
    f"{tmp_path}: no annotated pictures; expected Pascal VOC (JPEGImages/ and Annotations/*.xml)"
  )
  assert "COCO" in text and "YOLO" in text and "\n" not in text


def test_nothing_there(tmp_path):
  with pytest.raises(ValueError, match="nowhere: no such file or folder"):
    list(DetectionReader(str(tmp_path / "nowhere")).chunks())


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_chunks_depend_on_the_data_alone_and_hold_no_pictures(tmp_path, kind):
  names = [f"{number:02}" for number in range(7)]
  files = {f"images/{name}.png": picture() for name in names} | {"images/lone.png": picture()}
  if kind == "voc":
    files |= {f"Annotations/{name}.xml": voc_xml(("cat", 1, 2, 11, 6)) for name in names}
  else:
    files["all.json"] = coco_json(
      [(n, f"{name}.png") for n, name in enumerate(names)], [{"bbox": [1, 2, 10, 4]}]
    )
  reader = DetectionReader(write(tmp_path, files), examples_per_chunk=3)
  chunks = list(reader.chunks())
  assert [(len(chunk.items), len(chunk.rejects)) for chunk in chunks] == [(3, 0), (3, 0), (1, 0), (0, 1)]
  assert chunks == list(reader.chunks()) and "PNG" not in repr(chunks)
  rows, rejects = read_all(reader)
  assert sorted(rows) == [f"images/{name}.png" for name in names] and set(rejects) == {"images/lone.png"}


@pytest.mark.parametrize("files", [VOC, COCO, YOLO], ids=["voc", "coco", "yolo"])
def test_values_are_of_the_types_that_examples_hold(tmp_path, files):
  rows, _ = read_all(DetectionReader(write(tmp_path, files)))
  (row,) = rows.values()
  lists = {
    name: {type(value) for value in row.features[name]} for name in ("boxes", "classes", "is_crowd", "areas")
  }
  assert lists == {"boxes": {float}, "classes": {str}, "is_crowd": {int}, "areas": {float}}
  assert [type(row.features[name]) for name in ("image", "path", "width", "format")] == [bytes, str, int, str]


def test_large_pictures_are_rejects(tmp_path):
  rows, rejects = read_all(DetectionReader(write(tmp_path, VOC), max_pixels=199))
  assert rows == {} and rejects["JPEGImages/a.png"].startswith("20x10 pixels are more than the 199 allowed")


def test_a_link_to_nowhere(tmp_path):
  write(tmp_path, VOC | {"JPEGImages/b.png": picture()})
  (tmp_path / "Annotations/b.xml").symlink_to(tmp_path / "gone.xml")
  (tmp_path / "JPEGImages/c.png").symlink_to(tmp_path / "gone.png")
  write(tmp_path, {"Annotations/c.xml": voc_xml()})
  rows, rejects = read_all(DetectionReader(str(tmp_path)))
  problem = "not a regular file (a broken link, a pipe or a device)"
  assert set(rows) == {"JPEGImages/a.png"}
  assert rejects == {
    "Annotations/b.xml": f"{problem}; its picture JPEGImages/b.png is left out",
    "JPEGImages/c.png": problem,
  }


def test_probe(tmp_path):
  files = {}
  for number, (width_px, height_px) in enumerate([(20, 10), (40, 30), (60, 80)]):
    files |= {
      f"{number}.png": picture(width_px, height_px, mode="L", color=9),
      f"{number}.xml": voc_xml(size=None),
    }
  assert DetectionReader(write(tmp_path, files)).probe() == PictureSizes(30, 40, 1)
  assert DetectionReader(str(tmp_path)).probe(max_pictures=1) == PictureSizes(10, 20, 1)
  write(tmp_path, {"3.png": picture(70, 90), "3.xml": voc_xml(size=None)})
  assert DetectionReader(str(tmp_path)).probe() == PictureSizes(55, 50, 3)


def test_probe_looks_further_where_the_sample_is_damaged(tmp_path):
  files = {"0.png": b"damaged", "0.xml": voc_xml(), "1.png": picture(), "1.xml": voc_xml()}
  assert DetectionReader(write(tmp_path, files)).probe(max_pictures=1) == PictureSizes(10, 20, 3)
  write(tmp_path, {"1.png": b"damaged"})
  with pytest.raises(ValueError, match="none of its 2 annotated pictures can be read"):
    DetectionReader(str(tmp_path)).probe()


@pytest.mark.parametrize("files", [VOC, COCO, YOLO], ids=["voc", "coco", "yolo"])
def test_annotations_damaged_at_random_never_raise(tmp_path, files):
  generator = random.Random(3)
  name = list(files)[1]
  text = files[name] if isinstance(files[name], str) else json.dumps(files[name])
  write(tmp_path, files)
  for _ in range(150):
    data = bytearray(text.encode())
    for _ in range(generator.randint(1, 6)):
      data[generator.randrange(len(data))] = generator.choice(b'<>/0129 -.en"&\xff\0[]{},')
    (tmp_path / name).write_bytes(data)
    reader = DetectionReader(str(tmp_path))
    try:
      chunks = list(reader.chunks())
    except ValueError as error:
      # The only file of its kind, so there is nothing to read.
      assert name.endswith(".json") and str(error).startswith(f"{tmp_path}: ")
      continue
    assert [item for chunk in chunks for item in reader.read(chunk)]


def test_reading_does_not_import_tensorflow():
  modules = "components.example_gen.detection, components.example_gen.segmentation"
  code = f"import sys, {modules}; print('tensorflow' in sys.modules)"
  output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
  assert output == "False\n"
