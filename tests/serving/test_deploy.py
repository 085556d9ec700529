"""Deployment files: valid offline, fitting each other, the pushed folders and the embedded server's flags."""

import http.server
import re
import shutil
import subprocess
import threading
import urllib.request
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from serving.models.config_files import model_configs, read_batching, read_metrics_path, read_models
from serving.models.model_config import TENSORFLOW_PLATFORM
from serving.options import ServerOptions, parse_flags
from serving.sessions.batching_settings import BatchingSettings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "serving" / "deploy"
COMPOSE = DEPLOY / "docker-compose.yaml"
MANIFESTS = ROOT / "kubeflow" / "manifests"
KUBERNETES_VERSIONS = ("1.27", "1.31", kubernetes_validate.latest_version())
CONFIG_FILES = {
  "model_config_file": "models.config",
  "batching_parameters_file": "batching.config",
  "monitoring_config_file": "monitoring.config",
}
METRICS_PATH = "/monitoring/prometheus/metrics"
# Flags of the embedded server that tensorflow_model_server does not know.
OUR_FLAGS = {"host", "port_file", "rest_port_file", "num_processes"}


@pytest.fixture(scope="module")
def service():
  return yaml.safe_load(COMPOSE.read_text())["services"]["tensorflow-serving"]


def documents_of(name):
  return list(yaml.safe_load_all((MANIFESTS / name).read_text()))


@pytest.fixture(scope="module")
def manifest():
  """{kind: document} of serving.yaml; the ConfigMaps, of which there are several, by their names."""
  documents = documents_of("serving.yaml")
  found = {}
  for document in documents:
    name = document["metadata"]["name"]
    found[name if document["kind"] == "ConfigMap" else document["kind"]] = document
  assert len(found) == len(documents)
  return found


def pod_spec(manifest):
  return manifest["Deployment"]["spec"]["template"]["spec"]


def container(manifest):
  (found,) = pod_spec(manifest)["containers"]
  return found


def flags_of(arguments):
  found = dict(re.fullmatch(r"--(\w+)=(.+)", argument).groups() for argument in arguments)
  assert len(found) == len(arguments)
  assert set(found) <= set(ServerOptions.model_fields) - OUR_FLAGS
  return found


def config_maps_of(manifest):
  """{file: text} of the ConfigMaps that the pod mounts."""
  volumes = {volume["name"]: volume for volume in pod_spec(manifest)["volumes"]}
  names = [source["configMap"]["name"] for source in volumes["config"]["projected"]["sources"]]
  data = {}
  for name in names:
    data.update(manifest[name]["data"])
  assert len(names) == len(data) == 3
  return data


def written(data, folder):
  """A folder with these files."""
  folder.mkdir()
  for name, text in data.items():
    (folder / name).write_text(text)
  return folder


def models_of(folder):
  models = model_configs(read_models(str(folder / "models.config")))
  assert all(model.platform == TENSORFLOW_PLATFORM for model in models)
  return {model.name: model.base_path for model in models}


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_the_manifest_is_strictly_valid(manifest, version):
  for document in manifest.values():
    kubernetes_validate.validate(document, version, strict=True)


def test_strict_validation_does_refuse_a_misspelt_key(manifest):
  wrong = {**manifest["Service"], "spec": {**manifest["Service"]["spec"], "clusterIp": "None"}}
  with pytest.raises(kubernetes_validate.ValidationError):
    kubernetes_validate.validate(wrong, KUBERNETES_VERSIONS[-1], strict=True)


def test_the_parts_of_the_manifest_belong_together(manifest):
  labels = manifest["Deployment"]["spec"]["template"]["metadata"]["labels"].items()
  for selector in (
    manifest["Deployment"]["spec"]["selector"]["matchLabels"],
    manifest["Service"]["spec"]["selector"],
    manifest["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
  ):
    assert selector.items() <= labels
  target = manifest["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
  assert (target["kind"], target["name"]) == ("Deployment", manifest["Deployment"]["metadata"]["name"])
  # Utilization is measured against what is requested; and the replicas are the autoscaler's alone.
  assert container(manifest)["resources"]["requests"]["cpu"]
  assert "replicas" not in manifest["Deployment"]["spec"]
  assert manifest["Service"]["spec"]["clusterIP"] == "None"
  named = {port["name"]: port["containerPort"] for port in container(manifest)["ports"]}
  assert {port["targetPort"]: port["port"] for port in manifest["Service"]["spec"]["ports"]} == named
  mounts = {mount["name"]: mount for mount in container(manifest)["volumeMounts"]}
  volumes = {volume["name"]: volume for volume in pod_spec(manifest)["volumes"]}
  assert set(mounts) == set(volumes)
  assert volumes["models"]["persistentVolumeClaim"] == {
    "claimName": documents_of("pipeline-volume.yaml")[0]["metadata"]["name"],
    "readOnly": True,
  }
  assert mounts["models"]["readOnly"] is True and mounts["config"]["readOnly"] is True


def test_the_flags_fit_the_ports_the_probes_and_the_files(manifest):
  flags = flags_of(container(manifest)["args"])
  ports = {port["name"]: str(port["containerPort"]) for port in container(manifest)["ports"]}
  assert (flags["port"], flags["rest_api_port"]) == (ports["grpc"], ports["rest"]) == ("8500", "8501")
  for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
    assert container(manifest)[probe]["grpc"]["port"] == 8500
  assert flags["enable_grpc_healthcheck_service"] == flags["enable_batching"] == "true"
  mounts = {mount["name"]: mount["mountPath"] for mount in container(manifest)["volumeMounts"]}
  data = config_maps_of(manifest)
  assert {flag: flags[flag] for flag in CONFIG_FILES} == {
    flag: f"{mounts['config']}/{file}" for flag, file in CONFIG_FILES.items()
  }
  assert set(data) == set(CONFIG_FILES.values())


def test_prometheus_finds_the_metrics(manifest):
  annotations = manifest["Deployment"]["spec"]["template"]["metadata"]["annotations"]
  assert annotations == {
    "prometheus.io/scrape": "true",
    "prometheus.io/port": flags_of(container(manifest)["args"])["rest_api_port"],
    "prometheus.io/path": METRICS_PATH,
  }


def test_the_configuration_is_the_same_everywhere(manifest, tmp_path):
  folder = written(config_maps_of(manifest), tmp_path / "serving")
  assert models_of(folder) == models_of(DEPLOY)
  for place in (DEPLOY, folder):
    settings = BatchingSettings.from_parameters(read_batching(str(place / "batching.config")))
    # `deepline predict` sends 8 examples at once, and a larger request than max_batch_size is refused.
    assert settings.max_batch_size == 32
    assert (settings.batch_timeout_us, settings.max_enqueued_batches) == (1000, 100)
    assert read_metrics_path(str(place / "monitoring.config"), "/elsewhere") == METRICS_PATH


def test_models_config_names_models_where_they_are_pushed(manifest, tmp_path):
  from pipeline.tasks import TASKS

  models = models_of(DEPLOY)
  mounts = {mount["name"]: mount for mount in container(manifest)["volumeMounts"]}
  assert models and set(models) <= set(TASKS)
  assert all(path == f"/models/{name}" for name, path in models.items())
  # The pipelines push to serving/TASK/VERSION on the volume; its folder "serving" is /models.
  assert (mounts["models"]["mountPath"], mounts["models"]["subPath"]) == ("/models", "serving")


def test_the_compose_file(service):
  assert re.fullmatch(r"tensorflow/serving:\d+\.\d+\.\d+(-gpu)?", service["image"])
  assert service["entrypoint"] == ["tensorflow_model_server"]
  flags = flags_of(service["command"])
  assert service["ports"] == [f"{port}:{port}" for port in (flags["port"], flags["rest_api_port"])]
  assert service["ports"] == ["8500:8500", "8501:8501"]
  mounts = {volume["target"]: volume for volume in service["volumes"]}
  assert set(mounts) == {"/models", "/etc/tensorflow-serving"}
  assert all(volume["read_only"] is True for volume in mounts.values())
  assert (COMPOSE.parent / mounts["/etc/tensorflow-serving"]["source"]).resolve() == DEPLOY
  assert {flag: flags[flag] for flag in CONFIG_FILES} == {
    flag: f"/etc/tensorflow-serving/{file}" for flag, file in CONFIG_FILES.items()
  }
  assert all((DEPLOY / file).is_file() for file in CONFIG_FILES.values())
  default = re.fullmatch(r"\$\{DEEPLINE_SERVING:-(.+)\}", mounts["/models"]["source"]).group(1)
  assert (COMPOSE.parent / default).resolve() == ROOT / "runs" / "image_classification" / "serving"
  # Of the default folder, in which there is that one model.
  assert set(models_of(DEPLOY)) == {"image_classification"}


def test_both_deployments_run_the_same_image(service, manifest):
  assert service["image"] == container(manifest)["image"]


@pytest.mark.parametrize("place", ["compose", "kubernetes"])
def test_the_embedded_server_runs_with_the_same_flags_and_files(place, service, manifest, push, tmp_path):
  """On a folder as the Pusher leaves it, with the paths of this machine in the place of the container's."""
  from serving.server import ModelServer

  pushed = tmp_path / "serving" / "image_classification"
  pushed.mkdir(parents=True)
  push(str(pushed), 1)
  if place == "compose":
    arguments, data = (
      service["command"],
      {file: (DEPLOY / file).read_text() for file in CONFIG_FILES.values()},
    )
  else:
    arguments, data = container(manifest)["args"], config_maps_of(manifest)
  config = written(data, tmp_path / "config")
  models = config / "models.config"
  models.write_text(models.read_text().replace("/models/", f"{tmp_path}/serving/"))
  flags = flags_of(arguments)
  del flags["port"], flags["rest_api_port"]
  flags.update({flag: str(config / file) for flag, file in CONFIG_FILES.items()})
  flags.update(port="0", rest_port_file=str(tmp_path / "rest_port"))
  server = ModelServer(parse_flags([f"--{name}={value}" for name, value in flags.items()]))
  server.start()
  try:
    assert server.wait_until_available(120)
    assert b"AVAILABLE" in get(f"http://{server.rest_address}/v1/models/image_classification")
    body = b'{"instances": [[1.0, 2.0, 3.0]]}'
    answer = get(f"http://{server.rest_address}/v1/models/image_classification:predict", body)
    assert b"predictions" in answer
    assert b":tensorflow:serving:request_count" in get(f"http://{server.rest_address}{METRICS_PATH}")
  finally:
    server.stop()


def get(url, body=None):
  with urllib.request.urlopen(url, body, timeout=20) as response:
    return response.read()


@pytest.mark.skipif(shutil.which("bash") is None, reason="the image has bash, this machine does not")
@pytest.mark.parametrize(("state", "healthy"), [("AVAILABLE", True), ("LOADING", False)])
def test_the_compose_health_check(service, state, healthy):
  asked = []

  class Rest(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      asked.append(self.path)
      self.send_response(200)
      self.end_headers()
      self.wfile.write(b'{"model_version_status": [{"state": "%s"}]}' % state.encode())

    def log_message(self, *_):
      pass

  server = http.server.HTTPServer(("127.0.0.1", 0), Rest)
  threading.Thread(target=server.serve_forever, daemon=True).start()
  kind, *command = service["healthcheck"]["test"]
  command[-1] = command[-1].replace("8501", str(server.server_port))
  try:
    assert kind == "CMD"
    assert (subprocess.run(command, timeout=20).returncode == 0) == healthy
  finally:
    server.shutdown()
    server.server_close()
  assert asked == ["/v1/models/image_classification"]
