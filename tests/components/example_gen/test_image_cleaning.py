"""Cleaned pictures as TensorFlow decodes them, against Pillow, numpy and values worked out by hand."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from components.example_gen.image_cleaning import clean_image, decode_clean_image

HEIGHT, WIDTH = 12, 18


def encode(picture, kind, **options):
  file = io.BytesIO()
  picture.save(file, kind, **options)
  return file.getvalue()


def noise(channels, seed=0):
  return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, channels), np.uint8)


def smooth_picture():
  rows, columns = np.mgrid[0:40, 0:56]
  return Image.fromarray(np.stack([rows * 6, columns * 4, 255 - rows * 3], axis=-1).astype(np.uint8))


def png(width, height, bits, color_type, rows, extra=()):
  """A PNG from its raw rows, for what Pillow does not write; every row goes unfiltered."""

  def chunk(kind, payload):
    checksum = zlib.crc32(kind + payload)
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", checksum)

  header = struct.pack(">IIBBBBB", width, height, bits, color_type, 0, 0, 0)
  pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
  before = b"".join(chunk(*pair) for pair in extra)
  parts = chunk(b"IHDR", header) + before + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
  return b"\x89PNG\r\n\x1a\n" + parts


def tf_pixels(data):
  import tensorflow as tf

  pixels = tf.io.decode_image(data, expand_animations=False).numpy()
  return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def over_white(color, alpha):
  """Independent of the code's integers: real numbers, rounded at the end."""
  alpha = alpha[..., None] / 255
  return np.rint(color * alpha + 255 * (1 - alpha)).astype(np.uint8)


def check(data, expected, kept, kind, tolerance=0):
  cleaned, info = clean_image(data)
  assert (cleaned == data) == kept
  assert info == (expected.shape[1], expected.shape[0], kind)
  for pixels in (tf_pixels(cleaned), decode_clean_image(cleaned)):
    assert pixels.dtype == np.uint8
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_plain_grey_and_rgb_are_kept_byte_for_byte(kind, channels):
  pixels = noise(channels)
  pixels = pixels[..., 0] if channels == 1 else pixels
  check(encode(Image.fromarray(pixels), kind), pixels, kept=True, kind=kind.lower())


@pytest.mark.parametrize(
  "options",
  [
    {},
    {"progressive": True},
    {"subsampling": 2},
    {"subsampling": 1},
    {"keep_rgb": True},
    {"restart_marker_rows": 1},
  ],
)
def test_jpegs_are_kept_byte_for_byte(options):
  data = encode(smooth_picture(), "JPEG", quality=90, **options)
  check(data, np.asarray(Image.open(io.BytesIO(data))), kept=True, kind="jpeg", tolerance=4)


def test_grey_jpeg_is_kept_and_stays_grey():
  data = encode(smooth_picture().convert("L"), "JPEG", quality=90)
  check(data, np.asarray(Image.open(io.BytesIO(data))), kept=True, kind="jpeg", tolerance=2)


def test_bytes_after_the_end_of_a_jpeg_do_no_harm():
  data = encode(smooth_picture(), "JPEG") + b"a second picture, as telephones append it"
  check(data, np.asarray(Image.open(io.BytesIO(data))), kept=True, kind="jpeg", tolerance=4)


def test_scan_parameters_that_decoders_forgive_are_forgiven():
  data = bytearray(encode(smooth_picture(), "JPEG"))
  scan = data.index(b"\xff\xda")
  assert data[scan + 11 : scan + 14] == b"\x00\x3f\x00"
  data[scan + 12] = 0
  expected = np.asarray(Image.open(io.BytesIO(bytes(data))))
  check(bytes(data), expected, kept=True, kind="jpeg", tolerance=4)
  with pytest.raises(ValueError, match="truncated"):
    clean_image(bytes(data[:-40]))


def test_cmyk_jpeg_becomes_rgb():
  data = encode(smooth_picture().convert("CMYK"), "JPEG", quality=95)
  expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
  check(data, expected, kept=False, kind="jpeg")


def test_rgba_is_laid_over_white():
  pixels = noise(4)
  pixels[0, 0], pixels[0, 1] = (10, 20, 30, 0), (10, 20, 30, 255)
  expected = over_white(pixels[..., :3], pixels[..., 3])
  assert expected[0, 0].tolist() == [255, 255, 255]
  assert expected[0, 1].tolist() == [10, 20, 30]
  for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
    check(encode(Image.fromarray(pixels), kind, **options), expected, kept=False, kind=kind.lower())


def test_grey_with_alpha_stays_grey():
  pixels = noise(2)
  expected = over_white(pixels[..., :1], pixels[..., 1])[..., 0]
  check(encode(Image.fromarray(pixels, "LA"), "PNG"), expected, kept=False, kind="png")


def test_palettes_become_rgb():
  picture = Image.fromarray(noise(3)).quantize(16)
  for kind in ("PNG", "BMP"):
    check(encode(picture, kind), np.asarray(picture.convert("RGB")), kept=False, kind=kind.lower())


def test_palette_with_transparency_is_laid_over_white():
  picture = Image.fromarray(noise(3)).quantize(16)
  levels = bytes(range(0, 256, 17))
  alpha = np.frombuffer(levels, np.uint8)[np.asarray(picture)]
  expected = over_white(np.asarray(picture.convert("RGB")), alpha)
  check(encode(picture, "PNG", transparency=levels), expected, kept=False, kind="png")


def test_transparent_color_of_a_png_becomes_white():
  rgb, grey = noise(3), noise(1)[..., 0]
  data = encode(Image.fromarray(rgb), "PNG", transparency=tuple(rgb[3, 4].tolist()))
  expected = rgb.copy()
  expected[(rgb == rgb[3, 4]).all(axis=-1)] = 255
  check(data, expected, kept=False, kind="png")
  data = encode(Image.fromarray(grey), "PNG", transparency=int(grey[3, 4]))
  expected = np.where(grey == grey[3, 4], 255, grey)
  assert (expected != grey).any()
  check(data, expected, kept=False, kind="png")


def test_few_bits_of_grey_are_stretched():
  check(
    png(8, 1, 1, 0, [bytes([0b10100001])]),
    np.array([[255, 0, 255, 0, 0, 0, 0, 255]]),
    False,
    "png",
  )
  check(png(4, 1, 2, 0, [bytes([0b00011011])]), np.array([[0, 85, 170, 255]]), False, "png")
  check(png(2, 1, 4, 0, [bytes([0x3C])]), np.array([[0x33, 0xCC]]), False, "png")
  transparent = png(2, 1, 4, 0, [bytes([0x3C])], [(b"tRNS", b"\x00\x03")])
  check(transparent, np.array([[255, 0xCC]]), False, "png")


def test_16_bits_are_scaled_to_8():
  grey = struct.pack(">6H", 0, 128, 129, 257 * 100, 65279, 65535)
  check(png(6, 1, 16, 0, [grey]), np.array([[0, 0, 1, 100, 254, 255]]), False, "png")
  rgb = struct.pack(">6H", 257, 514, 771, 65535, 0, 32768)
  check(png(2, 1, 16, 2, [rgb]), np.array([[[1, 2, 3], [255, 0, 128]]]), False, "png")
  rgba = struct.pack(">8H", 257 * 50, 0, 65535, 65535, 257 * 50, 0, 65535, 0)
  check(png(2, 1, 16, 6, [rgba]), np.array([[[50, 0, 255], [255, 255, 255]]]), False, "png")
  grey_alpha = struct.pack(">4H", 257 * 50, 65535, 257 * 50, 0)
  check(png(2, 1, 16, 4, [grey_alpha]), np.array([[50, 255]]), False, "png")
  keyed = png(
    2, 1, 16, 0, [struct.pack(">2H", 257 * 9, 257 * 9 + 1)], [(b"tRNS", struct.pack(">H", 257 * 9))]
  )
  check(keyed, np.array([[255, 9]]), False, "png")


# The stored picture is [[1, 2, 3], [4, 5, 6]]; what a viewer shows for each value of EXIF's orientation.
SHOWN = {
  1: [[1, 2, 3], [4, 5, 6]],
  2: [[3, 2, 1], [6, 5, 4]],
  3: [[6, 5, 4], [3, 2, 1]],
  4: [[4, 5, 6], [1, 2, 3]],
  5: [[1, 4], [2, 5], [3, 6]],
  6: [[4, 1], [5, 2], [6, 3]],
  7: [[6, 3], [5, 2], [4, 1]],
  8: [[3, 6], [2, 5], [1, 4]],
}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
  exif = Image.Exif()
  exif[0x0112] = orientation
  stored = np.array(SHOWN[1], np.uint8) * 40
  shown = np.array(SHOWN[orientation], np.uint8) * 40
  data = encode(Image.fromarray(stored), "PNG", exif=exif)
  check(data, shown, kept=orientation == 1, kind="png")
  data = encode(Image.fromarray(stored).convert("RGB"), "WEBP", lossless=True, exif=exif)
  check(data, np.repeat(shown[..., None], 3, axis=-1), kept=False, kind="webp")
  # Blocks of 16 pixels, so that JPEG hardly blurs them.
  picture = Image.fromarray(np.kron(stored, np.ones((16, 16), np.uint8)))
  for mode, channels in (("L", 1), ("RGB", 3)):
    data = encode(picture.convert(mode), "JPEG", quality=100, subsampling=0, exif=exif)
    expected = np.kron(shown, np.ones((16, 16), np.uint8))
    expected = np.repeat(expected[..., None], 3, axis=-1) if channels == 3 else expected
    check(data, expected, kept=orientation == 1, kind="jpeg", tolerance=2)


def test_webp_becomes_png():
  pixels = noise(3)
  check(encode(Image.fromarray(pixels), "WEBP", lossless=True), pixels, kept=False, kind="webp")
  lossy = encode(smooth_picture(), "WEBP", quality=80)
  check(lossy, np.asarray(Image.open(io.BytesIO(lossy)).convert("RGB")), kept=False, kind="webp")


def test_gif_of_one_frame_is_kept():
  picture = Image.fromarray(noise(3)).quantize(32)
  check(encode(picture, "GIF"), np.asarray(picture.convert("RGB")), kept=True, kind="gif")


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_of_an_animation_the_first_frame_stays(kind):
  frames = [Image.fromarray(noise(3, seed)).quantize(32) for seed in range(3)]
  frames = frames if kind == "GIF" else [frame.convert("RGB") for frame in frames]
  data = encode(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
  assert Image.open(io.BytesIO(data)).n_frames == 3
  check(data, np.asarray(frames[0].convert("RGB")), kept=False, kind=kind.lower())


def test_transparent_gif_is_laid_over_white():
  picture = Image.fromarray(noise(3)).quantize(32)
  expected = np.asarray(picture.convert("RGB")).copy()
  expected[np.asarray(picture) == 5] = 255
  check(encode(picture, "GIF", transparency=5), expected, kept=False, kind="gif")


def test_rows_of_a_bmp_from_the_top():
  pixels = noise(3)
  data = encode(Image.fromarray(pixels[::-1]), "BMP")
  data = data[:22] + struct.pack("<i", -HEIGHT) + data[26:]
  check(data, pixels, kept=True, kind="bmp")


def test_bmps_that_tensorflow_misreads_become_png():
  pixels = noise(3)
  # 32 bits a pixel, the fourth byte unused.
  rows = np.dstack([pixels[::-1, :, ::-1], np.zeros((HEIGHT, WIDTH), np.uint8)])
  headers = struct.pack("<2sIIIIiiHHIIiiII", b"BM", 0, 0, 54, 40, WIDTH, HEIGHT, 1, 32, 0, 0, 0, 0, 0, 0)
  check(headers + rows.tobytes(), pixels, kept=False, kind="bmp")
  # OS/2's header of 12 bytes; 18 pixels of 3 bytes need 2 bytes of padding a row.
  rows = np.pad(pixels[::-1, :, ::-1].reshape(HEIGHT, -1), ((0, 0), (0, 2)))
  headers = struct.pack("<2sIIIIHHHH", b"BM", 0, 0, 26, 12, WIDTH, HEIGHT, 1, 24)
  check(headers + rows.tobytes(), pixels, kept=False, kind="bmp")
  bits = Image.fromarray(noise(1)[..., 0]).convert("1")
  check(encode(bits, "BMP"), np.asarray(bits.convert("L")), kept=False, kind="bmp")


def test_a_picture_is_known_by_its_content_and_cleaning_twice_changes_nothing():
  data = encode(Image.fromarray(noise(4)), "PNG")
  once, _ = clean_image(data)
  twice, info = clean_image(once)
  assert twice == once
  assert info.format == "png"
