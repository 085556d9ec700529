"""What the head of a picture file says, read without decoding a single pixel.

A picture's size has to be known before anything is allocated for it: a few kilobytes of PNG can claim
30,000 x 30,000 pixels, and some decoders allocate their canvas as soon as they open a file.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN = 0xDA
_APP1 = 0xE1
_JPEG_EXIF = b"Exif\0\0"
_SEGMENT = struct.Struct(">BBH")
_FRAME = struct.Struct(">BHHB")
_ORIENTATION_TAG = 0x0112
_GIF_IMAGE, _GIF_EXTENSION, _GIF_TRAILER = 0x2C, 0x21, 0x3B
# Sizes of a BMP's second header, by which its versions are told apart.
_DIB_BYTES = frozenset({12, 40, 52, 56, 64, 108, 124})


class JpegHeader(NamedTuple):
  """`frame_marker` is the SOF marker's second byte (0xC0 baseline, 0xC1 extended, 0xC2 progressive, ...)."""

  width: int
  height: int
  channels: int
  bits: int
  frame_marker: int
  orientation: int


class BmpHeader(NamedTuple):
  """`compression` 0 is none; the rows begin at `pixels_offset`; the second header is of `dib_bytes`."""

  width: int
  height: int
  bits: int
  compression: int
  pixels_offset: int
  dib_bytes: int


class GifHeader(NamedTuple):
  """Size of the screen, number of frames, and whether all blocks are there and of known kinds."""

  width: int
  height: int
  num_frames: int
  is_whole: bool


class WebpHeader(NamedTuple):
  """Size of the canvas and the EXIF orientation (1 where there is none)."""

  width: int
  height: int
  orientation: int


def picture_format(data: bytes) -> str | None:
  """jpeg, png, gif, bmp, webp, or None for anything else, told from the first bytes and never from a name."""
  if data.startswith(b"\xff\xd8\xff"):
    return "jpeg"
  if data.startswith(PNG_SIGNATURE):
    return "png"
  if data.startswith((b"GIF87a", b"GIF89a")):
    return "gif"
  if data.startswith(b"BM"):
    return "bmp"
  if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
    return "webp"
  return None


def exif_orientation(exif: bytes) -> int:
  """Orientation, 1 to 8, from an EXIF block that begins with its TIFF header; 1 where it tells none."""
  order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
  if order is None:
    return 1
  try:
    (offset,) = struct.unpack_from(order + "I", exif, 4)
    (num_fields,) = struct.unpack_from(order + "H", exif, offset)
    for index in range(num_fields):
      tag, _, _, value = struct.unpack_from(order + "HHIH", exif, offset + 2 + 12 * index)
      if tag == _ORIENTATION_TAG:
        return value if 1 <= value <= 8 else 1
  except struct.error:
    return 1
  return 1


def jpeg_header(data: bytes) -> JpegHeader:
  """Walks the segments up to the frame header, before which Exif has its place.

  Raises:
    ValueError: there is no frame header before the pixels.
  """
  position, last, orientation = 2, len(data) - _SEGMENT.size - _FRAME.size, 1
  while position <= last:
    first, marker, length = _SEGMENT.unpack_from(data, position)
    if first != 0xFF or marker == _START_OF_SCAN:
      break
    if marker == 0xFF:
      position += 1
      continue
    if marker in _START_OF_FRAME:
      bits, height, width, channels = _FRAME.unpack_from(data, position + _SEGMENT.size)
      return JpegHeader(width, height, channels, bits, marker, orientation)
    end = position + 2 + length
    if marker == _APP1 and data.startswith(_JPEG_EXIF, position + _SEGMENT.size):
      orientation = exif_orientation(data[position + _SEGMENT.size + len(_JPEG_EXIF) : end])
    position = end
  raise ValueError("truncated or damaged JPEG: no frame header")


def bmp_header(data: bytes) -> BmpHeader:
  """Both headers of a BMP; a negative height (rows from the top) is given as positive.

  Raises:
    ValueError: the file ends inside its headers, or they are no BMP's.
  """
  try:
    pixels_offset, dib_bytes = struct.unpack_from("<II", data, 10)
    if dib_bytes == 12:
      width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
      compression = 0
    else:
      width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
  except struct.error:
    raise ValueError("truncated BMP") from None
  if dib_bytes not in _DIB_BYTES:
    raise ValueError(f"damaged BMP: no header is of {dib_bytes} bytes")
  return BmpHeader(width, abs(height), bits, compression, pixels_offset, dib_bytes)


def gif_header(data: bytes) -> GifHeader:
  """Walks all blocks without decoding one.

  Raises:
    ValueError: the file ends inside its header.
  """
  if len(data) < 13:
    raise ValueError("truncated GIF")
  width, height, flags = struct.unpack_from("<HHB", data, 6)
  position, num_frames = 13 + _gif_palette_bytes(flags), 0
  try:
    while data[position] in (_GIF_IMAGE, _GIF_EXTENSION):
      if data[position] == _GIF_IMAGE:
        num_frames += 1
        position += 11 + _gif_palette_bytes(data[position + 9])
      else:
        position += 2
      while data[position]:
        position += 1 + data[position]
      position += 1
    is_whole = data[position] == _GIF_TRAILER
  except IndexError:
    is_whole = False
  return GifHeader(width, height, num_frames, is_whole)


def _gif_palette_bytes(flags: int) -> int:
  return 3 * 2 ** ((flags & 0x07) + 1) if flags & 0x80 else 0


def webp_header(data: bytes) -> WebpHeader:
  """Canvas and orientation.

  Raises:
    ValueError: the file is shorter than it says, or holds no picture.
  """
  (riff_bytes,) = struct.unpack_from("<I", data, 4)
  if riff_bytes + 8 > len(data) or len(data) < 30:
    raise ValueError("truncated WebP")
  kind = data[12:16]
  if kind == b"VP8X":
    width = 1 + int.from_bytes(data[24:27], "little")
    height = 1 + int.from_bytes(data[27:30], "little")
    return WebpHeader(width, height, _webp_orientation(data))
  if kind == b"VP8L":
    packed = int.from_bytes(data[21:25], "little")
    return WebpHeader(1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF), 1)
  if kind == b"VP8 ":
    width, height = struct.unpack_from("<HH", data, 26)
    return WebpHeader(width & 0x3FFF, height & 0x3FFF, 1)
  raise ValueError("damaged WebP: no picture inside")


def _webp_orientation(data: bytes) -> int:
  position = 12
  while position + 8 <= len(data):
    kind, length = struct.unpack_from("<4sI", data, position)
    if kind == b"EXIF":
      return exif_orientation(data[position + 8 : position + 8 + length].removeprefix(b"Exif\0\0"))
    position += 8 + length + length % 2
  return 1
