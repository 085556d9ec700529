"""Every registered task through every stage, on a tiny sample: registering a task tests it."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from pipeline.tasks import TASKS

CONTRACTS = pathlib.Path(__file__).parent / "contract"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", params=sorted(TASKS))
def finished(request, tmp_path_factory):
  """A task, its run folder and the run's summary. The run has a process of its own, as a user's has."""
  task = TASKS[request.param]
  contract = CONTRACTS / f"{task.name}.yaml"
  assert contract.exists(), (
    f"write {contract}: the smallest configuration that takes {task.name} through all stages"
  )
  folder = tmp_path_factory.mktemp(task.name)
  return task, folder, _deepline_run(task.name, contract, folder)


def _deepline_run(name, contract, folder):
  command = [sys.executable, "-m", "pipeline.cli", "run", name, "--config", str(contract)]
  done = subprocess.run(
    [*command, "--output", str(folder), "--json"], capture_output=True, text=True, timeout=800
  )
  log = folder / "run.log"
  assert done.returncode == 0, done.stderr + (log.read_text()[-3000:] if log.exists() else "")
  return json.loads(done.stdout.splitlines()[-1])


def _raw_rows(task, folder, count):
  """Raw test examples as the run wrote them."""
  from components.export import raw_batches
  from components.input import split_files

  (uri,) = (folder / "artifacts" / "ExampleGen" / "examples").glob("*")
  batch = next(iter(raw_batches(task, split_files(str(uri), "test"), count)))
  return batch[0].numpy(), {name: value.numpy() for name, value in batch[1].items()}


def _assert_equal(found, expected):
  assert set(found) == set(expected)
  for name, value in expected.items():
    if np.asarray(value).dtype.kind in "fc":
      np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    else:
      assert np.array_equal(found[name], value), name


def test_summary_is_complete(finished):
  task, folder, summary = finished
  assert summary["task"] == task.name
  assert summary["status"] == "done" and summary["blessed"] is True
  counts = summary["examples"]
  assert counts["read"] == counts["written"] + counts["rejected"] > 0
  assert sum(counts["splits"].values()) == counts["written"]
  assert set(summary["metrics"]) == {"base", "compressed"}
  assert {stage["state"] for stage in summary["stages"]} == {"done"}
  for name in ("report.html", "report.json", "metadata.sqlite"):
    assert (folder / name).stat().st_size > 0


def test_pushed_version_is_whole(finished):
  task, folder, summary = finished
  versions = list((folder / "serving" / task.name).iterdir())
  assert [str(version) for version in versions] == [summary["pushed_model"]]
  assert (versions[0] / "saved_model.pb").exists()
  assert (versions[0] / "assets.extra" / "tf_serving_warmup_requests").stat().st_size > 0


def test_served_answers_equal_in_process_ones(finished):
  import tensorflow as tf

  from serving.client import PredictClient
  from serving.options import ServerOptions
  from serving.server import ModelServer
  from serving.sessions.session import register_ops

  task, folder, summary = finished
  serialized, features = _raw_rows(task, folder, 5)
  register_ops()
  signatures = tf.saved_model.load(summary["pushed_model"]).signatures
  expected = signatures["serving_default"](**{name: tf.constant(value) for name, value in features.items()})
  expected = {name: value.numpy() for name, value in expected.items()}
  server = ModelServer(ServerOptions(port=0), {task.name: str(folder / "serving" / task.name)})
  server.start()
  try:
    assert server.wait_until_available(60)
    client = PredictClient(f"127.0.0.1:{server.port}", timeout_s=60)
    outputs, version = client.predict(task.name, features)
    from_examples, _ = client.predict(task.name, {"examples": serialized}, signature_name="serve_examples")
  finally:
    server.stop()
  assert str(version) == pathlib.Path(summary["pushed_model"]).name
  _assert_equal(outputs, expected)
  _assert_equal(from_examples, expected)
  first = {name: values[0] for name, values in outputs.items()}
  json.dumps(task.decode_output(first))
  rendered = task.render({name: value[0] for name, value in features.items()}, first)
  assert rendered.startswith(b"\x89PNG") if isinstance(rendered, bytes) else rendered


def test_exported_model_equals_the_keras_model(finished):
  import tensorflow as tf

  from components.input import load_outputs, split_files
  from components.trainer import load_trained
  from pipeline.config import load_config

  task, folder, _ = finished
  artifacts = folder / "artifacts"
  (graph,) = (artifacts / "Transform" / "transform_graph").glob("*")
  (transformed,) = (artifacts / "Transform" / "transformed_examples").glob("*")
  (model_run,) = (artifacts / "Trainer" / "model_run").glob("*")
  (model_dir,) = (artifacts / "Trainer" / "model").glob("*")
  config = task.resolve(load_config(task, str(CONTRACTS / f"{task.name}.yaml")))
  outputs = load_outputs(str(graph), split_files(str(transformed), "train"))
  model = load_trained(task, config, outputs, str(model_run))
  _, features = _raw_rows(task, folder, 5)
  tensors = {name: tf.constant(value) for name, value in features.items()}
  transformed = outputs.transform(outputs.features_layer(), tensors)
  inputs, _ = task.parse(transformed, config, outputs)
  answers = task.predict(model, inputs, transformed, config, outputs)
  expected = {name: value.numpy() for name, value in answers.items()}
  exported = tf.saved_model.load(str(model_dir / "Format-Serving")).signatures["serving_default"](**tensors)
  _assert_equal({name: value.numpy() for name, value in exported.items()}, expected)


def test_identical_run_is_cached(finished):
  task, folder, first = finished
  again = _deepline_run(task.name, CONTRACTS / f"{task.name}.yaml", folder)
  assert {stage["state"] for stage in again["stages"]} == {"cached"}
  assert again["pushed_model"] == first["pushed_model"]
  assert again["metrics"] == first["metrics"]
  assert len(list((folder / "serving" / task.name).iterdir())) == 1


def test_runs_lists_both_runs(finished):
  from pipeline.runs import find_runs

  task, folder, summary = finished
  rows = find_runs(str(folder))
  assert len(rows) == 2
  assert {row["state"] for row in rows} == {"done"}
  assert {row["task"] for row in rows} == {task.name}
  assert {row["model_version"] for row in rows} == {pathlib.Path(summary["pushed_model"]).name}


def test_texts_are_embedded_in_bulk(finished, tmp_path):
  import tensorflow as tf
  from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
  from tfx.types import channel_utils, standard_artifacts

  from components.config import BeamConfig
  from components.text_embedder import Executor, TextEmbedder
  from pipeline.graph import beam_arguments
  from serving.sessions.session import register_ops

  task, folder, _ = finished
  register_ops()
  (model_dir,) = (folder / "artifacts" / "Compressor" / "model").glob("*")
  signatures = tf.saved_model.load(str(model_dir / "Format-Serving")).signatures
  if "embed" not in signatures:
    pytest.skip(f"{task.name} embeds no texts")
  examples, model, result = (
    kind() for kind in (standard_artifacts.Examples, standard_artifacts.Model, standard_artifacts.Examples)
  )
  (examples_dir,) = (folder / "artifacts" / "ExampleGen" / "examples").glob("*")
  examples.uri, model.uri, result.uri = str(examples_dir), str(model_dir), str(tmp_path)
  examples.split_names = json.dumps(["test"])
  stage = TextEmbedder(
    examples=channel_utils.as_channel([examples]), model=channel_utils.as_channel([model]), signature="embed"
  )
  context = BaseBeamExecutor.Context(beam_pipeline_args=beam_arguments(BeamConfig()), tmp_dir=str(tmp_path))
  Executor(context).Do(
    {"examples": [examples], "model": [model]}, {"embeddings": [result]}, stage.exec_properties
  )
  paths = sorted(str(path) for path in (tmp_path / "Split-test").iterdir())
  records = tf.data.TFRecordDataset(paths, compression_type="GZIP").as_numpy_iterator()
  found = [tf.train.Example.FromString(record).features.feature["embedding"] for record in records]
  _, features = _raw_rows(task, folder, len(found))
  expected = signatures["embed"](text=tf.constant(features["text"]))["embedding"].numpy()
  assert np.abs(expected).max() > 0.01
  np.testing.assert_allclose([row.float_list.value for row in found], expected, atol=1e-6)
