"""The Compressor on a model that was really trained: what it writes and what it says about it."""

import gzip
import importlib.util
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from tfx.types import standard_artifacts
from tfx.types.channel import Channel

from components.artifacts import CompressionReport
from components.compression_steps import check_recipe, student_config
from components.compressor import Compressor, Executor
from components.input import eval_dataset, load_outputs, split_files
from pipeline.tasks.image_classification import TASK
from tests.serving.warmup_requests import read_warmup_requests
from trainers.compression.quantization import TFLiteRunner

_SPEC = importlib.util.spec_from_file_location(
  "compressor_inputs", pathlib.Path(__file__).parent / "compressor_inputs.py"
)
made = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(made)

RECIPE = (
  {"step": "distill", "student": {"widths": [16]}, "epochs": 10, "learning_rate": 1e-2},
  {
    "step": "prune",
    "sparsity": 0.8,
    "alpha": 0.5,
    "epochs": 6,
    "learning_rate": 1e-2,
    "skip_first_layer": True,
    "skip_last_layer": True,
  },
  {"step": "quantize", "calibration_examples": 50},
)
TYPES = {
  "examples": standard_artifacts.Examples,
  "raw_examples": standard_artifacts.Examples,
  "transform_graph": standard_artifacts.TransformGraph,
  "base_model": standard_artifacts.Model,
  "model_run": standard_artifacts.ModelRun,
}


@pytest.fixture(scope="module")
def uris(tmp_path_factory):
  return made.make_inputs(str(tmp_path_factory.mktemp("inputs")))


def compress(uris, folder, config):
  """Runs the stage as TFX does; returns the export's directory and the report."""
  inputs = {name: [kind()] for name, kind in TYPES.items()}
  for name, (artifact,) in inputs.items():
    artifact.uri = uris[name]
  outputs = {"model": [standard_artifacts.Model()], "report": [CompressionReport()]}
  for name, (artifact,) in outputs.items():
    artifact.uri = str(folder / name)
  Executor().Do(inputs, outputs, {"task": TASK.path, "config": config})
  report = json.loads((folder / "report" / "report.json").read_text())
  return folder / "model" / "Format-Serving", report["steps"]


@pytest.fixture(scope="module")
def compressed(uris, tmp_path_factory):
  return compress(uris, tmp_path_factory.mktemp("compressed"), made.config_json(RECIPE))


def test_every_step_has_a_whole_row(compressed):
  _, rows = compressed
  assert [row["name"] for row in rows] == ["base", "distill", "prune", "tflite_float32", "int8", "float16"]
  for row in rows:
    assert row["parameters"] >= row["non_zero_parameters"] > 0
    assert row["bytes"] > 0 and row["gzip_bytes"] > 0
    for batch in ("batch_1", "batch_32"):
      assert 0 < row["latency_ms"][batch]["p50"] <= row["latency_ms"][batch]["p99"]
    assert set(row["quality"]) == {"accuracy", "loss"}
    assert (row["seconds"] > 0) == (row["name"] != "base")


def test_the_rows_tell_what_the_steps_did(compressed):
  base, distill, prune, float32, int8, float16 = compressed[1]
  assert base["quality"]["accuracy"] > 0.9, "the base did not learn; nothing is shown by compressing it"
  assert distill["parameters"] < 0.7 * base["parameters"]
  assert prune["parameters"] == distill["parameters"]
  assert prune["sparsity"].pop("logits") == 0
  assert prune["sparsity"].pop("stem") == 0
  assert all(abs(sparsity - 0.8) <= 0.005 for sparsity in prune["sparsity"].values())
  assert all(sparsity == 0 for sparsity in base["sparsity"].values())
  assert prune["gzip_bytes"] < distill["gzip_bytes"] < base["gzip_bytes"]
  assert int8["bytes"] < float16["bytes"] < float32["bytes"] < prune["bytes"]
  assert distill["quality"]["accuracy"] > 0.85
  for row in (float32, float16, int8):
    assert abs(row["quality"]["accuracy"] - prune["quality"]["accuracy"]) <= 0.02
  assert float32["quality"]["loss"] == pytest.approx(prune["quality"]["loss"], abs=1e-4)


def test_the_files_are_those_that_were_measured(compressed, uris):
  """Sizes, zeros and accuracies of the report, found again in what lies in the output directory."""
  directory, rows = compressed
  row = {row["name"]: row for row in rows}
  files = sorted(path for path in directory.rglob("*") if path.is_file() and "assets.extra" not in path.parts)
  content = b"".join(path.read_bytes() for path in files)
  assert row["prune"]["bytes"] == len(content)
  assert row["prune"]["gzip_bytes"] == len(gzip.compress(content, 9, mtime=0))
  pictures, targets = validation_batch(uris)
  answers = tf.saved_model.load(str(directory)).signatures["serve_tensors"](pixels=tf.constant(pictures))
  assert accuracy(answers["probabilities"], targets) == pytest.approx(row["prune"]["quality"]["accuracy"])
  for fmt in ("int8", "float16"):
    file = (directory / "assets.extra" / f"model_{fmt}.tflite").read_bytes()
    assert row[fmt]["bytes"] == len(file)
    assert accuracy(TFLiteRunner(file)(pictures), targets) == pytest.approx(row[fmt]["quality"]["accuracy"])


def validation_batch(uris):
  files = split_files(uris["examples"], "validation")
  outputs = load_outputs(uris["transform_graph"], files)
  config = made.read_config(made.config_json(training={"batch_size": 200}))
  pictures, targets = next(iter(eval_dataset(TASK, config, outputs, files)))
  return pictures.numpy(), targets.numpy()


def accuracy(outputs, targets):
  return float(np.mean(np.argmax(outputs, -1) == np.argmax(targets, -1)))


def test_the_export_brings_its_warm_up_requests(compressed):
  assert len(read_warmup_requests(str(compressed[0]))) == 3


def test_an_empty_recipe_copies_the_base_and_measures_it(uris, tmp_path):
  directory, rows = compress(uris, tmp_path, made.config_json())
  assert [row["name"] for row in rows] == ["base"]
  base = pathlib.Path(uris["base_model"]) / "Format-Serving"
  for path in base.rglob("*"):
    if path.is_file():
      assert (directory / path.relative_to(base)).read_bytes() == path.read_bytes()
  assert len(read_warmup_requests(str(directory))) == 3


@pytest.mark.parametrize(
  "recipe, message",
  [
    (
      [{"step": "distill", "student": {"widht": [8]}}],
      r"recipe\[0\]\.student\.widht: unknown key; there are .*widths",
    ),
    (
      [{"step": "distill", "student": {"widths": [0]}}],
      r"recipe\[0\]\.student\.widths\.0: .*greater than or equal to 1",
    ),
    ([{"step": "quantize"}, {"step": "prune"}], r"recipe\[0\]: quantize has to be the last step; move prune"),
  ],
)
def test_recipes_that_cannot_work_are_refused_before_any_training(recipe, message):
  with pytest.raises(ValueError, match=message) as caught:
    check_recipe(made.TASK, made.read_config(made.config_json(recipe)))
  assert "\n" not in str(caught.value)


def test_a_student_differs_from_the_base_in_what_the_step_names():
  config = made.read_config(made.config_json(RECIPE))
  student = student_config(config, config.compression.recipe[0])
  assert student.model.widths == (16,)
  assert student.model_copy(update={"model": config.model}) == config


def test_missing_weights_are_named(uris, tmp_path):
  with pytest.raises(ValueError, match="model.weights.h5 is missing: run the Trainer again"):
    compress({**uris, "model_run": str(tmp_path)}, tmp_path, made.config_json())


def test_the_component_has_the_outputs_that_the_graph_connects():
  channels = {name.replace("base_", ""): Channel(type=kind) for name, kind in TYPES.items()}
  component = Compressor(task=TASK.path, config=made.config_json(), **channels)
  assert component.outputs["model"].type is standard_artifacts.Model
  assert component.outputs["report"].type is CompressionReport
