"""Sentences a second that the exported n-gram model scores in batches, on one core."""

import json
import os
import pathlib
import subprocess
import sys
import time

FOLDER = pathlib.Path(__file__).parent
DATA = FOLDER.parent / "data" / "tinyshakespeare.txt.gz"
_BATCH_SIZE = 256
_ROUNDS = 3


def score(model_dir: str, text: str) -> dict[str, float]:
  """Scores all lines of a file, tokenization included; the best of some rounds, on one core of this machine."""
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  import gzip

  import numpy as np

  from serving.sessions.session import SavedModelSession

  open_file = gzip.open if text.endswith(".gz") else open
  with open_file(text, "rb") as file:
    lines = [line.strip() for line in file if line.strip()]
  session = SavedModelSession(model_dir, intra_op_threads=1, inter_op_threads=1)
  batches = [
    np.array(lines[start : start + _BATCH_SIZE], object) for start in range(0, len(lines), _BATCH_SIZE)
  ]
  signature = session.signatures["serving_default"]
  outputs = [info.name for info in signature.outputs.values()]
  times = []
  for _ in range(_ROUNDS + 1):
    started = time.perf_counter()
    for batch in batches:
      session.run({signature.inputs["text"].name: batch}, outputs)
    times.append(time.perf_counter() - started)
  # The first round is a warm-up.
  return {"sentences": len(lines), "sentences_per_s": round(len(lines) / min(times[1:]))}


def measure() -> dict:
  """Trains on the sample and scores its lines."""
  from prepared_run import FOLDER as bench_folder

  output = bench_folder / "ngrams"
  command = [
    sys.executable,
    "-m",
    "pipeline.cli",
    "run",
    "ngram_language_model",
    "--output",
    str(output),
    "--json",
  ]
  done = subprocess.run(command, cwd=FOLDER.parent.parent, stdout=subprocess.PIPE, check=True, text=True)
  model_dir = json.loads(done.stdout.splitlines()[-1])["pushed_model"]
  child = [sys.executable, str(FOLDER / "ngram_scoring.py"), model_dir, str(DATA)]
  environment = {**os.environ, "PYTHONPATH": str(FOLDER.parent.parent)}
  found = subprocess.run(child, env=environment, stdout=subprocess.PIPE, check=True, text=True)
  return json.loads(found.stdout.splitlines()[-1])


if __name__ == "__main__":
  print(json.dumps(score(*sys.argv[1:])))
