"""COCO's average precision and recall of boxes, as sums over pictures that can be merged in any order.

Each picture is matched on its own by `match_image`; what is left of it is a few bytes a detection. A `CocoAccumulator`
gathers these and draws the figures. The rules are those of pycocotools' COCOeval with iouType "bbox" and its default
parameters, its odd ones included: of two true boxes that overlap a detection equally, the later one is taken.

Source: Lin, Maire, Belongie et al., 2014, "Microsoft COCO: Common Objects in Context", arXiv:1405.0312, and
cocoeval.py of https://github.com/cocodataset/cocoapi.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
# All, small, medium, large, in square pixels. Both ends belong to a range: 32 x 32 is small and medium.
AREA_RANGES_PX2 = np.array([[0, 1e5**2], [0, 32**2], [32**2, 96**2], [96**2, 1e5**2]])
MAX_DETECTIONS = 100  # of each class in each picture
_RECALL_LIMITS = (1, 10, MAX_DETECTIONS)
_SIZES = ("small", "medium", "large")
FIGURES = (
  *("mean_average_precision", "average_precision_50", "average_precision_75"),
  *(f"average_precision_{size}" for size in _SIZES),
  *(f"average_recall_{kind}" for kind in (*_RECALL_LIMITS, *_SIZES)),
)

# A detection has another fate in each area range at each IoU threshold: one bit for each of these 40 "lanes", those of
# the first area range lowest. So the greedy matching of all of them is one pass with integers.
_AREA_LANES = 0b1111111111 << (10 * np.arange(4))
# The lanes that an IoU reaches, by the number of thresholds that it reaches.
_REACHED_LANES = np.array([int((((1 << count) - 1) << (10 * np.arange(4))).sum()) for count in range(11)])

# "rank" is the place by score among those of a class in a picture; "matched" and "ignored" are lanes, the latter those
# where the detection is neither right nor wrong.
_FIELDS = {
  "example_id": "i8",
  "class_id": "i8",
  "rank": "i8",
  "score": "f4",
  "matched": "i8",
  "ignored": "i8",
}
_DETECTION = np.dtype(list(_FIELDS.items()))


@dataclasses.dataclass(frozen=True)
class ImageRecord:
  """What one picture adds to the figures.

  Attributes:
    detections: structured [D], the `MAX_DETECTIONS` best of each class; its example_id is not yet set.
    num_true: class id -> int64 [4], true boxes that count in each of `AREA_RANGES_PX2`.
    finite: whether all scores and detected boxes are finite numbers.
  """

  detections: np.ndarray
  num_true: dict[int, np.ndarray]
  finite: bool


def match_image(
  boxes: np.ndarray,
  scores: np.ndarray,
  class_ids: np.ndarray,
  true_boxes: np.ndarray,
  true_class_ids: np.ndarray,
  is_crowd: np.ndarray,
  areas: np.ndarray,
) -> ImageRecord:
  """Matches one picture's detections with its true boxes, class by class, the highest score first.

  Args:
    boxes: float [D, 4], detected: x_min, y_min, x_max, y_max in pixels. No padding, here and in all others.
    scores, class_ids: float32 [D] and int [D].
    true_boxes, true_class_ids: float [G, 4] in pixels and int [G].
    is_crowd: int or bool [G]: the box is around a crowd, where any number of detections is neither right nor wrong.
    areas: float [G], square pixels, by which a true box is small, medium or large (COCO: the area of its mask).

  Returns:
    The picture's record, for `CocoAccumulator.add`.

  Raises:
    ValueError: boxes and what belongs to them differ in number.
  """
  boxes, scores, class_ids = _rows(boxes, scores, class_ids)
  true_boxes, true_class_ids, is_crowd, areas = _rows(true_boxes, true_class_ids, is_crowd, areas)
  finite = bool(np.isfinite(np.column_stack([boxes, scores])).all())
  order, ranks = _by_class_and_score(scores, class_ids)
  order, ranks = order[ranks < MAX_DETECTIONS], ranks[ranks < MAX_DETECTIONS]
  boxes, scores, class_ids = boxes[order], scores[order], class_ids[order]
  true_lanes = np.where(is_crowd != 0, 0, _lanes_of_areas(areas))
  overlaps = _overlaps(boxes, true_boxes, is_crowd) * (class_ids[:, None] == true_class_ids)
  reached = _REACHED_LANES[np.searchsorted(IOU_THRESHOLDS, overlaps, side="right")]
  matched, ignored, ignoring = [0] * len(boxes), [0] * len(boxes), (~true_lanes).tolist()
  for place, true_place, lanes in _greedy(overlaps, reached, true_lanes, is_crowd):
    matched[place] |= lanes
    ignored[place] |= lanes & ignoring[true_place]
  detections = np.zeros(len(boxes), _DETECTION)
  detections["class_id"], detections["rank"], detections["score"] = class_ids, ranks, scores
  detections["matched"], detections["ignored"] = matched, ignored
  # What matches nothing is wrong only in the area ranges that it belongs to.
  own_areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
  detections["ignored"] |= ~detections["matched"] & ~_lanes_of_areas(own_areas)
  counting = (true_lanes[:, None] & _AREA_LANES) != 0
  num_true = {key: counting[true_class_ids == key].sum(axis=0) for key in set(true_class_ids.tolist())}
  return ImageRecord(detections, num_true, finite)


def match_boxes(
  boxes: np.ndarray,
  scores: np.ndarray,
  class_ids: np.ndarray,
  true_boxes: np.ndarray,
  true_class_ids: np.ndarray,
  is_crowd: np.ndarray,
  iou_threshold: float = 0.5,
) -> np.ndarray:
  """Which true box each detection of a picture matches, to draw it, by the rules of `match_image` for all areas.

  Args:
    boxes, scores, class_ids, true_boxes, true_class_ids, is_crowd: as in `match_image`, but any number of detections.
    iou_threshold: the least overlap of a match, above 0 and at most 1.

  Returns:
    int64 [D], places in `true_boxes`, -1 for none. Only a crowd's box can be matched by several detections.

  Raises:
    ValueError: boxes and what belongs to them differ in number.
  """
  boxes, scores, class_ids = _rows(boxes, scores, class_ids)
  true_boxes, true_class_ids, is_crowd = _rows(true_boxes, true_class_ids, is_crowd)
  order, _ = _by_class_and_score(scores, class_ids)
  overlaps = _overlaps(boxes[order], true_boxes, is_crowd) * (class_ids[order, None] == true_class_ids)
  # COCOeval's upper limit: two boxes that are the same may have an IoU a little below 1.
  reached = (overlaps >= min(iou_threshold, 1 - 1e-10)).astype(np.int64)
  matches = np.full(len(boxes), -1, np.int64)
  for place, true_place, _ in _greedy(overlaps, reached, np.where(is_crowd != 0, 0, 1), is_crowd):
    matches[order[place]] = true_place
  return matches


def _rows(boxes: np.ndarray, *columns: np.ndarray) -> list[np.ndarray]:
  """Boxes in float64, where sums of float32 coordinates are exact, and what belongs to them, one value for each."""
  boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
  flat = [np.asarray(column).reshape(-1) for column in columns]
  sizes = [len(column) for column in flat]
  if any(size != len(boxes) for size in sizes):
    raise ValueError(f"{len(boxes)} boxes come with {sizes} values; give one a box and cut off the padding")
  return [boxes, *flat]


def _by_class_and_score(scores: np.ndarray, class_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The order by class, then falling score, then place; and each one's rank in its class, in that order."""
  order = np.lexsort((-scores, class_ids))
  sorted_ids = class_ids[order]
  return order, np.arange(len(order)) - np.searchsorted(sorted_ids, sorted_ids)


def _lanes_of_areas(areas: np.ndarray) -> np.ndarray:
  """int64 [N]: the lanes of the area ranges to which each area belongs."""
  inside = (areas[:, None] >= AREA_RANGES_PX2[:, 0]) & (areas[:, None] <= AREA_RANGES_PX2[:, 1])
  return (inside * _AREA_LANES).sum(axis=1)


def _overlaps(boxes: np.ndarray, true_boxes: np.ndarray, is_crowd: np.ndarray) -> np.ndarray:
  """float64 [D, G]: IoU, or the detection's share that lies in a crowd's box."""
  corner, true_corner = boxes[:, None, :2], true_boxes[None, :, :2]
  size, true_size = boxes[:, None, 2:] - corner, true_boxes[None, :, 2:] - true_corner
  common = np.fmin(corner + size, true_corner + true_size) - np.fmax(corner, true_corner)
  intersection, area, true_area = (sides[..., 0] * sides[..., 1] for sides in (common, size, true_size))
  union = np.where(is_crowd != 0, area, area + true_area - intersection)
  return np.divide(intersection, union, out=np.zeros_like(union), where=(common > 0).all(axis=-1))


def _greedy(
  overlaps: np.ndarray, reached: np.ndarray, true_lanes: np.ndarray, is_crowd: np.ndarray
) -> Iterator[tuple[int, int, int]]:
  """Gives each detection in turn, in each lane, the best true box that is free, those that count before all others.

  `overlaps` float64 and `reached`, the lanes in which they are enough, int64: [D, G], the detections in the order of
  their turns. `true_lanes` int64 [G]: where a true box counts. Yields (detection, true box, lanes of their match).
  """
  places, true_places = np.nonzero(reached)
  lanes, counting = reached[places, true_places], true_lanes[true_places]
  lanes = np.concatenate([lanes & counting, lanes & ~counting])
  is_second_choice = np.arange(len(lanes)) >= len(places)
  places, true_places = np.tile(places, 2), np.tile(true_places, 2)
  order = np.lexsort((-true_places, -overlaps[places, true_places], is_second_choice, places))
  choices = np.stack([places, true_places, lanes])[:, order[lanes[order] != 0]]
  unmatched, free, crowd = [-1] * len(overlaps), [-1] * len(true_lanes), is_crowd.tolist()
  for place, true_place, wanted in choices.T.tolist():
    won = wanted & unmatched[place] & free[true_place]
    if won:
      unmatched[place] &= ~won
      if not crowd[true_place]:
        free[true_place] &= ~won
      yield place, true_place, won


class CocoAccumulator:
  """The records of pictures: it pickles, and the figures do not depend on the order of adding and merging."""

  def __init__(self) -> None:
    self._detections = [np.zeros(0, _DETECTION)]
    self._num_true: dict[int, np.ndarray] = {}
    self._finite = True

  def add(self, example_id: int, record: ImageRecord) -> None:
    """Adds one picture. Equal scores come in the order of `example_id`, any int64, then of their place."""
    detections = record.detections.copy()
    detections["example_id"] = example_id
    self._add(detections, record.num_true, record.finite)

  def merge(self, other: CocoAccumulator) -> None:
    """Adds the pictures of `other`, which stays as it is."""
    self._add(other.compact(), other._num_true, other._finite)

  def _add(self, detections: np.ndarray, num_true: dict[int, np.ndarray], finite: bool) -> None:
    self._detections.append(detections)
    for class_id, counts in num_true.items():
      self._num_true[class_id] = self._num_true.get(class_id, 0) + counts
    self._finite = self._finite and finite

  def compact(self) -> np.ndarray:
    """All detections as one array, which pickles faster than one for each picture."""
    if len(self._detections) > 1:
      self._detections = [np.concatenate(self._detections)]
    return self._detections[0]

  def figures(self, class_names: Sequence[str]) -> dict[str, Any]:
    """The figures of COCOeval.summarize.

    Args:
      class_names: [C], in the order of the class ids. Boxes of other ids, true or not, are left out.

    Returns:
      Each of `FIGURES` in [0, 1], None where no true box counts for it; "per_class": {class name: mean average
      precision of it, or None}. Not a number where scores or boxes are not finite, so that no threshold passes.
    """
    curves = [self._curves(class_id) for class_id in range(len(class_names))]
    precisions = np.array([precision for precision, _ in curves]).reshape(-1, 4, 10, 101)
    recalls = np.array([recall for _, recall in curves]).reshape(-1, 3, 4, 10)
    values = [precisions[:, 0], precisions[:, 0, 0], precisions[:, 0, 5], *precisions[:, 1:].swapaxes(0, 1)]
    values += [*recalls[:, :, 0].swapaxes(0, 1), *recalls[:, 2, 1:].swapaxes(0, 1)]
    per_class = {name: self._mean(precisions[class_id, 0]) for class_id, name in enumerate(class_names)}
    return {**dict(zip(FIGURES, map(self._mean, values), strict=True)), "per_class": per_class}

  def _mean(self, values: np.ndarray) -> float | None:
    """Over what has true boxes."""
    known = values[~np.isnan(values)] * (1 if self._finite else math.nan)
    return float(known.mean()) if len(known) else None

  def precision_recall(self, class_id: int, iou_threshold: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """The curve of one class, boxes of all sizes, at one of `IOU_THRESHOLDS`, to draw it.

    Returns:
      recall, precision: float64 [101] each; precision is the best at that recall or more, 0 where it is not reached,
      not a number where the class has no true boxes.

    Raises:
      ValueError: there is no such threshold.
    """
    places = np.flatnonzero(np.isclose(IOU_THRESHOLDS, iou_threshold))
    if not len(places):
      raise ValueError(f"iou_threshold {iou_threshold} is not measured; use one of 0.5, 0.55, ..., 0.95")
    return RECALLS.copy(), self._curves(class_id)[0][0, places[0]]

  def _curves(self, class_id: int) -> tuple[np.ndarray, np.ndarray]:
    """Precisions [4, 10, 101] and recalls [3, 4, 10] of one class; not numbers in areas without true boxes."""
    precisions, recalls = np.full((4, 10, 101), np.nan), np.full((3, 4, 10), np.nan)
    own = self.compact()
    own = own[own["class_id"] == class_id]
    # The lanes come last, so that even pictures of equal id have one order.
    own = own[np.lexsort((own["ignored"], own["matched"], own["rank"], own["example_id"], -own["score"]))]
    matched, ignored, ranks = (np.ascontiguousarray(own[name]) for name in ("matched", "ignored", "rank"))
    for lane in range(40):
      area, threshold = divmod(lane, 10)
      num_true = self._num_true[class_id][area] if class_id in self._num_true else 0
      if num_true:
        counting = (ignored >> lane) & 1 == 0
        hits, hit_ranks = (matched[counting] >> lane) & 1, ranks[counting]
        recalls[:, area, threshold] = [hits[hit_ranks < limit].sum() / num_true for limit in _RECALL_LIMITS]
        precisions[area, threshold] = _precision_at_recalls(hits, num_true)
    return precisions, recalls


def _precision_at_recalls(hits: np.ndarray, num_true: int) -> np.ndarray:
  """float64 [101], from which of the detections, by falling score, are right."""
  true_positives = np.cumsum(hits)
  precision = true_positives / (np.arange(1, len(hits) + 1) + np.spacing(1))
  best_from_here = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
  return best_from_here[np.searchsorted(true_positives / num_true, RECALLS)]
