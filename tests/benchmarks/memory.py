"""Peak memory of a whole run, against the same run on ten times the pictures."""

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
# One epoch of a small network: what is looked at is what the data set's size does to each stage, not the training.
SETTINGS = (
  "training.epochs=1",
  "model.widths=[8, 16]",
  "compression.recipe=[{step: prune, epochs: 1}, {step: quantize}]",
  "evaluation.min_metrics={accuracy: 0.0}",
  "evaluation.max_drop={}",
)


def _peak_mib(data: pathlib.Path, output: pathlib.Path) -> float:
  """Largest resident set of the run's process or of one of its children.

  Raises:
    RuntimeError: the run failed.
  """
  command = [sys.executable, "-m", "pipeline.cli", "run", "image_classification"]
  command += ["--data", str(data), "--output", str(output)]
  for setting in SETTINGS:
    command += ["--set", setting]
  process = subprocess.Popen(command, cwd=FOLDER.parent.parent, stdout=subprocess.DEVNULL)
  _, status, usage = os.wait4(process.pid, 0)
  if status:
    raise RuntimeError(f"the run on {data} ended with status {os.waitstatus_to_exitcode(status)}")
  return usage.ru_maxrss / 1024


def measure() -> dict:
  """Peak resident MiB of `deepline run` on 12,000 and on 120,000 pictures, ExampleGen to Report."""
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
