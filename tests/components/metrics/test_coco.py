"""Average precision and recall of boxes, against pycocotools and by hand."""

import contextlib
import io
import math
import pickle

import numpy as np
import pytest

from components.metrics.coco import FIGURES, CocoAccumulator, match_boxes, match_image


def scene(boxes=(), scores=(), class_ids=(), true_boxes=(), true_class_ids=(), is_crowd=None, areas=None):
  """The arguments of `match_image`, as the exported signature answers; areas are those of the boxes unless given."""
  true_boxes = np.array(true_boxes, np.float32).reshape(-1, 4)
  sides = true_boxes[:, 2:] - true_boxes[:, :2]
  return {
    "boxes": np.array(boxes, np.float32).reshape(-1, 4),
    "scores": np.array(scores, np.float32),
    "class_ids": np.array(class_ids, np.int64),
    "true_boxes": true_boxes,
    "true_class_ids": np.array(true_class_ids, np.int64),
    "is_crowd": np.array(np.zeros(len(true_boxes)) if is_crowd is None else is_crowd, np.int64),
    "areas": np.array(sides.prod(axis=1) if areas is None else areas, np.float32),
  }


def random_scene(rng, num_classes, max_true, max_detections):
  """True boxes from 2 to 300 pixels, some of crowds, and detections near them or anywhere, with many equal scores."""
  num_true, num_detections = rng.integers(0, max_true + 1), rng.integers(0, max_detections + 1)
  corners = rng.integers(0, 200, (num_true, 2))
  true_boxes = np.hstack([corners, corners + np.exp(rng.uniform(np.log(2), np.log(300), (num_true, 2)))])
  # Twins overlap a detection equally; the last class has no true boxes.
  true_boxes[1::7] = true_boxes[0::7][: len(true_boxes[1::7])]
  true_class_ids = rng.integers(0, max(num_classes - 1, 1), num_true)
  corners = rng.uniform(0, 200, (num_detections, 2))
  boxes = np.hstack([corners, corners + rng.uniform(0.5, 150, (num_detections, 2))])
  class_ids = rng.integers(0, num_classes, num_detections)
  if num_true:
    near = rng.random(num_detections) < 0.8
    origins = rng.integers(0, num_true, num_detections)
    noise = rng.normal(0, rng.choice([0, 0.02, 0.15], (num_detections, 1)), (num_detections, 4))
    sides = np.tile(true_boxes[:, 2:] - true_boxes[:, :2], 2)
    boxes[near] = (true_boxes[origins] + noise * sides[origins])[near]
    class_ids[near] = true_class_ids[origins][near]
  return scene(
    boxes,
    np.round(rng.random(num_detections), rng.integers(1, 4)),
    class_ids,
    true_boxes,
    true_class_ids,
    rng.random(num_true) < 0.15,
    # Of a mask: less than the box's.
    (true_boxes[:, 2:] - true_boxes[:, :2]).prod(axis=1) * rng.uniform(0.4, 1, num_true),
  )


def accumulate(scenes, example_ids=None):
  accumulator = CocoAccumulator()
  for example_id, one in zip(example_ids or range(len(scenes)), scenes, strict=True):
    accumulator.add(example_id, match_image(**one))
  return accumulator


def evaluate_with_pycocotools(scenes, num_classes, example_ids=None):
  """COCOeval after its summary: the reference."""
  from pycocotools.coco import COCO
  from pycocotools.cocoeval import COCOeval

  ids = list(example_ids or range(len(scenes)))
  truth = COCO()
  found, annotations = [], []
  for image_id, one in zip(ids, scenes, strict=True):
    rows = zip(one["true_boxes"], one["true_class_ids"], one["is_crowd"], one["areas"], strict=True)
    for box, class_id, crowd, area in rows:
      common = {"image_id": image_id, "category_id": int(class_id), "bbox": to_width_and_height(box)}
      annotations.append({**common, "id": len(annotations) + 1, "iscrowd": int(crowd), "area": float(area)})
    for box, score, class_id in zip(one["boxes"], one["scores"], one["class_ids"], strict=True):
      common = {"image_id": image_id, "category_id": int(class_id), "bbox": to_width_and_height(box)}
      found.append({**common, "score": float(score)})
  truth.dataset = {
    "images": [{"id": image_id} for image_id in ids],
    "annotations": annotations,
    "categories": [{"id": class_id, "name": str(class_id)} for class_id in range(num_classes)],
  }
  with contextlib.redirect_stdout(io.StringIO()):
    truth.createIndex()
    evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
  return evaluation


def to_width_and_height(box):
  x_min, y_min, x_max, y_max = (float(value) for value in box)
  return [x_min, y_min, x_max - x_min, y_max - y_min]


def assert_equal_to_pycocotools(accumulator, evaluation, num_classes):
  names = [f"class {class_id}" for class_id in range(num_classes)]
  figures = accumulator.figures(names)
  per_class = figures.pop("per_class")
  assert tuple(figures) == FIGURES
  for name, expected in zip(FIGURES, evaluation.stats, strict=True):
    assert figures[name] == (None if expected == -1 else pytest.approx(expected, abs=1e-9)), name
  for class_id, name in enumerate(names):
    precision = evaluation.eval["precision"][:, :, class_id, 0, 2]
    if (precision == -1).all():
      assert per_class[name] is None
      assert np.isnan(accumulator.precision_recall(class_id)[1]).all()
      continue
    assert per_class[name] == pytest.approx(precision.mean(), abs=1e-9)
    for threshold, expected in zip(np.linspace(0.5, 0.95, 10), precision, strict=True):
      recalls, found = accumulator.precision_recall(class_id, threshold)
      np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
      np.testing.assert_allclose(recalls, np.arange(101) / 100, rtol=0, atol=1e-15)


@pytest.mark.parametrize("seed", range(6))
def test_random_scenes_equal_pycocotools(seed):
  rng = np.random.default_rng(seed)
  num_classes = [1, 2, 3, 5, 8, 4][seed]
  scenes = [random_scene(rng, num_classes, max_true=14, max_detections=30) for _ in range(40)]
  scenes += [scene(), scene([[1, 1, 9, 9]], [0.5], [0]), scene(true_boxes=[[1, 1, 9, 9]], true_class_ids=[0])]
  ids = [int(value) for value in rng.permutation(1000)[: len(scenes)]]
  evaluation = evaluate_with_pycocotools(scenes, num_classes, ids)
  assert 0.02 < evaluation.stats[0] < 0.98
  assert_equal_to_pycocotools(accumulate(scenes, ids), evaluation, num_classes)


@pytest.mark.parametrize("seed", range(2))
def test_more_than_a_hundred_detections_of_a_class_equal_pycocotools(seed):
  rng = np.random.default_rng(100 + seed)
  scenes = [random_scene(rng, 2, max_true=60, max_detections=500) for _ in range(6)]
  assert max(np.bincount(one["class_ids"], minlength=1).max() for one in scenes) > 150
  assert_equal_to_pycocotools(accumulate(scenes), evaluate_with_pycocotools(scenes, 2), 2)


@pytest.mark.parametrize("seed", range(3))
def test_boxes_on_the_thresholds_equal_pycocotools(seed):
  """Boxes of whole pixels on a coarse grid: IoUs that are exactly a threshold or each other, areas of 32² and 96²."""
  rng = np.random.default_rng(seed)

  def boxes(number):
    corners = rng.integers(0, 3, (number, 2)) * 16
    return np.hstack([corners, corners + rng.choice([16, 32, 64, 96], (number, 2))])

  scenes = [scene(boxes(12), rng.integers(0, 4, 12) / 4, [0] * 12, boxes(6), [0] * 6) for _ in range(60)]
  assert_equal_to_pycocotools(accumulate(scenes), evaluate_with_pycocotools(scenes, 1), 1)


def test_tiny_huge_and_empty_boxes_equal_pycocotools():
  true_boxes = [
    [0, 0, 0.001, 0.001],
    [0, 0, 50_000, 50_000],
    [5, 5, 5, 9],
    [0, 0, 200_000, 200_000],
    [7, 7, 8, 8],
  ]
  one = scene(
    [*true_boxes, [0, 0, 49_000, 49_000], [3, 3, 3, 3], [9, 9, 2, 2]],
    [0.9, 0.8, 0.7, 0.6, 0.5, 0.85, 0.4, 0.3],
    [0] * 8,
    true_boxes,
    [0] * 5,
  )
  assert_equal_to_pycocotools(accumulate([one]), evaluate_with_pycocotools([one], 1), 1)


def test_by_hand():
  """Two true boxes; the best detection is right at IoU 0.5 to 0.8, the second wrong, the third right at all.

  At 0.5 to 0.8 precision is 1 up to recall 0.5 (51 of 101 points) and 2/3 beyond (50), at 0.85 to 0.95 it is 1/3 up to
  recall 0.5 and then 0.
  """
  one = scene(
    [[0, 0, 10, 8], [50, 50, 60, 60], [20, 20, 30, 30]],
    [0.9, 0.8, 0.7],
    [1, 1, 1],
    [[0, 0, 10, 10], [20, 20, 30, 30]],
    [1, 1],
  )
  figures = accumulate([one]).figures(["cat", "dog"])
  low, high = (51 + 50 * 2 / 3) / 101, 51 / 3 / 101
  expected = {
    **dict.fromkeys(FIGURES),
    "mean_average_precision": 0.7 * low + 0.3 * high,
    "average_precision_50": low,
    "average_precision_75": low,
    "average_precision_small": 0.7 * low + 0.3 * high,
    "average_recall_1": 0.7 * 0.5,
    "average_recall_10": 0.7 + 0.3 * 0.5,
    "average_recall_100": 0.7 + 0.3 * 0.5,
    "average_recall_small": 0.7 + 0.3 * 0.5,
  }
  per_class = figures.pop("per_class")
  assert figures.keys() == expected.keys()
  for name, value in expected.items():
    assert figures[name] == (None if value is None else pytest.approx(value, abs=1e-12)), name
  assert per_class == {"cat": None, "dog": pytest.approx(0.7 * low + 0.3 * high, abs=1e-12)}


def test_order_of_adding_and_merging_does_not_matter():
  rng = np.random.default_rng(7)
  scenes = [random_scene(rng, 3, max_true=10, max_detections=20) for _ in range(30)]
  for one in scenes:
    one["scores"] = np.round(one["scores"], 1)  # many ties between the pictures
  names = ["a", "b", "c"]
  # Two pictures share an id: hashes may.
  ids = [int(value) for value in rng.integers(-(2**63), 2**63 - 1, 30)]
  ids[3] = ids[4]
  expected = accumulate(scenes, ids).figures(names)
  assert 0 < expected["mean_average_precision"] < 1
  for _ in range(5):
    order = rng.permutation(30)
    parts = [
      pickle.loads(pickle.dumps(accumulate([scenes[i] for i in part], [ids[i] for i in part])))
      for part in np.array_split(order, rng.integers(1, 6))
    ]
    merged = CocoAccumulator()
    for part in [CocoAccumulator(), *parts]:
      before = part.figures(names)
      merged.merge(part)
      assert part.figures(names) == before
    assert merged.figures(names) == expected


def test_no_pictures_and_no_classes():
  for figures in (CocoAccumulator().figures([]), accumulate([scene()]).figures(["a"])):
    assert set(figures.pop("per_class").values()) <= {None}
    assert figures == dict.fromkeys(FIGURES)


def test_classes_beyond_the_names_are_left_out():
  box = [[0, 0, 10, 10]]
  one = scene(box * 3, [0.9, 0.8, 0.7], [0, 5, -1], box * 3, [0, 5, -1])
  assert accumulate([one]).figures(["a"])["mean_average_precision"] == pytest.approx(1.0)


@pytest.mark.parametrize("place", ["boxes", "scores"])
def test_what_is_not_finite_makes_the_figures_not_a_number(place):
  good = scene([[0, 0, 10, 10]], [0.5], [0], [[0, 0, 10, 10]], [0])
  bad = scene(np.tile([[0, 0, 10, 10]], (150, 1)), np.linspace(0.1, 0.9, 150), [0] * 150)
  bad[place][70] = np.nan
  accumulator = accumulate([good])
  accumulator.merge(accumulate([bad], [1]))
  figures = accumulator.figures(["a", "b"])
  assert math.isnan(figures["mean_average_precision"]) and math.isnan(figures["per_class"]["a"])
  assert figures["average_precision_large"] is None


def test_rows_that_do_not_fit_are_errors():
  one = scene([[0, 0, 10, 10]], [0.5, 0.4], [0])
  with pytest.raises(ValueError, match=r"^1 boxes come with \[2, 1\] values; give one a box"):
    match_image(**one)


def test_thresholds_that_are_not_measured_are_errors():
  with pytest.raises(ValueError, match="iou_threshold 0.52 is not measured"):
    CocoAccumulator().precision_recall(0, 0.52)


def test_match_boxes_by_hand():
  one = scene(
    boxes=[
      *[
        [0, 0, 10, 9],
        [0, 0, 10, 10],
        [0, 0, 10, 10],
      ],  # the second has the higher score, the third another class
      *[[100, 0, 110, 10], [105, 0, 115, 10], [130, 0, 140, 10]],  # all within a crowd
      [50, 50, 60, 60],
    ],
    scores=[0.8, 0.9, 0.95, 0.3, 0.2, 0.1, 0.5],
    class_ids=[0, 0, 1, 2, 2, 2, 0],
    true_boxes=[[100, 0, 150, 10], [0, 0, 10, 10], [0, 0, 10, 8]],
    true_class_ids=[2, 0, 0],
    is_crowd=[1, 0, 0],
  )
  del one["areas"]
  assert match_boxes(**one).tolist() == [2, 1, -1, 0, 0, 0, -1]
  assert match_boxes(**one, iou_threshold=0.9).tolist() == [-1, 1, -1, 0, 0, 0, -1]
  assert match_boxes(**one, iou_threshold=1.0).tolist() == [-1, 1, -1, 0, 0, 0, -1]


@pytest.mark.parametrize("seed", range(3))
def test_match_boxes_equal_pycocotools(seed):
  one = random_scene(np.random.default_rng(seed), 3, max_true=12, max_detections=40)
  evaluation = evaluate_with_pycocotools([one], 3)
  arguments = {name: value for name, value in one.items() if name != "areas"}
  for threshold, iou in enumerate(np.linspace(0.5, 0.95, 10)):
    expected = np.full(len(one["scores"]), -1)
    for image in evaluation.evalImgs:
      if image is not None and image["aRng"] == [0, 1e10]:
        expected[np.array(image["dtIds"], int) - 1] = image["dtMatches"][threshold] - 1
    assert (expected >= 0).any()
    np.testing.assert_array_equal(match_boxes(**arguments, iou_threshold=iou), expected)
