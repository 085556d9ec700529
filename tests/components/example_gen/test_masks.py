"""Mask files and COCO's regions in the one form."""

import contextlib
import importlib.util
import io
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from components.example_gen.coco import Region
from components.example_gen.masks import clean_mask, draw_regions, encode_mask, run_lengths

_SPEC = importlib.util.spec_from_file_location(
  "annotated_data", pathlib.Path(__file__).with_name("annotated_data.py")
)
annotated_data = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(annotated_data)
grey_png = annotated_data.grey_png
picture = annotated_data.picture
pixels = annotated_data.pixels


IDS = [[0, 1, 2, 1], [2, 0, 1, 0]]
CLASS_IDS = {"background": 0, "cat": 1, "dog": 2}


def png(image, **options):
  encoded = io.BytesIO()
  image.save(encoded, "PNG", **options)
  return encoded.getvalue()


def palette_png(ids, **options):
  image = Image.fromarray(np.asarray(ids, np.uint8), "P")
  image.putpalette([200, 30, 30, 0, 255, 0, 9, 9, 200, 7, 7, 7])
  return png(image, **options)


def packed_grey_png(ids, bits):
  """Grey of less than 8 bits, which Pillow does not write: its palette file with another colour type."""
  rows = b"".join(
    b"\0" + np.packbits((np.asarray(row, np.uint8)[:, None] >> np.arange(bits)[::-1]) & 1).tobytes()
    for row in ids
  )

  def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

  header = struct.pack(">IIBBBBB", len(ids[0]), len(ids), bits, 0, 0, 0, 0)
  return (
    b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
  )


def cleaned(data, num_classes=3, void_id=None, max_pixels=1000):
  mask = clean_mask(data, num_classes, void_id, max_pixels)
  assert (mask.height, mask.width) == np.shape(pixels(mask.data))
  return pixels(mask.data)


@pytest.mark.parametrize(
  "data",
  [
    grey_png(IDS),
    palette_png(IDS),
    palette_png(IDS, bits=2),
    palette_png(IDS, transparency=0),
    packed_grey_png(IDS, 2),
    packed_grey_png(IDS, 4),
    png(Image.fromarray(np.asarray(IDS, np.uint16))),
  ],
  ids=["grey", "palette", "palette2", "transparent", "grey2", "grey4", "grey16"],
)
def test_the_values_are_the_ids(data):
  assert cleaned(data) == IDS


def test_masks_of_one_bit():
  ids = [[0, 1, 1], [1, 0, 0]]
  assert cleaned(png(Image.fromarray(np.asarray(ids, bool))), 2) == ids
  assert cleaned(packed_grey_png(ids, 1), 2) == ids


def test_void():
  ids = [[0, 255], [1, 2]]
  assert cleaned(grey_png(ids), void_id=255) == ids
  with pytest.raises(
    ValueError, match="class ids 255 are not declared, 0 to 2 are; if they mean .* set void_id"
  ):
    cleaned(grey_png(ids))


@pytest.mark.parametrize(
  ("data", "reason"),
  [
    (grey_png([[0, 7], [3, 2]]), "class ids 3, 7 are not declared, 0 to 2 are"),
    (grey_png([range(100)]), "class ids 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, ... are not declared"),
    (png(Image.fromarray(np.full((2, 2), 256, np.uint16))), "class ids 256 are not declared"),
    (picture(), "a PNG of RGB; expected a PNG of class ids, 8-bit grey or with a palette"),
    (picture(mode="RGBA", color=(1, 2, 3, 4)), "a PNG of RGBA; expected"),
    (picture(mode="LA", color=(1, 2)), "a PNG of grey and alpha; expected"),
    (picture(suffix=".jpg"), "not a PNG"),
    (b"", "empty file"),
    (b"mask", "begins with b'mask'"),
    (grey_png(IDS)[:-20], "truncated PNG"),
    (grey_png(IDS)[:20], "no header"),
    (grey_png(IDS)[:45] + b"\xff" + grey_png(IDS)[46:], "wrong checksum"),
    (grey_png(np.zeros((40, 40))), "40x40 pixels are none, or more than the 1000 allowed"),
  ],
)
def test_what_is_no_mask(data, reason):
  with pytest.raises(ValueError) as error:
    cleaned(data)
  assert reason in str(error.value) and "\n" not in str(error.value)


def test_damaged_at_random():
  generator = np.random.default_rng(3)
  whole = grey_png(generator.integers(0, 3, (20, 20)))
  for _ in range(200):
    data = bytearray(whole)
    data[generator.integers(8, len(data))] = generator.integers(0, 256)
    with contextlib.suppress(ValueError):
      assert np.shape(cleaned(bytes(data))) == (20, 20)


def draw(*regions, void_id=None, class_ids=CLASS_IDS):
  """(the ids of a picture of 6 x 4 pixels, {where: reason})."""
  made = [Region(f"x#{number}", *fields) for number, fields in enumerate(regions, 1)]
  ids, rejects = draw_regions(made, class_ids, void_id, 6, 4)
  assert pixels(encode_mask(ids)) == ids.tolist() and ids.dtype == np.uint8
  return ids.tolist(), {reject.path: reject.reason for reject in rejects}


def square(x, y, width, height):
  return [x, y, x + width, y, x + width, y + height, x, y + height]


def runs(ids):
  """Run lengths of a nested list of 0 and 1, not compressed."""
  flat = np.asarray(ids).T.ravel()
  counts, value = [0], 0
  for pixel in flat:
    if pixel != value:
      counts.append(0)
      value = pixel
    counts[-1] += 1
  return {"size": [4, 6], "counts": counts}


SMALL = [[0, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]]


def test_polygons():
  ids, rejects = draw(("cat", [square(1, 1, 2, 2)]), ("dog", [square(4, 0, 1, 1), square(4, 3, 2, 1)]))
  assert ids == [[0, 0, 0, 0, 2, 0], [0, 1, 1, 0, 0, 0], [0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 2, 2]]
  assert rejects == {}


def test_run_lengths_in_both_forms():
  compressed = coco_mask.encode(np.asfortranarray(np.asarray(SMALL, np.uint8)))["counts"].decode()
  for segmentation in (runs(SMALL), {"size": [4, 6], "counts": compressed}):
    assert draw(("cat", segmentation)) == (SMALL, {})


def test_long_run_lengths_are_read_as_pycocotools_writes_them():
  generator = np.random.default_rng(3)
  for _ in range(20):
    mask = np.asfortranarray(np.repeat(generator.integers(0, 2, (1, 40)), 300, 0).astype(np.uint8))
    mask[generator.integers(0, 300, 9), generator.integers(0, 40, 9)] ^= 1
    counts = run_lengths(coco_mask.encode(mask)["counts"].decode())
    assert np.repeat(np.arange(len(counts)) % 2, counts).tolist() == mask.T.ravel().tolist()


def test_the_smaller_region_is_on_top_whatever_the_order():
  large, small = ("dog", [square(0, 0, 6, 4)]), ("cat", [square(1, 1, 2, 2)])
  expected = [[2] * 6, [2, 1, 1, 2, 2, 2], [2, 1, 1, 2, 2, 2], [2] * 6]
  assert draw(large, small)[0] == draw(small, large)[0] == expected


def test_crowds_are_void_below_everything():
  crowd, cat = ("dog", runs(SMALL), 1), ("cat", [square(0, 1, 2, 1)])
  assert draw(cat, crowd, void_id=255)[0][1:3] == [[1, 1, 255, 0, 0, 0], [0, 255, 255, 0, 0, 0]]
  assert draw(cat, crowd)[0][1:3] == [[1, 1, 0, 0, 0, 0], [0] * 6]


@pytest.mark.parametrize(
  ("fields", "reason"),
  [
    (("cat", [[1, 1, 2, 2]]), "polygon [1, 1, 2, 2] is not x, y of three or more points"),
    (("cat", [square(1, 1, 2, 2)[:-1]]), "is not x, y of three or more points"),
    (("cat", [1, 1, 2, 2, 3, 3]), "polygon 1 is not"),
    (("cat", [square(10, 1, 2, 2)]), "polygon with x 10 outside its picture of 6x4 pixels"),
    (("cat", [square(1, -9, 2, 2)]), "polygon with y -9 outside"),
    (("cat", [square(1e300, 1, 2, 2)]), "polygon with x 1e+300 outside"),
    (("cat", [[1, 1, 2, "a", 3, 3]]), "polygon with 'a', which is not a finite number"),
    (("cat", [[1, 1, 2, float("nan"), 3, 3]]), "polygon with nan, which is not"),
    (("cat", [[2, 2, 2, 2, 2, 2]]), "its region covers no pixel"),
    (("cow", [square(1, 1, 2, 2)]), "class 'cow' is not among the classes 'background, cat, dog'"),
    (("cat", {"size": [6, 4], "counts": [24]}), "size [6, 4] where [4, 6] is expected (height, width)"),
    (
      ("cat", {"size": [4, 6], "counts": [5, 5]}),
      "run lengths of 10 pixels together where the picture has 24",
    ),
    (("cat", {"size": [4, 6], "counts": [5, -5, 24]}), "are not whole numbers from 0"),
    (("cat", {"size": [4, 6], "counts": [5, 5.0, 14]}), "are not whole numbers from 0"),
    (("cat", {"size": [4, 6]}), "run lengths None are not whole numbers"),
    (("cat", {"size": [4, 6], "counts": "a b"}), "run lengths 'a b' are no text that pycocotools writes"),
    (("cat", {"size": [4, 6], "counts": "Q"}), "run lengths 'Q' end inside a number"),
    (("cat", {"size": [4, 6], "counts": "o" * 99}), "are no text that pycocotools writes"),
    (("cat", {"size": [4, 6], "counts": [24]}), "its region covers no pixel"),
  ],
)
def test_regions_that_cannot_be_drawn(fields, reason):
  ids, rejects = draw(("dog", [square(1, 1, 2, 2)]), fields)
  assert ids == (np.asarray(SMALL) * 2).tolist()
  assert set(rejects) == {"x#2"} and reason in rejects["x#2"]
