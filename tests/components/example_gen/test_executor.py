"""From rows to shards: splits, counts, rejects, and the same files whatever the number of workers."""

import gzip
import importlib.util
import json
import pathlib
import sys

import apache_beam as beam
import pytest
import tensorflow as tf
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from tfx.types import artifact_utils, standard_artifacts

from components.artifacts import Rejects
from components.config import DataConfig, SplitFractions
from components.example_gen import executor
from components.task import SPLITS, Reject, Row

_SPEC = importlib.util.spec_from_file_location(
  "rows_reader", pathlib.Path(__file__).with_name("rows_reader.py")
)
rows_reader = importlib.util.module_from_spec(_SPEC)
# Beam's workers are threads of this process here: they find the module by its name.
sys.modules["rows_reader"] = rows_reader
_SPEC.loader.exec_module(rows_reader)

FRACTIONS = SplitFractions(train=0.6, validation=0.2, test=0.2)


def row(number, group=None, split=None):
  return Row(f"row-{number}", {"number": number, "name": f"row-{number}"}, group=group, split=split)


def write(rows, folder, fractions=FRACTIONS, rows_per_chunk=10, lost=()):
  """Runs the transform over all chunks but the `lost` ones; returns the merged counts."""
  reader = rows_reader.RowsReader(tuple(rows), rows_per_chunk)
  chunks = list(enumerate(reader.chunks()))
  (folder / "rejects").mkdir(parents=True)
  for split in SPLITS:
    (folder / "examples" / f"Split-{split}").mkdir(parents=True)
  examples, rejects = str(folder / "examples"), str(folder / "rejects")
  with beam.Pipeline(runner=FnApiRunner()) as pipeline:
    kept = [chunk for chunk in chunks if chunk[0] not in lost]
    transform = executor.WriteChunks(reader, fractions, examples, rejects, len(chunks))
    _ = pipeline | beam.Create(kept, reshuffle=False) | transform
  return executor._merge_counts(rejects, len(chunks))


def read_split(folder, split):
  """The numbers of a split's rows, shard by shard."""
  numbers = []
  for path in sorted((folder / "examples" / f"Split-{split}").iterdir()):
    for record in tf.data.TFRecordDataset(str(path), compression_type="GZIP").as_numpy_iterator():
      features = tf.train.Example.FromString(record).features.feature
      number = features["number"].int64_list.value[0]
      assert features["name"].bytes_list.value == [f"row-{number}".encode()]
      numbers.append(number)
  return numbers


def test_every_row_is_in_the_split_of_its_key(tmp_path):
  counts = write([row(number) for number in range(95)], tmp_path)
  found = {split: read_split(tmp_path, split) for split in SPLITS}
  for split, numbers in found.items():
    assert all(executor.split_of(f"row-{number}", FRACTIONS) == split for number in numbers)
    assert numbers == sorted(numbers)
  assert sorted(sum(found.values(), [])) == list(range(95))
  splits = {split: len(numbers) for split, numbers in found.items()}
  assert counts == {"read": 95, "written": 95, "rejected": 0, "splits": splits}
  assert json.loads((tmp_path / "rejects" / "counts.json").read_text()) == counts
  names = {path.name for path in (tmp_path / "examples" / "Split-train").iterdir()}
  assert names <= {f"data_tfrecord-{number:05d}-of-00010.gz" for number in range(10)}


def test_groups_never_straddle_splits(tmp_path):
  write([row(number, group=f"speaker-{number % 12}") for number in range(120)], tmp_path)
  speakers = {split: {number % 12 for number in read_split(tmp_path, split)} for split in SPLITS}
  assert sum(len(group) for group in speakers.values()) == 12
  assert set.union(*speakers.values()) == set(range(12))
  # The group decides, not the key.
  assert all(executor.split_of(f"speaker-{speaker}", FRACTIONS) == "train" for speaker in speakers["train"])


def test_splits_stay_where_they_are_when_data_is_added(tmp_path):
  write([row(number) for number in range(60)], tmp_path / "small")
  write([row(number) for number in range(90, -1, -1)], tmp_path / "large", rows_per_chunk=7)
  for split in SPLITS:
    small = set(read_split(tmp_path / "small", split))
    assert small == {number for number in read_split(tmp_path / "large", split) if number < 60}


def test_shares_of_the_hash_are_those_asked_for():
  fractions = SplitFractions(train=0.7, validation=0.2, test=0.1)
  splits = [executor.split_of(f"key {number}", fractions) for number in range(20_000)]
  shares = {split: splits.count(split) / len(splits) for split in SPLITS}
  # Four standard deviations of a share of 20,000.
  assert shares == pytest.approx({"train": 0.7, "validation": 0.2, "test": 0.1}, abs=0.013)
  assert executor.split_of("a name that is not UTF-8: \udcff", fractions) in SPLITS


def test_explicit_splits_are_honoured(tmp_path):
  counts = write([row(number, split=SPLITS[number % 3]) for number in range(30)], tmp_path)
  assert counts["splits"] == {"train": 10, "validation": 10, "test": 10}
  for index, split in enumerate(SPLITS):
    assert read_split(tmp_path, split) == list(range(index, 30, 3))


def test_rejects_are_written_in_order_and_counted(tmp_path):
  rows = [row(number) for number in range(40)]
  rejects = {3: Reject("a/3.jpg", "truncated"), 17: Reject("b/17.jpg", 'no "picture"'), 39: Reject("ü", "x")}
  counts = write([rejects.get(number, rows[number]) for number in range(40)], tmp_path)
  assert (counts["read"], counts["written"], counts["rejected"]) == (40, 37, 3)
  lines = (tmp_path / "rejects" / "rejects.jsonl").read_text().splitlines()
  assert [json.loads(line) for line in lines] == [
    {"path": reject.path, "reason": reject.reason} for reject in rejects.values()
  ]
  assert sorted(path.name for path in (tmp_path / "rejects").iterdir()) == ["counts.json", "rejects.jsonl"]


def test_a_lost_chunk_is_noticed(tmp_path):
  with pytest.raises(RuntimeError, match="^chunk 2 of 4 was lost; run again with --set beam.num_workers=1$"):
    write([row(number) for number in range(40)], tmp_path, lost=(2,))


def check(tmp_path, read, rejected, splits=(5, 1, 1), **settings):
  written = sum(splits)
  counts = {
    "read": read,
    "written": written,
    "rejected": rejected,
    "splits": dict(zip(SPLITS, splits, strict=True)),
  }
  lines = [json.dumps({"path": f"{number}.jpg", "reason": f"bad {number}"}) for number in range(rejected)]
  (tmp_path / "rejects.jsonl").write_text("".join(line + "\n" for line in lines))
  executor._check(counts, DataConfig(path="photos", **settings), str(tmp_path))


def test_counts_that_add_up_pass(tmp_path):
  check(tmp_path, read=7, rejected=0)
  check(tmp_path, read=10, rejected=3, max_reject_fraction=0.3)


def test_too_many_rejects_stop_the_run_and_name_the_first(tmp_path):
  with pytest.raises(ValueError) as caught:
    check(tmp_path, read=12, rejected=5, max_reject_fraction=0.4)
  assert str(caught.value) == (
    "5 of 12 items of photos were rejected, more than data.max_reject_fraction=0.4 allows: "
    "0.jpg: bad 0; 1.jpg: bad 1; 2.jpg: bad 2"
  )


def test_data_without_examples_for_a_split_stops_the_run(tmp_path):
  with pytest.raises(
    ValueError, match="^photos: no examples for the split validation and test .written: 5.; add"
  ):
    check(tmp_path, read=5, rejected=0, splits=(5, 0, 0))
  with pytest.raises(ValueError, match="^photos: nothing to read there"):
    check(tmp_path, read=0, rejected=0, splits=(0, 0, 0))


def test_a_count_that_does_not_add_up_stops_the_run(tmp_path):
  with pytest.raises(RuntimeError, match="^read is not written . rejected"):
    check(tmp_path, read=9, rejected=1)


def test_values_of_an_example():
  example = executor.to_example(
    {
      "image": b"\x00\xff",
      "text": "grün",
      "words": ["a", "b"],
      "count": 2**40,
      "flag": True,
      "sizes": (3, 4),
      "score": 0.5,
      "none": [],
      "lone": "\udcff",
    }
  )
  found = example.features.feature
  assert found["image"].bytes_list.value == [b"\x00\xff"]
  assert found["text"].bytes_list.value == ["grün".encode()]
  assert found["words"].bytes_list.value == [b"a", b"b"]
  assert found["count"].int64_list.value == [2**40]
  assert found["flag"].int64_list.value == [1]
  assert found["sizes"].int64_list.value == [3, 4]
  assert found["score"].float_list.value == [0.5]
  assert not found["none"].bytes_list.value
  assert found["lone"].bytes_list.value == [b"\xff"]
  with pytest.raises(TypeError, match="^feature 'when' holds complex; use bytes, str, int or float$"):
    executor.to_example({"when": 1j})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  """60 small pictures in two classes, and three files that are none."""
  import cv2
  import numpy as np

  folder = tmp_path_factory.mktemp("pictures")
  for number in range(60):
    path = folder / ("cat" if number % 3 else "dog") / f"{number:02d}.png"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.full((8, 8), number, np.uint8))[1].tobytes())
  (folder / "cat" / "empty.png").touch()
  (folder / "dog" / "text.png").write_text("no picture")
  (folder / "cat" / "notes.txt").write_text("no picture")
  return folder


def run_stage(pictures, folder, num_workers):
  """The whole executor with the task's own reader, as the pipeline runs it."""
  from components.config import BeamConfig
  from pipeline.graph import beam_arguments
  from pipeline.tasks.image_classification import TASK

  examples, rejects = standard_artifacts.Examples(), Rejects()
  examples.uri, rejects.uri = str(folder / "examples"), str(folder / "rejects")
  context = executor.Executor.Context(
    beam_pipeline_args=beam_arguments(BeamConfig(num_workers=num_workers)), tmp_dir=str(folder), unique_id="1"
  )
  config = TASK.config_class(data={"path": str(pictures), "examples_per_shard": 16})
  properties = {"task": TASK.path, "config": config.only("data")}
  executor.Executor(context).Do({}, {"examples": [examples], "rejects": [rejects]}, properties)
  shards = {
    str(path.relative_to(folder)): gzip.decompress(path.read_bytes())
    for path in sorted((folder / "examples").rglob("*.gz"))
  }
  return examples, rejects, shards


def test_two_workers_write_what_one_writes(pictures, tmp_path):
  runs = [run_stage(pictures, tmp_path / str(workers), workers) for workers in (1, 2)]
  (examples, rejects, shards), (_, _, shards_of_two) = runs
  assert shards == shards_of_two
  assert {name.split("/")[1] for name in shards} == {f"Split-{split}" for split in SPLITS}
  assert {name.split("-")[-3] for name in shards} == {"00000", "00001", "00002", "00003"}
  assert artifact_utils.decode_split_names(examples.split_names) == list(SPLITS)
  for name in ("counts.json", "rejects.jsonl"):
    texts = {(tmp_path / str(workers) / "rejects" / name).read_text() for workers in (1, 2)}
    assert len(texts) == 1
  counts = json.loads((tmp_path / "1" / "rejects" / "counts.json").read_text())
  assert (counts["read"], counts["written"], counts["rejected"]) == (63, 60, 3)
  rejected = [json.loads(line)["path"] for line in (tmp_path / "1" / "rejects" / "rejects.jsonl").open()]
  assert sorted(rejected) == ["cat/empty.png", "cat/notes.txt", "dog/text.png"]
  for name in ("read", "written", "rejected"):
    assert rejects.get_int_custom_property(name) == counts[name]


def test_too_many_bad_pictures_stop_the_stage(pictures, tmp_path):
  for number in range(10):
    (tmp_path / "data" / "cat").mkdir(parents=True, exist_ok=True)
    (tmp_path / "data" / "cat" / f"{number}.png").write_bytes(
      (pictures / "cat" / "01.png").read_bytes()[: 20 + number]
    )
  (tmp_path / "data" / "cat" / "good.png").write_bytes((pictures / "cat" / "01.png").read_bytes())
  with pytest.raises(ValueError, match="^10 of 11 items of .*data were rejected, more than .*cat/0.png: "):
    run_stage(tmp_path / "data", tmp_path / "out", 1)
