"""Pictures for people: boxes and masks drawn over a picture, and masks as files."""

from __future__ import annotations

import colorsys
import io
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFilter, ImageFont

__all__ = ["class_colour", "draw_boxes", "mask_png", "overlay_mask"]

Colour = tuple[int, int, int]
# Left, top, right and bottom pixel, the last ones included.
Rectangle = tuple[int, int, int, int]

# Okabe and Ito's colours without black, then Tol's muted ones: apart from each other for colour-blind eyes too.
_OKABE_ITO = "#0072B2 #E69F00 #009E73 #CC79A7 #56B4E9 #D55E00 #F0E442"
_COLOURS = f"{_OKABE_ITO} #332288 #882255 #999933 #44AA99 #117733 #AA4499".split()
_MIN_SIDE_PX = 320
_MAX_LETTERS = 200
# Above this many boxes lines and tags are made smaller.
_MANY_BOXES = 12


def class_colour(position: int) -> Colour:
  """The colour of a class, always the same for the same position.

  Args:
    position: of the class in the list of classes without background, from 0. The first 13 colours are meant for
      colour-blind eyes too; further ones merely differ.

  Returns:
    (red, green, blue), each 0 to 255.

  Source: Okabe and Ito 2008, https://jfly.uni-koeln.de/color/; Tol 2021, https://personal.sron.nl/~pault/
  """
  if position < len(_COLOURS):
    return ImageColor.getrgb(_COLOURS[position])
  further = position - len(_COLOURS)
  # The golden ratio keeps neighbouring hues apart however many there are.
  hue = further * (math.sqrt(5) - 1) / 2 % 1
  rgb = colorsys.hls_to_rgb(hue, (0.45, 0.65, 0.3)[further % 3], (0.9, 0.6)[further % 2])
  return tuple(round(255 * part) for part in rgb)


# uint8 [256, 3]: the colours of class ids, of which 0 is mostly the background.
_ID_COLOURS = np.array([(0, 0, 0), *(class_colour(position) for position in range(255))], np.uint8)


def _text_colour(ground: Colour) -> str:
  """Black or white, whichever contrasts more (the relative luminance of WCAG 2)."""
  linear = [(part / 255 + 0.055) ** 2.4 / 1.055**2.4 if part > 10 else part / 255 / 12.92 for part in ground]
  luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
  return "black" if luminance > 0.179 else "white"


def _open_enlarged(image_bytes: bytes) -> tuple[Image.Image, int]:
  """The picture in RGB, and the whole number by which its sides were multiplied."""
  with Image.open(io.BytesIO(image_bytes)) as opened:
    picture = opened.convert("RGB")
  factor = -(-_MIN_SIDE_PX // max(picture.size))
  size = picture.width * factor, picture.height * factor
  return picture.resize(size, Image.Resampling.NEAREST), factor


def _encode_png(picture: Image.Image) -> bytes:
  encoded = io.BytesIO()
  picture.save(encoded, "PNG")
  return encoded.getvalue()


def draw_boxes(
  image_bytes: bytes,
  boxes: np.ndarray | Sequence,
  labels: Sequence[str],
  scores: Sequence[float] | None = None,
  class_names: Sequence[str] | None = None,
) -> bytes:
  """A picture with its boxes, each in the colour of its class, with a tag that names it.

  Boxes are clipped to the picture. Those without any part inside, without area or not finite are left out.

  Args:
    image_bytes: an encoded picture.
    boxes: float [n, 4] or [4 n]: x_min, y_min, x_max, y_max of each in pixels of the picture.
    labels: the n boxes' classes.
    scores: the n boxes' scores in [0, 1], or None to show none.
    class_names: all classes, whose order gives the colours; None for the sorted labels.

  Returns:
    PNG bytes, RGB; a picture whose longer side is below 320 pixels is enlarged, each pixel to a square.

  Raises:
    ValueError: the numbers of boxes, labels and scores differ, or a label is not in `class_names`.
  """
  rows = np.asarray(boxes, np.float64).reshape(-1, 4)
  labels = [str(label) for label in labels]
  names = sorted(set(labels)) if class_names is None else list(class_names)
  _check_boxes(len(rows), labels, scores, names)
  picture, factor = _open_enlarged(image_bytes)
  drawn = []
  for index in _drawing_order(rows, scores):
    rectangle = _visible_rectangle(rows[index] * factor, picture.size)
    if rectangle:
      tag = labels[index] if scores is None else f"{labels[index]} {float(scores[index]):.2f}"
      drawn.append((rectangle, class_colour(names.index(labels[index])), tag))
  _paint_boxes(picture, drawn)
  return _encode_png(picture)


def _check_boxes(num_boxes: int, labels: list[str], scores: Sequence[float] | None, names: list[str]) -> None:
  num_scores = num_boxes if scores is None else len(scores)
  if len(labels) != num_boxes or num_scores != num_boxes:
    raise ValueError(
      f"{num_boxes} boxes, {len(labels)} labels, {num_scores} scores: give each box one of each"
    )
  unknown = sorted(set(labels) - set(names))
  if unknown:
    raise ValueError(f"class {unknown[0]!r} is not in class_names {names}; add it there")


def _drawing_order(rows: np.ndarray, scores: Sequence[float] | None) -> np.ndarray:
  """The likeliest last, lest another lie over it; without scores small boxes over large ones."""
  if scores is not None:
    return np.argsort(np.asarray(scores, np.float64), kind="stable")
  return np.argsort(-(rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1]), kind="stable")


def _visible_rectangle(box: np.ndarray, size: tuple[int, int]) -> Rectangle | None:
  (x_min, y_min), (x_max, y_max) = np.maximum(box[:2], 0), np.minimum(box[2:], size)
  if not np.isfinite(box).all() or x_max <= x_min or y_max <= y_min:
    return None
  left, top = min(round(x_min), size[0] - 1), min(round(y_min), size[1] - 1)
  return left, top, max(round(x_max) - 1, left), max(round(y_max) - 1, top)


def _paint_boxes(picture: Image.Image, drawn: Sequence[tuple[Rectangle, Colour, str]]) -> None:
  """Draws all rectangles in their colours, then all tags, which nothing may cover."""
  draw = ImageDraw.Draw(picture)
  longer_px = max(picture.size)
  is_dense = len(drawn) > _MANY_BOXES
  line_px = max(round(longer_px / (400 if is_dense else 200)), 1)
  for rectangle, colour, _ in drawn:
    # A line wider than half of its box would leave it.
    is_thin = min(rectangle[2] - rectangle[0], rectangle[3] - rectangle[1]) < 2 * line_px
    draw.rectangle(rectangle, colour if is_thin else None, None if is_thin else colour, line_px)
  font = ImageFont.load_default(max(round(longer_px / (60 if is_dense else 42)), 10))
  height_px, taken = sum(font.getmetrics()), []
  for rectangle, colour, tag in reversed(drawn):
    text = _fitting(tag, font, picture.width - 2 * line_px)
    width_px = math.ceil(font.getlength(text)) + 2 * line_px
    place = _tag_place(rectangle, (width_px, height_px), picture.size, taken)
    taken.append(place)
    draw.rectangle(place, fill=colour)
    draw.text((place[0] + line_px, place[1]), text, _text_colour(colour), font)


def _fitting(text: str, font: ImageFont.FreeTypeFont, width_px: float) -> str:
  """The text in one line, shortened where it is wider than there is room."""
  whole = " ".join(text.split())
  text = whole[:_MAX_LETTERS]
  while text and font.getlength(text if text == whole else text + "...") > width_px:
    text = text[:-1]
  return text if text in ("", whole) else text + "..."


def _tag_place(
  rectangle: Rectangle, tag_size: tuple[int, int], size: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle:
  """Where a tag hides least of other tags: above its box, in a corner of it or below, always in the picture."""
  left, top, right, bottom = rectangle
  width_px, height_px = tag_size
  lefts, tops = (left, right + 1 - width_px), (top - height_px, top, bottom + 1 - height_px, bottom + 1)
  places = []
  for y, x in itertools.product(tops, lefts):
    x = min(max(x, 0), max(size[0] - width_px, 0))
    y = min(max(y, 0), max(size[1] - height_px, 0))
    places.append((x, y, x + width_px - 1, y + height_px - 1))
  others = np.array(taken, np.int64).reshape(-1, 4)
  return min(places, key=lambda place: _overlap_px(place, others))


def _overlap_px(place: Rectangle, others: np.ndarray) -> int:
  starts, ends = np.maximum(place[:2], others[:, :2]), np.minimum(place[2:], others[:, 2:])
  return int(np.maximum(ends - starts + 1, 0).prod(axis=1).sum())


def _checked_ids(class_ids: np.ndarray) -> np.ndarray:
  ids = np.asarray(class_ids)
  if ids.ndim != 2 or not ids.size or not np.issubdtype(ids.dtype, np.integer):
    raise ValueError(f"mask of {ids.dtype} {list(ids.shape)}: give whole numbers [height, width]")
  if ids.min() < 0 or ids.max() > 255:
    raise ValueError(f"mask with class ids {ids.min()} to {ids.max()}: an 8-bit picture holds 0 to 255")
  return ids.astype(np.uint8)


def mask_png(class_ids: np.ndarray) -> bytes:
  """A mask as a file for programs.

  Args:
    class_ids: whole numbers from 0 to 255, [height, width].

  Returns:
    PNG bytes, 8-bit grey; a pixel's value is its class id.

  Raises:
    ValueError: the shape, dtype or a value is another.
  """
  return _encode_png(Image.fromarray(_checked_ids(class_ids)))


def overlay_mask(
  image_bytes: bytes,
  class_ids: np.ndarray,
  class_names: Sequence[str],
  alpha: float = 0.45,
  with_legend: bool = True,
) -> bytes:
  """A picture tinted by the classes of its pixels, with contours, and below it which classes these are.

  Pixels of class 0 are left as they are if it is called "background", and so are those of ids without a name.

  Args:
    image_bytes: an encoded picture.
    class_ids: uint8 [height, width], of the picture's size.
    class_names: the classes' names, in the order of their ids from 0.
    alpha: the tint's opacity in [0, 1].
    with_legend: whether the classes are named below.

  Returns:
    PNG bytes, RGB: the picture, enlarged as by `draw_boxes`, and under it the legend: colour, name and share of all
    pixels of each class present.

  Raises:
    ValueError: mask and picture differ in size, or see `mask_png`.
  """
  ids = _checked_ids(class_ids)
  picture, factor = _open_enlarged(image_bytes)
  size = [picture.height // factor, picture.width // factor]
  if list(ids.shape) != size:
    raise ValueError(
      f"mask [height, width] {list(ids.shape)}, picture {size}: resize the mask to the picture"
    )
  tinted = _tinted(picture, ids, class_names, alpha)
  return _encode_png(_with_legend(tinted, ids, class_names) if with_legend else tinted)


def _is_tinted(class_id: int, class_names: Sequence[str]) -> bool:
  return class_id < len(class_names) and (class_id > 0 or class_names[0] != "background")


def _tinted(picture: Image.Image, ids: np.ndarray, class_names: Sequence[str], alpha: float) -> Image.Image:
  mask = Image.fromarray(ids).resize(picture.size, Image.Resampling.NEAREST)
  colours = Image.fromarray(_ID_COLOURS[np.asarray(mask)])
  is_tinted = mask.point([255 * _is_tinted(class_id, class_names) for class_id in range(256)])
  tinted = Image.composite(Image.blend(picture, colours, alpha), picture, is_tinted)
  # Where the largest and the smallest id nearby differ there is a border.
  reach = 2 * max(round(max(picture.size) / 640), 1) + 1
  nearby = [np.asarray(mask.filter(kind(reach))) for kind in (ImageFilter.MinFilter, ImageFilter.MaxFilter)]
  is_contour = (nearby[0] != nearby[1]) & (np.asarray(is_tinted) > 0)
  tinted.paste(colours, mask=Image.fromarray(is_contour.astype(np.uint8) * 255))
  return tinted


def _legend_entries(ids: np.ndarray, class_names: Sequence[str]) -> Iterator[tuple[Colour, str]]:
  """(colour, text) of each id present, in their order; white is what is not tinted."""
  counts = np.bincount(ids.ravel())
  for class_id in np.flatnonzero(counts).tolist():
    name = class_names[class_id] if class_id < len(class_names) else f"id {class_id}, no name"
    colour = tuple(_ID_COLOURS[class_id].tolist()) if _is_tinted(class_id, class_names) else (255, 255, 255)
    yield colour, f"{name} {100 * counts[class_id] / ids.size:.1f} %"


def _with_legend(picture: Image.Image, ids: np.ndarray, class_names: Sequence[str]) -> Image.Image:
  width_px = max(picture.width, _MIN_SIDE_PX)
  text_px = max(round(max(picture.size) / 45), 11)
  gap_px, row_px = text_px // 2, round(text_px * 1.6)
  font = ImageFont.load_default(text_px)
  placed, x, y = [], gap_px, gap_px
  for colour, text in _legend_entries(ids, class_names):
    text = _fitting(text, font, width_px - text_px - 3 * gap_px)
    entry_px = text_px + gap_px + math.ceil(font.getlength(text))
    if x > gap_px and x + entry_px + gap_px > width_px:
      x, y = gap_px, y + row_px
    placed.append((x, y, colour, text))
    x += entry_px + 2 * gap_px
  canvas = Image.new("RGB", (width_px, picture.height + y + row_px), "white")
  canvas.paste(picture, ((width_px - picture.width) // 2, 0))
  draw = ImageDraw.Draw(canvas)
  for x, y, colour, text in placed:
    top = picture.height + y
    draw.rectangle((x, top, x + text_px - 1, top + text_px - 1), fill=colour, outline="black")
    draw.text((x + text_px + gap_px, top + text_px / 2), text, "black", font, anchor="lm")
  return canvas
