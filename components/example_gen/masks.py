"""One form for all masks: a PNG of 8-bit grey whose values are class ids, from mask files or from COCO's regions."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
from PIL import Image

from components.example_gen.annotations import shorten
from components.example_gen.coco import Region
from components.example_gen.image_header import PNG_SIGNATURE
from components.example_gen.png_header import png_chunks, png_header
from components.task import Reject

EXPECTED_MASK = "expected a PNG of class ids, 8-bit grey or with a palette"
MAX_CLASSES = 256
_COLOR_TYPES = {2: "RGB", 4: "grey and alpha", 6: "RGBA"}
_GREY = 0
# Of what is wrong in a mask the first few ids are enough.
_NAMED_IDS = 10
# Annotation tools round points at the edge of a picture outwards.
_OUTSIDE_PX = 1.0
_MIN_COORDINATES = 6
# Run lengths of this many letters count beyond 2**30 pixels.
_MAX_RUN_LETTERS = 7


class Mask(NamedTuple):
  """PNG bytes, 8-bit grey, and the size in pixels."""

  data: bytes
  width: int
  height: int


def clean_mask(data: bytes, num_classes: int, void_id: int | None, max_pixels: int) -> Mask:
  """Checks a mask file and brings it into the one form.

  Args:
    data: a PNG of class ids: grey, or with a palette, whose indices are the ids.
    num_classes: ids from 0 to one less are declared.
    void_id: the id of pixels of no class; None where there are none.
    max_pixels: larger masks are refused by their header alone.

  Raises:
    ValueError: the reason, in one line, why this is no mask.
  """
  if not data:
    raise ValueError("empty file (0 bytes)")
  if not data.startswith(PNG_SIGNATURE):
    raise ValueError(f"not a PNG (begins with {data[:8]!r}); {EXPECTED_MASK}")
  header = png_header(data)
  if header.color_type in _COLOR_TYPES:
    raise ValueError(f"a PNG of {_COLOR_TYPES[header.color_type]}; {EXPECTED_MASK}")
  if not 0 < header.width * header.height <= max_pixels:
    size = f"{header.width}x{header.height} pixels"
    raise ValueError(f"{size} are none, or more than the {max_pixels} allowed (data.max_pixels)")
  png_chunks(data)
  try:
    with Image.open(io.BytesIO(data)) as picture:
      ids = np.asarray(picture)
  except Exception as error:
    # Pillow answers damaged data with errors of many types: OSError, SyntaxError, zlib.error, ...
    raise ValueError(f"damaged PNG: {' '.join(str(error).split())}") from None
  if header.color_type == _GREY and header.bits in (2, 4):
    # Pillow stretches these to the range of 8 bits.
    ids = ids // (255 // (2**header.bits - 1))
  _check_ids(ids, num_classes, void_id)
  return Mask(encode_mask(ids.astype(np.uint8)), header.width, header.height)


def _check_ids(ids: np.ndarray, num_classes: int, void_id: int | None) -> None:
  highest = min(num_classes, MAX_CLASSES) - 1
  if ids.max() <= highest:
    return
  unknown = [int(value) for value in np.unique(ids) if value > highest and value != void_id]
  if not unknown:
    return
  named = ", ".join(map(str, unknown[:_NAMED_IDS])) + (", ..." if len(unknown) > _NAMED_IDS else "")
  remedy = "" if void_id is not None else "; if they mean pixels of no class, set void_id"
  raise ValueError(f"class ids {named} are not declared, 0 to {highest} are{remedy}")


def encode_mask(ids: np.ndarray) -> bytes:
  """PNG bytes, 8-bit grey, of uint8 [height, width]."""
  return cv2.imencode(".png", np.ascontiguousarray(ids))[1].tobytes()


def draw_regions(
  regions: Iterable[Region],
  class_ids: Mapping[str, int],
  void_id: int | None,
  width_px: int,
  height_px: int,
) -> tuple[np.ndarray, list[Reject]]:
  """Class ids of all pixels of a picture.

  Where regions overlap, the smaller one is on top. Crowds lie below all others and become `void_id`; without one
  they are background.

  Args:
    regions: of one picture.
    class_ids: {class name: id}; 0, the background, is what no region covers.
    void_id: see `clean_mask`.
    width_px: of the picture.
    height_px: of the picture.

  Returns:
    (uint8 [height_px, width_px], a Reject for each region that cannot be drawn).
  """
  from pycocotools import mask as coco_mask

  drawn, rejects = [], []
  for region in regions:
    try:
      if region.class_name not in class_ids:
        raise ValueError(
          f"class {region.class_name!r} is not among the classes {shorten(', '.join(class_ids))}"
        )
      encoded = _encode_region(region.segmentation, width_px, height_px)
      area = int(coco_mask.area(encoded))
      if not area:
        raise ValueError("its region covers no pixel")
      drawn.append((not region.is_crowd, -area, len(drawn), region, encoded))
    except ValueError as error:
      rejects.append(Reject(region.where, str(error)))
  ids = np.zeros((height_px, width_px), np.uint8)
  for _, _, _, region, encoded in sorted(drawn, key=lambda region: region[:3]):
    class_id = class_ids[region.class_name] if not region.is_crowd else void_id
    if class_id is not None:
      ids[coco_mask.decode(encoded).astype(bool)] = class_id
  return ids, rejects


def _encode_region(segmentation: Any, width_px: int, height_px: int) -> dict:
  """Run-length encoding of pycocotools; its C code gets nothing that was not checked."""
  from pycocotools import mask as coco_mask

  if isinstance(segmentation, dict):
    counts = _checked_counts(segmentation, width_px, height_px)
    return coco_mask.frPyObjects({"counts": counts, "size": [height_px, width_px]}, height_px, width_px)
  polygons = [_checked_polygon(polygon, width_px, height_px) for polygon in segmentation]
  return coco_mask.merge(coco_mask.frPyObjects(polygons, height_px, width_px))


def _checked_polygon(polygon: Any, width_px: int, height_px: int) -> list[float]:
  if not isinstance(polygon, list) or len(polygon) < _MIN_COORDINATES or len(polygon) % 2:
    raise ValueError(f"polygon {shorten(polygon)} is not x, y of three or more points")
  for number, value in enumerate(polygon):
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
      raise ValueError(f"polygon with {shorten(value)}, which is not a finite number")
    limit_px = height_px if number % 2 else width_px
    if not -_OUTSIDE_PX <= value <= limit_px + _OUTSIDE_PX:
      axis = "y" if number % 2 else "x"
      raise ValueError(
        f"polygon with {axis} {value:.10g} outside its picture of {width_px}x{height_px} pixels"
      )
  return [float(value) for value in polygon]


def _checked_counts(segmentation: Mapping[str, Any], width_px: int, height_px: int) -> list[int]:
  size, counts = segmentation.get("size"), segmentation.get("counts")
  if size != [height_px, width_px]:
    raise ValueError(
      f"run lengths of size {shorten(size)} where [{height_px}, {width_px}] is expected (height, width)"
    )
  if isinstance(counts, str):
    counts = run_lengths(counts)
  is_list = isinstance(counts, list) and all(isinstance(count, int) and count >= 0 for count in counts)
  if not is_list:
    raise ValueError(f"run lengths {shorten(counts)} are not whole numbers from 0")
  if sum(counts) != width_px * height_px:
    raise ValueError(
      f"run lengths of {sum(counts)} pixels together where the picture has {width_px * height_px}"
    )
  return [int(count) for count in counts]


def run_lengths(text: str) -> list[int]:
  """Run lengths of COCO's compressed form: 5 bits a letter, from the third one on as differences.

  Args:
    text: letters from chr(48) to chr(111).

  Raises:
    ValueError: another letter, or the text ends inside a number.

  Source: rleToString in common/maskApi.c of cocodataset/cocoapi.
  """
  counts: list[int] = []
  value, num_letters = 0, 0
  for letter in text:
    bits = ord(letter) - 48
    if not 0 <= bits < 64 or num_letters >= _MAX_RUN_LETTERS:
      raise ValueError(f"run lengths {shorten(text)} are no text that pycocotools writes")
    value |= (bits & 0x1F) << (5 * num_letters)
    num_letters += 1
    if bits & 0x20:
      continue
    if bits & 0x10:
      value -= 1 << (5 * num_letters)
    counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    value, num_letters = 0, 0
  if num_letters:
    raise ValueError(f"run lengths {shorten(text)} end inside a number")
  return counts
