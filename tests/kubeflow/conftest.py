"""A compiled pipeline, and what Kubeflow does with it."""

import os
import pathlib
import subprocess
import sys
import uuid

import pytest
import yaml
from google.protobuf import json_format, struct_pb2
from kfp.pipeline_spec import pipeline_spec_pb2


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


@pytest.fixture
def compiled(tmp_path):
  """A function: (task, data, settings) -> the launcher of a task's pipeline, and the volume that its pods see."""

  def compile_task(task, data, settings):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), environment["PATH"]])
    (tmp_path / "settings.yaml").write_text(settings, encoding="utf-8")
    command = [
      *("deepline", "compile", task, "--config", "settings.yaml"),
      *("--data", str(data), "--output", "pipeline.yaml"),
      *("--set", f"kubeflow.volume_path={tmp_path / 'volume'}"),
    ]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True)
    spec, _ = yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text(encoding="utf-8"))
    return Launcher(spec, tmp_path, environment), tmp_path / "volume"

  return compile_task
