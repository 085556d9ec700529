"""kserve.yaml, validated offline: KServe's own kinds by their keys, containers and volumes as those of a pod."""

import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from serving.options import ServerOptions

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "serving" / "deploy"
MANIFESTS = ROOT / "kubeflow" / "manifests"
KUBERNETES_VERSIONS = ("1.27", "1.31", kubernetes_validate.latest_version())
METRICS_PATH = "/monitoring/prometheus/metrics"
# Flags of the embedded server that tensorflow_model_server does not know.
OUR_FLAGS = {"host", "port_file", "rest_port_file", "num_processes"}
# Keys of KServe's kinds, after pkg/apis/serving/{v1alpha1/servingruntime_types,v1beta1/component,predictor_model}.go;
# kubernetes_validate does not know these kinds. Containers and volumes are checked as those of a pod.
KSERVE_KEYS = {
  "ServingRuntime": {
    "spec": {"annotations", "supportedModelFormats", "protocolVersions", "containers", "volumes"},
    "spec.supportedModelFormats": {"name", "version", "autoSelect", "priority"},
  },
  "InferenceService": {
    "spec": {"predictor"},
    "spec.predictor": {"minReplicas", "maxReplicas", "model", "timeout"},
    "spec.predictor.model": {
      "modelFormat", "runtime", "storageUri", "protocolVersion", "ports", "resources", "env",
    },
    "spec.predictor.model.modelFormat": {"name", "version"},
  },
}  # fmt: skip


def documents_of(name):
  return list(yaml.safe_load_all((MANIFESTS / name).read_text()))


@pytest.fixture(scope="module")
def kserve():
  """{kind: document} of kserve.yaml."""
  documents = documents_of("kserve.yaml")
  assert len({document["kind"] for document in documents}) == len(documents)
  return {document["kind"]: document for document in documents}


def runtime_container(kserve):
  (found,) = kserve["ServingRuntime"]["spec"]["containers"]
  return found


@pytest.fixture(scope="module")
def flags(kserve):
  """{flag: value} of the server in the runtime."""
  arguments = runtime_container(kserve)["args"]
  found = dict(re.fullmatch(r"--(\w+)=(.+)", argument).groups() for argument in arguments)
  assert len(found) == len(arguments)
  return found


def settings_in(text):
  """The lines of a configuration that are no comments."""
  return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_the_pod_is_strictly_valid(kserve, version):
  spec = kserve["ServingRuntime"]["spec"]
  ports = kserve["InferenceService"]["spec"]["predictor"]["model"]["ports"]
  pod = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "predictor", "annotations": spec["annotations"]},
    "spec": {"containers": [{**spec["containers"][0], "ports": ports}], "volumes": spec["volumes"]},
  }
  kubernetes_validate.validate(pod, version, strict=True)
  kubernetes_validate.validate(kserve["ConfigMap"], version, strict=True)


@pytest.mark.parametrize("kind", KSERVE_KEYS)
def test_the_kinds_have_no_unknown_keys(kserve, kind):
  document = kserve[kind]
  assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
  for path, known in KSERVE_KEYS[kind].items():
    value = document
    for key in path.split("."):
      value = value[key]
    for part in value if isinstance(value, list) else [value]:
      assert set(part) <= known, path
  assert (
    document["apiVersion"]
    == {
      "ServingRuntime": "serving.kserve.io/v1alpha1",
      "InferenceService": "serving.kserve.io/v1beta1",
    }[kind]
  )


def test_the_parts_belong_together(kserve):
  from pipeline.tasks import TASKS

  runtime, inference = kserve["ServingRuntime"], kserve["InferenceService"]
  model = inference["spec"]["predictor"]["model"]
  assert model["runtime"] == runtime["metadata"]["name"]
  assert model["modelFormat"] in [
    {"name": known["name"], "version": known["version"]} for known in runtime["spec"]["supportedModelFormats"]
  ]
  assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
  # KServe takes names of DNS labels only, so the model's own name, which clients send, is a label.
  assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", inference["metadata"]["name"])
  name = inference["metadata"]["labels"]["model"]
  assert name in TASKS
  claim = documents_of("pipeline-volume.yaml")[0]["metadata"]["name"]
  assert model["storageUri"] == f"pvc://{claim}/serving/{name}"
  assert runtime_container(kserve)["name"] == "kserve-container"
  mounts = {mount["name"] for mount in runtime_container(kserve)["volumeMounts"]}
  volumes = {volume["name"]: volume for volume in runtime["spec"]["volumes"]}
  assert mounts == set(volumes)
  assert volumes["config"]["configMap"]["name"] == kserve["ConfigMap"]["metadata"]["name"]


def test_the_flags_fit_the_ports_and_files(kserve, flags):
  assert set(flags) <= set(ServerOptions.model_fields) - OUR_FLAGS
  (port,) = kserve["InferenceService"]["spec"]["predictor"]["model"]["ports"]
  assert (port["name"], str(port["containerPort"])) == ("h2c", flags["port"])
  annotations = kserve["ServingRuntime"]["spec"]["annotations"]
  # 8080 is where KServe looks for HTTP where no port is named.
  assert annotations["prometheus.kserve.io/port"] == flags["rest_api_port"] == "8080"
  assert annotations["prometheus.kserve.io/path"] == METRICS_PATH
  assert flags["model_name"] == "{{.Labels.model}}"
  assert flags["model_base_path"] == "/mnt/models"
  mounts = {mount["name"]: mount["mountPath"] for mount in runtime_container(kserve)["volumeMounts"]}
  data = kserve["ConfigMap"]["data"]
  assert flags["batching_parameters_file"] == f"{mounts['config']}/batching.config"
  assert flags["monitoring_config_file"] == f"{mounts['config']}/monitoring.config"
  assert data.keys() == {"batching.config", "monitoring.config"}
  for file, text in data.items():
    assert settings_in(text) == settings_in((DEPLOY / file).read_text())


def test_it_runs_the_image_of_the_other_deployments(kserve):
  (deployment,) = (document for document in documents_of("serving.yaml") if document["kind"] == "Deployment")
  (container,) = deployment["spec"]["template"]["spec"]["containers"]
  assert runtime_container(kserve)["image"] == container["image"]
