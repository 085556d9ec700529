"""N-grams of order 5 counted and smoothed by the TextCounter, against KenLM's lmplz where that is on the PATH.

The text is drawn word by word from the bigrams of the sample: like real text it brings new n-grams for as long as it
goes on, which a text repeated would not.
"""

import json
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

FOLDER = pathlib.Path(__file__).parent
SAMPLE = FOLDER.parent / "data" / "tinyshakespeare.txt.gz"
MEGABYTES = (5, 50)
_CHAINS = 8192
_NGRAM = {"order": 5, "compare_orders": False}
# Almost all of the text is counted.
_SPLITS = {"train": 0.98, "validation": 0.01, "test": 0.01}


def write_text(path: pathlib.Path, megabytes: int) -> None:
  """Writes sentences drawn from the sample's bigrams: words between blanks, one sentence a line."""
  import gzip
  import re

  generator = np.random.default_rng(5)
  with gzip.open(SAMPLE, "rt", encoding="utf-8") as file:
    sentences = [re.findall(r"[a-z']+", line.lower()) for line in file]
  words = ["", *sorted({word for sentence in sentences for word in sentence})]
  ids = {word: number for number, word in enumerate(words)}
  # 0 is both the start and the end of a sentence.
  pairs = np.array(
    [
      pair
      for sentence in sentences
      if sentence
      for pair in zip([0, *map(ids.get, sentence)], [*map(ids.get, sentence), 0], strict=True)
    ]
  )
  pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
  starts = np.searchsorted(pairs[:, 0], np.arange(len(words) + 1))
  width = starts[1:] - starts[:-1]
  texts = np.array([*words])
  with open(path, "w", encoding="utf-8") as file:
    while file.tell() < megabytes * 1e6:
      last, drawn = np.zeros(_CHAINS, int), []
      for _ in range(64):
        last = pairs[starts[last] + generator.integers(0, width[last]), 1]
        drawn.append(last)
      # A chain goes on with the next sentence; its last one is cut.
      for row in texts[np.stack(drawn, axis=1)].tolist():
        file.write("\n".join(" ".join(part) for part in _sentences(row)) + "\n")


def _sentences(row: list[str]) -> list[list[str]]:
  found, sentence = [], []
  for word in row:
    if word:
      sentence.append(word)
    elif sentence:
      found.append(sentence)
      sentence = []
  return [*found, sentence] if sentence else found


def prepare(megabytes: int) -> tuple[pathlib.Path, str, str]:
  """The text, and the uris of its transformed examples and of the Transform graph."""
  from prepared_run import FOLDER as bench_folder
  from prepared_run import newest, run_to_transform

  from pipeline.config import load_config
  from pipeline.tasks import TASKS

  folder = bench_folder / f"text-{megabytes}"
  folder.mkdir(parents=True, exist_ok=True)
  text = folder / "text.txt"
  if not text.exists():
    write_text(text, megabytes)
  task = TASKS["ngram_language_model"]
  settings = [f"data.splits={json.dumps(_SPLITS)}"]
  run_to_transform(task, task.resolve(load_config(task, data=str(text), overrides=settings)), folder)
  return text, newest(folder, "transformed_examples"), newest(folder, "transform_graph")


def count(examples_uri: str, graph_uri: str) -> dict[str, float]:
  """Runs the TextCounter in this process; what it took, imports not counted."""
  from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
  from tfx.types import standard_artifacts

  from components.config import BeamConfig
  from components.text_counter import Executor
  from pipeline.graph import beam_arguments

  examples, graph, model = (
    kind()
    for kind in (standard_artifacts.Examples, standard_artifacts.TransformGraph, standard_artifacts.Model)
  )
  examples.uri, graph.uri = examples_uri, graph_uri
  examples.split_names = json.dumps(["train", "validation", "test"])
  config = {"task": "ngram_language_model", "ngram": _NGRAM}
  properties = {"task": "pipeline.tasks.ngram_language_model:TASK", "config": json.dumps(config)}
  idle_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  with tempfile.TemporaryDirectory() as folder:
    model.uri = os.path.join(folder, "model")
    context = BaseBeamExecutor.Context(
      beam_pipeline_args=beam_arguments(BeamConfig()), tmp_dir=folder, unique_id="1"
    )
    started, cpu_started = time.monotonic(), time.process_time()
    Executor(context).Do(
      {"transformed_examples": [examples], "transform_graph": [graph]}, {"model": [model]}, properties
    )
    return {
      "seconds": time.monotonic() - started,
      "cpu_s": time.process_time() - cpu_started,
      "idle_mib": idle_mib,
      "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _lmplz_cpu_s(text: pathlib.Path) -> float | None:
  """CPU seconds of KenLM on the same lines; None where there is no lmplz."""
  lmplz = shutil.which("lmplz")
  if not lmplz:
    print("lmplz is not on the PATH: nothing to compare with", file=sys.stderr)
    return None
  with tempfile.TemporaryDirectory() as folder, open(text) as lines:
    command = [lmplz, "-o", "5", "--discount_fallback", "-T", folder, "--arpa", os.path.join(folder, "arpa")]
    process = subprocess.Popen(command, stdin=lines, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
  if status:
    raise RuntimeError(f"lmplz ended with status {os.waitstatus_to_exitcode(status)}")
  return usage.ru_utime + usage.ru_stime


def measure() -> dict:
  """Megabytes of text per CPU-second and peak memory, for both sizes; the larger one against lmplz."""
  result = {}
  for megabytes in MEGABYTES:
    text, examples_uri, graph_uri = prepare(megabytes)
    size = text.stat().st_size / 1e6 * _SPLITS["train"]
    child = [sys.executable, str(FOLDER / "ngram_counting.py"), examples_uri, graph_uri]
    environment = {**os.environ, "PYTHONPATH": f"{FOLDER}:{FOLDER.parent.parent}"}
    done = subprocess.run(child, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    took = json.loads(done.stdout.splitlines()[-1])
    result[f"{megabytes}_mb"] = {
      "mb_per_cpu_s": round(size / took["cpu_s"], 2),
      "seconds": round(took["seconds"], 1),
      "idle_mib": round(took["idle_mib"]),
      "peak_mib": round(took["peak_mib"]),
    }
    lmplz_cpu_s = _lmplz_cpu_s(text)
    if lmplz_cpu_s:
      result["lmplz_mb_per_cpu_s"] = round(text.stat().st_size / 1e6 / lmplz_cpu_s, 2)
  if "lmplz_mb_per_cpu_s" in result:
    ours = result[f"{MEGABYTES[-1]}_mb"]["mb_per_cpu_s"]
    result["ratio"] = round(ours / result["lmplz_mb_per_cpu_s"], 3)
  return result


if __name__ == "__main__":
  print(json.dumps(count(*sys.argv[1:])))
