"""The chunks of a PNG file, read without decoding a pixel."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from components.example_gen.image_header import PNG_SIGNATURE, exif_orientation

# What libpng allows a text or a colour profile to grow to.
MAX_ANCILLARY_BYTES = 8_000_000
_IHDR_START = b"\0\0\0\x0dIHDR"
_IHDR = struct.Struct(">IIBBBBB")
_IEND = b"\0\0\0\0IEND\xaeB`\x82"
_CHUNK = struct.Struct(">I4s")
_ANCILLARY_BIT = 0x20
_COMPRESSED_CHUNKS = frozenset({b"zTXt", b"iTXt", b"iCCP"})


class PngHeader(NamedTuple):
  """`color_type`: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA; interlacing is an unusual method."""

  width: int
  height: int
  bits: int
  color_type: int
  has_unusual_methods: bool


class PngChunks(NamedTuple):
  """tRNS, EXIF's orientation, the parts of the deflated pixels, and whether any chunk is unusual."""

  transparency: bytes | None
  orientation: int
  pixels: list[memoryview]
  has_unusual: bool


def png_header(data: bytes) -> PngHeader:
  """What IHDR says.

  Raises:
    ValueError: IHDR is not there or damaged.
  """
  if len(data) < 33 or data[8:16] != _IHDR_START:
    raise ValueError("truncated or damaged PNG: no header")
  if zlib.crc32(data[12:29]) != int.from_bytes(data[29:33], "big"):
    raise ValueError("damaged PNG: wrong checksum of its IHDR chunk")
  width, height, bits, color_type, *methods = _IHDR.unpack_from(data, 16)
  return PngHeader(width, height, bits, color_type, has_unusual_methods=any(methods))


def png_chunks(data: bytes) -> PngChunks:
  """Walks the chunks behind IHDR.

  Raises:
    ValueError: a chunk is cut off, pixels have a wrong checksum, or texts or a colour profile are a bomb.
  """
  view, last = memoryview(data), len(data) - 12
  transparency, orientation, pixels, inflated, has_unusual = None, 1, [], 0, False
  position = pixels_end = len(PNG_SIGNATURE) + 25
  while position <= last:
    length, kind = _CHUNK.unpack_from(data, position)
    start, end = position + 8, position + 8 + length
    if kind == b"IEND":
      has_unusual = has_unusual or not data.startswith(_IEND, position)
      return PngChunks(transparency, orientation, pixels, has_unusual)
    if end - 8 > last:
      break
    if kind == b"IDAT":
      if zlib.crc32(view[start - 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
        raise ValueError("damaged PNG: wrong checksum of its IDAT chunk")
      has_unusual = has_unusual or bool(pixels) and position != pixels_end
      pixels.append(view[start:end])
      pixels_end = end + 4
    elif not kind[0] & _ANCILLARY_BIT or not kind.isalpha():
      has_unusual = True
    elif kind == b"tRNS":
      transparency = data[start:end]
    elif kind == b"eXIf":
      orientation = exif_orientation(data[start:end])
    else:
      inflated += length
      if kind in _COMPRESSED_CHUNKS:
        inflated += _inflated_bytes(_compressed_part(kind, data[start:end]))
      if inflated > MAX_ANCILLARY_BYTES:
        raise ValueError(f"its texts or colour profile grow beyond {MAX_ANCILLARY_BYTES} bytes")
    position = end + 4
  raise ValueError("truncated PNG")


def _compressed_part(kind: bytes, payload: bytes) -> bytes:
  """The deflated bytes of a zTXt, iTXt or iCCP chunk; empty where it holds none."""
  _, _, rest = payload.partition(b"\0")
  if kind != b"iTXt":
    return rest[1:]
  if rest[:1] != b"\1":
    return b""
  return rest[2:].partition(b"\0")[2].partition(b"\0")[2]


def _inflated_bytes(compressed: bytes) -> int:
  """How many bytes `compressed` inflates to, found without keeping them; counting ends above the maximum."""
  inflater, total = zlib.decompressobj(), 0
  try:
    while compressed and not inflater.eof and total <= MAX_ANCILLARY_BYTES:
      total += len(inflater.decompress(compressed, 1 << 16))
      compressed = inflater.unconsumed_tail
  except zlib.error:
    # A damaged comment does not touch the pixels: libpng drops it, too.
    return total
  return total
