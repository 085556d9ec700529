"""One form for all pictures: bytes that `tf.io.decode_image` decodes to what a viewer shows.

JPEG, PNG, BMP and GIF files of 8-bit grey or RGB pixels are kept byte for byte, once they have proved whole.
Everything else becomes a PNG of 8-bit grey or RGB: transparent pixels are laid over white, 16-bit values are
scaled to 8 bits (65535 becomes 255), CMYK becomes RGB, the EXIF orientation is applied, and of an animation
the first frame stays. TensorFlow would ignore or refuse each of these.
"""

from __future__ import annotations

import io
import zlib
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from components.example_gen import image_header, png_header

MAX_PIXELS = 50_000_000
# TensorFlow decodes fewer than 2**29 values a picture.
_MAX_DECODABLE_PIXELS = (2**29 - 1) // 3
# Progressive files have about ten; each can be tiny and still go over all pixels, so thousands take hours.
_MAX_JPEG_SCANS = 100
# Baseline, extended and progressive Huffman coding: what every JPEG library decodes.
_PROGRESSIVE_FRAME = 0xC2
_HUFFMAN_FRAMES = frozenset({0xC0, 0xC1, _PROGRESSIVE_FRAME})
_PNG_GREY, _PNG_RGB, _PNG_GREY_ALPHA = 0, 2, 4
_PLAIN_PNG_CHANNELS = {_PNG_GREY: 1, _PNG_RGB: 3}
_LAST_PNG_FILTER = 4
_IDENTITY_GREY_PALETTE = b"".join(bytes((level, level, level, 0)) for level in range(256))
_ROWS_AT_ONCE = 256


class ImageInfo(NamedTuple):
  """Size in pixels as shown (after the EXIF orientation), and the format of the file as it came."""

  width: int
  height: int
  format: str


def clean_image(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[bytes, ImageInfo]:
  """Checks that a picture is whole and brings it into the one form (see the module).

  Args:
    data: a JPEG, PNG, BMP, GIF or WebP file, whatever its name says.
    max_pixels: larger pictures are refused by their header alone.

  Returns:
    (the bytes of a JPEG, PNG, BMP or GIF file, ImageInfo).

  Raises:
    ValueError: the reason, in one line, why this is not a whole picture.
  """
  if not data:
    raise ValueError("empty file (0 bytes)")
  kind = image_header.picture_format(data)
  if kind is None:
    raise ValueError(f"not a JPEG, PNG, BMP, GIF or WebP picture (begins with {data[:8]!r})")
  try:
    return _CLEANERS[kind](data, max_pixels)
  except ValueError:
    raise
  except Exception as error:
    # Decoders answer damaged data with errors of many types: cv2.error, OSError, SyntaxError, ...
    reason = " ".join(str(error).split()) or type(error).__name__
    raise ValueError(f"damaged {kind.upper()}: {reason}") from None


def decode_clean_image(data: bytes) -> np.ndarray:
  """Pixels of bytes that `clean_image` returned.

  Returns:
    uint8 [height, width] of a grey picture, [height, width, 3] RGB otherwise.
  """
  with Image.open(io.BytesIO(data)) as picture:
    return np.asarray(picture if picture.mode == "L" else picture.convert("RGB"))


def _check_size(width: int, height: int, max_pixels: int) -> None:
  if width <= 0 or height <= 0:
    raise ValueError(f"damaged header: {width}x{height} pixels")
  if width * height > max_pixels or width * height > _MAX_DECODABLE_PIXELS:
    limit = min(max_pixels, _MAX_DECODABLE_PIXELS)
    raise ValueError(f"{width}x{height} pixels are more than the {limit} allowed (data.max_pixels)")


def _clean_jpeg(data: bytes, max_pixels: int) -> tuple[bytes, ImageInfo]:
  header = image_header.jpeg_header(data)
  _check_size(header.width, header.height, max_pixels)
  if header.frame_marker == _PROGRESSIVE_FRAME and data.count(b"\xff\xda") > _MAX_JPEG_SCANS:
    raise ValueError(f"JPEG of more than {_MAX_JPEG_SCANS} scans")
  is_common = header.frame_marker in _HUFFMAN_FRAMES and header.bits == 8
  if is_common:
    _check_jpeg_data(data)
    if header.channels in (1, 3) and header.orientation == 1:
      return data, ImageInfo(header.width, header.height, "jpeg")
  if is_common and header.channels == 3:
    pixels = simplejpeg.decode_jpeg(data, "BGR", strict=False)
  else:
    pixels = _decode_with_pillow(data, max_pixels)
  return _as_png(pixels, "jpeg", header.orientation)


def _check_jpeg_data(data: bytes) -> None:
  """Decodes all entropy-coded data; raises ValueError at the decoder's first warning, truncation among them.

  Scaling by 1/8 and leaving colour out saves most of the inverse transforms, which cannot fail.
  """
  try:
    # fastdct, fastupsample, min_height, min_width, min_factor: to name them costs a tenth of a small picture.
    simplejpeg.decode_jpeg(data, "GRAY", True, False, 1, 1, 8)
  except ValueError as error:
    reason = str(error)
    if "Invalid SOS parameters" not in reason and "subsampling level" not in reason:
      raise ValueError(f"truncated or damaged JPEG: {reason}") from None
    # Some telephones write scan parameters that every decoder forgives, and rare chroma layouts are unknown
    # to TurboJPEG alone: neither says anything about the data.
    with Image.open(io.BytesIO(data)) as picture:
      picture.load()


def _clean_png(data: bytes, max_pixels: int) -> tuple[bytes, ImageInfo]:
  header = png_header.png_header(data)
  _check_size(header.width, header.height, max_pixels)
  chunks = png_header.png_chunks(data)
  is_plain = header.bits == 8 and header.color_type in _PLAIN_PNG_CHANNELS
  is_plain = is_plain and chunks.transparency is None and chunks.orientation == 1
  if is_plain and _is_whole_png(header, chunks):
    return data, ImageInfo(header.width, header.height, "png")
  pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
  if pixels is None or pixels.shape[:2] != (header.height, header.width):
    raise ValueError("damaged PNG: its pixels cannot be decoded")
  if is_plain:
    return data, ImageInfo(header.width, header.height, "png")
  if header.color_type == _PNG_GREY and chunks.transparency:
    # OpenCV ignores the transparent grey level, and stretches its unit to the range of 8 or 16 bits.
    full = 65535 if header.bits == 16 else 255
    level = int.from_bytes(chunks.transparency[:2], "big") * full // (2**header.bits - 1)
    pixels[pixels == level] = full
  if pixels.dtype == np.uint16:
    pixels = cv2.convertScaleAbs(pixels, alpha=255 / 65535)
  pixels = _over_white(pixels)
  if header.color_type == _PNG_GREY_ALPHA:
    pixels = pixels[..., 0]
  return _as_png(pixels, "png", chunks.orientation)


def _is_whole_png(header: png_header.PngHeader, chunks: png_header.PngChunks) -> bool:
  """Whether a PNG of plain pixels inflates to exactly its rows, each with a filter that exists.

  Undoing the filters cannot fail, so this proves as much as decoding, in half the time. False where there is
  anything unusual about the file; it may still be whole.
  """
  if header.has_unusual_methods or chunks.has_unusual:
    return False
  row_bytes = 1 + header.width * _PLAIN_PNG_CHANNELS[header.color_type]
  num_bytes = row_bytes * header.height
  inflater = zlib.decompressobj()
  try:
    rows = inflater.decompress(b"".join(chunks.pixels), num_bytes + 1)
  except zlib.error:
    return False
  return inflater.eof and len(rows) == num_bytes and max(rows[::row_bytes]) <= _LAST_PNG_FILTER


def _clean_bmp(data: bytes, max_pixels: int) -> tuple[bytes, ImageInfo]:
  header = image_header.bmp_header(data)
  _check_size(header.width, header.height, max_pixels)
  if _is_plain_bmp(data, header):
    row_bytes = (header.width * header.bits // 8 + 3) // 4 * 4
    num_bytes = header.pixels_offset + row_bytes * header.height
    if num_bytes > len(data):
      raise ValueError("truncated BMP")
    # TensorFlow refuses bytes behind the last row; they mean nothing.
    return data[:num_bytes], ImageInfo(header.width, header.height, "bmp")
  return _as_png(_decode_with_pillow(data, max_pixels), "bmp")


def _is_plain_bmp(data: bytes, header: image_header.BmpHeader) -> bool:
  """24-bit colour, or 8-bit grey by its palette, which TensorFlow does not look at."""
  palette_start = 14 + header.dib_bytes
  if header.compression != 0 or header.dib_bytes < 40 or header.pixels_offset < palette_start:
    return False
  palette = data[palette_start : palette_start + len(_IDENTITY_GREY_PALETTE)]
  return header.bits == 24 or (header.bits == 8 and palette == _IDENTITY_GREY_PALETTE)


def _clean_gif(data: bytes, max_pixels: int) -> tuple[bytes, ImageInfo]:
  header = image_header.gif_header(data)
  _check_size(header.width, header.height, max_pixels)
  with Image.open(io.BytesIO(data)) as picture:
    # A frame may be larger than the screen that the header tells, or fill only a part of it.
    _check_size(*picture.size, max_pixels)
    fills_screen = picture.dispose_extent == (0, 0, header.width, header.height)
    picture.load()
    if picture.mode == "P" and np.asarray(picture).max() >= len(picture.getpalette()) // 3:
      raise ValueError("damaged GIF: a colour that its palette does not have")
    if fills_screen and header.num_frames == 1 and header.is_whole and "transparency" not in picture.info:
      return data, ImageInfo(header.width, header.height, "gif")
  return _as_png(_decode_with_pillow(data, max_pixels), "gif")


def _clean_webp(data: bytes, max_pixels: int) -> tuple[bytes, ImageInfo]:
  header = image_header.webp_header(data)
  _check_size(header.width, header.height, max_pixels)
  return _as_png(_decode_with_pillow(data, max_pixels), "webp", header.orientation)


def _decode_with_pillow(data: bytes, max_pixels: int) -> np.ndarray:
  """The first frame, uint8 [height, width] or [height, width, 3] BGR, transparent pixels over white."""
  with Image.open(io.BytesIO(data)) as picture:
    _check_size(*picture.size, max_pixels)
    picture.load()
    if "A" in picture.getbands() or "transparency" in picture.info:
      return _over_white(cv2.cvtColor(np.asarray(picture.convert("RGBA")), cv2.COLOR_RGBA2BGRA))
    if picture.mode in ("L", "1"):
      return np.asarray(picture.convert("L"))
    return cv2.cvtColor(np.asarray(picture.convert("RGB")), cv2.COLOR_RGB2BGR)


def _over_white(pixels: np.ndarray) -> np.ndarray:
  """Lays uint8 [height, width, 4] over white; pictures without alpha come back as they are."""
  if pixels.ndim == 2 or pixels.shape[2] == 3:
    return pixels
  composed = np.empty((*pixels.shape[:2], 3), np.uint8)
  # A band of rows at a time: the wider integers of a whole picture would take several times its memory.
  for start in range(0, len(pixels), _ROWS_AT_ONCE):
    band = pixels[start : start + _ROWS_AT_ONCE].astype(np.uint16)
    color, alpha = band[..., :3], band[..., 3:]
    composed[start : start + _ROWS_AT_ONCE] = (color * alpha + 255 * (255 - alpha) + 127) // 255
  return composed


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
  """Turns and mirrors pixels as EXIF's orientation tag asks (Exif 2.3, tag 0x0112)."""
  if orientation >= 5:
    pixels = pixels.swapaxes(0, 1)
  if orientation in (3, 4, 7, 8):
    pixels = pixels[::-1]
  if orientation in (2, 3, 6, 7):
    pixels = pixels[:, ::-1]
  return pixels


def _as_png(pixels: np.ndarray, kind: str, orientation: int = 1) -> tuple[bytes, ImageInfo]:
  pixels = np.ascontiguousarray(_upright(pixels, orientation))
  _, encoded = cv2.imencode(".png", pixels)
  height, width = pixels.shape[:2]
  return encoded.tobytes(), ImageInfo(width, height, kind)


_CLEANERS = {
  "jpeg": _clean_jpeg,
  "png": _clean_png,
  "bmp": _clean_bmp,
  "gif": _clean_gif,
  "webp": _clean_webp,
}
