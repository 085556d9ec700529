"""Boxes around objects, as every format of annotations tells them, and what makes one of them invalid."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Collection
from typing import Any, NamedTuple

from components.example_gen.image_cleaning import ImageInfo
from components.task import Reject

# Files that tell positions as fractions or with two decimals miss the edge of the picture by this much.
ROUNDING_PX = 0.1
_CORNERS = ("x_min", "y_min", "x_max", "y_max")
# A list of a million points is cut before it is written out, not after.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlevel = 3


class Box(NamedTuple):
  """One object. `where` names it in its annotation file; `corners` are x_min, y_min, x_max, y_max in pixels.

  `area` is what the file tells, in square pixels, or None.
  """

  where: str
  class_name: str
  corners: tuple[float, float, float, float]
  is_crowd: int = 0
  area: float | None = None


class Annotation(NamedTuple):
  """All that a file tells about one picture: its Boxes (or coco.Regions), what is wrong with others of its objects.

  `size_px` is its width and height as told there, or None.
  """

  objects: tuple[Any, ...] = ()
  rejects: tuple[Reject, ...] = ()
  size_px: tuple[Any, Any] | None = None


def to_number(value: Any, name: str) -> float:
  """A finite float of a number or of text.

  Args:
    value: an int, a float or a str.
    name: what the error calls it.

  Raises:
    ValueError: it is no number, or not finite.
  """
  if isinstance(value, bool) or not isinstance(value, (int, float, str)):
    raise ValueError(f"{name} is {shorten(value)}, which is not a number")
  try:
    number = float(value)
  except (ValueError, OverflowError):
    raise ValueError(f"{name} is {shorten(value)}, which is not a number") from None
  if not math.isfinite(number):
    raise ValueError(f"{name} is {shorten(value)}, which is not finite")
  return number


def shorten(value: Any) -> str:
  """A value as an error shows it, in one line of bounded length."""
  return _SHORT.repr(value)


def check_box(
  box: Box, width_px: int, height_px: int, classes: Collection[str] | None = None, clip: bool = False
) -> Box:
  """A box that lies inside its picture, with its area.

  Args:
    box: with any corners.
    width_px: of the picture.
    height_px: of the picture.
    classes: names that are allowed; None for all.
    clip: whether a box that is partly outside is cut at the picture's edges instead of refused.

  Returns:
    The box; up to `ROUNDING_PX` outside are moved to the edge. Without an area of the file's own it has its corners'.

  Raises:
    ValueError: the class is unknown, a corner is not finite, or the box is inverted, of no area or outside.
  """
  if not box.class_name:
    raise ValueError("object without a class name")
  if classes is not None and box.class_name not in classes:
    raise ValueError(f"class {box.class_name!r} is not among the classes {shorten(', '.join(classes))}")
  if not all(map(math.isfinite, box.corners)):
    raise ValueError(f"{describe(box)} is not finite")
  x_min, y_min, x_max, y_max = box.corners
  if x_max <= x_min or y_max <= y_min:
    what = "inverted" if x_max < x_min or y_max < y_min else "of no area"
    raise ValueError(f"{describe(box)} is {what}")
  corners = (max(x_min, 0.0), max(y_min, 0.0), min(x_max, float(width_px)), min(y_max, float(height_px)))
  picture = f"its picture of {width_px}x{height_px} pixels"
  if corners[2] <= corners[0] or corners[3] <= corners[1]:
    raise ValueError(f"{describe(box)} lies wholly outside {picture}")
  outside_px = max(abs(new - old) for new, old in zip(corners, box.corners, strict=True))
  if outside_px > ROUNDING_PX and not clip:
    raise ValueError(f"{describe(box)} reaches outside {picture}")
  area = box.area
  if area is None or not math.isfinite(area) or area <= 0:
    area = (corners[2] - corners[0]) * (corners[3] - corners[1])
  return box._replace(corners=corners, area=area)


def describe(box: Box) -> str:
  """Class and corners of a box in words, for the reason of a Reject."""
  corners = ", ".join(f"{name} {value:.10g}" for name, value in zip(_CORNERS, box.corners, strict=True))
  return f"{box.class_name!r} box with {corners}"


def size_problem(annotation: Annotation, where: str, info: ImageInfo) -> str:
  """What is wrong with the size that an annotation tells; "" where it tells none or the picture's own.

  Args:
    annotation: of the picture.
    where: the annotation's file, "" where that is not known.
    info: of the picture itself.
  """
  if annotation.size_px is None or tuple(annotation.size_px) == (info.width, info.height):
    return ""
  told = "x".join(f"{side:g}" if isinstance(side, float) else shorten(side) for side in annotation.size_px)
  return (
    f"its annotation {where or 'file'} tells {told} pixels, the picture itself has {info.width}x{info.height}"
  )
