"""Small annotated data sets as files, and all that a reader makes of one, its chunks pickled as Beam does."""

import io
import json
import pickle
import shutil
import zipfile

import numpy as np
from PIL import Image

from components.task import Row


def picture(width_px=20, height_px=10, suffix=".png", mode="RGB", color=(200, 30, 30)):
  """Bytes of a picture of one colour."""
  encoded = io.BytesIO()
  Image.new(mode, (width_px, height_px), color).save(encoded, {".png": "PNG", ".jpg": "JPEG"}[suffix])
  return encoded.getvalue()


def grey_png(ids):
  """Bytes of a mask, 8-bit grey, of a nested list of class ids."""
  encoded = io.BytesIO()
  Image.fromarray(np.asarray(ids, np.uint8)).save(encoded, "PNG")
  return encoded.getvalue()


def pixels(data):
  """The values of an encoded mask as a nested list."""
  with Image.open(io.BytesIO(data)) as opened:
    assert (opened.format, opened.mode) == ("PNG", "L")
    return np.asarray(opened).tolist()


def write(root, files):
  """Writes {name: bytes, text or what becomes JSON} below `root`; returns it as str."""
  for name, content in files.items():
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, (dict, list)):
      content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
  return str(root)


def pack(root, kind):
  """The folder as an archive beside it, with the folder around everything; "folder" leaves it as it is."""
  if kind == "folder":
    return str(root)
  return shutil.make_archive(
    str(root), {"zip": "zip", "tar": "tar", "tar.gz": "gztar"}[kind], root.parent, root.name
  )


def zip_with(path, members):
  """A zip of (name, bytes) in this order, doubled names included."""
  with zipfile.ZipFile(path, "w") as archive:
    for name, data in members:
      archive.writestr(name, data)
  return str(path)


def read_all(reader):
  """({key: Row}, {path: reason}); no path may come twice."""
  items = []
  for chunk in reader.chunks():
    items += reader.read(pickle.loads(pickle.dumps(chunk)))
  rows = {item.key: item for item in items if isinstance(item, Row)}
  rejects = {item.path: item.reason for item in items if not isinstance(item, Row)}
  assert len(rows) + len(rejects) == len(items), items
  return rows, rejects


def boxes_of(row):
  """[(class, x_min, y_min, x_max, y_max)] of a row of a DetectionReader."""
  corners = row.features["boxes"]
  return [(name, *corners[4 * n : 4 * n + 4]) for n, name in enumerate(row.features["classes"])]


def voc_xml(*objects, size=(20, 10), name="x.png"):
  """An annotation of Pascal VOC with objects (class, xmin, ymin, xmax, ymax)."""
  tags = "".join(
    f"<object><name>{label}</name><bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
    "</bndbox></object>"
    for label, x0, y0, x1, y1 in objects
  )
  told = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
  return f"<annotation><filename>{name}</filename>{told}{tags}</annotation>"


def coco_json(images, annotations, categories=((1, "cat"), (2, "dog"))):
  """A COCO file; images are (id, file_name), annotations are dicts without the fields that most have."""
  return {
    "images": [{"id": number, "file_name": name, "width": 20, "height": 10} for number, name in images],
    "annotations": [
      {"id": n, "image_id": 1, "category_id": 1, "iscrowd": 0, **fields}
      for n, fields in enumerate(annotations, 1)
    ],
    "categories": [{"id": number, "name": name} for number, name in categories],
  }
