"""Past runs, from a metadata store filled as TFX fills it."""

import json
import time

import pytest
from ml_metadata.metadata_store import metadata_store
from ml_metadata.proto import metadata_store_pb2 as mlmd

from pipeline.runs import find_runs, run_outputs, run_table

REPORT = {
  "quality_metric": "accuracy",
  "metrics": {"base": {"accuracy": 0.91}, "compressed": {"accuracy": 0.905}},
  "examples": {"read": 10, "written": 9, "rejected": 1},
}


class Store:
  """A run folder, filled through ML Metadata's own interface."""

  def __init__(self, folder):
    folder.mkdir(parents=True, exist_ok=True)
    self.folder = folder
    config = mlmd.ConnectionConfig()
    config.sqlite.filename_uri = str(folder / "metadata.sqlite")
    config.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    self.store = metadata_store.MetadataStore(config)
    self.types = {
      name: self.store.put_context_type(mlmd.ContextType(name=name))
      for name in ("pipeline", "pipeline_run", "node")
    }
    self.stage_type = self.store.put_execution_type(mlmd.ExecutionType(name="Stage"))

  def context(self, kind, name):
    found = self.store.get_context_by_type_and_name(kind, name)
    if found is None:
      (number,) = self.store.put_contexts([mlmd.Context(type_id=self.types[kind], name=name)])
      (found,) = self.store.get_contexts_by_id([number])
    return found

  def artifact(self, kind, name, **properties):
    artifact = mlmd.Artifact(
      type_id=self.store.put_artifact_type(mlmd.ArtifactType(name=kind)),
      uri=str(self.folder / "artifacts" / name),
    )
    for key, value in properties.items():
      artifact.custom_properties[key].string_value = value
    (artifact.id,) = self.store.put_artifacts([artifact])
    return artifact

  def stage(self, run_id, stage, *outputs, state=mlmd.Execution.COMPLETE):
    contexts = [
      self.context("pipeline", "image-classification"),
      self.context("pipeline_run", run_id),
      self.context("node", f"image-classification.{stage}"),
    ]
    pairs = []
    for key, artifact in outputs:
      event = mlmd.Event(type=mlmd.Event.OUTPUT)
      event.path.steps.add().key = key
      event.path.steps.add().index = 0
      pairs.append((artifact, event))
    execution = mlmd.Execution(type_id=self.stage_type, last_known_state=state)
    self.store.put_execution(execution, pairs, contexts)

  def report(self, name, content):
    artifact = self.artifact("deepline.RunReport", name)
    folder = self.folder / "artifacts" / name
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(content))
    return artifact


@pytest.fixture
def store(tmp_path):
  """Three runs: one that was pushed, the same one from the cache, and one that failed."""
  store = Store(tmp_path / "image_classification")
  examples = store.artifact("Examples", "examples", data_path="/data/[2026] photos")
  pushed = store.artifact("PushedModel", "pushed", pushed_version="1700000000")
  compression = store.artifact("deepline.CompressionReport", "compression")
  report = store.report("report", REPORT)
  stages = [
    ("ExampleGen", ("examples", examples)),
    ("Transform", ("transformed_examples", store.artifact("Examples", "transformed"))),
    ("Compressor", ("report", compression)),
    ("Pusher", ("pushed_model", pushed)),
    ("Report", ("report", report)),
  ]
  for stage, output in stages:
    store.stage("run-1", stage, output)
  time.sleep(1.1)
  for stage, output in stages:
    store.stage("run-2", stage, output, state=mlmd.Execution.CACHED)
  time.sleep(1.1)
  store.stage("run-3", "ExampleGen", ("examples", examples), state=mlmd.Execution.CACHED)
  store.stage("run-3", "Transform", state=mlmd.Execution.FAILED)
  return store


def test_runs_are_described_the_newest_first(store):
  runs = find_runs(str(store.folder))
  assert [run["run_id"] for run in runs] == ["run-3", "run-2", "run-1"]
  assert [run["state"] for run in runs] == ["failed", "done", "done"]
  assert [run["stages"] for run in runs] == [2, 5, 5]
  assert {run["task"] for run in runs} == {"image_classification"}
  assert {run["data"] for run in runs} == {"/data/[2026] photos"}
  assert {run["output"] for run in runs} == {str(store.folder)}
  for run in runs[1:]:
    assert run["model_version"] == "1700000000"
    assert {key: run[key] for key in REPORT} == REPORT
    assert run["lower_is_better"] is False  # a report of before there was such a key
  assert runs[0]["model_version"] is None and runs[0]["metrics"] == {}
  json.dumps(runs)


def test_a_run_that_was_killed_is_unfinished(store):
  store.stage("run-4", "ExampleGen", state=mlmd.Execution.COMPLETE)
  store.stage("run-4", "Trainer", state=mlmd.Execution.RUNNING)
  states = {run["run_id"]: run["state"] for run in find_runs(str(store.folder))}
  assert states["run-4"] == "unfinished"


def test_a_folder_of_run_folders(store):
  other = Store(store.folder.parent / "another")
  other.stage("run-9", "ExampleGen")
  runs = find_runs(str(store.folder.parent))
  assert sorted(run["run_id"] for run in runs) == ["run-1", "run-2", "run-3", "run-9"]
  assert find_runs(str(store.folder.parent / "another"))[0]["run_id"] == "run-9"


def test_outputs_of_one_run_by_type(store):
  outputs = run_outputs(store.folder / "metadata.sqlite", "run-2")
  artifacts = store.folder / "artifacts"
  assert outputs["Examples"] == [str(artifacts / "examples"), str(artifacts / "transformed")]
  assert outputs["deepline.RunReport"] == [str(artifacts / "report")]
  assert set(run_outputs(store.folder / "metadata.sqlite", "run-3")) == {"Examples"}


def test_the_table_shows_what_users_ask_for(store, capsys):
  run_table(find_runs(str(store.folder)))
  lines = [line.split() for line in capsys.readouterr().out.splitlines()]
  assert lines[0] == ["started", "task", "state", "metric", "base", "compressed", "version", "data"]
  assert [line[3] for line in lines[1:]] == ["failed", "done", "done"]
  assert lines[2][4:] == ["accuracy", "0.9100", "0.9050", "1700000000", "/data/[2026]", "photos"]


def test_perplexities_of_any_size(tmp_path, capsys):
  metrics = {"base": {"perplexity": 12345.678, "accuracy": 0.1}, "compressed": {"perplexity": 9.87654}}
  content = {"quality_metric": "perplexity", "lower_is_better": True, "metrics": metrics, "examples": {}}
  store = Store(tmp_path / "ngram_language_model")
  store.stage("run-1", "Report", ("report", store.report("report", content)))
  (run,) = find_runs(str(store.folder))
  assert run["lower_is_better"] is True and run["metrics"] == metrics
  run_table([run])
  assert capsys.readouterr().out.splitlines()[1].split()[4:] == ["perplexity", "12345.68", "9.8765"]


def test_folders_without_runs(tmp_path):
  assert find_runs(str(tmp_path)) == []
  with pytest.raises(ValueError, match="missing: no such folder; name the --output of a run$"):
    find_runs(str(tmp_path / "missing"))


def test_a_damaged_database_is_named(tmp_path):
  path = tmp_path / "metadata.sqlite"
  path.write_bytes(b"this is no database " * 50)
  with pytest.raises(ValueError) as caught:
    find_runs(str(tmp_path))
  assert str(caught.value).startswith(f"{path}: cannot be read as the metadata of runs (")
  assert "\n" not in str(caught.value)
