"""The contract's tiny run, and the same command again: what is left when every stage comes from the cache."""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[2]

# The imports are paid once a process, whatever is cached; they are measured apart.
_CHILD = """
import json, sys, time
started = time.perf_counter()
from pipeline.config import load_config
from pipeline.local_runner import run
from pipeline.progress import StageDisplay
from pipeline.tasks import TASKS
import tfx.dsl.compiler.compiler, tfx.orchestration.local.runner_utils, tfx.components
import components.compressor, components.example_gen.component, components.infra_validator, components.report
imports_s = time.perf_counter() - started
task = TASKS["image_classification"]
config = load_config(task, sys.argv[1])
started = time.perf_counter()
summary = run(task, config, sys.argv[2], StageDisplay())
print(json.dumps({
  "imports_s": round(imports_s, 2),
  "run_s": round(time.perf_counter() - started, 2),
  "states": sorted({stage["state"] for stage in summary["stages"]}),
}))
"""


def _run(output: str) -> dict:
  contract = ROOT / "tests" / "contract" / "image_classification.yaml"
  command = [sys.executable, "-c", _CHILD, str(contract), output]
  started = time.perf_counter()
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
  return {**json.loads(done.stdout.splitlines()[-1]), "process_s": round(time.perf_counter() - started, 2)}


def measure() -> dict:
  """Wall seconds of a first run and of an identical second one, its imports apart."""
  with tempfile.TemporaryDirectory() as output:
    first, second = _run(output), _run(output)
  return {"first": first, "second": second}
