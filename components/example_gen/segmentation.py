"""Reader of pictures with a class for each pixel: images/ and masks/ with classes.txt, or COCO's regions."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence

from components.example_gen import coco
from components.example_gen.annotated_folder import (
  VALIDATION_FRACTION,
  DataSet,
  Item,
  Listing,
  PictureSizes,
  doubled_rejects,
  in_pieces,
  measure_pictures,
  open_data_set,
  pair_by_stem,
  read_files,
  settle_splits,
  split_of_path,
)
from components.example_gen.annotations import size_problem
from components.example_gen.image import read_pictures
from components.example_gen.image_cleaning import MAX_PIXELS, ImageInfo
from components.example_gen.masks import MAX_CLASSES, clean_mask, draw_regions, encode_mask
from components.example_gen.source import Entry, Source
from components.task import Reject, Row

EXPECTED_LAYOUTS = (
  "images/ and masks/ (PNG of class ids, of the pictures' names) with classes.txt, or COCO (pictures and a .json "
  "with images, annotations and categories)"
)
BACKGROUND = "background"
_CLASSES_NAME = "classes.txt"
_MASK_FOLDERS = ("masks", "mask")
_MAX_CLASSES_BYTES = 2**20
# Grey masks of 16 bits take two bytes a pixel; the rest is for headers and comments.
_MAX_BYTES_PER_PIXEL = 2
_MAX_HEADER_BYTES = 2**26


@dataclasses.dataclass(frozen=True)
class SegmentationChunk:
  """Pictures to be read in one go; a class's id is its place in `classes`. `prefix` stands before all names."""

  source: Source
  prefix: str
  items: tuple[Item, ...]
  rejects: tuple[Reject, ...]
  classes: tuple[str, ...]


class SegmentationReader:
  """Reader of pictures with masks in a folder, a .zip or a .tar that is not compressed.

  Each row has the features image (bytes that `tf.io.decode_image` decodes), mask (PNG bytes, 8-bit grey, the value of
  a pixel is its class id), path, width, height (pixels) and format (of the picture). A picture's key and group is its
  path below the root.

  Args:
    path: a folder, an archive, or a folder that holds nothing but one archive.
    classes: names by their ids; None for what `find_classes` finds.
    void_id: the id of pixels of no class, 0 to 255; None where there are none.
    max_pixels: larger pictures are rejects.
    examples_per_chunk: pictures in each piece of work.
    validation_fraction: share of train that becomes validation where the data set names two splits.

  Raises:
    ValueError: void_id is no value of 8 bits.
  """

  def __init__(
    self,
    path: str | None,
    classes: Sequence[str] | None = None,
    void_id: int | None = None,
    max_pixels: int = MAX_PIXELS,
    examples_per_chunk: int = 512,
    validation_fraction: float = VALIDATION_FRACTION,
  ):
    if void_id is not None and not 0 <= void_id < MAX_CLASSES:
      raise ValueError(f"void_id is {void_id}: masks hold 0 to {MAX_CLASSES - 1}")
    self.path = path
    self.classes = None if classes is None else tuple(classes)
    self.void_id = void_id
    self.max_pixels = max_pixels
    self.examples_per_chunk = examples_per_chunk
    self.validation_fraction = validation_fraction

  def chunks(self) -> Iterator[SegmentationChunk]:
    """Pieces of work; which pictures are in which depends on the data set alone.

    Raises:
      ValueError: nothing there, a layout that is not known, or no names of classes.
    """
    data_set = open_data_set(self.path)
    files = _coco_files(data_set)
    classes = self.classes or _classes(data_set, files)
    listing = self._listing(data_set, files)
    for items, rejects in in_pieces(listing, self.examples_per_chunk):
      yield SegmentationChunk(data_set.source, data_set.prefix, items, rejects, classes)

  def probe(self, max_pictures: int = 200) -> PictureSizes:
    """Median height and width in pixels, and channels, of a sample of the pictures with masks.

    Raises:
      ValueError: none of them can be read, or see `chunks`.
    """
    data_set = open_data_set(self.path)
    pictures = [item.picture for item in self._listing(data_set, _coco_files(data_set)).items]
    return measure_pictures(data_set.source, pictures, self.max_pixels, max_pictures)

  def read(self, chunk: SegmentationChunk) -> Iterator[Row | Reject]:
    """A Row for each whole picture and a Reject for each mistake, one picture in memory at a time."""
    yield from chunk.rejects
    items = {item.picture.name: item for item in chunk.items}
    pictures = [item.picture for item in chunk.items]
    for entry, image, info, problem in read_pictures(chunk.source, pictures, self.max_pixels):
      item = items[entry.name]
      if problem:
        yield Reject(item.key, problem)
        continue
      mask = None
      for found in self._mask(chunk, item, info):
        if isinstance(found, Reject):
          yield found
        else:
          mask = found
      if mask is None:
        continue
      features = {
        "image": image,
        "mask": mask,
        "path": item.key,
        "width": info.width,
        "height": info.height,
        "format": info.format,
      }
      yield Row(item.key, features, group=item.key, split=item.split)

  def _listing(self, data_set: DataSet, files: coco.CocoFiles | None) -> Listing:
    if files is None:
      return _list_masks(data_set, self.validation_fraction)
    return coco.list_coco_regions(data_set, files, self.validation_fraction)

  def _mask(self, chunk: SegmentationChunk, item: Item, info: ImageInfo) -> Iterator[bytes | Reject]:
    """PNG bytes where there is a mask, and what is wrong."""
    if item.annotation is None:
      problem = size_problem(item.content, "", info)
      if problem:
        yield Reject(item.key, problem)
        return
      yield from item.content.rejects
      class_ids = {name: number for number, name in enumerate(chunk.classes)}
      ids, rejects = draw_regions(item.content.objects, class_ids, self.void_id, info.width, info.height)
      yield from rejects
      yield encode_mask(ids)
      return
    where = item.annotation.name.removeprefix(chunk.prefix)
    max_bytes = _MAX_BYTES_PER_PIXEL * self.max_pixels + _MAX_HEADER_BYTES
    ((data, problem),) = read_files(chunk.source, [item.annotation], max_bytes).values()
    try:
      if data is None:
        raise ValueError(problem)
      mask = clean_mask(data, len(chunk.classes), self.void_id, self.max_pixels)
      if (mask.width, mask.height) != (info.width, info.height):
        sizes = f"a mask of {mask.width}x{mask.height} pixels for a picture of {info.width}x{info.height}"
        raise ValueError(sizes)
    except ValueError as error:
      yield Reject(where, f"{error}; its picture {item.key} is left out")
      return
    yield mask.data


def find_classes(path: str | None) -> tuple[str, ...]:
  """Names of the classes by their ids.

  Args:
    path: a folder or an archive.

  Returns:
    The lines of classes.txt, or of COCO "background" and the categories in the order of their ids.

  Raises:
    ValueError: nothing there, or no names of classes.
  """
  data_set = open_data_set(path)
  return _classes(data_set, _coco_files(data_set))


def _coco_files(data_set: DataSet) -> coco.CocoFiles | None:
  """The annotation files of a data set in COCO's form; None where there are masks.

  Raises:
    ValueError: there are neither masks nor annotation files that can be read.
  """
  if any(map(_is_mask, data_set.pictures)):
    return None
  files = coco.read_coco_files(data_set, with_masks=True)
  if files.documents:
    return files
  if files.rejects:
    raise ValueError(f"{data_set.path}: {files.rejects[0].path}: {files.rejects[0].reason}")
  raise ValueError(f"{data_set.path}: no pictures with masks; expected {EXPECTED_LAYOUTS}")


def _is_mask(entry: Entry) -> bool:
  return any(folder.lower() in _MASK_FOLDERS for folder in entry.name.split("/")[:-1])


def _classes(data_set: DataSet, files: coco.CocoFiles | None) -> tuple[str, ...]:
  if files is not None:
    return _coco_classes(data_set, files.documents)
  texts = [entry for entry in data_set.others if os.path.basename(entry.name).lower() == _CLASSES_NAME]
  if not texts:
    remedy = "add one with one class name a line; the first line is the class of id 0"
    raise ValueError(f"{data_set.path}: no {_CLASSES_NAME}: {remedy}")
  nearest = min(texts, key=lambda entry: (entry.name.count("/"), entry.name))
  ((data, problem),) = read_files(data_set.source, [nearest], _MAX_CLASSES_BYTES).values()
  where = f"{data_set.path}: {data_set.key(nearest)}"
  if data is None:
    raise ValueError(f"{where}: {problem}")
  try:
    text = data.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise ValueError(f"{where}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
  return _checked_classes([line.strip() for line in text.rstrip().splitlines()], where)


def _checked_classes(names: Sequence[str], where: str) -> tuple[str, ...]:
  for number, name in enumerate(names, 1):
    if not name:
      raise ValueError(
        f"{where} line {number} is empty: the number of a line is a class's id, so give it a name"
      )
    if name in names[: number - 1]:
      raise ValueError(
        f"{where} line {number}: {name!r} stands there already: give each class a name of its own"
      )
  if not 0 < len(names) <= MAX_CLASSES:
    raise ValueError(f"{where}: {len(names)} classes: 1 to {MAX_CLASSES} are possible")
  return tuple(names)


def _coco_classes(data_set: DataSet, documents: Iterable[coco.CocoFile]) -> tuple[str, ...]:
  categories = {pair for document in documents for pair in document.categories.items()}
  ordered = sorted(categories, key=lambda pair: (isinstance(pair[0], str), pair))
  names = list(dict.fromkeys([BACKGROUND, *(name for _, name in ordered)]))
  if len(names) < 2:
    raise ValueError(f"{data_set.path}: no categories in its JSON: add categories with id and name")
  return _checked_classes(names, data_set.path)


def _list_masks(data_set: DataSet, validation_fraction: float) -> Listing:
  pictures = [entry for entry in data_set.pictures if not _is_mask(entry)]
  found = pair_by_stem(pictures, filter(_is_mask, data_set.pictures))
  rejects = doubled_rejects(data_set, found.doubled)
  for entry in found.lone_pictures:
    rejects.append(Reject(data_set.key(entry), "its mask is missing: none in masks/ has its name"))
  for entry in found.lone_annotations:
    rejects.append(Reject(data_set.key(entry), "the picture of this mask is missing: none has its name"))
  items = [
    Item(picture, data_set.key(picture), mask, split=split_of_path(data_set.key(picture)))
    for picture, mask in found.pairs
  ]
  settled = settle_splits(items, validation_fraction)
  return Listing(settled.items, (*data_set.rejects, *rejects, *settled.rejects))
