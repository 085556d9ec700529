"""Peak memory of reading and transforming a data set, against the same with ten times the pictures."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import zipfile

FOLDER = pathlib.Path(__file__).parent
SAMPLE = FOLDER.parent / "data" / "fashion_mnist.zip"
COPIES = 10

_CHILD = """
import json, pathlib, resource, sys
sys.path[:0] = sys.argv[1:3]
from pipeline.config import load_config
from pipeline.tasks import TASKS
from prepared_run import run_to_transform
task = TASKS["image_classification"]
folder = pathlib.Path(sys.argv[4])
folder.mkdir(parents=True)
config = task.resolve(load_config(task, data=sys.argv[3]))
run_to_transform(task, config, folder)
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
"""


def _peak_mib(data: pathlib.Path, output: pathlib.Path) -> float:
  command = [sys.executable, "-c", _CHILD, str(FOLDER), str(FOLDER.parent.parent), str(data), str(output)]
  done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
  return json.loads(done.stdout.splitlines()[-1]) / 1024


def measure() -> dict:
  """Peak resident MiB of a process that runs ExampleGen to Transform on 12,000 and on 120,000 pictures."""
  with tempfile.TemporaryDirectory() as name:
    once, many = pathlib.Path(name) / "once", pathlib.Path(name) / "many"
    with zipfile.ZipFile(SAMPLE) as archive:
      archive.extractall(once)
    for copy in range(COPIES):
      for path in once.glob("*/*/*.png"):
        target = many / path.relative_to(once).with_name(f"{copy}-{path.name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    small = _peak_mib(once, pathlib.Path(name) / "run-once")
    large = _peak_mib(many, pathlib.Path(name) / "run-many")
  return {"peak_mib": round(small), "peak_mib_10_times": round(large), "ratio": round(large / small, 3)}
