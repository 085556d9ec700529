"""Pascal VOC: one XML file a picture, and lists of pictures in ImageSets/Main.

Source: Everingham et al., The Pascal Visual Object Classes (VOC) Challenge, 2010, doi:10.1007/s11263-009-0275-4
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from xml.etree import ElementTree

from components.example_gen.annotated_folder import (
  DataSet,
  Item,
  Listing,
  doubled_rejects,
  pair_by_stem,
  place_of,
  read_files,
  settle_splits,
  split_of_path,
)
from components.example_gen.annotations import Annotation, Box, shorten, to_number
from components.example_gen.source import Entry
from components.example_gen.split_folders import split_of_folder
from components.task import Reject

_LISTS_FOLDER = "ImageSets/Main"
_NOT_PICTURES = ("segmentationclass", "segmentationobject")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_MAX_LIST_BYTES = 2**28
# Behind a picture's name the lists of a class say whether it is there: 1, -1, or 0 where it is difficult.
_PRESENCE = ("1", "-1", "0")


def is_voc(data_set: DataSet) -> bool:
  """Whether there are XML files."""
  return bool(data_set.others_ending(".xml"))


def list_voc(data_set: DataSet, validation_fraction: float) -> Listing:
  """Pictures with the XML files of the same stem; these are not read here.

  Args:
    data_set: one with XML files.
    validation_fraction: see `settle_splits`.
  """
  pictures = [entry for entry in data_set.pictures if not _is_segmentation(entry)]
  found = pair_by_stem(pictures, data_set.others_ending(".xml"))
  rejects = doubled_rejects(data_set, found.doubled)
  rejects += [
    Reject(data_set.key(entry), "no annotation file: no XML has its name") for entry in found.lone_pictures
  ]
  for entry in found.lone_annotations:
    stem = os.path.splitext(os.path.basename(entry.name))[0]
    rejects.append(Reject(data_set.key(entry), f"its picture is missing: none is named {stem!r}"))
  items = [Item(picture, data_set.key(picture), annotation) for picture, annotation in found.pairs]
  lists = _split_lists(data_set)
  if lists:
    items, more = _with_listed_splits(items, data_set, lists)
    rejects += more
  else:
    items = [item._replace(split=split_of_path(item.key)) for item in items]
  settled = settle_splits(items, validation_fraction)
  return Listing(settled.items, (*data_set.rejects, *rejects, *settled.rejects))


def _is_segmentation(entry: Entry) -> bool:
  return any(folder.lower() in _NOT_PICTURES for folder in entry.name.split("/")[:-1])


def _split_lists(data_set: DataSet) -> list[tuple[Entry, str]]:
  """(file, split) of the lists in ImageSets/Main; trainval.txt counts as train where there is no train.txt."""
  texts = [
    e for e in data_set.others_ending(".txt") if f"/{e.name}".rpartition("/")[0].endswith(f"/{_LISTS_FOLDER}")
  ]
  lists, both = [], []
  for entry in texts:
    stem = os.path.splitext(os.path.basename(entry.name))[0].lower()
    if split_of_folder(stem):
      lists.append((entry, split_of_folder(stem)))
    elif stem == "trainval":
      both.append((entry, "train"))
  return lists if any(split == "train" for _, split in lists) else lists + both


def _with_listed_splits(
  items: list[Item], data_set: DataSet, lists: list[tuple[Entry, str]]
) -> tuple[list[Item], list[Reject]]:
  """The items with the splits that the lists give them, and what is wrong with the lists."""
  places = _listable_places(data_set)
  splits: dict[str, set[str]] = {}
  rejects = []
  texts = read_files(data_set.source, [entry for entry, _ in lists], _MAX_LIST_BYTES)
  for entry, split in lists:
    data, problem = texts[entry.name]
    if problem:
      rejects.append(Reject(data_set.key(entry), problem))
      continue
    root = f"/{entry.name}".rpartition(f"/{_LISTS_FOLDER}/")[0].removeprefix("/")
    for number, name in _listed_names(data, root, places):
      place = places.get(_join(root, name))
      if place is None:
        where = f"{data_set.key(entry)} line {number}"
        rejects.append(Reject(where, f"names {shorten(name)}, and there is no such picture"))
      else:
        splits.setdefault(place, set()).add(split)
  kept = []
  for item in items:
    named = splits.get(place_of(item.picture.name), set())
    if len(named) == 1:
      kept.append(item._replace(split=next(iter(named))))
    else:
      reason = f"in the lists of {' and '.join(sorted(named))} of {_LISTS_FOLDER}: one split a picture"
      rejects.append(Reject(item.key, reason if named else f"in no list of {_LISTS_FOLDER}"))
  return kept, rejects


def _listable_places(data_set: DataSet) -> dict[str, str]:
  """{what a list may call it, with the root before it: its place} of all pictures and XML files."""
  places: dict[str, str] = {}
  for entry in (*data_set.pictures, *data_set.others_ending(".xml")):
    place = place_of(entry.name)
    folder, _, file_name = entry.name.rpartition("/")
    places.setdefault(place, place)
    # Lists give the stem alone, also where the pictures' folder has a name of its own.
    places.setdefault(_join(folder.rpartition("/")[0], os.path.splitext(file_name)[0]), place)
  return places


def _join(folder: str, name: str) -> str:
  return f"{folder}/{name}" if folder else name


def _listed_names(data: bytes, root: str, places: Mapping[str, str]) -> Iterator[tuple[int, str]]:
  """(number of the line, stem) of each line of a list."""
  for number, line in enumerate(data.decode("utf-8-sig", "backslashreplace").splitlines(), 1):
    name = line.strip()
    if not name:
      continue
    first, _, last = name.rpartition(" ")
    if first and last in _PRESENCE and _join(root, name) not in places:
      name = first.strip()
    yield number, name


def parse_voc(data: bytes, where: str) -> Annotation:
  """Objects of one XML file.

  Args:
    data: the file.
    where: its name, for the rejects.

  Returns:
    Boxes in pixels as they stand in the file, a Reject for each object without a usable box, and the size that the
    file tells (None where it tells none, or 0 as some tools do).

  Raises:
    ValueError: not the XML of an annotation, or one with a document type, whose entities may be a bomb.
  """
  # Without the zeros this finds UTF-16, too.
  plain = data.replace(b"\0", b"")
  if b"<!DOCTYPE" in plain or b"<!ENTITY" in plain:
    raise ValueError("XML with a document type (<!DOCTYPE), which is not read: remove it")
  try:
    root = ElementTree.fromstring(data)
  except (ElementTree.ParseError, LookupError, ValueError) as error:
    raise ValueError(f"broken XML: {error}") from None
  if root.tag != "annotation":
    raise ValueError(f"no annotation of Pascal VOC: its root is <{shorten(root.tag)}> and not <annotation>")
  boxes, rejects = [], []
  for number, element in enumerate(root.findall("object"), 1):
    place = f"{where} object {number}"
    try:
      boxes.append(_box(element, place))
    except ValueError as error:
      rejects.append(Reject(place, str(error)))
  return Annotation(tuple(boxes), tuple(rejects), _size_px(root))


def _box(element: ElementTree.Element, where: str) -> Box:
  name = (element.findtext("name") or "").strip()
  bounds = element.find("bndbox")
  if bounds is None:
    raise ValueError(f"{name!r} object without bndbox")
  corners = []
  for corner in _CORNERS:
    text = bounds.findtext(corner)
    if text is None:
      raise ValueError(f"{name!r} object whose bndbox has no {corner}")
    corners.append(to_number(text.strip(), corner))
  return Box(where, name, tuple(corners))


def _size_px(root: ElementTree.Element) -> tuple[float | str, float | str] | None:
  size = []
  for name in ("width", "height"):
    text = (root.findtext(f"size/{name}") or "").strip()
    try:
      size.append(to_number(text or "0", name))
    except ValueError:
      size.append(text)
  return (size[0], size[1]) if any(size) else None
