"""Reader of pictures with boxes around objects: COCO, Pascal VOC and YOLO, told apart by what lies there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from components.example_gen import coco, voc, yolo
from components.example_gen.annotated_folder import (
  VALIDATION_FRACTION,
  DataSet,
  Item,
  Listing,
  PictureSizes,
  in_pieces,
  measure_pictures,
  open_data_set,
  read_files,
)
from components.example_gen.annotations import Annotation, check_box, size_problem
from components.example_gen.image import read_pictures
from components.example_gen.image_cleaning import MAX_PIXELS, ImageInfo
from components.example_gen.source import Source
from components.task import Reject, Row

EXPECTED_LAYOUTS = (
  "Pascal VOC (JPEGImages/ and Annotations/*.xml), COCO (pictures and a .json with images and annotations) or "
  "YOLO (images/ and labels/*.txt, with data.yaml or classes.txt)"
)
_MAX_ANNOTATION_BYTES = 2**26


@dataclasses.dataclass(frozen=True)
class DetectionChunk:
  """Pictures to be read in one go. `kind` is voc, coco or yolo; `prefix` stands before every annotation's name."""

  source: Source
  prefix: str
  kind: str
  items: tuple[Item, ...]
  rejects: tuple[Reject, ...]
  # Of YOLO, whose files hold their numbers.
  class_names: tuple[str, ...] = ()


class DetectionReader:
  """Reader of pictures with boxes in a folder, a .zip or a .tar that is not compressed.

  Each row has the features image (bytes that `tf.io.decode_image` decodes), path, width, height (pixels), format,
  boxes (list of float, x_min, y_min, x_max, y_max in pixels for each object, one after the other), classes (list of
  str), is_crowd (list of int, 0 or 1) and areas (list of float, square pixels). A picture's key and group is its path
  below the root. An object with a mistake is a reject, and its picture stays without it.

  Args:
    path: a folder, an archive, or a folder that holds nothing but one archive.
    classes: names that are allowed; None for all. For YOLO without a file of names these are the names.
    clip_boxes: whether boxes partly outside their picture are cut at its edges; they are rejects otherwise.
    max_pixels: larger pictures are rejects.
    examples_per_chunk: pictures in each piece of work.
    validation_fraction: share of train that becomes validation where the data set names two splits.
  """

  def __init__(
    self,
    path: str | None,
    classes: Sequence[str] | None = None,
    clip_boxes: bool = False,
    max_pixels: int = MAX_PIXELS,
    examples_per_chunk: int = 512,
    validation_fraction: float = VALIDATION_FRACTION,
  ):
    self.path = path
    self.classes = None if classes is None else tuple(classes)
    self.clip_boxes = clip_boxes
    self.max_pixels = max_pixels
    self.examples_per_chunk = examples_per_chunk
    self.validation_fraction = validation_fraction

  def chunks(self) -> Iterator[DetectionChunk]:
    """Pieces of work; which pictures are in which depends on the data set alone.

    Raises:
      ValueError: nothing there, a layout that is not known, or no annotation file that can be read.
    """
    data_set = open_data_set(self.path)
    kind, listing, class_names = self._listing(data_set)
    for items, rejects in in_pieces(listing, self.examples_per_chunk):
      yield DetectionChunk(data_set.source, data_set.prefix, kind, items, rejects, class_names)

  def probe(self, max_pictures: int = 200) -> PictureSizes:
    """Median height and width in pixels, and channels, of a sample of the annotated pictures.

    Raises:
      ValueError: none of them can be read, or see `chunks`.
    """
    data_set = open_data_set(self.path)
    _, listing, _ = self._listing(data_set)
    pictures = [item.picture for item in listing.items]
    return measure_pictures(data_set.source, pictures, self.max_pixels, max_pictures)

  def read(self, chunk: DetectionChunk) -> Iterator[Row | Reject]:
    """A Row for each whole picture and a Reject for each mistake, one picture in memory at a time."""
    yield from chunk.rejects
    annotations = [item.annotation for item in chunk.items if item.annotation is not None]
    texts = read_files(chunk.source, annotations, _MAX_ANNOTATION_BYTES)
    items = {item.picture.name: item for item in chunk.items}
    pictures = [item.picture for item in chunk.items]
    for entry, image, info, problem in read_pictures(chunk.source, pictures, self.max_pixels):
      item = items[entry.name]
      if problem:
        yield Reject(item.key, problem)
        continue
      text = texts[item.annotation.name] if item.annotation is not None else (None, "")
      yield from self._checked(chunk, item, text, image, info)

  def _listing(self, data_set: DataSet) -> tuple[str, Listing, tuple[str, ...]]:
    if voc.is_voc(data_set):
      return "voc", voc.list_voc(data_set, self.validation_fraction), ()
    files = coco.read_coco_files(data_set, with_masks=False)
    if files.documents:
      return "coco", coco.list_coco_boxes(data_set, files, self.validation_fraction), ()
    if yolo.is_yolo(data_set):
      names = yolo.class_names(data_set) or self.classes
      if not names:
        raise ValueError(
          f"{data_set.path}: YOLO's labels without names: add classes.txt, one class name a line"
        )
      return "yolo", yolo.list_yolo(data_set, self.validation_fraction), tuple(names)
    if files.rejects:
      first = files.rejects[0]
      raise ValueError(f"{data_set.path}: {first.path}: {first.reason}")
    raise ValueError(f"{data_set.path}: no annotated pictures; expected {EXPECTED_LAYOUTS}")

  def _checked(
    self, chunk: DetectionChunk, item: Item, text: tuple[bytes | None, str], image: bytes, info: ImageInfo
  ) -> Iterator[Row | Reject]:
    """The Row of a whole picture, behind the rejects of its objects."""
    where = item.annotation.name.removeprefix(chunk.prefix) if item.annotation is not None else ""
    try:
      annotation = _annotation(chunk, item, text, where, info)
    except ValueError as error:
      yield Reject(where, f"{error}; its picture {item.key} is left out")
      return
    problem = size_problem(annotation, where, info)
    if problem:
      yield Reject(item.key, problem)
      return
    yield from annotation.rejects
    boxes = []
    for box in annotation.objects:
      try:
        boxes.append(check_box(box, info.width, info.height, self.classes, self.clip_boxes))
      except ValueError as error:
        yield Reject(box.where, str(error))
    features = {
      "image": image,
      "path": item.key,
      "width": info.width,
      "height": info.height,
      "format": info.format,
      "boxes": [corner for box in boxes for corner in box.corners],
      "classes": [box.class_name for box in boxes],
      "is_crowd": [box.is_crowd for box in boxes],
      "areas": [box.area for box in boxes],
    }
    yield Row(item.key, features, group=item.key, split=item.split)


def _annotation(
  chunk: DetectionChunk, item: Item, text: tuple[bytes | None, str], where: str, info: ImageInfo
) -> Annotation:
  """What is told about a picture; raises ValueError where nothing of it can be read."""
  if item.content is not None:
    return item.content
  if item.annotation is None:
    return Annotation()
  data, problem = text
  if data is None:
    raise ValueError(problem)
  if chunk.kind == "voc":
    return voc.parse_voc(data, where)
  return yolo.parse_yolo(data, where, chunk.class_names, info.width, info.height)
