"""Runs the benchmarks: `make bench`, or `python tests/benchmarks/run.py NAME...`.

Each compares Deepline with what a user would write instead, in one run on one machine, and prints the ratio as a line
of JSON. Absolute figures belong to the machine they were measured on.
"""

import importlib
import json
import os
import pathlib
import sys

FOLDER = pathlib.Path(__file__).parent
NAMES = (
  "command_line",
  "client_start",
  "cached_run",
  "ingest",
  "training_step",
  "materialisation",
  "memory",
  "distillation",
  "ngram_counting",
  "ngram_scoring",
  "model_serving",
)


def main() -> None:
  """Runs the named benchmarks, or all of them."""
  sys.path[:0] = [str(FOLDER), str(FOLDER.parent.parent)]
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  for name in sys.argv[1:] or NAMES:
    if name not in NAMES:
      raise SystemExit(f"no such benchmark: {name}; choose from {', '.join(NAMES)}")
    result = importlib.import_module(name).measure()
    print(json.dumps({"benchmark": name, "load_average": round(os.getloadavg()[0], 2), **result}), flush=True)


if __name__ == "__main__":
  main()
