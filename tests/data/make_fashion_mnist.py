"""Writes fashion_mnist.zip from the IDX files of Debian's package dataset-fashion-mnist.

Usage: python tests/data/make_fashion_mnist.py [IDX_FOLDER] [ZIP]

Of each class, in the order of the files, the first 960 training images become train/<class>/NNNNN.png, the
next 120 validation/<class>/NNNNN.png, and the first 120 test images test/<class>/NNNNN.png; NNNNN is the
number of the image in its IDX file, counted from 0. The same version of zlib gives the same bytes.
"""

import gzip
import itertools
import os
import struct
import sys
import zipfile
import zlib

import numpy as np

CLASSES = (
  "t-shirt",
  "trouser",
  "pullover",
  "dress",
  "coat",
  "sandal",
  "shirt",
  "sneaker",
  "bag",
  "ankle-boot",
)
# (split, prefix of the IDX files, images of each class to skip, images of each class to take)
SPLITS = (("train", "train", 0, 960), ("validation", "train", 960, 120), ("test", "t10k", 0, 120))


def read_idx(path: str) -> np.ndarray:
  """uint8 array of a gzipped IDX file: images [number, height, width] or labels [number]."""
  with gzip.open(path) as file:
    data = file.read()
  num_dimensions = data[3]
  shape = struct.unpack_from(f">{num_dimensions}I", data, 4)
  return np.frombuffer(data, np.uint8, offset=4 + 4 * num_dimensions).reshape(shape)


def filtered_rows(pixels: np.ndarray) -> np.ndarray:
  """uint8 [5, height, width]: the rows under each of PNG's filters (PNG specification, section 9)."""
  values = pixels.astype(np.int16)
  padded = np.pad(values, ((1, 0), (1, 0)))
  left, above, corner = padded[1:, :-1], padded[:-1, 1:], padded[:-1, :-1]
  estimate = left + above - corner
  distances = np.abs(np.stack([estimate - left, estimate - above, estimate - corner]))
  paeth = np.choose(distances.argmin(axis=0), [left, above, corner])
  predictions = np.stack([np.zeros_like(values), left, above, (left + above) // 2, paeth])
  return (values - predictions).astype(np.uint8)


def smallest_deflate(data: bytes) -> bytes:
  """The shortest of zlib's answers."""
  answers = []
  strategies = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY)
  for memory_level, strategy in itertools.product((1, 8, 9), strategies):
    deflate = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS, memory_level, strategy)
    answers.append(deflate.compress(data) + deflate.flush())
  return min(answers, key=len)


def encode_png(pixels: np.ndarray) -> bytes:
  """The shortest PNG of uint8 grey [height, width]: one filter for all rows, or each row's of least sum."""
  rows = filtered_rows(pixels)
  num_filters, height, width = rows.shape
  sums = np.minimum(rows.astype(int), 256 - rows.astype(int)).sum(axis=2)
  choices = [np.full(height, number) for number in range(num_filters)] + [sums.argmin(axis=0)]
  scanlines = (np.column_stack([choice, rows[choice, np.arange(height)]]) for choice in choices)
  body = min((smallest_deflate(lines.astype(np.uint8).tobytes()) for lines in scanlines), key=len)
  header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def chunk(kind: bytes, payload: bytes) -> bytes:
  """One chunk of a PNG."""
  return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def main(idx_folder: str, zip_path: str) -> None:
  """Writes the archive, entries sorted by name, without dates."""
  entries = {}
  for split, prefix, num_skipped, num_taken in SPLITS:
    images = read_idx(os.path.join(idx_folder, f"{prefix}-images-idx3-ubyte.gz"))
    labels = read_idx(os.path.join(idx_folder, f"{prefix}-labels-idx1-ubyte.gz"))
    for label, name in enumerate(CLASSES):
      for number in np.flatnonzero(labels == label)[num_skipped : num_skipped + num_taken]:
        entries[f"{split}/{name}/{number:05d}.png"] = images[number]
  with zipfile.ZipFile(zip_path, "w", zipfile.ZIP_STORED) as archive:
    for name in sorted(entries):
      # Stored: a second deflate makes a PNG longer.
      archive.writestr(zipfile.ZipInfo(name), encode_png(entries[name]))


if __name__ == "__main__":
  arguments = sys.argv[1:]
  folder = arguments[0] if arguments else "/usr/share/datasets/fashion-mnist"
  main(
    folder, arguments[1] if arguments[1:] else os.path.join(os.path.dirname(__file__), "fashion_mnist.zip")
  )
