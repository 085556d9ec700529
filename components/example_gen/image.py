"""Pictures in class folders: the reader, a look at a sample of them, and pictures for people."""

from __future__ import annotations

import dataclasses
import io
import os
import statistics
import textwrap
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from components.example_gen.folder import FolderSource
from components.example_gen.image_cleaning import MAX_PIXELS, ImageInfo, clean_image, decode_clean_image
from components.example_gen.image_folder import EXPECTED_LAYOUT, Layout, Listing, list_pictures
from components.example_gen.source import Entry, Source
from components.task import Reject, Row

__all__ = [
  "ImageChunk",
  "ImageFolderReader",
  "ImageInfo",
  "Probe",
  "caption_image",
  "clean_image",
  "clean_image_file",
  "is_coloured",
  "probe",
  "read_pictures",
]

# Raw 16-bit RGBA takes 8 bytes a pixel; the rest is for headers and comments.
_MAX_BYTES_PER_PIXEL = 8
_MAX_HEADER_BYTES = 2**26
_MIN_CAPTIONED_PX = 160
_CAPTION_MARGIN_PX = 4


@dataclasses.dataclass(frozen=True)
class ImageChunk:
  """Files to be read in one go, with all that a worker needs to know about them."""

  source: Source
  layout: Layout
  entries: tuple[Entry, ...]
  columns: tuple[str, ...] = ()
  metadata: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


class ImageFolderReader:
  """Reader of <class>/<picture> and {train,validation,test}/<class>/<picture> in a folder, a .zip or a .tar.

  Each row has the features image (bytes that `tf.io.decode_image` decodes), label (the class folder's name),
  path, width, height (pixels), format (of the original file: jpeg, png, bmp, gif or webp) and the columns of
  a metadata.csv at the root, whose column `path` names the pictures ("" where it names another). A picture's
  key is its path; a folder that stands alone around everything is not part of it.

  Chunks hold `examples_per_chunk` files in the order of their names. A compressed tar can only be read from
  its beginning to its end, so all of it is one chunk, in its own order.

  Args:
    path: a folder, an archive, or a folder that holds nothing but one archive.
    max_pixels: larger pictures are rejects, told from their headers alone.
    examples_per_chunk: files in each piece of work.

  Raises:
    ValueError: there is no such folder or archive.
  """

  def __init__(self, path: str | None, max_pixels: int = MAX_PIXELS, examples_per_chunk: int = 2048):
    if path and not os.path.exists(path):
      raise ValueError(f"{path}: no such file or folder")
    self.path = path
    self.max_pixels = max_pixels
    self.examples_per_chunk = examples_per_chunk

  def list_pictures(self) -> Listing:
    """All files, those with a problem included.

    Raises:
      ValueError: see `components.example_gen.image_folder.list_pictures`.
    """
    return list_pictures(self.path)

  def chunks(self) -> Iterator[ImageChunk]:
    """Pieces of work; which files are in which depends on the data set alone.

    Raises:
      ValueError: see `list_pictures`.
    """
    listing = self.list_pictures()
    entries = listing.entries
    step = self.examples_per_chunk if listing.source.is_seekable else len(entries)
    for start in range(0, len(entries), step):
      yield make_chunk(listing, entries[start : start + step])

  def read(self, chunk: ImageChunk) -> Iterator[Row | Reject]:
    """A Row or a Reject for every file of the chunk, one picture in memory at a time."""
    layout, columns = chunk.layout, chunk.columns
    no_values = ("",) * len(columns)
    for key, data, info, problem in self._pictures(chunk):
      if problem:
        yield Reject(key, problem)
        continue
      features = {
        "image": data,
        "label": layout.label(key),
        "path": key,
        "width": info.width,
        "height": info.height,
        "format": info.format,
      }
      if columns:
        features.update(zip(columns, chunk.metadata.get(key, no_values), strict=True))
      yield Row(key, features, group=key, split=layout.split(key))

  def _pictures(self, chunk: ImageChunk) -> Iterator[tuple[str, bytes, ImageInfo | None, str]]:
    """(key, clean bytes, info, "") of each whole picture, (key, b"", None, the reason) of everything else."""
    key_start = len(chunk.layout.prefix)
    for entry, data, info, problem in read_pictures(chunk.source, chunk.entries, self.max_pixels):
      key = chunk.layout.key(entry.name) if entry.problem else entry.name[key_start:]
      yield key, data, info, problem


def read_pictures(
  source: Source, entries: Iterable[Entry], max_pixels: int
) -> Iterator[tuple[Entry, bytes, ImageInfo | None, str]]:
  """Reads and cleans pictures one at a time, those that are known to have a problem first.

  Args:
    source: where the entries are.
    entries: of pictures.
    max_pixels: larger pictures are problems.

  Yields:
    (entry, clean bytes, info, "") for each whole picture, (entry, b"", None, the reason) for every other.
  """
  entries = tuple(entries)
  for entry in entries:
    if entry.problem:
      yield entry, b"", None, entry.problem
  readable = [entry for entry in entries if not entry.problem]
  for entry, data, problem in source.read(readable, _max_bytes(max_pixels)):
    info = None
    if data is not None:
      try:
        data, info = clean_image(data, max_pixels)
      except ValueError as error:
        data, problem = b"", str(error)
    yield entry, data or b"", info, problem


def _max_bytes(max_pixels: int) -> int:
  return _MAX_BYTES_PER_PIXEL * max_pixels + _MAX_HEADER_BYTES


def make_chunk(listing: Listing, entries: tuple[Entry, ...]) -> ImageChunk:
  """A chunk of some of a listing's files, with no more metadata than theirs."""
  metadata = {}
  if listing.metadata:
    keys = (listing.layout.key(entry.name) for entry in entries)
    metadata = {key: listing.metadata[key] for key in keys if key in listing.metadata}
  return ImageChunk(listing.source, listing.layout, entries, listing.columns, metadata)


@dataclasses.dataclass(frozen=True)
class Probe:
  """The median of the sampled pictures' shorter sides; 3 channels if one of them is coloured, else 1."""

  median_side_px: int
  channels: int


def probe(reader: ImageFolderReader, max_images: int = 200) -> Probe:
  """Looks at pictures evenly spread over the sorted list; always the same ones for the same data.

  Args:
    reader: of the data set.
    max_images: pictures decoded at most; further ones only where none of these is whole.

  Raises:
    ValueError: there is no readable picture, or see `ImageFolderReader.list_pictures`.
  """
  listing = reader.list_pictures()
  candidates = sorted(entry for entry in listing.entries if not entry.problem)
  num_sampled = min(max_images, len(candidates))
  sampled = tuple(candidates[index * len(candidates) // num_sampled] for index in range(num_sampled))
  found = _measure(reader, make_chunk(listing, sampled))
  if found is None:
    found = _measure(reader, make_chunk(listing, tuple(candidates)), max_images)
  if found is None:
    unreadable = f"none of its {len(candidates)} pictures can be read"
    raise ValueError(f"{listing.source.path}: {unreadable}; expected {EXPECTED_LAYOUT}")
  return found


def _measure(reader: ImageFolderReader, chunk: ImageChunk, max_images: int | None = None) -> Probe | None:
  sides, found_colour = [], False
  for _, data, info, problem in reader._pictures(chunk):
    if problem:
      continue
    sides.append(min(info.width, info.height))
    found_colour = found_colour or is_coloured(decode_clean_image(data))
    if len(sides) == max_images:
      break
  return Probe(int(statistics.median(sides)), 3 if found_colour else 1) if sides else None


def is_coloured(pixels: np.ndarray) -> bool:
  """Whether any pixel of uint8 [height, width] or [height, width, 3] is not grey."""
  if pixels.ndim == 2:
    return False
  return bool((pixels[..., :1] != pixels[..., 1:]).any())


def clean_image_file(path: str, max_pixels: int = MAX_PIXELS) -> bytes:
  """A picture file as the reader would put it into an example.

  Args:
    path: a JPEG, PNG, BMP, GIF or WebP file.
    max_pixels: larger pictures are refused.

  Returns:
    Bytes that `tf.io.decode_image` decodes.

  Raises:
    ValueError: there is no such file, or the reader would reject it; names the file and the reason.
  """
  if not os.path.isfile(path):
    raise ValueError(f"{path}: {'not a file' if os.path.exists(path) else 'no such file'}")
  folder, name = os.path.split(path)
  ((_, data, problem),) = FolderSource(folder or ".").read([Entry(name)], _max_bytes(max_pixels))
  if data is None:
    raise ValueError(f"{path}: {problem}")
  try:
    return clean_image(data, max_pixels)[0]
  except ValueError as error:
    raise ValueError(f"{path}: {error}") from None


def caption_image(image_bytes: bytes, caption: str) -> bytes:
  """A picture for people: small ones enlarged, a line of text under it.

  Args:
    image_bytes: an encoded picture.
    caption: text; "" for none. Wrapped where it is wider than the picture.

  Returns:
    PNG bytes, RGB; the picture's longer side is at least 160 pixels, each pixel enlarged to a square.
  """
  with Image.open(io.BytesIO(image_bytes)) as opened:
    picture = opened.convert("RGB")
  factor = -(-_MIN_CAPTIONED_PX // max(picture.size))
  if factor > 1:
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
  if caption:
    picture = _with_caption(picture, caption)
  encoded = io.BytesIO()
  picture.save(encoded, "PNG")
  return encoded.getvalue()


def _with_caption(picture: Image.Image, caption: str) -> Image.Image:
  font = ImageFont.load_default()
  width = max(picture.width, _MIN_CAPTIONED_PX)
  widest = max(font.getlength(letter) for letter in set(caption))
  text = textwrap.fill(caption, max(int((width - 2 * _CAPTION_MARGIN_PX) / widest), 1))
  left, top, right, bottom = ImageDraw.Draw(picture).multiline_textbbox((0, 0), text, font)
  canvas = Image.new("RGB", (width, picture.height + int(bottom) + 2 * _CAPTION_MARGIN_PX), "white")
  canvas.paste(picture, ((width - picture.width) // 2, 0))
  start = (max((width - (right - left)) // 2, 0), picture.height + _CAPTION_MARGIN_PX)
  ImageDraw.Draw(canvas).multiline_text(start, text, "black", font, align="center")
  return canvas
