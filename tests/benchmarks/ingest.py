"""ExampleGen against a plain loop that decodes each picture and writes the same examples; CPU seconds."""

import pathlib
import tempfile
import time

import numpy as np
import simplejpeg
import tensorflow as tf

from components.config import SplitFractions
from components.example_gen.executor import _write_chunk
from components.example_gen.image import ImageFolderReader

NUM_PICTURES = 4000
SIDE_PX = 64


def _make_pictures(folder: pathlib.Path) -> None:
  """JPEGs of smooth noise in two classes: real JPEGs to decode, without a download."""
  generator = np.random.default_rng(0)
  for number in range(NUM_PICTURES):
    coarse = generator.integers(0, 255, (8, 8, 3)).astype(np.float32)
    pixels = tf.image.resize(coarse, (SIDE_PX, SIDE_PX)).numpy().astype(np.uint8)
    target = folder / f"class{number % 2}"
    target.mkdir(exist_ok=True)
    (target / f"{number:05d}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels))


def _plain_loop(folder: pathlib.Path, target: str) -> int:
  """What a user would write: read, decode to be sure that it is a picture, write a tf.Example."""
  written = 0
  options = tf.io.TFRecordOptions(compression_type="GZIP", compression_level=1)
  with tf.io.TFRecordWriter(target, options) as writer:
    for path in sorted(folder.glob("*/*.jpg")):
      data = path.read_bytes()
      height, width, _ = simplejpeg.decode_jpeg(data).shape
      example = tf.train.Example()
      feature = example.features.feature
      feature["image"].bytes_list.value.append(data)
      feature["label"].bytes_list.value.append(path.parent.name.encode())
      feature["path"].bytes_list.value.append(str(path.relative_to(folder)).encode())
      feature["format"].bytes_list.value.append(b"jpeg")
      feature["height"].int64_list.value.append(height)
      feature["width"].int64_list.value.append(width)
      writer.write(example.SerializeToString())
      written += 1
  return written


def _deepline(folder: pathlib.Path, target: pathlib.Path) -> None:
  reader = ImageFolderReader(str(folder))
  chunks = list(enumerate(reader.chunks()))
  for split in ("train", "validation", "test"):
    (target / f"Split-{split}").mkdir(parents=True, exist_ok=True)
  for chunk in chunks:
    _write_chunk(chunk, reader, SplitFractions(), str(target), str(target), len(chunks))


def measure() -> dict:
  """Pictures per CPU second of both, in turn, the best of three; archives and Beam's start-up are not counted."""
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name) / "pictures"
    folder.mkdir()
    _make_pictures(folder)
    plain, ours = [], []
    for turn in range(3):
      started = time.process_time()
      _plain_loop(folder, f"{name}/plain.gz")
      plain.append(time.process_time() - started)
      started = time.process_time()
      _deepline(folder, pathlib.Path(name) / f"ours{turn}")
      ours.append(time.process_time() - started)
  return {
    "plain_pictures_per_cpu_s": round(NUM_PICTURES / min(plain)),
    "deepline_pictures_per_cpu_s": round(NUM_PICTURES / min(ours)),
    "ratio": round(min(plain) / min(ours), 3),
  }
