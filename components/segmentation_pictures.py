"""Pictures with masks for people, and how far an answer is from the truth."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from components.example_gen.drawing import mask_png, overlay_mask
from components.example_gen.image import caption_image


def own_mask(output: Mapping[str, Any]) -> np.ndarray:
  """uint8 [height, width] of one answer, without what fills the batch up."""
  return np.asarray(output["class_ids"])[: int(output["height"]), : int(output["width"])]


def class_names(output: Mapping[str, Any]) -> list[str]:
  """The classes in the order of their ids."""
  return [name.decode("utf-8") for name in output["class_names"]]


def shares(output: Mapping[str, Any]) -> dict[str, float]:
  """The share of the pixels that each class has."""
  mask, names = own_mask(output), class_names(output)
  counts = np.bincount(mask.ravel(), minlength=len(names))
  return {name: float(count / mask.size) for name, count in zip(names, counts, strict=True)}


def draw(features: Mapping[str, Any], output: Mapping[str, Any] | None) -> bytes:
  """PNG of the picture with its mask laid over: the answer's, or the true one where that is known.

  Args:
    features: image, mask where it is known, and class_names, bytes, where they are.
    output: numpy arrays of an answer, or None.
  """
  if output is not None:
    return overlay_mask(features["image"], own_mask(output), class_names(output))
  if "mask" not in features:
    return caption_image(features["image"], "")
  mask = _decoded(features["mask"])
  if "class_names" in features:
    return overlay_mask(features["image"], mask, class_names(features))
  # A mask alone does not name its classes.
  return overlay_mask(features["image"], mask, ["background", *map(str, range(1, int(mask.max()) + 1))])


def mask_file(output: Mapping[str, Any]) -> bytes:
  """Grey PNG of class ids in the picture's own size."""
  return mask_png(own_mask(output))


def _decoded(mask: bytes) -> np.ndarray:
  with Image.open(io.BytesIO(mask)) as picture:
    return np.asarray(picture)


def compare_masks(features: Mapping[str, Any], output: Mapping[str, Any]) -> tuple[float, str]:
  """Mean IoU of one picture, over the classes that occur in it or were found; and each class's in words.

  Args:
    features: image and mask of an example.
    output: of the signature, numpy arrays of the example.
  """
  from components.metrics.segmentation import figures_of

  names, actual, predicted = class_names(output), _decoded(features["mask"]), own_mask(output)
  is_known = actual < len(names)
  pairs = actual[is_known].astype(np.int64) * len(names) + predicted[is_known]
  confusion = np.bincount(pairs, minlength=len(names) ** 2).reshape(len(names), len(names))
  found = figures_of(confusion, names)
  parts = [f"{name} {iou:.2f}" for name, iou in found["per_class"].items() if iou is not None]
  mean = found["mean_iou"]
  return (
    (1.0, "no pixel has a class") if mean is None else (mean, f"mean IoU {mean:.2f}: " + ", ".join(parts))
  )
