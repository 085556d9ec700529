"""The reader, from files to rows and rejects, in folders and in archives."""

import io
import pickle
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

from components.example_gen.image import ImageFolderReader
from components.task import Reject, Row


def encode(pixels, kind="PNG", **options):
  file = io.BytesIO()
  Image.fromarray(np.asarray(pixels, np.uint8)).save(file, kind, **options)
  return file.getvalue()


def grey(value, height=6, width=8):
  return np.full((height, width), value)


FILES = {
  "cat/1.png": encode(grey(10)),
  "cat/deep/2.jpg": encode(grey(20, 5, 9), "JPEG"),
  "cat/empty.png": b"",
  "cat/notes.txt": b"no picture",
  "dog/3.gif": encode(grey(30), "GIF"),
  "dog/4.bmp": encode(grey(40), "BMP"),
  "dog/text.png": b"words",
  "dog/misnamed.jpg": encode(grey(50, 4, 4), "WEBP", lossless=True),
  "readme.md": b"about",
  "metadata.csv": b"path,camera,place\ncat/1.png,A,home\ndog/3.gif,B,\nbird.png,C,\n",
  "cat/Thumbs.db": b"ignored",
}


def write_folder(root, files=FILES):
  for name, data in files.items():
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(data)
  return str(root)


def write_zip(path, files=FILES, around="", method=zipfile.ZIP_DEFLATED):
  with zipfile.ZipFile(path, "w", method) as archive:
    for name, data in files.items():
      archive.writestr(around + name, data)
  return str(path)


def write_tar(path, files=FILES, around=""):
  mode = {"tar": "w", "gz": "w:gz", "tgz": "w:gz", "bz2": "w:bz2", "xz": "w:xz"}[path.name.rpartition(".")[2]]
  with tarfile.open(path, mode) as archive:
    for name, data in files.items():
      member = tarfile.TarInfo(around + name)
      member.size = len(data)
      archive.addfile(member, io.BytesIO(data))
  return str(path)


def read(path, **options):
  """Rows by key and rejects by path, read as a worker does: from a pickled copy of reader and chunk."""
  reader = ImageFolderReader(path, **options)
  rows, rejects, num_items = {}, {}, 0
  for chunk in reader.chunks():
    worker, chunk = pickle.loads(pickle.dumps((reader, chunk)))
    for item in worker.read(chunk):
      num_items += 1
      if isinstance(item, Row):
        rows[item.key] = item
      else:
        assert isinstance(item, Reject)
        rejects[item.path] = item.reason
  assert num_items == len(rows) + len(rejects)
  return rows, rejects


def test_rows_and_rejects(tmp_path):
  rows, rejects = read(write_folder(tmp_path))
  assert set(rows) == {"cat/1.png", "cat/deep/2.jpg", "dog/3.gif", "dog/4.bmp", "dog/misnamed.jpg"}
  assert rows["cat/1.png"] == Row(
    key="cat/1.png",
    features={
      "image": FILES["cat/1.png"],
      "label": "cat",
      "path": "cat/1.png",
      "width": 8,
      "height": 6,
      "format": "png",
      "camera": "A",
      "place": "home",
    },
    group="cat/1.png",
    split=None,
  )
  assert [(row.features["format"], row.features["label"]) for row in rows.values()] == [
    ("png", "cat"),
    ("jpeg", "cat"),
    ("gif", "dog"),
    ("bmp", "dog"),
    ("webp", "dog"),
  ]
  assert [row.features["camera"] for row in rows.values()] == ["A", "", "B", "", ""]
  assert (rows["cat/deep/2.jpg"].features["width"], rows["cat/deep/2.jpg"].features["height"]) == (9, 5)
  assert rejects == {
    "cat/empty.png": "empty file (0 bytes)",
    "cat/notes.txt": "not a picture by its name; known are .jpg .jpeg .jpe .jfif .png .bmp .gif .webp",
    "dog/text.png": "not a JPEG, PNG, BMP, GIF or WebP picture (begins with b'words')",
    "metadata.csv line 4": "names 'bird.png', which is not in the data set",
    "readme.md": "not inside a class folder",
  }


@pytest.mark.parametrize("around", ["", "photos/", "./"])
@pytest.mark.parametrize(
  "name", ["a.zip", "stored.zip", "a.tar", "a.tar.gz", "a.tgz", "a.tar.bz2", "a.TAR.XZ"]
)
def test_archives_give_the_same_as_the_folder(tmp_path, name, around):
  expected = read(write_folder(tmp_path / "folder"))
  path = tmp_path / "archives" / name.lower()
  path.parent.mkdir()
  if name.endswith(".zip"):
    write_zip(path, around=around, method=zipfile.ZIP_STORED if "stored" in name else zipfile.ZIP_DEFLATED)
  else:
    write_tar(path, dict(reversed(FILES.items())), around)
  path = path.rename(path.with_name(name))
  assert read(str(path)) == expected
  # A folder that holds nothing but the archive stands for it.
  (path.parent / ".DS_Store").write_bytes(b"")
  assert read(str(path.parent)) == expected


def test_backslashes_in_a_zip(tmp_path):
  path = write_zip(tmp_path / "a.zip", {"photos\\cat\\1.png": FILES["cat/1.png"], "photos\\dog\\1.png": b""})
  rows, rejects = read(path)
  assert (set(rows), set(rejects)) == ({"cat/1.png"}, {"dog/1.png"})


def test_explicit_splits(tmp_path):
  files = {f"{split}/{label}/1.png": encode(grey(1)) for split in ("train", "val", "test") for label in "ab"}
  rows, _ = read(write_zip(tmp_path / "a.zip", files))
  assert {key: row.split for key, row in rows.items()} == {
    f"{folder}/{label}/1.png": split
    for folder, split in (("train", "train"), ("val", "validation"), ("test", "test"))
    for label in "ab"
  }
  assert {row.features["label"] for row in rows.values()} == {"a", "b"}


def test_chunks_depend_on_the_data_alone(tmp_path):
  files = {f"{label}/{number:02d}.png": encode(grey(number)) for label in "ba" for number in range(7, 0, -1)}
  names = sorted(files)
  for path in (
    write_folder(tmp_path / "folder", files),
    write_zip(tmp_path / "a.zip", files),
    write_tar(tmp_path / "a.tar", files),
  ):
    reader = ImageFolderReader(path, examples_per_chunk=4)
    chunks = list(reader.chunks())
    keys = [[row.key for row in reader.read(chunk)] for chunk in chunks]
    assert keys == [names[0:4], names[4:8], names[8:12], names[12:14]]
    assert list(ImageFolderReader(path, examples_per_chunk=4).chunks()) == chunks
  (chunk,) = ImageFolderReader(write_tar(tmp_path / "a.tgz", files), examples_per_chunk=4).chunks()
  assert len(chunk.entries) == 14


def test_a_chunk_brings_only_its_own_metadata(tmp_path):
  files = {f"a/{number}.png": encode(grey(1)) for number in range(6)}
  files["metadata.csv"] = b"path,n\n" + b"".join(b"a/%d.png,%d\n" % (n, n) for n in range(6))
  chunks = list(ImageFolderReader(write_folder(tmp_path, files), examples_per_chunk=2).chunks())
  assert [set(chunk.metadata) for chunk in chunks] == [{f"a/{n}.png", f"a/{n + 1}.png"} for n in (0, 2, 4)]


def test_one_picture_in_memory_at_a_time(tmp_path):
  picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
  data = encode(picture, compress_level=0)
  files = {f"a/{number:02d}.png": data for number in range(12)}
  for path in (
    write_folder(tmp_path / "f", files),
    write_zip(tmp_path / "a.zip", files),
    write_tar(tmp_path / "a.tgz", files),
  ):
    reader = ImageFolderReader(path)
    (chunk,) = reader.chunks()
    tracemalloc.start()
    assert sum(isinstance(item, Row) for item in reader.read(chunk)) == 12
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 6 * len(data)


def test_a_file_that_disappears_or_is_far_too_large(tmp_path):
  write_folder(tmp_path, {"a/1.png": encode(grey(1)), "a/2.png": encode(grey(1))})
  with open(tmp_path / "a/3.png", "wb") as file:
    file.truncate(10**9)
  reader = ImageFolderReader(str(tmp_path))
  (chunk,) = reader.chunks()
  (tmp_path / "a/1.png").unlink()
  gone, kept, large = reader.read(chunk)
  assert gone == Reject("a/1.png", "cannot be read: No such file or directory")
  assert kept.key == "a/2.png"
  assert large == Reject(
    "a/3.png", "1000000000 bytes are more than any picture allowed here needs (467108864)"
  )


def test_files_larger_than_one_read(tmp_path):
  picture = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
  data = encode(picture)
  assert len(data) > 2**16
  rows, _ = read(write_folder(tmp_path, {"a/1.png": data}))
  assert rows["a/1.png"].features["image"] == data


def test_paths_that_cannot_be_read(tmp_path):
  with pytest.raises(ValueError, match=f"^{tmp_path}/nowhere: no such file or folder$"):
    ImageFolderReader(str(tmp_path / "nowhere"))
  with pytest.raises(ValueError, match="data.path is not set"):
    next(ImageFolderReader(None).chunks())
