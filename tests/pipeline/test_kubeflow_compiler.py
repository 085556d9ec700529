"""The compiled file: what Kubeflow reads out of it, with Kubeflow's own parsers."""

import json

import pytest
import yaml
from google.protobuf import json_format

from pipeline.config import ConfigError, load_config
from pipeline.kubeflow_compiler import write_pipeline
from pipeline.tasks import TASKS

TASK = TASKS["image_classification"]
SIZE = ["preprocessing.height=16", "preprocessing.width=16", "preprocessing.channels=3"]
DATA = "/deepline/data/photos"
STAGES = [
  *("ExampleGen", "StatisticsGen", "SchemaGen", "ExampleValidator", "Transform", "Trainer", "Compressor"),
  *("Evaluator", "InfraValidator", "Pusher", "Report"),
]


def _config(*overrides, data=DATA):
  return load_config(TASK, None, [*SIZE, *overrides], data, must_exist=False)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
  """(text of the compiled file, pipeline spec, executors, platform spec)."""
  path = tmp_path_factory.mktemp("compiled") / "new" / "pipeline.yaml"
  config = _config(
    "kubeflow.image=registry.example.com/deepline:1",
    "kubeflow.resources.Trainer={accelerator_type: nvidia.com/gpu, accelerator_count: 2}",
    "kubeflow.resources.Trainer.memory_limit_gib=8",
    "kubeflow.resources.Transform.cpu_limit=3.5",
    "beam.num_workers=3",
    "beam.args=[--temp_location=/deepline/tmp]",
  )
  assert write_pipeline(TASK, config, str(path)) == []
  text = path.read_text(encoding="utf-8")
  spec, platforms = yaml.safe_load_all(text)
  executors = {name: value["container"] for name, value in spec["deploymentSpec"]["executors"].items()}
  return text, spec, executors, platforms


def test_kubeflows_own_parsers_accept_it(compiled):
  from kfp import components
  from kfp.pipeline_spec import pipeline_spec_pb2

  text, spec, _, platforms = compiled
  loaded = components.load_component_from_text(text)
  assert loaded.name == "image-classification"
  assert loaded.pipeline_spec.schema_version == "2.1.0"
  assert sorted(loaded.pipeline_spec.root.dag.tasks) == sorted(STAGES)
  parsed = json_format.ParseDict(spec, pipeline_spec_pb2.PipelineSpec())
  assert sorted(parsed.components) == sorted(STAGES)
  executors = json_format.ParseDict(platforms, pipeline_spec_pb2.PlatformSpec()).platforms["kubernetes"]
  assert len(executors.deployment_spec.executors) == len(STAGES)


def test_every_stage_runs_the_image_with_beams_options(compiled):
  _, _, executors, _ = compiled
  assert sorted(executors) == sorted(f"{stage}_executor" for stage in STAGES)
  for container in executors.values():
    assert container["image"] == "registry.example.com/deepline:1"
    assert container["command"] == ["python", "-m", "pipeline.kubeflow_stage"]
    assert container["args"][0] == "--executor_class_path"
    assert container["args"][2:4] == ["--json_serialized_invocation_args", "{{$}}"]
    assert container["args"][6:] == [
      "--temp_location=/deepline/tmp",
      "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
      "--sdk_container_image=local",
      "--direct_running_mode=multi_processing",
      "--direct_num_workers=3",
    ]


def test_resources_are_those_of_the_configuration(compiled):
  _, _, executors, _ = compiled
  found = {name: container.get("resources") for name, container in executors.items()}
  # The spec counts memory in 10^9 bytes: 8 * 2^30 = 8.589934592 * 10^9.
  assert found.pop("Trainer_executor") == {
    "accelerator": {"type": "nvidia.com/gpu", "count": "2"},
    "memoryLimit": pytest.approx(8.589935, abs=1e-6),
  }
  assert found.pop("Transform_executor") == {"cpuLimit": 3.5}
  assert set(found.values()) == {None}


def test_every_pod_mounts_the_volume_with_models_and_checkpoints(compiled):
  _, spec, executors, platforms = compiled
  mounts = platforms["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
  expected = {"pvcMount": [{"constant": "deepline", "mountPath": "/deepline"}]}
  assert mounts == dict.fromkeys(executors, expected)
  tasks = spec["root"]["dag"]["tasks"]
  assert "/deepline/serving/image_classification" in json.dumps(tasks["Pusher"]["inputs"])
  assert "/deepline/checkpoints" in json.dumps(tasks["Trainer"]["inputs"])
  assert DATA in json.dumps(tasks["ExampleGen"]["inputs"])


def test_new_data_at_the_same_path_is_read_again(compiled):
  _, spec, _, _ = compiled
  cached = {name: task.get("cachingOptions", {}) for name, task in spec["root"]["dag"]["tasks"].items()}
  assert cached.pop("ExampleGen") == {}
  assert all(options == {"enableCache": True} for options in cached.values())


def test_the_graph_has_no_look_up_of_earlier_runs(compiled):
  _, spec, _, _ = compiled
  assert "resolver" not in json.dumps(spec["deploymentSpec"])
  assert spec["root"]["dag"]["tasks"]["Pusher"]["dependentTasks"] == [
    "Compressor",
    "Evaluator",
    "InfraValidator",
  ]


def test_json_holds_the_whole_job(tmp_path):
  path = tmp_path / "pipeline.json"
  notes = write_pipeline(TASK, _config("kubeflow.pipeline_root=gs://bucket/runs"), str(path))
  job = json.loads(path.read_text(encoding="utf-8"))
  assert job["runtimeConfig"]["gcsOutputDirectory"] == "gs://bucket/runs"
  assert job["pipelineSpec"]["defaultPipelineRoot"] == "gs://bucket/runs"
  assert notes == ["a .json has no place for volumes: mount deepline at /deepline yourself"]


def test_sample_is_read_from_the_image(tmp_path):
  path = tmp_path / "pipeline.yaml"
  config = load_config(TASK, None, [*SIZE, "kubeflow.volume_claim=null"], must_exist=False)
  assert write_pipeline(TASK, config, str(path)) == []
  documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
  assert len(documents) == 1
  inputs = documents[0]["root"]["dag"]["tasks"]["ExampleGen"]["inputs"]
  given = json.loads(inputs["parameters"]["config"]["runtimeValue"]["constant"])
  assert given["data"]["path"] == "/app/tests/data/fashion_mnist.zip"


def test_data_that_pods_may_not_see_is_noted(tmp_path):
  notes = write_pipeline(TASK, _config(data=str(tmp_path)), str(tmp_path / "pipeline.yaml"))
  assert notes == [f"data.path={tmp_path} is not under /deepline: make sure that the pods see it"]


def test_unknown_stage_is_named(tmp_path):
  with pytest.raises(
    ValueError, match="kubeflow.resources.Trainr: no such stage; the stages are ExampleGen, "
  ):
    write_pipeline(TASK, _config("kubeflow.resources.Trainr.cpu_limit=1"), str(tmp_path / "pipeline.yaml"))
  assert not list(tmp_path.iterdir())


def test_nothing_can_be_auto_without_the_data(tmp_path):
  config = load_config(TASK, None, ["preprocessing.width=16"], DATA, must_exist=False)
  expected = (
    f"data.path={DATA}: no such file or folder here, "
    "so set preprocessing.height, preprocessing.channels with --set"
  )
  with pytest.raises(ValueError) as raised:
    write_pipeline(TASK, config, str(tmp_path / "pipeline.yaml"))
  assert str(raised.value) == expected


def test_relative_path_that_is_not_here():
  with pytest.raises(ConfigError, match="data.path=no/such: no such file or folder here"):
    _config(data="no/such")


def test_accelerator_count_needs_a_type():
  with pytest.raises(ConfigError, match="accelerator_count needs accelerator_type"):
    _config("kubeflow.resources.Trainer.accelerator_count=2")


def test_other_endings_are_refused(tmp_path):
  with pytest.raises(ValueError, match="name it .yaml or .json"):
    write_pipeline(TASK, _config(), str(tmp_path / "pipeline.txt"))
