"""The image and the manifests, as far as they can be checked without Docker and without a cluster."""

import ast
import fnmatch
import importlib.util
import pathlib
import re

import kubernetes_validate
import pytest
import yaml

from components.config import KubeflowConfig
from pipeline import kubeflow_compiler

ROOT = pathlib.Path(__file__).parents[2]
KUBEFLOW = ROOT / "kubeflow"


@pytest.fixture(scope="module")
def instructions():
  """[(instruction, arguments)] of the Dockerfile, continued lines joined."""
  lines = (KUBEFLOW / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
  return [tuple(line.split(None, 1)) for line in lines if line and not line.startswith("#")]


def _arguments(instructions, name):
  return [arguments for instruction, arguments in instructions if instruction == name]


def _copied(instructions):
  """Sources that come from the repository."""
  copies = [arguments.split() for arguments in _arguments(instructions, "COPY")]
  return [source for words in copies if not words[0].startswith("--from") for source in words[:-1]]


def test_every_copied_file_is_there_and_not_ignored(instructions):
  ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
  patterns = [line for line in ignored if line and not line.startswith("#")]
  sources = _copied(instructions)
  assert "uv.lock" in sources
  for source in sources:
    assert (ROOT / source).exists(), source
    assert not any(fnmatch.fnmatch(source, pattern) for pattern in patterns), source


def test_every_package_of_the_project_is_copied(instructions):
  packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
  assert packages == {"components", "pipeline", "serving", "trainers"}
  assert packages <= set(_copied(instructions))


def test_both_stages_have_the_projects_python(instructions):
  bases = [arguments.split()[0] for arguments in _arguments(instructions, "FROM")]
  assert len(bases) == 2
  assert len(set(bases)) == 1
  version = (ROOT / ".python-version").read_text(encoding="utf-8").strip()
  assert re.fullmatch(rf"python:{re.escape(version)}\.\d+-slim-bookworm", bases[0])


def test_uv_is_the_projects_and_syncs_the_locked_versions(instructions):
  commands = _arguments(instructions, "RUN")
  # get_uv.py holds the one version of uv, which `make setup` takes too.
  assert "python .ci/get_uv.py /usr/local/bin/uv" in commands
  assert not [command for command in commands if "pip install" in command]
  syncs = [command for command in commands if command.startswith("uv sync")]
  assert len(syncs) == 2
  for command in syncs:
    assert {"--frozen", "--extra", "kubeflow", "--no-dev"} <= set(command.split())
  tree = ast.parse((ROOT / ".ci" / "get_uv.py").read_text(encoding="utf-8"))
  constants = [node.targets[0].id for node in tree.body if isinstance(node, ast.Assign)]
  assert "UV_VERSION" in constants


def test_the_compiler_only_stays_in_the_build_stage(instructions):
  start = [number for number, (name, _) in enumerate(instructions) if name == "FROM"][1]
  assert any("g++" in arguments for _, arguments in instructions[:start])
  assert not any("g++" in arguments or "apt-get" in arguments for _, arguments in instructions[start:])


def test_the_image_runs_as_a_numeric_user(instructions):
  (user,) = _arguments(instructions, "USER")
  assert int(user) > 0
  assert f"--uid {user} " in " ".join(_arguments(instructions, "RUN"))


def test_environment(instructions):
  settings = " ".join(_arguments(instructions, "ENV"))
  assert "TF_CPP_MIN_LOG_LEVEL=3" in settings
  assert "PATH=/app/.venv/bin:$PATH" in settings
  workdirs = _arguments(instructions, "WORKDIR")
  assert workdirs == ["/app", "/app"]


def test_the_stages_entry_point_and_the_sample_are_where_the_compiler_says(instructions):
  python, flag, module = kubeflow_compiler._COMMAND
  assert (python, flag) == ("python", "-m")
  assert importlib.util.find_spec(module) is not None
  assert module.split(".")[0] in _copied(instructions)
  workdir = _arguments(instructions, "WORKDIR")[-1]
  assert ("COPY", "tests/data tests/data") in instructions
  assert f"{workdir}/tests/data" == kubeflow_compiler._SAMPLES_IN_IMAGE


def test_volume_is_the_one_that_pods_mount():
  manifest = KUBEFLOW / "manifests" / "pipeline-volume.yaml"
  (claim,) = yaml.safe_load_all(manifest.read_text(encoding="utf-8"))
  kubernetes_validate.validate(claim, kubernetes_validate.latest_version(), strict=True)
  assert claim["kind"] == "PersistentVolumeClaim"
  assert claim["metadata"]["name"] == KubeflowConfig().volume_claim
  assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


def test_kubeflow_is_no_package():
  assert not list(KUBEFLOW.rglob("__init__.py"))
