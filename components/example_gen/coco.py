"""COCO: one JSON file with images, annotations and categories for a whole data set or a split of it.

Source: Lin et al., Microsoft COCO: Common Objects in Context, 2014, arXiv:1405.0312; cocodataset.org/#format-data
"""

from __future__ import annotations

import collections
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from components.example_gen.annotated_folder import DataSet, Item, Listing, read_files, settle_splits
from components.example_gen.annotations import Annotation, Box, shorten, to_number
from components.example_gen.coco_pictures import PictureFinder, split_of_words
from components.task import Reject

_MAX_JSON_BYTES = 2**32
# Keys of annotations in files of the same form that are about something else: captions and panoptic segmentation.
_OTHER_KINDS = ("caption", "segments_info")


class CocoFile(NamedTuple):
  """A JSON file that was read; `where` is its name below the root."""

  where: str
  images: list
  annotations: list
  categories: dict[Any, str]


class CocoFiles(NamedTuple):
  """The annotation files of a data set, and those that cannot be read."""

  documents: tuple[CocoFile, ...]
  rejects: tuple[Reject, ...]


class Region(NamedTuple):
  """The pixels of one object: a list of polygons [x, y, x, y, ...], or a run-length encoding as a dict."""

  where: str
  class_name: str
  segmentation: Any
  is_crowd: int = 0


def read_coco_files(data_set: DataSet, with_masks: bool) -> CocoFiles:
  """Reads all JSON files that have images and annotations; instances_*.json alone where there are such.

  Args:
    data_set: of any layout.
    with_masks: whether to keep polygons and run-length encodings, which are most of a file.
  """
  entries = data_set.others_ending(".json")
  instances = [entry for entry in entries if os.path.basename(entry.name).lower().startswith("instances")]
  documents, rejects = [], []
  for entry in instances or entries:
    where = data_set.key(entry)
    ((data, problem),) = read_files(data_set.source, [entry], _MAX_JSON_BYTES).values()
    if data is None:
      rejects.append(Reject(where, problem))
      continue
    try:
      document = json.loads(data, object_hook=None if with_masks else _without_masks)
    except (ValueError, RecursionError) as error:
      rejects.append(Reject(where, f"broken JSON: {error}"))
      continue
    if _is_coco(document):
      documents.append(CocoFile(where, document["images"], document["annotations"], _categories(document)))
  return CocoFiles(tuple(documents), tuple(rejects))


def _without_masks(value: dict) -> dict:
  value.pop("segmentation", None)
  return value


def _is_coco(document: Any) -> bool:
  if not isinstance(document, dict):
    return False
  images, annotations = document.get("images"), document.get("annotations")
  if not isinstance(images, list) or not isinstance(annotations, list):
    return False
  first = annotations[0] if annotations else None
  return not (isinstance(first, dict) and any(key in first for key in _OTHER_KINDS))


def _categories(document: Mapping[str, Any]) -> dict[Any, str]:
  categories = document.get("categories")
  return {
    category["id"]: category["name"].strip()
    for category in (categories if isinstance(categories, list) else ())
    if isinstance(category, dict) and _is_id(category.get("id")) and isinstance(category.get("name"), str)
  }


def _is_id(value: Any) -> bool:
  return isinstance(value, (int, str)) and not isinstance(value, bool)


def list_coco_boxes(data_set: DataSet, files: CocoFiles, validation_fraction: float) -> Listing:
  """Pictures whose items hold an Annotation with Boxes; see `list_coco`."""
  return list_coco(data_set, files, validation_fraction, _box)


def list_coco_regions(data_set: DataSet, files: CocoFiles, validation_fraction: float) -> Listing:
  """Pictures whose items hold an Annotation with Regions; see `list_coco`."""
  return list_coco(data_set, files, validation_fraction, _region)


def _box(annotation: Mapping[str, Any], class_name: str, where: str) -> Box:
  bbox = annotation.get("bbox")
  if not isinstance(bbox, list) or len(bbox) != 4:
    raise ValueError(f"bbox is {shorten(bbox)} where [x, y, width, height] is expected")
  try:
    x, y, width, height = map(_json_number, bbox)
  except ValueError as error:
    raise ValueError(f"bbox {shorten(bbox)}: {error}") from None
  corners = (x, y, x + width, y + height)
  return Box(where, class_name, corners, _is_crowd(annotation), _area(annotation))


def _area(annotation: Mapping[str, Any]) -> float | None:
  """What the file tells; None, so that the box's own counts, where it is no number."""
  try:
    return _json_number(annotation.get("area"))
  except ValueError:
    return None


def _json_number(value: Any) -> float:
  if isinstance(value, str):
    raise ValueError(f"a value is {shorten(value)}, which is not a number")
  return to_number(value, "a value")


def _region(annotation: Mapping[str, Any], class_name: str, where: str) -> Region:
  segmentation = annotation.get("segmentation")
  if not segmentation or not isinstance(segmentation, (list, dict)):
    raise ValueError(
      f"segmentation is {shorten(segmentation)} where polygons or a run-length encoding are expected"
    )
  return Region(where, class_name, segmentation, _is_crowd(annotation))


def _is_crowd(annotation: Mapping[str, Any]) -> int:
  return int(annotation.get("iscrowd") in (1, True, "1"))


def list_coco(
  data_set: DataSet,
  files: CocoFiles,
  validation_fraction: float,
  to_object: Callable[[Mapping[str, Any], str, str], Any],
) -> Listing:
  """Pictures with what the JSON files tell about them, and everything that does not fit together.

  Args:
    data_set: the files beside the JSON.
    files: what `read_coco_files` found.
    validation_fraction: see `settle_splits`.
    to_object: (annotation, class name, where it stands) -> Box or Region; raises ValueError where it is none.
  """
  finder = PictureFinder(data_set)
  items: dict[str, Item] = {}
  rejects = [*data_set.rejects, *files.rejects]
  told_in: dict[str, str] = {}
  folders = set()
  for file in files.documents:
    contents, more = _contents(file, to_object)
    rejects += more
    for image_id, record, content in contents:
      where = f"{file.where} image {image_id}"
      try:
        picture = finder.find(record, file.where)
        if picture.name in told_in:
          raise ValueError(
            f"its picture {data_set.key(picture)} is told a second time; first in {told_in[picture.name]}"
          )
      except ValueError as error:
        rejects.append(Reject(where, str(error)))
        continue
      told_in[picture.name] = where
      folders.add(picture.name.rpartition("/")[0])
      key = data_set.key(picture)
      items[key] = Item(picture, key, content=content, split=_split(file.where, key))
  # Folders of which nothing is listed, such as test pictures without annotations, are not meant.
  rejects += [
    Reject(data_set.key(entry), "listed in no annotation file")
    for entry in data_set.pictures
    if entry.name not in told_in and entry.name.rpartition("/")[0] in folders
  ]
  settled = settle_splits([items[key] for key in sorted(items)], validation_fraction)
  return Listing(settled.items, (*rejects, *settled.rejects))


def _contents(
  file: CocoFile, to_object: Callable[[Mapping[str, Any], str, str], Any]
) -> tuple[list[tuple[Any, Mapping[str, Any], Annotation]], list[Reject]]:
  """(id, record, Annotation) of each image of a file, and what belongs to no image."""
  records, rejects = _records(file)
  objects, bad = collections.defaultdict(list), collections.defaultdict(list)
  seen = set()
  for number, annotation in enumerate(file.annotations, 1):
    where, image_id = f"{file.where} annotation {number}", None
    try:
      if not isinstance(annotation, dict):
        raise ValueError(f"{shorten(annotation)} is no annotation")
      if _is_id(annotation.get("id")):
        where = f"{file.where}#{annotation['id']}"
      image_id = annotation.get("image_id")
      if not _is_id(image_id) or image_id not in records:
        image_id = None
        raise ValueError(f"image_id {shorten(annotation.get('image_id'))} is not among the images")
      if where in seen:
        raise ValueError(f"annotation id {annotation['id']} stands there twice; the first one counts")
      seen.add(where)
      objects[image_id].append(to_object(annotation, _class_name(annotation, file), where))
    except ValueError as error:
      (rejects if image_id is None else bad[image_id]).append(Reject(where, str(error)))
  return [
    (image_id, record, Annotation(tuple(objects[image_id]), tuple(bad[image_id]), _size_px(record)))
    for image_id, record in records.items()
  ], rejects


def _class_name(annotation: Mapping[str, Any], file: CocoFile) -> str:
  category_id = annotation.get("category_id")
  if not _is_id(category_id) or category_id not in file.categories:
    raise ValueError(f"category_id {shorten(category_id)} is not among the categories")
  return file.categories[category_id]


def _records(file: CocoFile) -> tuple[dict[Any, Mapping[str, Any]], list[Reject]]:
  records, rejects = {}, []
  for number, record in enumerate(file.images, 1):
    is_record = (
      isinstance(record, dict) and _is_id(record.get("id")) and isinstance(record.get("file_name"), str)
    )
    if not is_record:
      rejects.append(
        Reject(f"{file.where} image number {number}", f"{shorten(record)} lacks an id or a file_name")
      )
    elif record["id"] in records:
      reason = f"image id {record['id']} stands there twice; the first one counts"
      rejects.append(
        Reject(f"{file.where} image {record['id']}", f"{reason} ({shorten(record['file_name'])} does not)")
      )
    else:
      records[record["id"]] = record
  return records, rejects


def _size_px(record: Mapping[str, Any]) -> tuple[Any, Any] | None:
  size = (record.get("width"), record.get("height"))
  return size if any(size) else None


def _split(where: str, key: str) -> str | None:
  """The split that the JSON's name tells, else the picture's folders, else the JSON's folders."""
  folder, _, name = where.rpartition("/")
  return split_of_words(name) or split_of_words(key.rpartition("/")[0]) or split_of_words(folder)
