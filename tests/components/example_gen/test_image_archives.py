"""Damaged, encrypted and odd archives: an error that names them, or a reject where only a file is bad."""

import io
import re
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from components.example_gen.image import ImageFolderReader, probe
from components.task import Row


def png(seed):
  file = io.BytesIO()
  Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 20, 3), np.uint8)).save(file, "PNG")
  return file.getvalue()


NAMES = [f"{label}/{number}.png" for label in ("cat", "dog") for number in range(4)]


def write_zip(path, method=zipfile.ZIP_STORED):
  with zipfile.ZipFile(path, "w", method) as archive:
    for seed, name in enumerate(NAMES):
      archive.writestr(name, png(seed))
  return path


def write_tar(path, mode="w", tar_format=tarfile.PAX_FORMAT, names=NAMES):
  with tarfile.open(path, mode, format=tar_format) as archive:
    for seed, name in enumerate(names):
      member, data = tarfile.TarInfo(name), png(seed)
      member.size = len(data)
      archive.addfile(member, io.BytesIO(data))
  return path


def read(path):
  reader = ImageFolderReader(str(path))
  items = [item for chunk in reader.chunks() for item in reader.read(chunk)]
  rows = {item.key: item.features["image"] for item in items if isinstance(item, Row)}
  rejects = {item.path: item.reason for item in items if not isinstance(item, Row)}
  assert len(items) == len(rows) + len(rejects)
  return rows, rejects


def error_of(path):
  with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: ") as error:
    list(ImageFolderReader(str(path)).chunks())
  with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: "):
    probe(ImageFolderReader(str(path)))
  assert "\n" not in str(error.value)
  return str(error.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_one_damaged_file_in_a_zip(tmp_path, method):
  path = write_zip(tmp_path / "a.zip", method)
  data = bytearray(path.read_bytes())
  with zipfile.ZipFile(path) as archive:
    damaged = archive.getinfo("cat/2.png").header_offset + 30 + len("cat/2.png") + 500
    headless = archive.getinfo("dog/1.png").header_offset
  data[damaged] ^= 0xFF
  data[headless] ^= 0xFF
  path.write_bytes(data)
  rows, rejects = read(path)
  assert set(rows) == set(NAMES) - {"cat/2.png", "dog/1.png"}
  assert rejects["cat/2.png"].startswith("damaged in the archive: ")
  assert rejects["dog/1.png"] == "damaged in the archive: no file where the archive's directory says"


def test_a_zip_that_lies_about_a_size(tmp_path):
  path = write_zip(tmp_path / "a.zip", zipfile.ZIP_DEFLATED)
  data = bytearray(path.read_bytes())
  directory_entry = data.rindex(b"PK\1\2")
  data[directory_entry + 24 : directory_entry + 28] = struct.pack("<I", 100)
  path.write_bytes(data)
  rows, rejects = read(path)
  assert len(rows) == 7
  assert rejects == {"dog/3.png": "damaged in the archive: wrong length or checksum"}


def test_encrypted_zip(tmp_path):
  path = write_zip(tmp_path / "a.zip")
  data = bytearray(path.read_bytes())
  data[data.rindex(b"PK\1\2") + 8] |= 1
  path.write_bytes(data)
  assert "encrypted archive; unpack it" in error_of(path)


def test_zip_methods_that_are_not_read(tmp_path):
  with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
    archive.writestr("cat/0.png", png(0))
    archive.writestr("cat/1.png", png(1), zipfile.ZIP_LZMA)
  rows, rejects = read(tmp_path / "a.zip")
  assert set(rows) == {"cat/0.png"}
  assert rejects == {"cat/1.png": "zip compression method 14 is not read; pack it again with deflate"}


def test_a_name_twice_in_an_archive(tmp_path):
  with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
    for seed, name in enumerate(("cat/0.png", "cat/1.png", "cat/0.png")):
      archive.writestr(name, png(seed))
  write_tar(tmp_path / "a.tar", names=("cat/0.png", "cat/1.png", "cat/0.png"))
  write_tar(tmp_path / "a.tgz", "w:gz", names=("cat/0.png", "cat/1.png", "cat/0.png"))
  for name in ("a.zip", "a.tar", "a.tgz"):
    rows, rejects = read(tmp_path / name)
    assert rows == {"cat/0.png": png(2), "cat/1.png": png(1)}
    assert rejects == {"cat/0.png": "listed twice in the archive; the last one counts"}


def test_names_that_lead_out_of_an_archive(tmp_path):
  write_tar(tmp_path / "a.tar", names=("cat/0.png", "../cat/1.png", "cat/../../2.png", "/cat/3.png"))
  rows, rejects = read(tmp_path / "a.tar")
  assert set(rows) == {"cat/0.png", "cat/3.png"}
  assert set(rejects.values()) == {"its name leads out of the archive (..)"}


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_long_names_in_every_tar_format(tmp_path, tar_format, mode):
  names = [f"cat/{'long' * 20}/{'name' * 15}{number}.png" for number in range(2)] + ["dog/새.png"]
  rows, rejects = read(write_tar(tmp_path / "a.tar", mode, tar_format, names))
  assert rejects == {}
  assert rows == {name: png(seed) for seed, name in enumerate(names)}


def test_links_and_pipes_in_a_tar(tmp_path):
  path = write_tar(tmp_path / "a.tar")
  with tarfile.open(path, "a") as archive:
    for name, kind in (
      ("cat/hard.png", tarfile.LNKTYPE),
      ("cat/soft.png", tarfile.SYMTYPE),
      ("cat/p.png", tarfile.FIFOTYPE),
    ):
      member = tarfile.TarInfo(name)
      member.type, member.linkname = kind, "cat/0.png"
      archive.addfile(member)
  rows, rejects = read(path)
  assert set(rows) == set(NAMES)
  assert rejects.pop("cat/p.png") == "not a regular file"
  assert all(reason.startswith("a link inside the archive") for reason in rejects.values())
  assert set(rejects) == {"cat/hard.png", "cat/soft.png"}


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_tar_cut_anywhere(tmp_path, mode):
  whole = write_tar(tmp_path / "whole.tar", mode).read_bytes()
  end = len(whole) if mode != "w" else whole.rindex(b"dog/3.png") + 512 + len(png(7))
  path = tmp_path / "a.tar"
  for length in (end - 1, end - 4, end - 600, end // 2, end // 3 // 512 * 512):
    path.write_bytes(whole[:length])
    assert "damaged or incomplete archive" in error_of(path)


def test_tar_without_its_end_mark_and_with_a_damaged_header(tmp_path):
  path = write_tar(tmp_path / "a.tar")
  whole = path.read_bytes()
  second = whole.index(b"cat/1.png")
  path.write_bytes(whole[:second])
  assert "damaged or incomplete archive" in error_of(path)
  path.write_bytes(whole[:second] + b"X" + whole[second + 1 :])
  assert "damaged or incomplete archive: bad checksum" in error_of(path)


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_compressed_tar_with_damaged_bytes(tmp_path, mode):
  path = write_tar(tmp_path / "a.tar", mode)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0xFF
  path.write_bytes(data)
  assert "damaged or incomplete archive" in error_of(path)


def test_files_that_are_no_archives(tmp_path):
  for name in ("a.zip", "a.tar", "a.tar.gz"):
    (tmp_path / name).write_bytes(b"just words" * 100)
    assert "damaged or incomplete archive" in error_of(tmp_path / name)
    (tmp_path / name).write_bytes(b"")
    assert "damaged or incomplete archive" in error_of(tmp_path / name)
  (tmp_path / "a.rar").write_bytes(b"Rar!")
  assert "neither a folder nor an archive (.zip" in error_of(tmp_path / "a.rar")
