"""Pictures that lie beside their annotations: which belongs to which, the splits, a look at a sample."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import os
import statistics
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from components.example_gen.folder import open_source
from components.example_gen.image import is_coloured, read_pictures
from components.example_gen.image_cleaning import decode_clean_image
from components.example_gen.image_folder import PICTURE_SUFFIXES
from components.example_gen.source import Entry, Source
from components.example_gen.split_folders import split_of_folder
from components.task import Reject

VALIDATION_FRACTION = 1 / 9
# Names of folders that tell what lies in them and say nothing about the data itself.
ROLES = frozenset({
  *("images", "image", "imgs", "jpegimages", "pictures", "photos"),
  *("annotations", "annotation", "labels", "xml", "xmls", "masks", "mask"),
})  # fmt: skip
_ANNOTATION_SUFFIXES = (".xml", ".json")
_TEXT_SUFFIXES = (*_ANNOTATION_SUFFIXES, ".txt", ".yaml", ".yml")
_CLASS_FILES = ("classes.txt", "data.yaml", "data.yml")
_HASH_BUCKETS = 10_000


class PictureSizes(NamedTuple):
  """Medians over a sample of pictures, in pixels; 3 channels if one of them is coloured, else 1."""

  height_px: int
  width_px: int
  channels: int


class Item(NamedTuple):
  """One picture with its annotation: a file that is read later, or the content itself."""

  picture: Entry
  key: str
  annotation: Entry | None = None
  content: Any = None
  split: str | None = None


class Listing(NamedTuple):
  """The pictures of a data set, and everything that cannot become an example."""

  items: tuple[Item, ...]
  rejects: tuple[Reject, ...] = ()


@dataclasses.dataclass(frozen=True)
class DataSet:
  """All files below a root: pictures, others, and what cannot be read at all. Names keep the `prefix`."""

  source: Source
  prefix: str
  pictures: tuple[Entry, ...]
  others: tuple[Entry, ...]
  rejects: tuple[Reject, ...]

  @property
  def path(self) -> str:
    """Of the folder or archive."""
    return self.source.path

  def key(self, entry: Entry) -> str:
    """The name without the folders around everything: the same in a folder, a zip and a tar."""
    name = entry.name
    return name[len(self.prefix) :] if name.startswith(self.prefix) else name

  def others_ending(self, *suffixes: str) -> list[Entry]:
    """The other files whose names end so."""
    return [entry for entry in self.others if entry.name.lower().endswith(suffixes)]


def open_data_set(path: str | None) -> DataSet:
  """Lists a folder, a .zip or a .tar.

  Raises:
    ValueError: nothing there, a damaged archive, or a compressed tar.
  """
  source = open_source(path)
  if not source.is_seekable:
    # Annotations have to be read before their pictures, wherever in the archive they lie.
    raise ValueError(
      f"{source.path}: a compressed tar cannot be read out of order: unpack it and give the folder"
    )
  entries = source.entries()
  newest = {entry.name: entry for entry in entries}
  prefix = _common_folders(list(newest))
  pictures, others, rejects = [], [], []
  for entry in entries:
    name = entry.name.removeprefix(prefix)
    suffix = os.path.splitext(name)[1].lower()
    if newest[entry.name] is not entry:
      rejects.append(Reject(name, "listed twice in the archive; the last one counts"))
    elif suffix in PICTURE_SUFFIXES:
      pictures.append(entry)
    elif entry.problem and suffix not in _TEXT_SUFFIXES:
      rejects.append(Reject(name, entry.problem))
    else:
      others.append(entry)
  return DataSet(source, prefix, tuple(pictures), tuple(others), tuple(rejects))


def _common_folders(names: Iterable[str]) -> str:
  """Folders that stand alone around everything that matters, with a slash at the end, or ""."""
  names = [name for name in names if _matters(name)]
  prefix = ""
  while names and all("/" in name for name in names):
    tops = {name.partition("/")[0] for name in names}
    top = tops.pop()
    if tops or top.lower() in ROLES or split_of_folder(top):
      break
    prefix += f"{top}/"
    names = [name.partition("/")[2] for name in names]
  return prefix


def _matters(name: str) -> bool:
  suffix = os.path.splitext(name)[1].lower()
  return (
    suffix in (*PICTURE_SUFFIXES, *_ANNOTATION_SUFFIXES) or os.path.basename(name).lower() in _CLASS_FILES
  )


class Pairs(NamedTuple):
  """(picture, annotation) by name; what stands alone; (superfluous, the one that is taken)."""

  pairs: list[tuple[Entry, Entry]]
  lone_pictures: list[Entry]
  lone_annotations: list[Entry]
  doubled: list[tuple[Entry, Entry]]


def pair_by_stem(pictures: Iterable[Entry], annotations: Iterable[Entry]) -> Pairs:
  """Finds each picture's annotation: of the same name without the suffix, in the same place.

  Folders of `ROLES` say nothing about the place, so images/a/1.jpg and labels/a/1.txt are a pair. What is left is
  paired by its stem alone, where that is unique within a split.
  """
  doubled: list[tuple[Entry, Entry]] = []
  first_pictures, first_annotations = _by_place(pictures, doubled), _by_place(annotations, doubled)
  pairs = [
    (entry, first_annotations[place]) for place, entry in first_pictures.items() if place in first_annotations
  ]
  lone_pictures = [entry for place, entry in first_pictures.items() if place not in first_annotations]
  lone_annotations = [entry for place, entry in first_annotations.items() if place not in first_pictures]
  if lone_pictures and lone_annotations:
    stems = [_by_stem(lone_pictures), _by_stem(lone_annotations)]
    more = [
      (found[0], stems[1][stem][0])
      for stem, found in stems[0].items()
      if len(found) == 1 and len(stems[1].get(stem, ())) == 1
    ]
    taken = {entry.name for pair in more for entry in pair}
    pairs = sorted(pairs + more)
    lone_pictures = [entry for entry in lone_pictures if entry.name not in taken]
    lone_annotations = [entry for entry in lone_annotations if entry.name not in taken]
  return Pairs(pairs, lone_pictures, lone_annotations, doubled)


def doubled_rejects(data_set: DataSet, doubled: Iterable[tuple[Entry, Entry]]) -> list[Reject]:
  """One Reject for each file beside another of the same stem."""
  return [
    Reject(data_set.key(entry), f"has the same name as {data_set.key(first)}, which is the one that counts")
    for entry, first in doubled
  ]


def place_of(name: str) -> str:
  """A path without its suffix and the folders of `ROLES`."""
  *folders, file_name = name.split("/")
  places = [folder for folder in folders if folder.lower() not in ROLES]
  return "/".join((*places, os.path.splitext(file_name)[0]))


def _by_place(entries: Iterable[Entry], doubled: list[tuple[Entry, Entry]]) -> dict[str, Entry]:
  found: dict[str, Entry] = {}
  for entry in entries:
    first = found.setdefault(place_of(entry.name), entry)
    if first is not entry:
      doubled.append((entry, first))
  return found


def _by_stem(entries: Iterable[Entry]) -> dict[tuple[str | None, str], list[Entry]]:
  found = collections.defaultdict(list)
  for entry in entries:
    stem = os.path.splitext(os.path.basename(entry.name))[0]
    found[split_of_path(entry.name), stem].append(entry)
  return found


def split_of_path(name: str) -> str | None:
  """The split that one of the folders of a path names, the outermost one's."""
  return next(filter(None, map(split_of_folder, name.split("/")[:-1])), None)


def settle_splits(
  items: Sequence[Item], validation_fraction: float, not_listed: str = "in no folder of a split"
) -> Listing:
  """Makes three splits of those that the data set names.

  Three are taken as they are. Of train and one other, the other is held out and becomes test, and of train a share
  that its keys' hashes choose becomes validation. One alone, or none, says nothing: the splits are None.

  Args:
    items: with the splits as the data set names them.
    validation_fraction: share of train.
    not_listed: reason for refusing a picture of no split where there are splits.
  """
  present = {item.split for item in items} - {None}
  if len(present) < 2 or "train" not in present:
    return Listing(tuple(item._replace(split=None) for item in items))
  rejects = tuple(Reject(item.key, not_listed) for item in items if item.split is None)
  items = tuple(item for item in items if item.split is not None)
  if len(present) == 2:
    items = tuple(item._replace(split=_split_of_two(item, validation_fraction)) for item in items)
  return Listing(items, rejects)


def _split_of_two(item: Item, validation_fraction: float) -> str:
  if item.split != "train":
    return "test"
  digest = hashlib.sha256(item.key.encode("utf-8", "surrogateescape")).hexdigest()
  is_chosen = int(digest, 16) % _HASH_BUCKETS < validation_fraction * _HASH_BUCKETS
  return "validation" if is_chosen else "train"


def in_pieces(listing: Listing, size: int) -> Iterator[Listing]:
  """The items in pieces of `size`, then the rejects."""
  for start in range(0, len(listing.items), size):
    yield Listing(listing.items[start : start + size])
  for start in range(0, len(listing.rejects), size):
    yield Listing((), listing.rejects[start : start + size])


def read_files(
  source: Source, entries: Iterable[Entry], max_bytes: int
) -> Mapping[str, tuple[bytes | None, str]]:
  """{name: (bytes, "") or (None, the reason)} of small files."""
  entries = list(entries)
  found = {entry.name: (None, entry.problem) for entry in entries if entry.problem}
  for entry, data, problem in source.read([entry for entry in entries if not entry.problem], max_bytes):
    found[entry.name] = data, problem
  return found


def measure_pictures(
  source: Source, pictures: Collection[Entry], max_pixels: int, max_pictures: int
) -> PictureSizes:
  """Looks at pictures evenly spread over the list; always the same ones for the same data.

  Args:
    source: where the pictures are.
    pictures: entries in a fixed order.
    max_pixels: larger ones are not read.
    max_pictures: pictures decoded at most; further ones only where none of these is whole.

  Raises:
    ValueError: there is no readable picture.
  """
  pictures = [entry for entry in pictures if not entry.problem]
  num_sampled = min(max_pictures, len(pictures))
  sampled = [pictures[index * len(pictures) // num_sampled] for index in range(num_sampled)]
  sizes = _measure(source, sampled, max_pixels, max_pictures)
  sizes = sizes or _measure(source, pictures, max_pixels, max_pictures)
  if sizes is None:
    raise ValueError(f"{source.path}: none of its {len(pictures)} annotated pictures can be read")
  return sizes


def _measure(
  source: Source, entries: Iterable[Entry], max_pixels: int, max_pictures: int
) -> PictureSizes | None:
  heights_px, widths_px, found_colour = [], [], False
  for _, data, info, problem in read_pictures(source, entries, max_pixels):
    if problem:
      continue
    heights_px.append(info.height)
    widths_px.append(info.width)
    found_colour = found_colour or is_coloured(decode_clean_image(data))
    if len(heights_px) == max_pictures:
      break
  if not heights_px:
    return None
  return PictureSizes(
    int(statistics.median(heights_px)), int(statistics.median(widths_px)), 3 if found_colour else 1
  )
