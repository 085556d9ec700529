"""Mean average precision of raw outputs against the same pictures matched and added up by hand."""

import numpy as np
import pytest

from components.detection import detect
from components.detection_quality import MeanAveragePrecision
from components.metrics.coco import CocoAccumulator, match_image
from pipeline.tasks.object_detection import TASK
from trainers.models.fcos import locations

HEIGHT, WIDTH, NUM_CLASSES, MAX_BOXES = 32, 48, 2, 4
CONFIG = TASK.config_class(
  preprocessing={"height": HEIGHT, "width": WIDTH, "channels": 3},
  model={"strides": [2, 4]},
)
POINTS, SCALES = locations(HEIGHT, WIDTH, CONFIG.model.strides)


def true_boxes(rng, num_pictures):
  """Targets float32 [pictures, MAX_BOXES, 5] of boxes that do not overlap: one in each half of a picture."""
  targets = np.tile(np.float32([0, 0, 0, 0, -1]), (num_pictures, MAX_BOXES, 1))
  for picture in targets:
    for place, left in enumerate((0, 24)[: rng.integers(0, 3)]):
      low, size = rng.integers(0, 8, 2), rng.integers(12, 16, 2)
      picture[place] = (*(low + (left, 0)), *(low + size + (left, 0)), rng.integers(NUM_CLASSES))
  return targets


def outputs_of(targets, rng=None):
  """What a model says that sees these boxes; with `rng` a little beside them, in all degrees of certainty."""
  outputs = np.full((len(targets), len(POINTS), NUM_CLASSES + 5), -20, np.float32)
  outputs[..., -1] = 30
  for picture, rows in zip(outputs, targets, strict=True):
    for *box, class_id in rows[rows[:, 4] >= 0]:
      box = np.array(box) + (rng.normal(0, 0.8, 4) if rng else 0)
      place = np.argmin(np.abs(POINTS - (box[:2] + box[2:]) / 2).sum(axis=1))
      distances = np.concatenate([POINTS[place] - box[:2], box[2:] - POINTS[place]]) / SCALES[place]
      picture[place, NUM_CLASSES:-1] = np.log(np.expm1(distances))
      picture[place, int(class_id)] = rng.normal() if rng else 10
  return outputs


def measured(batches):
  metric = MeanAveragePrecision(CONFIG)
  for targets, outputs in batches:
    metric.update_state(targets, outputs)
  return metric.result()


def test_what_is_found_where_it_is_has_precision_1():
  targets = true_boxes(np.random.default_rng(1), 8)
  assert (targets[..., 4] >= 0).sum() > 4
  assert measured([(targets, outputs_of(targets))]) == pytest.approx(1.0, abs=1e-9)
  nothing = np.full_like(outputs_of(targets), -20)
  assert measured([(targets, nothing)]) == 0.0


def test_it_is_the_figure_of_the_same_detections_matched_by_hand():
  rng = np.random.default_rng(2)
  batches = [true_boxes(rng, count) for count in (5, 7, 4)]
  batches = [(targets, outputs_of(targets, rng)) for targets in batches]
  accumulator = CocoAccumulator()
  for number, (targets, outputs) in enumerate(batches):
    found = {name: value.numpy() for name, value in detect(outputs, CONFIG).items()}
    for place, rows in enumerate(targets):
      rows, count = rows[rows[:, 4] >= 0], found["num_detections"][place]
      record = match_image(
        found["boxes"][place][:count],
        found["scores"][place][:count],
        found["class_ids"][place][:count],
        rows[:, :4],
        rows[:, 4],
        np.zeros(len(rows)),
        (rows[:, 2] - rows[:, 0]) * (rows[:, 3] - rows[:, 1]),
      )
      accumulator.add(100 * number + place, record)
  expected = accumulator.figures(["a", "b"])["mean_average_precision"]
  assert 0.1 < expected < 0.9
  assert measured(batches) == pytest.approx(expected, abs=1e-12)


def test_pictures_without_objects_are_no_error():
  targets = np.tile(np.float32([0, 0, 0, 0, -1]), (2, MAX_BOXES, 1))
  assert measured([(targets, outputs_of(targets))]) == 0.0
  assert MeanAveragePrecision(CONFIG).result() == 0.0


def test_the_task_measures_compressed_models_by_it():
  (metric,) = TASK.quality_metrics(CONFIG, None)
  assert isinstance(metric, MeanAveragePrecision) and metric.name == TASK.quality_metric
