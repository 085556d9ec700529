"""kubeflow/compile.py with the example's settings."""

import pathlib
import subprocess
import sys

import pytest
import yaml

from pipeline.config import load_config
from pipeline.graph import Locations, create_pipeline
from pipeline.tasks import TASKS

KUBEFLOW = pathlib.Path(__file__).parents[2] / "kubeflow"


def _compile(folder, *arguments):
  command = [sys.executable, str(KUBEFLOW / "compile.py"), "image_classification", *arguments]
  return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_settings_of_the_folder_are_in_the_file(tmp_path):
  done = _compile(tmp_path, "--set", "kubeflow.image=registry.example.com/deepline:2")
  assert done.returncode == 0, done.stderr
  assert done.stderr == "wrote pipeline.yaml\n"
  spec, _ = yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text(encoding="utf-8"))
  trainer = spec["deploymentSpec"]["executors"]["Trainer_executor"]["container"]
  assert trainer["image"] == "registry.example.com/deepline:2"
  assert trainer["resources"]["accelerator"] == {"type": "nvidia.com/gpu", "count": "1"}
  assert trainer["args"][-1] == "--direct_num_workers=4"


@pytest.mark.parametrize("path", sorted(KUBEFLOW.glob("*.yaml")), ids=lambda path: path.stem)
def test_settings_are_valid(path):
  task = TASKS[path.stem]
  config = load_config(task, str(path), must_exist=False)
  assert config.kubeflow.resources["Trainer"].cpu_limit
  locations = Locations(None, "/deepline/serving", "/deepline/checkpoints")
  stages = create_pipeline(task, config, locations, with_baseline=False).components
  assert set(config.kubeflow.resources) <= {stage.id for stage in stages}


def test_misspelt_key_is_one_line(tmp_path):
  done = _compile(tmp_path, "--set", "kubeflow.imag=x")
  assert done.returncode == 2
  assert done.stderr == "compile.py: kubeflow.imag: no such key; did you mean image?\n"
  assert not list(tmp_path.iterdir())
