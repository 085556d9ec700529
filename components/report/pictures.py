"""Pictures of the report: samples on their way through preprocessing, and what the model got most wrong."""

from __future__ import annotations

import base64
import dataclasses
import heapq
import io
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from components.config import RunConfig
from components.input import load_outputs, split_files
from components.task import Task, TransformOutputs

MAX_SAMPLES = 10
AUGMENTED_COPIES = 3
MAX_SHOWN = 24
# Test examples scored again to find the worst mistakes; the Evaluator's figures are over all of them.
MAX_SCORED = 20_000
_MAX_SEARCHED = 2048
_BATCH_SIZE = 64
_MAX_SIDE_PX = 192
_DTYPES = {"bytes": tf.string, "int64": tf.int64, "float32": tf.float32}


@dataclasses.dataclass
class Pictures:
  """Rows for the page; each "picture" is a data URI, or None where the task renders text, which is in "text".

  samples: {"label", "raw", "preprocessed": picture or absent, "augmented": [pictures]}.
  mistakes: {"actual", "predicted", "probability", "raw"}, the most confident first.
  predictions: {"output", "raw"} of tasks that do not name one class.
  """

  samples: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  mistakes: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  predictions: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  num_scored: int = 0
  num_wrong: int = 0
  class_names: list[str] | None = None


def collect_pictures(task: Task, config: RunConfig, inputs: Mapping[str, Any]) -> Pictures:
  """Renders samples of the training split and, where there is a model, its answers on the test split.

  Args:
    task: the application.
    config: its whole configuration.
    inputs: input name of the Report component -> artifact.
  """
  pictures = Pictures(samples=_samples(task, config, inputs))
  if "model" in inputs:
    _score(task, inputs, pictures)
  return pictures


def class_label(task: Task) -> str | None:
  """The label named "label", the class of an example in words; None for tasks that have no such label."""
  feature = task.labels.get("label")
  return "label" if feature is not None and feature.dtype == "bytes" and not feature.shape else None


def raw_examples(task: Task, examples_uri: str, split: str, batch_size: int) -> Iterator[tuple[Any, dict]]:
  """Batches of (serialized examples [batch], {feature or label: numpy array [batch, ...]}) of one split."""
  wanted = {**task.raw_features, **task.labels}
  spec = {name: tf.io.FixedLenFeature(item.shape, _DTYPES[item.dtype]) for name, item in wanted.items()}
  try:
    files = split_files(examples_uri, split)
  except ValueError:  # a split without examples
    return
  # Files may be sorted by class: a little of each file comes first.
  dataset = tf.data.Dataset.from_tensor_slices(files).interleave(
    lambda file: tf.data.TFRecordDataset(file, compression_type="GZIP"), cycle_length=16, block_length=1
  )
  for batch in dataset.batch(batch_size):
    features = tf.io.parse_example(batch, spec)
    yield batch, {name: value.numpy() for name, value in features.items()}


def _samples(task: Task, config: RunConfig, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
  rows = _choose(task, inputs["examples"].uri)
  if not rows:
    return []
  label = class_label(task)
  samples = [
    {"label": _text(row[label]) if label else "", "augmented": [], **_render(task, row, None)} for row in rows
  ]
  if "transform_graph" in inputs:
    for column, images in _processed(task, config, inputs, rows):
      for sample, image in zip(samples, images, strict=True):
        if column == "augmented":
          sample["augmented"].append(image)
        else:
          sample[column] = image
  return samples


def _choose(task: Task, examples_uri: str) -> list[dict[str, Any]]:
  """A few training examples, of as many classes as there are."""
  label = class_label(task)
  by_class: dict[Any, list[dict[str, Any]]] = {}
  searched = 0
  for _, features in raw_examples(task, examples_uri, "train", _BATCH_SIZE):
    for row in _rows(features):
      key = row[label] if label else None
      if key in by_class or len(by_class) < MAX_SAMPLES:
        kept = by_class.setdefault(key, [])
        if len(kept) < MAX_SAMPLES:
          kept.append(row)
    searched += _BATCH_SIZE
    if not label or len(by_class) == MAX_SAMPLES or searched >= _MAX_SEARCHED:
      break
  # One of each class in turn, until there are enough.
  turns = itertools.zip_longest(*(by_class[key] for key in sorted(by_class, key=str)))
  return [row for turn in turns for row in turn if row is not None][:MAX_SAMPLES]


def _processed(
  task: Task, config: RunConfig, inputs: Mapping[str, Any], rows: list[dict[str, Any]]
) -> Iterator[tuple[str, list[str]]]:
  """("preprocessed" or "augmented", data URIs of all rows); nothing where the model's input is no picture."""
  uri = inputs["transform_graph"].uri
  if "transformed_examples" in inputs:
    outputs = load_outputs(uri, split_files(inputs["transformed_examples"].uri, "train"))
  else:
    outputs = TransformOutputs(uri)
  wanted = {**task.raw_features, **task.labels}
  raw = {
    name: tf.constant(np.stack([row[name] for row in rows]), _DTYPES[item.dtype])
    for name, item in wanted.items()
  }
  model_inputs, targets = task.parse(outputs.transform(outputs.features_layer(), raw), config, outputs)
  if not _are_pictures(model_inputs):
    return
  yield "preprocessed", _to_uris(model_inputs)
  augment = task.augment(config, outputs)
  for copy in range(AUGMENTED_COPIES if augment else 0):
    augmented, _ = augment(model_inputs, targets, tf.constant([config.seed, copy], tf.int32))
    yield "augmented", _to_uris(augmented)


def _are_pictures(inputs: Any) -> bool:
  return isinstance(inputs, tf.Tensor) and inputs.shape.rank == 4 and inputs.shape[-1] in (1, 3)


def _score(task: Task, inputs: Mapping[str, Any], pictures: Pictures) -> None:
  """Asks the exported signature about the test split, as a server would."""
  from tfx.utils import path_utils

  model = tf.saved_model.load(path_utils.serving_model_path(inputs["model"].uri))
  signature = model.signatures["serve_examples"]
  label = class_label(task)
  worst: list[tuple[float, int, dict, dict]] = []
  for batch, features in raw_examples(task, inputs["examples"].uri, "test", _BATCH_SIZE):
    outputs = {name: value.numpy() for name, value in signature(examples=batch).items()}
    if label is None or not {"label", "probability"} <= set(outputs):
      _render_predictions(task, features, outputs, pictures)
      return
    if "classes" in outputs:
      pictures.class_names = [_text(name) for name in outputs["classes"][0]]
    wrong = np.flatnonzero(outputs["label"] != features[label])
    for i in wrong:
      row = {name: values[i] for name, values in features.items()}
      output = {name: values[i] for name, values in outputs.items()}
      entry = (float(outputs["probability"][i]), -(pictures.num_scored + int(i)), row, output)
      (heapq.heappush if len(worst) < MAX_SHOWN else heapq.heappushpop)(worst, entry)
    pictures.num_scored += len(batch)
    pictures.num_wrong += len(wrong)
    if pictures.num_scored >= MAX_SCORED:
      break
  for probability, _, row, output in sorted(worst, key=lambda entry: entry[:2], reverse=True):
    mistake = {"actual": _text(row[label]), "predicted": _text(output["label"]), "probability": probability}
    pictures.mistakes.append({**mistake, **_render(task, row, None)})


def _render_predictions(task: Task, features: dict, outputs: dict, pictures: Pictures) -> None:
  for row, output in zip(_rows(features), _rows(outputs), strict=True):
    if len(pictures.predictions) == MAX_SHOWN:
      return
    decoded = task.decode_output(output)
    pictures.predictions.append({"output": decoded, **_render(task, row, decoded)})


def _rows(features: Mapping[str, np.ndarray]) -> Iterator[dict[str, Any]]:
  for values in zip(*features.values(), strict=True):
    yield dict(zip(features, values, strict=True))


def _render(task: Task, row: Mapping[str, Any], decoded: Mapping[str, Any] | None) -> dict[str, Any]:
  """{"raw": data URI} of the task's own picture of an example, or {"raw": None, "text": ...}."""
  rendered = task.render({name: row[name] for name in task.raw_features}, decoded)
  if isinstance(rendered, bytes) and rendered.startswith(b"\x89PNG"):
    return {"raw": _thumbnail(rendered)}
  return {"raw": None, "text": _text(rendered)}


def _thumbnail(png: bytes) -> str:
  """A data URI, of at most `_MAX_SIDE_PX` pixels a side."""
  with Image.open(io.BytesIO(png)) as picture:
    if max(picture.size) <= _MAX_SIDE_PX:
      return _data_uri("png", png)
    picture = picture.convert("RGB")
    picture.thumbnail((_MAX_SIDE_PX, _MAX_SIDE_PX))
    encoded = io.BytesIO()
    picture.save(encoded, "JPEG", quality=85)
  return _data_uri("jpeg", encoded.getvalue())


def _to_uris(images: tf.Tensor) -> list[str]:
  """Data URIs of float images [batch, height, width, 1 or 3], in [0, 255] or in any other range."""
  values = np.asarray(images, np.float32)
  if values.min() < -1 or values.max() > 256 or values.max() <= 2:
    low, high = values.min(), values.max()
    values = (values - low) / max(high - low, 1e-6) * 255
  pixels = np.clip(np.rint(values), 0, 255).astype(np.uint8)
  uris = []
  for image in pixels:
    encoded = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(encoded, "PNG")
    uris.append(_thumbnail(encoded.getvalue()))
  return uris


def _data_uri(kind: str, data: bytes) -> str:
  return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _text(value: Any) -> str:
  return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
