"""Which file of a folder or an archive is a picture of which class and split.

Layouts: <class>/..., or {train,validation,test}/<class>/...; folders below a class folder belong to it.
Folders that stand alone around everything (photos/cat/1.jpg, photos/dog/2.jpg) are left out of the names.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Mapping

from components.example_gen.folder import open_source
from components.example_gen.source import Entry, Source
from components.example_gen.split_folders import has_split_folders, split_of_folder

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp")
EXPECTED_LAYOUT = "<class>/<picture> or {train,validation,test}/<class>/<picture>"
METADATA_NAME = "metadata.csv"
OWN_FEATURES = ("image", "label", "path", "width", "height", "format")
_MAX_METADATA_BYTES = 2**30


@dataclasses.dataclass(frozen=True)
class Layout:
  """What stands before the class in every name: a prefix, and a split where the data set names them."""

  prefix: str
  has_splits: bool

  def key(self, name: str) -> str:
    """The name without the folders around everything: the same in a folder, a zip and a tar."""
    return name[len(self.prefix) :] if name.startswith(self.prefix) else name

  def label(self, key: str) -> str:
    """The class folder."""
    return key.split("/", 2)[self.has_splits]

  def split(self, key: str) -> str | None:
    """train, validation or test; None where the data set leaves it open."""
    return split_of_folder(key.partition("/")[0]) if self.has_splits else None


@dataclasses.dataclass(frozen=True)
class Listing:
  """All files of a data set, those with a problem included, and the columns of its metadata.csv.

  `metadata` maps a picture's key to the values of `columns`.
  """

  source: Source
  layout: Layout
  entries: tuple[Entry, ...]
  columns: tuple[str, ...]
  metadata: Mapping[str, tuple[str, ...]]


def list_pictures(path: str | None) -> Listing:
  """Lists a folder or an archive and settles its layout.

  Raises:
    ValueError: nothing there, a damaged archive, no picture in a class folder, incomplete splits, or a
      metadata.csv without usable columns.
  """
  source = open_source(path)
  entries = source.entries()
  layout = find_layout(source.path, (entry.name for entry in entries if _is_picture(entry.name)))
  metadata_names = {layout.prefix + METADATA_NAME, METADATA_NAME}
  metadata_entries = [entry for entry in entries if entry.name in metadata_names and not entry.problem]
  # Below the folders around everything, or beside them.
  metadata_entries = sorted(metadata_entries, key=lambda entry: len(entry.name))[-1:]
  entries = [entry for entry in entries if entry not in metadata_entries]
  entries = _without_unknown_classes(_mark_problems(entries, layout), layout)
  if all(entry.problem for entry in entries):
    raise ValueError(f"{source.path}: no picture in a class folder; expected {EXPECTED_LAYOUT}")
  columns, metadata, bad_rows = (), {}, []
  for entry in metadata_entries:
    columns, metadata, bad_rows = _read_metadata(source, entry, layout, {layout.key(e.name) for e in entries})
  return Listing(source, layout, (*bad_rows, *entries), columns, metadata)


def find_layout(path: str, names: Iterable[str]) -> Layout:
  """The layout that the pictures' names show.

  Raises:
    ValueError: some of the top folders are splits, and they are not exactly the three splits.
  """
  folders = {name.rpartition("/")[0] for name in names} - {""}
  prefix = ""
  while len(tops := {folder.partition("/")[0] for folder in folders}) == 1 and any("/" in f for f in folders):
    prefix += f"{tops.pop()}/"
    folders = {folder.partition("/")[2] for folder in folders} - {""}
  return Layout(prefix, has_split_folders(path, tops, "class folders"))


def _is_picture(name: str) -> bool:
  return name[name.rfind(".") :].lower() in PICTURE_SUFFIXES


def _mark_problems(entries: list[Entry], layout: Layout) -> list[Entry]:
  newest = {entry.name: entry for entry in entries}
  inside: dict[str, bool] = {}
  marked = []
  for entry in entries:
    name, _, problem = entry
    folder = name.rpartition("/")[0]
    if folder not in inside:
      inside[folder] = _is_class_folder(folder, layout)
    if problem:
      pass
    elif not inside[folder]:
      problem = "not inside a class folder"
    elif not _is_picture(name):
      problem = f"not a picture by its name; known are {' '.join(PICTURE_SUFFIXES)}"
    elif newest[name] is not entry:
      problem = "listed twice in the archive; the last one counts"
    marked.append(entry._replace(problem=problem) if problem else entry)
  return marked


def _is_class_folder(folder: str, layout: Layout) -> bool:
  """Whether a folder is a class's, or lies below one."""
  if not f"{folder}/".startswith(layout.prefix):
    return False
  top, _, rest = folder[len(layout.prefix) :].partition("/")
  return bool(split_of_folder(top) and rest) if layout.has_splits else bool(top)


def _without_unknown_classes(entries: list[Entry], layout: Layout) -> list[Entry]:
  """Marks pictures of classes that the training split lacks: no model could name them."""
  if not layout.has_splits:
    return entries
  keys = [layout.key(entry.name) for entry in entries]
  known = {
    layout.label(key)
    for key, entry in zip(keys, entries, strict=True)
    if not entry.problem and layout.split(key) == "train"
  }
  return [
    entry
    if entry.problem or layout.label(key) in known
    else entry._replace(problem=f"its class {layout.label(key)!r} is not in the train folder")
    for key, entry in zip(keys, entries, strict=True)
  ]


def _read_metadata(
  source: Source, entry: Entry, layout: Layout, keys: set[str]
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]], list[Entry]]:
  ((_, data, problem),) = source.read([entry], _MAX_METADATA_BYTES)
  where = f"{source.path}: {entry.name}"
  if data is None:
    raise ValueError(f"{where}: {problem}")
  try:
    text = data.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise ValueError(f"{where}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
  return parse_metadata(text, where, layout, keys)


def parse_metadata(
  text: str, where: str, layout: Layout, keys: set[str]
) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]], list[Entry]]:
  """Rows of a metadata.csv by the picture they describe.

  Args:
    text: CSV with a header; the column `path` is relative to the root of the data set.
    where: what an error names.
    layout: the data set's.
    keys: the keys of its files.

  Returns:
    (the other columns, {key: their values}, an Entry with its problem for each bad row).

  Raises:
    ValueError: the header lacks `path`, or a column has no name, or one that is taken.
  """
  rows = csv.reader(io.StringIO(text, newline=""))
  try:
    header = [name.strip() for name in next(rows, [])]
  except csv.Error as error:
    raise ValueError(f"{where}: {error}") from None
  if header.count("path") != 1:
    raise ValueError(f"{where}: needs one column 'path', has {', '.join(header) or 'none'}")
  columns = [name for name in header if name != "path"]
  for name in columns:
    if not name or name in OWN_FEATURES or columns.count(name) > 1:
      taken = "empty, doubled or a name that pictures have already"
      raise ValueError(f"{where}: column {name!r} is {taken}: rename it")
  values, bad_rows = {}, []
  while (row := _next_row(rows)) is not None:
    problem = row if isinstance(row, str) else _add_row(row, header, layout, keys, values)
    if problem:
      bad_rows.append(Entry(f"{METADATA_NAME} line {rows.line_num}", None, problem))
  return tuple(columns), values, bad_rows


def _next_row(rows: Iterable[list[str]]) -> list[str] | str | None:
  """The cells of the next row, the reason why they cannot be told, or None at the end."""
  try:
    return next(rows, None)
  except csv.Error as error:
    return str(error)


def _add_row(row: list[str], header: list[str], layout: Layout, keys: set[str], values: dict) -> str:
  """Adds one row to `values`; returns what is wrong with it instead, if something is."""
  if not row:
    return ""
  if len(row) != len(header):
    return f"{len(row)} cells where the header has {len(header)}"
  cells = dict(zip(header, row, strict=True))
  parts = cells.pop("path").strip().replace("\\", "/").split("/")
  path = "/".join(part for part in parts if part not in ("", "."))
  key = path if path in keys else layout.key(path)
  if key not in keys:
    return f"names {path!r}, which is not in the data set"
  if key in values:
    return f"names {path!r} a second time"
  values[key] = tuple(cells.values())
  return ""
