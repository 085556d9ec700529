"""Compiles a task's pipeline with the cluster's settings, kubeflow/TASK.yaml.

Usage: python kubeflow/compile.py TASK [--settings F] [--output F] [--set KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import pathlib
import sys

from pipeline.config import load_config
from pipeline.kubeflow_compiler import write_pipeline
from pipeline.tasks import TASKS

FOLDER = pathlib.Path(__file__).parent


def main() -> None:
  """Writes the pipeline; exit status 2 where the settings cannot be used."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("task", choices=sorted(TASKS))
  parser.add_argument("--settings", metavar="F", help="default: kubeflow/TASK.yaml")
  parser.add_argument("--output", metavar="F", default="pipeline.yaml")
  parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides")
  arguments = parser.parse_args()
  task = TASKS[arguments.task]
  settings = arguments.settings or str(FOLDER / f"{task.name}.yaml")
  try:
    config = load_config(task, settings, arguments.overrides, must_exist=False)
    notes = write_pipeline(task, config, arguments.output)
  except (ValueError, OSError) as error:
    print(f"{parser.prog}: {error}", file=sys.stderr)
    sys.exit(2)
  for note in notes:
    print(f"note: {note}", file=sys.stderr)
  print(f"wrote {arguments.output}", file=sys.stderr)


if __name__ == "__main__":
  main()
