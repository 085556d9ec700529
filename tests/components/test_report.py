"""The report of a small run, built by the executor from real artifacts."""

import dataclasses
import importlib.util
import json
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts
from tfx.types.channel import Channel

from components.artifacts import RunReport
from components.config import RunConfig
from components.evaluation import read_evaluation
from components.report import Report, add_stages
from components.report.component import Executor
from components.report.content import collect
from components.report.page import write_report
from components.report.pictures import collect_pictures
from components.task import Feature
from pipeline.tasks.image_classification import TASK

_SPEC = importlib.util.spec_from_file_location(
  "report_artifacts", pathlib.Path(__file__).parent / "report_artifacts.py"
)
given = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(given)

SECTIONS = [
  *("outcome", "figures", "data", "rejects", "training", "quality", "metrics", "confusion", "calibration"),
  *("classes", "mistakes", "compression", "configuration"),
]
STAGES = [
  {"id": "ExampleGen", "state": "done", "seconds": 4.25, "cached": False},
  {"id": "Trainer", "state": "done", "seconds": 200.0, "cached": False},
  {"id": "Report", "state": "cached", "seconds": 0.0, "cached": True},
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
  return given.make_artifacts(tmp_path_factory.mktemp("report"))


def run_report(inputs, directory, task_path=TASK.path, config=None):
  """Runs the executor; returns (report.json, report.html)."""
  output = given.artifact(RunReport, directory)
  properties = {"task": task_path, "config": (config or given.make_config()).model_dump_json()}
  Executor().Do({name: [item] for name, item in inputs.items()}, {"report": [output]}, properties)
  return read_report(directory)


def read_report(directory):
  document = json.loads((directory / "report.json").read_text(encoding="utf-8"))
  return document, (directory / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def directory(inputs, tmp_path_factory):
  directory = tmp_path_factory.mktemp("full") / "report"
  run_report(inputs, directory)
  return directory


@pytest.fixture
def report(directory):
  return read_report(directory)


def test_every_section_is_there_once(report):
  page = given.Page(report[1])
  assert [name for name in SECTIONS if page.ids.count(name) != 1] == []
  assert "stages" not in page.ids and "commands" not in page.ids  # not known yet; nothing was pushed
  assert page.tags.count("svg") == 4  # loss, accuracy, calibration, compression


def test_page_is_self_contained(report):
  page = given.Page(report[1])
  assert not {"script", "link", "iframe", "object", "base"} & set(page.tags)
  assert page.addresses and all(address.startswith(("data:image/", "#")) for address in page.addresses)
  assert not re.search(r"@import|url\((?!#)", report[1])
  # matplotlib repeats ids between figures unless told otherwise: a chart would be cut by another one's frame.
  assert len(page.ids) == len(set(page.ids))
  assert len(report[1]) < 400_000


def test_names_from_the_data_are_text(report):
  document, text = report
  page = given.Page(text)
  assert "<script" not in text and "<img src=x>" not in text
  assert "<script>alert(1)</script>" in document["evaluation"]["confusion"]["classes"]
  joined = "".join(page.text)
  assert "<script>alert(1)</script>" in joined and "photos/<img src=x>/a.jpg" in joined


def test_outcome_says_why_not(report, inputs):
  document, text = report
  evaluation = read_evaluation(inputs["evaluation"].uri)
  assert document["blessed"] is False and document["pushed_model"] is None
  assert document["failures"] == evaluation["failures"] and len(document["failures"]) == 2
  assert document["outcome"]["servable"] is None  # a model that was refused before is not tried
  assert document["metrics"] == {"base": evaluation["baseline"], "compressed": evaluation["candidate"]}
  joined = "".join(given.Page(text).text)
  for reason in document["failures"]:
    assert reason in joined
  assert "✗ Not blessed" in joined and f"{evaluation['candidate']['accuracy']:.4f}" in joined


def test_data_counts(report):
  document, text = report
  assert document["examples"]["read"] == 66 and document["examples"]["splits"] == given.COUNTS
  assert document["data"]["class_balance"] == {
    split: dict.fromkeys(sorted(given.CLASSES), count // 3) for split, count in given.COUNTS.items()
  }
  assert document["data"]["reject_reasons"] == {"truncated JPEG": 2, "the file is empty": 1}
  assert "66 read, 63 written, 3 rejected" in "".join(given.Page(text).text)


def test_class_balance_from_statistics_is_the_same(report, inputs, tmp_path):
  from tensorflow_metadata.proto.v0 import statistics_pb2

  for split, count in given.COUNTS.items():
    statistics = statistics_pb2.DatasetFeatureStatisticsList()
    feature = statistics.datasets.add(num_examples=count).features.add(path={"step": ["label"]})
    feature.string_stats.unique = 3
    for name in given.CLASSES:
      feature.string_stats.rank_histogram.buckets.add(label=name, sample_count=count // 3)
    (tmp_path / f"Split-{split}").mkdir()
    (tmp_path / f"Split-{split}" / "FeatureStats.pb").write_bytes(statistics.SerializeToString())
  few = {
    "examples": given.artifact(standard_artifacts.Examples, tmp_path / "not read"),
    "statistics": given.artifact(standard_artifacts.ExampleStatistics, tmp_path),
  }
  document, _ = run_report(few, tmp_path / "report")
  assert document["data"]["class_balance"] == report[0]["data"]["class_balance"]


def test_samples_show_the_same_picture_before_and_after(inputs):
  pictures = collect_pictures(TASK, given.make_config(), inputs)
  assert len(pictures.samples) == 10 and {row["label"] for row in pictures.samples} == set(given.CLASSES)
  flipped = 0
  for row in pictures.samples:
    raw = given.decode(row["raw"])
    factor = raw.shape[0] // given.SIDE_PX
    before = raw[::factor, ::factor]
    np.testing.assert_array_equal(given.decode(row["preprocessed"]), before)
    for uri in row["augmented"]:
      after = given.decode(uri)
      mirrored = np.array_equal(after, before[:, ::-1])
      assert mirrored or np.array_equal(after, before)
      flipped += mirrored
  assert 0 < flipped < 30


def test_worst_mistakes_come_first(report, inputs):
  """Against the plain way: the signature on every test example, then a sort."""
  signature = tf.saved_model.load(f"{inputs['model'].uri}/Format-Serving").signatures["serve_examples"]
  path = f"{inputs['examples'].uri}/Split-test/data_tfrecord-00000-of-00001.gz"
  expected = []
  for record in tf.data.TFRecordDataset(path, compression_type="GZIP"):
    example = tf.train.Example.FromString(record.numpy())
    actual = example.features.feature["label"].bytes_list.value[0].decode()
    answer = signature(examples=record[tf.newaxis])
    predicted = answer["label"].numpy()[0].decode()
    if predicted != actual:
      expected.append((answer["probability"].numpy()[0].item(), actual, predicted))
  expected.sort(key=lambda row: -row[0])
  mistakes = report[0]["mistakes"]
  assert mistakes["scored"] == 30 and mistakes["wrong"] == len(expected) > 3
  assert 1 - mistakes["wrong"] / 30 == pytest.approx(report[0]["metrics"]["compressed"]["accuracy"], abs=1e-6)
  found = [(row["actual"], row["predicted"]) for row in mistakes["worst"]]
  assert found == [(actual, predicted) for _, actual, predicted in expected[:24]]
  probabilities = [row["probability"] for row in mistakes["worst"]]
  assert probabilities == pytest.approx([row[0] for row in expected[:24]], abs=1e-5)


def test_training_and_compression_figures(report):
  joined = "".join(given.Page(report[1]).text).replace("\u202f", " ")
  assert report[0]["history"] == given.HISTORY
  assert "2 epochs in 4.5 s; best validation accuracy 0.6543 after epoch 2" in joined
  # The card shows the pruned model, which is served, and not the TFLite file beside it.
  assert "250 kB3.2 times smaller than 800 kB" in joined
  for value in ("123 456", "24 691", "70 kB", "1.4 ms / 2.8 ms", "80 %"):
    assert value in joined


def test_add_stages_replaces_what_was_there(directory, tmp_path):
  for name in ("report.html", "report.json"):
    (tmp_path / name).write_bytes((directory / name).read_bytes())
  add_stages(str(tmp_path), [{"id": "Old", "state": "done", "seconds": 1.0, "cached": False}])
  document = add_stages(str(tmp_path), STAGES)
  once = (tmp_path / "report.html").read_bytes(), (tmp_path / "report.json").read_bytes()
  assert add_stages(str(tmp_path), STAGES) == document
  assert ((tmp_path / "report.html").read_bytes(), (tmp_path / "report.json").read_bytes()) == once
  assert document["stages"] == STAGES and document["totals"] == {"seconds": 204.25, "cached": 1}
  page = given.Page(once[0].decode())
  joined = "".join(page.text).replace("\u202f", " ")
  assert page.ids.count("stages") == 1 and "Old" not in joined
  assert "3 min 24 s in all; 1 of 3 taken from the cache" in joined and "Trainer" in joined


def test_add_stages_without_a_report(tmp_path):
  with pytest.raises(ValueError, match="no report here"):
    add_stages(str(tmp_path), STAGES)


def test_pushed_model(inputs, tmp_path):
  pushed = given.artifact(standard_artifacts.PushedModel, tmp_path / "pushed")
  pushed.set_int_custom_property("pushed", 1)
  pushed.set_string_custom_property("pushed_destination", "my runs/serving/image_classification/17")
  pushed.set_string_custom_property("pushed_version", "17")
  blessing = given.artifact(standard_artifacts.ModelBlessing, tmp_path / "blessing")
  (tmp_path / "blessing").mkdir()
  (tmp_path / "blessing" / "BLESSED").touch()
  few = {"examples": inputs["examples"], "blessing": blessing, "pushed_model": pushed}
  document, text = run_report(few, tmp_path / "report")
  assert document["blessed"] is True and document["pushed_model"].endswith("image_classification/17")
  joined = "".join(given.Page(text).text)
  assert "✓ Blessed and pushed as version 17" in joined
  assert "--model_base_path='my runs/serving/image_classification'" in joined
  assert "deepline predict image_classification INPUT --server localhost:8500" in joined
  refused = {**few, "infra_blessing": inputs["infra_blessing"]}
  del refused["pushed_model"]
  document, _ = run_report(refused, tmp_path / "refused")
  assert document["blessed"] is False and document["failures"] == ["cannot be served: no answer within 120 s"]


def test_examples_alone_make_a_page(inputs, tmp_path):
  document, text = run_report({"examples": inputs["examples"]}, tmp_path)
  assert document["blessed"] is False and document["metrics"] == {"base": {}, "compressed": {}}
  assert document["examples"]["splits"] == given.COUNTS
  page = given.Page(text)
  assert not {"training", "quality", "mistakes", "compression", "rejects"} & set(page.ids)
  assert "○ Not evaluated" in "".join(page.text)


def render_text(features, outputs):
  text = features["text"].decode()
  return f"{text} → {outputs['translation'].decode()}" if outputs else text


def decode_text(outputs):
  return {"translation": outputs["translation"].decode()}


def test_a_task_without_pictures(tmp_path):
  task = dataclasses.replace(
    TASK,
    name="shout",
    config_class=RunConfig,
    raw_features={"text": Feature("bytes")},
    labels={"target": Feature("bytes")},
    render=render_text,
    decode_output=decode_text,
  )
  for split in ("train", "test"):
    (tmp_path / "examples" / f"Split-{split}").mkdir(parents=True)
    with tf.io.TFRecordWriter(str(tmp_path / "examples" / f"Split-{split}" / "data.gz"), "GZIP") as writer:
      for text in (b"<b>one</b>", b"two"):
        values = {"text": text, "target": text.upper()}
        feature = {name: tf.train.Feature(bytes_list={"value": [value]}) for name, value in values.items()}
        writer.write(tf.train.Example(features={"feature": feature}).SerializeToString())

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
  def serve_examples(examples):
    features = tf.io.parse_example(examples, {"text": tf.io.FixedLenFeature([], tf.string)})
    return {"translation": tf.strings.upper(features["text"])}

  module = tf.Module()
  path = str(tmp_path / "model" / "Format-Serving")
  tf.saved_model.save(module, path, signatures={"serve_examples": serve_examples})
  inputs = {
    "examples": given.artifact(standard_artifacts.Examples, tmp_path / "examples"),
    "model": given.artifact(standard_artifacts.Model, tmp_path / "model"),
  }
  config = RunConfig(task="shout")
  pictures = collect_pictures(task, config, inputs)
  write_report(str(tmp_path / "report"), collect(task, config, inputs, pictures), pictures)
  document, text = read_report(tmp_path / "report")
  assert "class_balance" not in document["data"] and "mistakes" not in document
  page = given.Page(text)
  assert "two → TWO" in page.text and "<b>one</b> → <B>ONE</B>" in "".join(page.text)
  assert "predictions" in page.ids and "img" not in page.tags


def test_component_takes_any_subset_of_its_inputs():
  examples = Channel(type=standard_artifacts.Examples)
  model = Channel(type=standard_artifacts.Model)
  report = Report(task=TASK.path, config="{}", examples=examples, model=model, regression_evaluation=None)
  assert set(report.inputs) == {"examples", "model"}
  assert report.outputs["report"].type is RunReport
