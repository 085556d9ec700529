"""The columns of pictures whose labels have places: what a reader yields and the Transform stage takes."""

from __future__ import annotations

from components.task import Feature

IMAGE = {"image": Feature("bytes")}
# Of each object: x_min, y_min, x_max, y_max in pixels; its class; whether it is a crowd; its area in square pixels.
BOXES = {
  "boxes": Feature("float32", (None,)),
  "classes": Feature("bytes", (None,)),
  "is_crowd": Feature("int64", (None,)),
  "areas": Feature("float32", (None,)),
}
# PNG of one class id a pixel.
MASK = {"mask": Feature("bytes")}
