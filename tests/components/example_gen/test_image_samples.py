"""The look at a sample of the pictures, single files for a request, and pictures for people."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.example_gen.image import ImageFolderReader, Probe, caption_image, clean_image_file, probe

SAMPLE = Path(__file__).parents[2] / "data/fashion_mnist.zip"


def encode(pixels, kind="PNG"):
  file = io.BytesIO()
  Image.fromarray(np.asarray(pixels, np.uint8)).save(file, kind)
  return file.getvalue()


def grey(value, height=6, width=8):
  return np.full((height, width), value)


def write_folder(root, files):
  for name, data in files.items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(data)
  return str(root)


def write_tgz(path, files):
  with tarfile.open(path, "w:gz") as archive:
    for name, data in files.items():
      member = tarfile.TarInfo(name)
      member.size = len(data)
      archive.addfile(member, io.BytesIO(data))
  return str(path)


def test_sample():
  listing = ImageFolderReader(str(SAMPLE)).list_pictures()
  assert not any(entry.problem for entry in listing.entries)
  counts = {}
  for entry in listing.entries:
    place = (listing.layout.split(entry.name), listing.layout.label(entry.name))
    counts[place] = counts.get(place, 0) + 1
  assert len(counts) == 30
  assert {(split, number) for (split, _), number in counts.items()} == {
    ("train", 960),
    ("validation", 120),
    ("test", 120),
  }
  assert probe(ImageFolderReader(str(SAMPLE))) == Probe(median_side_px=28, channels=1)


def test_probe(tmp_path):
  files = {f"a/{number}.png": encode(grey(7, 10 + number, 100)) for number in range(5)}
  path = write_folder(tmp_path / "grey", files)
  assert probe(ImageFolderReader(path)) == Probe(median_side_px=12, channels=1)
  # Grey pixels in an RGB file are no colour; one pixel of another hue is.
  pixels = np.full((9, 9, 3), 100)
  files["a/0.png"] = encode(pixels)
  assert probe(ImageFolderReader(write_folder(tmp_path / "rgb", files))).channels == 1
  pixels[4, 4, 2] += 1
  files["a/0.png"] = encode(pixels)
  for path in (write_folder(tmp_path / "hue", files), write_tgz(tmp_path / "hue.tgz", files)):
    assert probe(ImageFolderReader(path)) == Probe(median_side_px=12, channels=3)


def test_probe_samples_evenly(tmp_path):
  files = {f"a/{number:02d}.png": encode(grey(7, 10 + number, 100)) for number in range(20)}
  # Of four sampled pictures, numbers 0, 5, 10 and 15.
  assert probe(ImageFolderReader(write_folder(tmp_path, files)), max_images=4).median_side_px == 17


def test_probe_passes_over_rejects(tmp_path):
  files = {f"a/{number}.png": b"words" for number in range(4)} | {
    "a/4.png": encode(grey(1, 30, 20)),
    "x.md": b"",
  }
  path = write_folder(tmp_path, files)
  assert probe(ImageFolderReader(path), max_images=2).median_side_px == 20
  (tmp_path / "a/4.png").write_bytes(b"")
  with pytest.raises(
    ValueError, match=f"^{tmp_path}: none of its 5 pictures can be read; expected <class>/<picture>"
  ):
    probe(ImageFolderReader(path))


def test_clean_image_file(tmp_path):
  picture = encode(grey(10))
  write_folder(tmp_path, {"cat/1.png": picture, "cat/empty.png": b"", "dog/text.png": b"words"})
  os.mkfifo(tmp_path / "pipe.png")
  with open(tmp_path / "dog/large.png", "wb") as file:
    file.truncate(10**9)
  assert clean_image_file(str(tmp_path / "cat/1.png")) == picture
  for name, reason in (
    ("cat/empty.png", r"empty file \(0 bytes\)"),
    ("dog/text.png", "not a JPEG"),
    ("nothing.png", "no such file"),
    ("cat", "not a file"),
    ("pipe.png", "not a file"),
    ("dog/large.png", "1000000000 bytes are more than any picture"),
  ):
    with pytest.raises(ValueError, match=f"^{tmp_path}/{name}: {reason}"):
      clean_image_file(str(tmp_path / name))


def decode(data):
  picture = Image.open(io.BytesIO(data))
  assert (picture.format, picture.mode) == ("PNG", "RGB")
  return np.asarray(picture)


def test_captions():
  pixels = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
  plain = decode(caption_image(encode(pixels), ""))
  # The smallest whole factor that makes 28 pixels at least 160.
  assert plain.shape == (168, 168, 3)
  assert (plain[::6, ::6, 0] == pixels).all()
  assert (plain[5::6, 5::6, 2] == pixels).all()
  short = decode(caption_image(encode(pixels), "ankle-boot 97%"))
  assert (short[:168] == plain).all()
  below = short[168:]
  assert below.shape[1] == 168
  assert 10 <= len(below) <= 40
  assert (below == 255).mean() > 0.5
  assert below.min() < 100
  long = decode(caption_image(encode(pixels), "a very long name of a class of pictures " * 4))
  assert long.shape[1] == 168
  assert len(long) > len(short) + 40


def test_captions_of_large_and_of_narrow_pictures():
  large = encode(np.full((200, 300, 3), (10, 20, 30)))
  assert decode(caption_image(large, "")).shape == (200, 300, 3)
  assert decode(caption_image(large, "x"))[0, 0].tolist() == [10, 20, 30]
  assert decode(caption_image(encode(grey(3, 160, 1)), "some words")).shape[1] == 160
