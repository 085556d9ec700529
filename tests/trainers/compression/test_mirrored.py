"""Pruning and distillation on two replicas give what they give on one device."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def found():
  environment = {**os.environ, "PYTHONPATH": str(HERE.parents[2]), "CUDA_VISIBLE_DEVICES": "-1"}
  run = subprocess.run(
    [sys.executable, str(HERE / "mirrored_run.py")],
    env=environment,
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert run.returncode == 0, run.stderr[-3000:]
  return json.loads(run.stdout.splitlines()[-1])


def test_distilled_weights_equal_those_of_one_device(found):
  assert found["replicas"] == 2
  assert found["distillation"]["moved"] > 1e-2
  assert found["distillation"]["drift"] < 1e-6


@pytest.mark.parametrize("pattern, sparsity", [("unstructured", 0.8), ("2:4", 0.5)])
def test_both_replicas_are_pruned_alike(found, pattern, sparsity):
  result = found[pattern]
  for copies in result["sparsity"]:
    assert len(copies) == 2
    assert all(abs(copy - sparsity) <= 0.005 for copy in copies)
  assert result["replicas_differ"] == 0
  assert result["drift"] < 1e-6
