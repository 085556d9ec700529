"""Boxes drawn from raw outputs; their mean average precision against the same pictures matched by hand."""

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


def outputs_of(pictures):
  """What a model says that sees these [(box, class id, logit)], float32 [pictures, locations, classes + 5]."""
  outputs = np.full((len(pictures), len(POINTS), NUM_CLASSES + 5), -20.0)
  outputs[..., -1] = 30
  for picture, objects in zip(outputs, pictures, strict=True):
    taken = set()
    for box, class_id, logit in objects:
      nearness = np.minimum(POINTS - box[:2], box[2:] - POINTS).min(axis=1)
      place = next(n for n in np.argsort(-nearness) if n not in taken)
      taken.add(place)
      distances = np.concatenate([POINTS[place] - box[:2], box[2:] - POINTS[place]])
      picture[place, NUM_CLASSES:-1] = np.log(np.expm1(distances / SCALES[place]))
      picture[place, class_id] = logit
  return outputs.astype(np.float32)


def objects_of(targets, rng=None):
  """The boxes of targets as `outputs_of` takes them; with `rng` a little beside them, in all degrees of certainty."""
  return [
    [
      (row[:4] + (rng.normal(0, 0.8, 4) if rng else 0), int(row[4]), rng.normal() if rng else 10.0)
      for row in rows[rows[:, 4] >= 0]
    ]
    for rows in targets
  ]


def measured(batches):
  metric = MeanAveragePrecision(CONFIG)
  for targets, outputs in batches:
    metric.update_state(targets, outputs)
  return metric.result()


def test_what_is_found_where_it_is_has_precision_1():
  targets = true_boxes(np.random.default_rng(1), 8)
  assert (targets[..., 4] >= 0).sum() > 4
  assert measured([(targets, outputs_of(objects_of(targets)))]) == pytest.approx(1.0, abs=1e-9)
  nothing = np.full_like(outputs_of(objects_of(targets)), -20)
  assert measured([(targets, nothing)]) == 0.0


def test_it_is_the_figure_of_the_same_detections_matched_by_hand():
  rng = np.random.default_rng(2)
  batches = [true_boxes(rng, count) for count in (5, 7, 4)]
  batches = [(targets, outputs_of(objects_of(targets, rng))) for targets in batches]
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
  assert measured([(targets, outputs_of(objects_of(targets)))]) == 0.0
  assert MeanAveragePrecision(CONFIG).result() == 0.0


def test_the_task_measures_compressed_models_by_it():
  (metric,) = TASK.quality_metrics(CONFIG, None)
  assert isinstance(metric, MeanAveragePrecision) and metric.name == TASK.quality_metric


def detected(objects, **settings):
  """What is found in one picture, without padding."""
  config = CONFIG.model_copy(update={"detection": CONFIG.detection.model_copy(update=settings)})
  found = detect(outputs_of([objects]), config)
  count = int(found["num_detections"][0])
  return {name: value.numpy()[0, :count] for name, value in found.items() if name != "num_detections"}


# Intersection over union 30 / 40.
LEFT, RIGHT = (4, 4, 24, 24), (4, 4, 24, 19)


def test_of_boxes_of_one_class_that_overlap_the_better_one_stays():
  found = detected([(LEFT, 0, 1.0), (RIGHT, 0, 2.0)])
  np.testing.assert_allclose(found["boxes"], [RIGHT], atol=1e-3)
  found = detected([(LEFT, 0, 1.0), (RIGHT, 0, 2.0)], iou_threshold=0.8)
  np.testing.assert_allclose(found["boxes"], [RIGHT, LEFT], atol=1e-3)
  found = detected([(LEFT, 0, 1.0), (RIGHT, 1, 2.0)])
  np.testing.assert_allclose(found["boxes"], [RIGHT, LEFT], atol=1e-3)
  assert found["class_ids"].tolist() == [1, 0]


def test_the_best_come_first_and_no_more_than_are_wanted():
  objects = [
    ((2 + 10 * n, 4, 10 + 10 * n, 12), n % 2, logit) for n, logit in enumerate((0.0, 3.0, -1.0, 1.0))
  ]
  scores = np.sqrt(1 / (1 + np.exp(-np.array([3.0, 1.0, 0.0, -1.0]))))
  found = detected(objects)
  np.testing.assert_allclose(found["scores"], scores, atol=1e-5)
  assert found["class_ids"].tolist() == [1, 1, 0, 0]
  assert detected(objects, max_detections=2)["scores"] == pytest.approx(scores[:2], abs=1e-5)
  # The third one's score is 0.7071.
  assert detected(objects, score_threshold=0.71)["scores"] == pytest.approx(scores[:2], abs=1e-5)
  assert len(detected(objects, score_threshold=1.0)["scores"]) == 0


def test_boxes_are_cut_off_at_the_borders():
  found = detected([((-7, 5, 60, 40), 0, 1.0)])
  np.testing.assert_allclose(found["boxes"], [(0, 5, 48, 32)], atol=1e-3)
