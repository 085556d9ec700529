"""What is no whole picture is refused with its reason, bombs by their headers alone."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from components.example_gen.image_cleaning import clean_image

BOMB_SIDE_PX = 30_000


def encode(picture, kind, **options):
  file = io.BytesIO()
  picture.save(file, kind, **options)
  return file.getvalue()


def picture(seed=0):
  return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (24, 32, 3), np.uint8))


def chunk(kind, payload):
  return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def png_with(*chunks):
  data = encode(picture(), "PNG")
  return data[:33] + b"".join(chunks) + data[33:]


def png_bomb():
  """30,000 x 30,000 pixels of 1 bit, all there: some 100 KB that become 900 MB."""
  row = bytes(1 + -(-BOMB_SIDE_PX // 8))
  deflate = zlib.compressobj(1)
  pixels = b"".join(deflate.compress(row) for _ in range(BOMB_SIDE_PX)) + deflate.flush()
  header = struct.pack(">IIBBBBB", BOMB_SIDE_PX, BOMB_SIDE_PX, 1, 0, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg_bomb():
  data = bytearray(encode(picture(), "JPEG"))
  frame = data.index(b"\xff\xc0")
  data[frame + 5 : frame + 9] = struct.pack(">HH", BOMB_SIDE_PX, BOMB_SIDE_PX)
  return bytes(data)


def gif_bomb(in_frame):
  """Too many pixels in the header's screen, or only in the frame's own size."""
  data = bytearray(encode(picture().quantize(4), "GIF"))
  size = struct.pack("<HH", BOMB_SIDE_PX, BOMB_SIDE_PX)
  if in_frame:
    frame = data.index(b",", 13 + 3 * 4)
    data[frame + 5 : frame + 9] = size
  else:
    data[6:10] = size
  return bytes(data)


def bmp_bomb():
  data = encode(picture(), "BMP")
  return data[:18] + struct.pack("<ii", BOMB_SIDE_PX, -BOMB_SIDE_PX) + data[26:]


def webp_bombs():
  lossless, lossy = encode(picture(), "WEBP", lossless=True), encode(picture(), "WEBP")
  assert (lossless[12:16], lossy[12:16]) == (b"VP8L", b"VP8 ")
  side = 16_383
  yield lossless[:21] + struct.pack("<I", (side - 1) | (side - 1) << 14) + lossless[25:]
  yield lossy[:26] + struct.pack("<HH", side, side) + lossy[30:]
  extended = encode(picture(), "WEBP", exif=b"Exif\0\0MM\0*")
  assert extended[12:16] == b"VP8X"
  yield extended[:24] + (2 * ((side - 1).to_bytes(3, "little"))) + extended[30:]


def bombs():
  yield from (png_bomb(), jpeg_bomb(), gif_bomb(in_frame=False), gif_bomb(in_frame=True), bmp_bomb())
  yield from webp_bombs()


def reason(data, **options):
  with pytest.raises(ValueError) as error:
    clean_image(data, **options)
  assert "\n" not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_cut_anywhere(progressive, subsampling):
  data = encode(picture(), "JPEG", progressive=progressive, subsampling=subsampling)
  for length in (
    *range(3, 40, 9),
    len(data) // 2,
    len(data) - 200,
    len(data) - 3,
    len(data) - 2,
    len(data) - 1,
  ):
    assert "JPEG" in reason(data[:length])


def test_jpeg_with_damaged_pixels():
  data = bytearray(encode(picture(), "JPEG", quality=95))
  middle = len(data) // 2
  data[middle : middle + 8] = b"\xff\x00" * 4
  assert "damaged JPEG: Corrupt JPEG data" in reason(bytes(data))


def test_damaged_pixels_of_a_cmyk_jpeg():
  data = encode(picture().convert("CMYK"), "JPEG")
  assert "truncated" in reason(data[: len(data) // 2])


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_png_cut_anywhere(mode):
  data = encode(picture().convert(mode), "PNG")
  for length in (8, 20, 33, 40, len(data) // 2, len(data) - 13, len(data) - 12, len(data) - 1):
    assert "truncated" in reason(data[:length])


def test_png_with_one_bit_flipped():
  data = bytearray(encode(picture(), "PNG"))
  data[len(data) // 2] ^= 1
  assert "wrong checksum of its IDAT chunk" in reason(bytes(data))
  data = bytearray(encode(picture(), "PNG"))
  data[23] ^= 1
  assert "wrong checksum of its IHDR chunk" in reason(bytes(data))


def test_png_with_too_few_rows():
  header = struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)
  pixels = zlib.compress(bytes(5) * 3)
  data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
  assert "cannot be decoded" in reason(data)


def test_webp_gif_and_bmp_cut_short():
  for kind, options in (("WEBP", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("GIF", {})):
    data = encode(picture(), kind, **options)
    for length in (16, 28, len(data) // 2, len(data) - 20):
      assert kind.lower() in reason(data[:length]).lower()
  animation = encode(picture(), "WEBP", save_all=True, append_images=[picture(1)])
  assert "truncated WebP" in reason(animation[:-100])
  eight_bits = encode(picture().quantize(8), "BMP")
  assert "BMP" in reason(eight_bits[:-40])


def test_webp_with_damaged_pixels():
  data = bytearray(encode(picture(), "WEBP", lossless=True))
  data[30:80] = bytes(50)
  assert "WEBP" in reason(bytes(data))


def test_no_picture_at_all():
  assert reason(b"") == "empty file (0 bytes)"
  assert "not a JPEG, PNG, BMP, GIF or WebP picture" in reason(b"just a few words, named cat.png")
  assert "not a JPEG" in reason(encode(picture(), "TIFF"))
  assert "BMP" in reason(b"BMW, a maker of cars and motorcycles")
  assert "JPEG" in reason(b"\xff\xd8\xff" + b"words" * 20)
  assert "PNG" in reason(b"\x89PNG\r\n\x1a\n" + b"words" * 20)
  assert "GIF" in reason(b"GIF89a\1\0\1\0" + b"words" * 20)
  assert "WebP" in reason(b"RIFF\x40\0\0\0WEBP" + b"words" * 20)


def test_too_many_pixels():
  data = encode(picture(), "PNG")
  assert clean_image(data, max_pixels=24 * 32)[1].width == 32
  assert (
    reason(data, max_pixels=24 * 32 - 1) == "32x24 pixels are more than the 767 allowed (data.max_pixels)"
  )


def test_no_setting_allows_more_pixels_than_tensorflow_decodes():
  assert "30000x30000 pixels" in reason(jpeg_bomb(), max_pixels=10**10)


def test_text_bomb_in_a_png():
  zeros = zlib.compress(bytes(9_000_000), 9)
  for bomb in (
    chunk(b"zTXt", b"Comment\0\0" + zeros),
    chunk(b"iTXt", b"Comment\0\1\0en\0Kommentar\0" + zeros),
    chunk(b"iCCP", b"profile\0\0" + zeros),
  ):
    assert "beyond 8000000 bytes" in reason(png_with(bomb))
  halves = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(4_500_000), 9))
  assert "beyond 8000000 bytes" in reason(png_with(halves, halves))
  harmless = png_with(
    halves,
    chunk(b"iTXt", b"Comment\0\0\0en\0Kommentar\0" + b"plain"),
    chunk(b"zTXt", b"Comment\0\0damaged"),
  )
  assert clean_image(harmless)[0] == harmless


def test_progressive_jpeg_of_countless_scans():
  data = encode(picture(), "JPEG", progressive=True)
  last_scan = data.rindex(b"\xff\xda")
  assert "more than 100 scans" in reason(data[:-2] + data[last_scan:-2] * 101 + data[-2:])


def test_bombs_are_refused_without_being_decoded():
  """In a process of its own, whose peak memory is the system's own figure."""
  program = """
import resource, sys, time
sys.path[:0] = sys.argv[1:3]
import test_image_damage as bombs
from components.example_gen.image_cleaning import clean_image

zeros = bombs.zlib.compress(bytes(9_000_000), 9)
data = [*bombs.bombs(), bombs.png_with(bombs.chunk(b"zTXt", b"a\\0\\0" + zeros))]
before_kib, start_s = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
for bomb in data:
  assert len(bomb) < 600_000
  try:
    clean_image(bomb)
  except ValueError as error:
    print(error)
growth_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib
print(growth_kib // 1024, time.process_time() - start_s)
"""
  folder = __file__.rpartition("/")[0]
  root = folder.removesuffix("/tests/components/example_gen")
  run = subprocess.run(
    [sys.executable, "-c", program, folder, root], capture_output=True, text=True, timeout=120
  )
  assert run.returncode == 0, run.stderr
  *reasons, figures = run.stdout.splitlines()
  assert len(reasons) == 9
  assert all("pixels" in line for line in reasons[:-1])
  assert "grow beyond 8000000 bytes" in reasons[-1]
  growth_mib, seconds = (float(figure) for figure in figures.split())
  assert growth_mib < 8
  assert seconds < 1
