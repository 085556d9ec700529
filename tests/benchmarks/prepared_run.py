"""The sample read and transformed once, for the benchmarks that train."""

import os
import pathlib
import tempfile
from typing import Any

from components.input import load_outputs, split_files
from pipeline import graph, local_runner
from pipeline.config import load_config
from pipeline.progress import StageDisplay
from pipeline.tasks import TASKS

# Kept between benchmarks; the stages of a second call are cached.
FOLDER = pathlib.Path(os.environ.get("DEEPLINE_BENCH_DIR") or tempfile.gettempdir()) / "deepline-bench"


def prepare(data: str | None = None, name: str = "sample") -> tuple[Any, Any, Any, str]:
  """Task, configuration, TransformOutputs and the uri of the transformed examples."""
  task = TASKS["image_classification"]
  config = task.resolve(load_config(task, data=data))
  folder = FOLDER / name
  folder.mkdir(parents=True, exist_ok=True)
  run_to_transform(task, config, folder)
  transformed = newest(folder, "transformed_examples")
  outputs = load_outputs(newest(folder, "transform_graph"), split_files(transformed, "train"))
  return task, config, outputs, transformed


def newest(folder: pathlib.Path, output: str) -> str:
  """Uri of what Transform wrote last."""
  return str(max((folder / "artifacts" / "Transform" / output).iterdir(), key=lambda path: int(path.name)))


def run_to_transform(task: Any, config: Any, folder: pathlib.Path) -> list[Any]:
  """Runs the graph's stages up to and including Transform."""
  complete = graph._stages

  def first_stages(*arguments: Any) -> list[Any]:
    stages = complete(*arguments)
    names = [stage.id for stage in stages]
    return stages[: names.index("Transform") + 1]

  graph._stages = first_stages
  try:
    with local_runner._log_to(folder / "run.log"):
      run_id = f"bench-{os.getpid()}-{os.urandom(4).hex()}"
      return local_runner._run_stages(task, config, folder, run_id, StageDisplay())
  finally:
    graph._stages = complete
