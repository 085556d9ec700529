"""Every task of a compiled pipeline, run by its container command as Kubeflow's launcher runs it."""

import json
import pathlib

import cv2
import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

COLOURS = {"blue": (220, 40, 40), "green": (40, 220, 40), "red": (40, 40, 220)}
SETTINGS = """
preprocessing: {height: 8, width: 8, channels: 3}
augmentation: {cutout_fraction: 0.0}
model: {widths: [8]}
training: {epochs: 6, batch_size: 8, steps_per_execution: 1, learning_rate: 0.01}
compression: {latency_calls: 2, recipe: [{step: prune, sparsity: 0.5, epochs: 1, skip_last_layer: true}]}
evaluation: {min_metrics: {accuracy: 0.5}, max_drop: {accuracy: 0.5}, slice_by: []}
serving: {warmup_requests: 2, infra_validation_requests: 2}
"""


def _write_pictures(folder, count=30, side_px=8):
  """Pictures of three colours, in splits of fixed sizes."""
  random = np.random.default_rng(3)
  splits = ["train"] * (count - 10) + ["validation"] * 5 + ["test"] * 5
  for label, colour in COLOURS.items():
    for number, split in enumerate(splits):
      pixels = np.clip(np.array(colour) + random.normal(0, 15, (side_px, side_px, 3)), 0, 255)
      path = folder / split / label / f"{number}.png"
      path.parent.mkdir(parents=True, exist_ok=True)
      cv2.imwrite(str(path), pixels.astype(np.uint8))


def test_all_containers_in_turn_push_a_model(tmp_path, compiled):
  _write_pictures(tmp_path / "volume" / "photos")
  launcher, volume = compiled("image_classification", tmp_path / "volume" / "photos", SETTINGS)
  done = launcher.run()

  assert done[0] == "ExampleGen" and done[-1] == "Report"
  assert launcher.recorded["ExampleGen", "rejects"].metadata["written"] == 90
  (version,) = (volume / "serving" / "image_classification").iterdir()
  assert version.name.isdigit()
  assert (version / "saved_model.pb").exists()
  report = pathlib.Path(launcher.uri("Report", "report"))
  found = json.loads((report / "report.json").read_text(encoding="utf-8"))
  assert found["blessed"] is True
  assert found["pushed_model"] == str(version)
  assert found["examples"]["splits"] == {"train": 60, "validation": 15, "test": 15}
  assert found["metrics"]["compressed"]["accuracy"] >= 0.8
  assert (report / "report.html").stat().st_size > 10_000
  assert not list((volume / "checkpoints").glob("*"))
