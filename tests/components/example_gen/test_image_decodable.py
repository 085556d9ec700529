"""Whatever cleaning accepts, TensorFlow decodes: one file that it does not would stop a whole run."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from components.example_gen.image_cleaning import clean_image

KINDS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")


def picture(seed=0):
  return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (13, 9, 3), np.uint8))


def encode(kind, seed=0, **options):
  file = io.BytesIO()
  (picture(seed).quantize(16) if kind == "GIF" else picture(seed)).save(file, kind, **options)
  return file.getvalue()


def chunk(kind, payload):
  return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def check(data):
  """Refused with one line, or decodable at the size that was told; returns what happened."""
  import tensorflow as tf

  try:
    cleaned, info = clean_image(data)
  except ValueError as error:
    assert "\n" not in str(error)
    return "refused"
  shape = tf.io.decode_image(cleaned, expand_animations=False).shape
  assert shape[:2] == (info.height, info.width)
  assert shape[2] in (1, 3)
  return "kept" if cleaned == data else "changed"


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_changed_at_random(kind):
  generator = np.random.default_rng(KINDS.index(kind))
  for seed in range(60):
    options = {"progressive": True} if kind == "JPEG" and seed % 2 else {}
    data = bytearray(encode(kind, seed, **options))
    for _ in range(generator.integers(1, 4)):
      data[generator.integers(0, len(data))] = generator.integers(0, 256)
    check(bytes(data))


def test_pixels_of_a_png_changed_at_random_with_right_checksums():
  generator = np.random.default_rng(5)
  whole = encode("PNG")
  pixels = zlib.decompress(whole[41:-16])
  outcomes = set()
  for _ in range(40):
    changed = bytearray(pixels)
    changed[28 * generator.integers(0, 13)] = generator.integers(3, 6)
    changed = changed[: len(changed) - generator.integers(0, 2)] + bytes(generator.integers(0, 2))
    deflated = zlib.compress(bytes(changed))[: None if generator.integers(0, 3) else -1]
    outcomes.add(check(whole[:33] + chunk(b"IDAT", deflated) + whole[-12:]))
  assert outcomes == {"kept", "refused"}


def test_pngs_that_are_unusual():
  whole = encode("PNG")
  header, deflated, end = whole[8:33], whole[41:-16], whole[-12:]
  signature, text = whole[:8], chunk(b"tEXt", b"Comment\0words")
  first, second = chunk(b"IDAT", deflated[:50]), chunk(b"IDAT", deflated[50:])
  assert check(signature + header + text + first + second + text + end) == "kept"
  assert check(signature + header + chunk(b"IDAT", b"") + first + second + end) == "kept"
  unknown_method = header[:4] + b"IHDR" + header[8:18] + b"\1" + header[19:21]
  unknown_method += struct.pack(">I", zlib.crc32(unknown_method[4:]))
  for parts in (
    (header, first, text, second, end),
    (header, chunk(b"ABCD", b"critical and unknown"), first, second, end),
    (header, chunk(b"ab1d", b"no name"), first, second, end),
    (header, first, second, end[:-1] + b"\0"),
    (unknown_method, first, second, end),
    (header, header, first, second, end),
    (header, first, end, second),
    (header, end),
    (first, second, end),
  ):
    check(signature + b"".join(parts))
  assert check(signature + header + first + second + end + b"more") == "kept"


def test_bytes_behind_the_rows_of_a_bmp_are_cut_off():
  data = encode("BMP")
  assert clean_image(data + b"more")[0] == data
  assert check(data[:10] + bytes(4) + data[14:]) == "changed"


def test_gifs_that_are_unusual():
  data = encode("GIF")
  assert check(data) == "kept"
  assert check(data[:-1]) == "changed"
  assert check(data[:-1] + b"?" * 20) == "changed"
  comment = b"\x21\xfe\x05words\0"
  assert check(data[:-1] + comment + b";") == "kept"
  # Pixels of four bits, and a palette of only eight colours.
  palette_bytes, start = 3 * 16, 13
  assert data[10] & 7 == 3
  short = data[:10] + bytes([data[10] & ~7 | 2]) + data[11:start] + data[start + palette_bytes // 2 :]
  with pytest.raises(ValueError, match="a colour that its palette does not have"):
    clean_image(short)
