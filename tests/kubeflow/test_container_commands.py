"""Every task of a compiled pipeline, run by its container command as Kubeflow's launcher runs it."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import uuid

import cv2
import numpy as np
import pytest
import yaml
from google.protobuf import json_format, struct_pb2
from kfp.pipeline_spec import pipeline_spec_pb2

from trainers.ngram.arpa_reader import read_arpa_words

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

DATA = pathlib.Path(__file__).parents[1] / "data"
COLOURS = {"blue": (220, 40, 40), "green": (40, 220, 40), "red": (40, 40, 220)}
SETTINGS = """
preprocessing: {height: 8, width: 8, channels: 3}
augmentation: {cutout_fraction: 0.0}
model: {widths: [8]}
training: {epochs: 6, batch_size: 8, steps_per_execution: 1, learning_rate: 0.01}
compression: {latency_calls: 2, recipe: [{step: prune, sparsity: 0.5, epochs: 1, skip_last_layer: true}]}
evaluation: {min_metrics: {accuracy: 0.5}, max_drop: {accuracy: 0.5}, slice_by: []}
serving: {warmup_requests: 2, infra_validation_requests: 2}
"""
NGRAM_SETTINGS = """
data: {lines_per_group: 4}
preprocessing: {min_count: 1}
ngram: {order: 2}
compression: {latency_calls: 2, recipe: [{step: quantize_ngrams}]}
evaluation: {max_metrics: {perplexity: 1000}, max_rise: {perplexity: 1000}}
serving: {warmup_requests: 2, infra_validation_requests: 2}
"""


class Launcher:
  """Does what Kubeflow's driver and launcher do for each task.

  As kubeflow/pipelines has it (backend/src/v2): input artifacts come with an id for a name and without their
  type; metadata has been through ML Metadata, which wraps lists and structs, makes bools integers and knows
  no null; the directories of outputs do not exist.
  """

  def __init__(self, spec, root, environment):
    self.spec = json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
    self.root = root
    self.environment = environment
    self.recorded = {}

  def run(self):
    """Runs all tasks, each after those that it depends on; returns their names in that order."""
    tasks = dict(self.spec.root.dag.tasks)
    done = []
    while len(done) < len(tasks):
      # Sorted: a protobuf map has another order in each process, and more than one task may be ready.
      waiting = sorted(set(tasks) - set(done))
      name = next(name for name in waiting if set(tasks[name].dependent_tasks) <= set(done))
      self._run_task(name, tasks[name])
      done.append(name)
    return done

  def uri(self, task, key):
    return self.recorded[task, key].uri

  def _run_task(self, name, task):
    component = self.spec.components[task.component_ref.name]
    executors = json_format.MessageToDict(self.spec.deployment_spec)["executors"]
    container = executors[component.executor_label]["container"]
    given = self._executor_input(name, task, component)
    text = json_format.MessageToJson(given)
    command = [part.replace("{{$}}", text) for part in (*container["command"], *container["args"])]
    assert not [part for part in command if part.startswith("{{$")]
    finished = subprocess.run(
      command, env=self.environment, cwd=self.root, capture_output=True, text=True, check=False, timeout=1200
    )
    assert finished.returncode == 0, f"{name}: {finished.stderr[-4000:]}"
    self._record(name, given)

  def _executor_input(self, name, task, component):
    given = pipeline_spec_pb2.ExecutorInput()
    for key, parameter in task.inputs.parameters.items():
      given.inputs.parameter_values[key].CopyFrom(parameter.runtime_value.constant)
    for key, artifact in task.inputs.artifacts.items():
      source = artifact.task_output_artifact
      recorded = self.recorded[source.producer_task, source.output_artifact_key]
      given.inputs.artifacts[key].artifacts.add().CopyFrom(recorded)
    place = self.root / "artifacts" / name / uuid.uuid4().hex
    for key, output in component.output_definitions.artifacts.items():
      artifact = given.outputs.artifacts[key].artifacts.add(name=key, uri=str(place / key))
      artifact.type.CopyFrom(output.artifact_type)
    pod = self.root / "pods" / name
    pod.mkdir(parents=True)
    given.outputs.output_file = str(pod / "output_metadata.json")
    return given

  def _record(self, name, given):
    output = pathlib.Path(given.outputs.output_file).read_text(encoding="utf-8")
    made = json_format.Parse(output, pipeline_spec_pb2.ExecutorOutput())
    for key, expected in given.outputs.artifacts.items():
      (artifact,) = made.artifacts[key].artifacts
      assert artifact.uri == expected.artifacts[0].uri, f"{name}.{key}"
      recorded = pipeline_spec_pb2.RuntimeArtifact(name=str(len(self.recorded) + 1), uri=artifact.uri)
      recorded.type.instance_schema = ""
      metadata = {field: _through_metadata_store(value) for field, value in artifact.metadata.items()}
      recorded.metadata.update({**metadata, "display_name": key, "store_session_info": "{}"})
      self.recorded[name, key] = recorded


def _through_metadata_store(value):
  """A metadata value as the next task gets it."""
  assert value is not None
  if isinstance(value, bool):
    return int(value)
  if isinstance(value, struct_pb2.Struct):
    return {"struct": dict(value)}
  if isinstance(value, struct_pb2.ListValue):
    return {"list": list(value)}
  return value


def _write_pictures(folder, count=30, side_px=8):
  """Pictures of three colours, in splits of fixed sizes."""
  random = np.random.default_rng(3)
  splits = ["train"] * (count - 10) + ["validation"] * 5 + ["test"] * 5
  for label, colour in COLOURS.items():
    for number, split in enumerate(splits):
      pixels = np.clip(np.array(colour) + random.normal(0, 15, (side_px, side_px, 3)), 0, 255)
      path = folder / split / label / f"{number}.png"
      path.parent.mkdir(parents=True, exist_ok=True)
      cv2.imwrite(str(path), pixels.astype(np.uint8))


def _compiled(task, data, settings, folder):
  """What Kubeflow runs of a task: the launcher of its pipeline, and the volume that its pods see."""
  environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
  environment["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), environment["PATH"]])
  (folder / "settings.yaml").write_text(settings, encoding="utf-8")
  compile_command = [
    *("deepline", "compile", task, "--config", "settings.yaml"),
    *("--data", str(data), "--output", "pipeline.yaml"),
    *("--set", f"kubeflow.volume_path={folder / 'volume'}"),
  ]
  subprocess.run(compile_command, env=environment, cwd=folder, check=True)
  spec, _ = yaml.safe_load_all((folder / "pipeline.yaml").read_text(encoding="utf-8"))
  return Launcher(spec, folder, environment), folder / "volume"


def test_all_containers_in_turn_push_a_model(tmp_path):
  _write_pictures(tmp_path / "volume" / "photos")
  launcher, volume = _compiled("image_classification", tmp_path / "volume" / "photos", SETTINGS, tmp_path)
  done = launcher.run()

  assert done[0] == "ExampleGen" and done[-1] == "Report"
  assert launcher.recorded["ExampleGen", "rejects"].metadata["written"] == 90
  (version,) = (volume / "serving" / "image_classification").iterdir()
  assert version.name.isdigit()
  assert (version / "saved_model.pb").exists()
  report = pathlib.Path(launcher.uri("Report", "report"))
  found = json.loads((report / "report.json").read_text(encoding="utf-8"))
  assert found["blessed"] is True
  assert found["pushed_model"] == str(version)
  assert found["examples"]["splits"] == {"train": 60, "validation": 15, "test": 15}
  assert found["metrics"]["compressed"]["accuracy"] >= 0.8
  assert (report / "report.html").stat().st_size > 10_000
  assert not list((volume / "checkpoints").glob("*"))


def test_what_one_container_counts_another_one_serves(tmp_path):
  volume = tmp_path / "volume"
  volume.mkdir()
  shutil.copy(DATA / "genesis.txt", volume)
  launcher, _ = _compiled("ngram_language_model", volume / "genesis.txt", NGRAM_SETTINGS, tmp_path)
  done = launcher.run()
  assert done.index("Transform") < done.index("TextCounter") < done.index("Trainer")
  counted = pathlib.Path(launcher.uri("TextCounter", "model")) / "Format-Serving"
  assert read_arpa_words(str(counted / "model.arpa"))[0] == 2
  (version,) = (volume / "serving" / "ngram_language_model").iterdir()
  report = pathlib.Path(launcher.uri("Report", "report"))
  found = json.loads((report / "report.json").read_text(encoding="utf-8"))
  assert found["pushed_model"] == str(version) and (version / "saved_model.pb").exists()
  assert 1 < found["metrics"]["compressed"]["perplexity"] < 1000
