"""What Kubeflow's launcher leaves out is filled in before TFX's entry point sees it."""

import json

import pytest
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from pipeline import kubeflow_stage
from pipeline.kubeflow_stage import complete, local_path

SPEC = {"artifacts": {"model": {"artifactType": {"instanceSchema": "title: tfx.Model\ntype: object\n"}}}}


def _input(model, outputs):
  """An ExecutorInput with one input artifact and some outputs."""
  given = {
    "inputs": {"artifacts": {"model": {"artifacts": [model]}}},
    "outputs": {
      "artifacts": {key: {"artifacts": [artifact]} for key, artifact in outputs.items()},
      "outputFile": "/tmp/kfp_outputs/output_metadata.json",
    },
  }
  return json_format.ParseDict(given, pipeline_spec_pb2.ExecutorInput())


def _spec():
  return json_format.ParseDict(SPEC, pipeline_spec_pb2.ComponentInputsSpec())


@pytest.mark.parametrize("kind", [{}, {"type": {"instanceSchema": ""}}], ids=["no type", "empty schema"])
def test_missing_type_comes_from_the_stage(kind):
  given = _input({"name": "7", "uri": "/data/model", **kind}, {})
  complete(given, _spec())
  (model,) = given.inputs.artifacts["model"].artifacts
  assert model.type.instance_schema == "title: tfx.Model\ntype: object\n"
  assert model.name == "7"
  assert model.uri == "/data/model"


def test_given_type_is_kept():
  given = _input({"uri": "/data/model", "type": {"schemaTitle": "tfx.PushedModel"}}, {})
  complete(given, _spec())
  (model,) = given.inputs.artifacts["model"].artifacts
  assert model.type.schema_title == "tfx.PushedModel"
  assert model.name == "/data/model"


def test_stores_become_the_launchers_directories():
  assert local_path("minio://mlpipeline/v2/a") == "/minio/mlpipeline/v2/a"
  assert local_path("s3://bucket/a/b") == "/s3/bucket/a/b"
  assert local_path("gs://bucket/a") == "/gcs/bucket/a"
  assert local_path("/deepline/a") == "/deepline/a"


def test_outputs_are_written_locally_and_the_launchers_log_is_left_alone():
  outputs = {
    "blessing": {"uri": "minio://mlpipeline/run/blessing", "type": {"schemaTitle": "tfx.ModelBlessing"}},
    "executor-logs": {"uri": "minio://mlpipeline/run/executor-logs"},
  }
  given = _input({"name": "1", "uri": "minio://mlpipeline/run/model"}, outputs)
  uris = complete(given, _spec())
  assert given.inputs.artifacts["model"].artifacts[0].uri == "/minio/mlpipeline/run/model"
  assert list(given.outputs.artifacts) == ["blessing"]
  assert given.outputs.artifacts["blessing"].artifacts[0].uri == "/minio/mlpipeline/run/blessing"
  assert uris == {"/minio/mlpipeline/run/blessing": "minio://mlpipeline/run/blessing"}


def test_launcher_gets_its_uris_back(tmp_path):
  made = {"artifacts": {"blessing": {"artifacts": [{"uri": "/minio/b/x", "metadata": {"blessed": 1}}]}}}
  file = tmp_path / "output_metadata.json"
  file.write_text(json.dumps(made), encoding="utf-8")
  kubeflow_stage._restore_uris(str(file), {"/minio/b/x": "minio://b/x"})
  (artifact,) = json.loads(file.read_text(encoding="utf-8"))["artifacts"]["blessing"]["artifacts"]
  assert artifact == {"uri": "minio://b/x", "metadata": {"blessed": 1.0}}
