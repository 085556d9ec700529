"""YOLO: one text file a picture, a line an object: class_id, then centre, width and height as fractions.

Source: Redmon et al., You Only Look Once, 2016, arXiv:1506.02640; the files are those of Darknet and its successors.
"""

from __future__ import annotations

import os

import yaml

from components.example_gen.annotated_folder import (
  DataSet,
  Item,
  Listing,
  doubled_rejects,
  pair_by_stem,
  read_files,
  settle_splits,
  split_of_path,
)
from components.example_gen.annotations import Annotation, Box, shorten, to_number
from components.example_gen.source import Entry
from components.example_gen.split_folders import split_of_folder
from components.task import Reject

_LABELS_FOLDER = "labels"
_YAML_SUFFIXES = (".yaml", ".yml")
# One name a line; the first that is there counts.
_NAME_LISTS = ("classes.txt", "obj.names", "predefined_classes.txt")
_OTHER_TEXTS = ("classes", "predefined_classes", "notes", "trainval", "requirements")
_OTHER_STARTS = ("readme", "license", "licence")
_MAX_NAMES_BYTES = 2**24
_COLUMNS = "class_id cx cy width height"


def is_yolo(data_set: DataSet) -> bool:
  """Whether a picture has labels, or there is a folder of labels."""
  labels = _label_files(data_set)
  if not data_set.pictures or not labels:
    return False
  return any(map(_in_labels_folder, labels)) or bool(pair_by_stem(data_set.pictures, labels).pairs)


def list_yolo(data_set: DataSet, validation_fraction: float) -> Listing:
  """Pictures with the text files of the same stem; a picture without one has no objects.

  Args:
    data_set: one with labels.
    validation_fraction: see `settle_splits`.
  """
  found = pair_by_stem(data_set.pictures, _label_files(data_set))
  rejects = doubled_rejects(data_set, found.doubled)
  for entry in found.lone_annotations:
    stem = os.path.splitext(os.path.basename(entry.name))[0]
    rejects.append(Reject(data_set.key(entry), f"its picture is missing: none is named {stem!r}"))
  pairs = sorted(
    [*found.pairs, *((picture, None) for picture in found.lone_pictures)], key=lambda pair: pair[0].name
  )
  items = [
    Item(picture, key, labels, split=split_of_path(key))
    for picture, labels in pairs
    for key in (data_set.key(picture),)
  ]
  settled = settle_splits(items, validation_fraction)
  return Listing(settled.items, (*data_set.rejects, *rejects, *settled.rejects))


def _label_files(data_set: DataSet) -> list[Entry]:
  """Text files in labels/ or beside pictures, but for those that are something else by their names."""
  folders = {entry.name.rpartition("/")[0] for entry in data_set.pictures}
  found = []
  for entry in data_set.others_ending(".txt"):
    folder, _, name = entry.name.rpartition("/")
    stem = os.path.splitext(name)[0].lower()
    is_other = stem in _OTHER_TEXTS or stem.startswith(_OTHER_STARTS) or split_of_folder(stem) is not None
    if not is_other and (_in_labels_folder(entry) or folder in folders):
      found.append(entry)
  return found


def _in_labels_folder(entry: Entry) -> bool:
  return _LABELS_FOLDER in entry.name.lower().split("/")[:-1]


def class_names(data_set: DataSet) -> tuple[str, ...] | None:
  """Names by their ids: of data.yaml (or another YAML file with names), or of classes.txt; None without any.

  Raises:
    ValueError: there are files of names, and none of them can be read.
  """
  first_error = None
  for entry in _names_files(data_set):
    try:
      names = _read_names(data_set, entry)
    except ValueError as error:
      # Another YAML file may be for something else altogether.
      first_error = first_error or error
      continue
    if names:
      return names
  if first_error is not None:
    raise first_error
  return None


def _read_names(data_set: DataSet, entry: Entry) -> tuple[str, ...] | None:
  ((data, problem),) = read_files(data_set.source, [entry], _MAX_NAMES_BYTES).values()
  where = f"{data_set.path}: {data_set.key(entry)}"
  if data is None:
    raise ValueError(f"{where}: {problem}")
  try:
    text = data.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise ValueError(f"{where}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
  if entry.name.lower().endswith(_YAML_SUFFIXES):
    return _yaml_names(text, where)
  return tuple(line.strip() for line in text.rstrip().splitlines())


def _names_files(data_set: DataSet) -> list[Entry]:
  """data.yaml, other YAML files, classes.txt: the likeliest first."""
  yamls = data_set.others_ending(*_YAML_SUFFIXES)
  yamls.sort(key=lambda entry: (entry.name.count("/"), os.path.basename(entry.name).lower() != "data.yaml"))
  texts = [entry for entry in data_set.others if os.path.basename(entry.name).lower() in _NAME_LISTS]
  texts.sort(
    key=lambda entry: (_NAME_LISTS.index(os.path.basename(entry.name).lower()), entry.name.count("/"))
  )
  return yamls + texts


def _yaml_names(text: str, where: str) -> tuple[str, ...] | None:
  try:
    # The base loader leaves every value text: a class may be called no, or 1.
    document = yaml.load(text, Loader=yaml.BaseLoader)
  except (yaml.YAMLError, RecursionError) as error:
    raise ValueError(f"{where}: broken YAML: {' '.join(str(error).split())}") from None
  names = document.get("names") if isinstance(document, dict) else None
  if names is None:
    return None
  if isinstance(names, dict):
    ids = [str(number) for number in range(len(names))]
    if set(names) != set(ids):
      raise ValueError(f"{where}: the ids of names are not 0 to {len(names) - 1}: number them so")
    names = [names[number] for number in ids]
  if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
    raise ValueError(f"{where}: names is {shorten(names)}: make it a list of class names")
  return tuple(names)


def parse_yolo(data: bytes, where: str, names: tuple[str, ...], width_px: int, height_px: int) -> Annotation:
  """Objects of one text file.

  Args:
    data: the file.
    where: its name, for the rejects.
    names: of the classes, by their ids.
    width_px: of the picture.
    height_px: of the picture.

  Returns:
    Boxes in pixels, and a Reject for each line that tells none.

  Raises:
    ValueError: the file is not UTF-8.
  """
  try:
    text = data.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise ValueError(f"not UTF-8 at byte {error.start}") from None
  boxes, rejects = [], []
  for number, line in enumerate(text.splitlines(), 1):
    if not line.strip():
      continue
    place = f"{where} line {number}"
    try:
      boxes.append(_box(line.split(), place, names, width_px, height_px))
    except ValueError as error:
      rejects.append(Reject(place, str(error)))
  return Annotation(tuple(boxes), tuple(rejects))


def _box(cells: list[str], where: str, names: tuple[str, ...], width_px: int, height_px: int) -> Box:
  if len(cells) != 5:
    raise ValueError(f"{len(cells)} values ({shorten(' '.join(cells))}) where {_COLUMNS} are expected")
  class_id = to_number(cells[0], "class_id")
  if not class_id.is_integer() or not 0 <= class_id < len(names):
    raise ValueError(f"class_id is {cells[0]}, and there are names for 0 to {len(names) - 1}")
  values = [to_number(cell, name) for cell, name in zip(cells[1:], _COLUMNS.split()[1:], strict=True)]
  x_centre, y_centre, width, height = values
  corners = (
    (x_centre - width / 2) * width_px,
    (y_centre - height / 2) * height_px,
    (x_centre + width / 2) * width_px,
    (y_centre + height / 2) * height_px,
  )
  return Box(where, names[int(class_id)], corners)
