"""One example as the page shows it: a small picture in a data URI, or text."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from components.task import Task

MAX_SIDE_PX = 192
MAX_CHARACTERS = 1200


def render_example(
  task: Task, row: Mapping[str, Any], outputs: Mapping[str, Any] | None, max_side_px: int = MAX_SIDE_PX
) -> dict[str, Any]:
  """{"raw": data URI} of the task's own picture of an example, or {"raw": None, "text": ...}.

  Args:
    task: the application.
    row: raw features and labels of the example.
    outputs: {output name: numpy array} of the answer; None: there is none.
    max_side_px: of the picture.
  """
  rendered = task.render(row, outputs)
  if isinstance(rendered, bytes) and rendered.startswith(b"\x89PNG"):
    return {"raw": _thumbnail(rendered, max_side_px)}
  return {"raw": None, "text": _shortened(as_text(rendered))}


def _thumbnail(png: bytes, max_side_px: int = MAX_SIDE_PX) -> str:
  """A data URI, of at most `max_side_px` pixels a side."""
  with Image.open(io.BytesIO(png)) as picture:
    if max(picture.size) <= max_side_px:
      return _data_uri("png", png)
    picture = picture.convert("RGB")
    picture.thumbnail((max_side_px, max_side_px))
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=85)
  return _data_uri("jpeg", encoded.getvalue())


def image_uris(images: tf.Tensor, draw: Callable[[bytes, int], bytes] | None = None) -> list[str]:
  """Data URIs of float images [batch, height, width, 1 or 3], in [0, 255] or in any other range.

  Args:
    images: the pictures.
    draw: (PNG bytes of a picture, its place in the batch) -> PNG bytes to show in its place.
  """
  values = np.asarray(images, np.float32)
  if values.min() < -1 or values.max() > 256 or values.max() <= 2:
    low, high = values.min(), values.max()
    values = (values - low) / max(high - low, 1e-6) * 255
  pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
  uris = []
  for place, image in enumerate(pixels):
    encoded = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(encoded, "PNG")
    png = encoded.getvalue()
    uris.append(_thumbnail(draw(png, place) if draw else png))
  return uris


def _data_uri(kind: str, data: bytes) -> str:
  return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def as_text(value: Any) -> str:
  """Bytes as UTF-8, anything else as Python prints it."""
  return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _shortened(text: str) -> str:
  return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS].rstrip() + " …"
