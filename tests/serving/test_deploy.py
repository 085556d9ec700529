"""Deployment files for the real TF Serving, validated offline."""

import http.server
import re
import shutil
import subprocess
import threading
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "serving" / "deploy" / "docker-compose.yaml"
MODELS_CONFIG = ROOT / "serving" / "deploy" / "models.config"
MANIFEST = ROOT / "kubeflow" / "manifests" / "serving.yaml"
KUBERNETES_VERSIONS = ("1.27", "1.31", kubernetes_validate.latest_version())
# As tensorflow_model_server --help lists them.
FLAGS = {
  "port", "grpc_socket_path", "rest_api_port", "rest_api_num_threads", "rest_api_timeout_in_ms",
  "rest_api_enable_cors_support", "enable_batching", "allow_version_labels_for_unavailable_models",
  "batching_parameters_file", "enable_per_model_batching_parameters", "model_config_file",
  "model_config_file_poll_wait_seconds", "model_name", "model_base_path", "num_load_threads",
  "num_unload_threads", "max_num_load_retries", "load_retry_interval_micros", "file_system_poll_wait_seconds",
  "flush_filesystem_caches", "tensorflow_session_parallelism", "tensorflow_session_config_file",
  "tensorflow_intra_op_parallelism", "tensorflow_inter_op_parallelism", "use_alts_credentials",
  "ssl_config_file", "platform_config_file", "per_process_gpu_memory_fraction", "saved_model_tags",
  "grpc_channel_arguments", "grpc_max_threads", "enable_model_warmup", "num_request_iterations_for_warmup",
  "version", "monitoring_config_file", "remove_unused_fields_from_bundle_metagraph", "prefer_tflite_model",
  "enable_signature_method_name_check", "enable_profiler", "thread_pool_factory_config_file",
  "mixed_precision", "skip_initialize_tpu", "enable_grpc_healthcheck_service",
  "enable_serialization_as_tensor_content",
}  # fmt: skip


@pytest.fixture(scope="module")
def service():
  return yaml.safe_load(COMPOSE.read_text())["services"]["tensorflow-serving"]


@pytest.fixture(scope="module")
def manifest():
  """{kind: document}."""
  documents = list(yaml.safe_load_all(MANIFEST.read_text()))
  assert len({document["kind"] for document in documents}) == len(documents)
  return {document["kind"]: document for document in documents}


def container(manifest):
  (found,) = manifest["Deployment"]["spec"]["template"]["spec"]["containers"]
  return found


def flags_of(arguments):
  found = dict(re.fullmatch(r"--(\w+)=(.+)", argument).groups() for argument in arguments)
  assert set(found) <= FLAGS
  return found


def models_of(text):
  config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
  assert all(model.model_platform == "tensorflow" for model in config.model_config_list.config)
  return {model.name: model.base_path for model in config.model_config_list.config}


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
  mounts = {mount["name"] for mount in container(manifest)["volumeMounts"]}
  volumes = {
    volume["name"]: volume for volume in manifest["Deployment"]["spec"]["template"]["spec"]["volumes"]
  }
  assert mounts == set(volumes)
  assert volumes["models"]["persistentVolumeClaim"]["readOnly"] is True
  assert volumes["config"]["configMap"]["name"] == manifest["ConfigMap"]["metadata"]["name"]


def test_the_flags_fit_the_ports_the_probes_and_the_files(manifest):
  flags = flags_of(container(manifest)["args"])
  ports = {port["name"]: str(port["containerPort"]) for port in container(manifest)["ports"]}
  assert (flags["port"], flags["rest_api_port"]) == (ports["grpc"], ports["rest"]) == ("8500", "8501")
  for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
    assert container(manifest)[probe]["grpc"]["port"] == 8500
  assert flags["enable_grpc_healthcheck_service"] == "true"
  mounts = {mount["name"]: mount["mountPath"] for mount in container(manifest)["volumeMounts"]}
  assert flags["model_config_file"] == f"{mounts['config']}/models.config"
  models = models_of(manifest["ConfigMap"]["data"]["models.config"])
  assert models and all(path == f"{mounts['models']}/{name}" for name, path in models.items())


def test_models_config_names_models_that_are_pushed(manifest):
  from pipeline.tasks import TASKS

  models = models_of(MODELS_CONFIG.read_text())
  assert models and set(models) <= set(TASKS)
  assert all(path == f"/models/{name}" for name, path in models.items())
  assert models_of(manifest["ConfigMap"]["data"]["models.config"]) == models


def test_the_compose_file(service):
  assert re.fullmatch(r"tensorflow/serving:\d+\.\d+\.\d+(-gpu)?", service["image"])
  assert service["entrypoint"] == ["tensorflow_model_server"]
  flags = flags_of(service["command"])
  assert service["ports"] == [f"{port}:{port}" for port in (flags["port"], flags["rest_api_port"])]
  assert service["ports"] == ["8500:8500", "8501:8501"]
  mounts = {volume["target"]: volume for volume in service["volumes"]}
  assert all(volume["read_only"] is True for volume in mounts.values())
  assert set(mounts) == {"/models", flags["model_config_file"]}
  assert (COMPOSE.parent / mounts[flags["model_config_file"]]["source"]).resolve() == MODELS_CONFIG
  default = re.fullmatch(r"\$\{DEEPLINE_SERVING:-(.+)\}", mounts["/models"]["source"]).group(1)
  assert (COMPOSE.parent / default).resolve() == ROOT / "runs" / "image_classification" / "serving"


def test_both_deployments_run_the_same_image(service, manifest):
  assert service["image"] == container(manifest)["image"]


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
