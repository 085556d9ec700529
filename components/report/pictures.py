"""What the report shows of single examples: samples on their way through preprocessing, and the model's answers."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from components.config import RunConfig
from components.input import DTYPES, load_outputs, split_files
from components.report.answers import Answers, collect_answers
from components.report.raw_examples import class_label, raw_examples, rows_of
from components.report.rendering import as_text, image_uris, render_example
from components.task import Feature, Task, TransformOutputs

MAX_SAMPLES = 10
AUGMENTED_COPIES = 3
_MAX_SEARCHED = 2048
_BATCH_SIZE = 64


@dataclasses.dataclass
class Pictures:
  """Rows for the page; each "picture" is a data URI, or None where the task renders text, which is in "text".

  samples: {"label", "raw", "preprocessed": picture or absent, "augmented": [pictures]}.
  answers: what the model says of the test split.
  """

  samples: list[dict[str, Any]] = dataclasses.field(default_factory=list)
  answers: Answers = dataclasses.field(default_factory=Answers)


def collect_pictures(task: Task, config: RunConfig, inputs: Mapping[str, Any]) -> Pictures:
  """Renders samples of the training split and, where there is a model, its answers on the test split.

  Args:
    task: the application.
    config: its whole configuration.
    inputs: input name of the Report component -> artifact.
  """
  pictures = Pictures(samples=_samples(task, config, inputs))
  if "model" in inputs:
    pictures.answers = collect_answers(task, inputs["model"].uri, inputs["examples"].uri)
  return pictures


def _samples(task: Task, config: RunConfig, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
  rows = _choose(task, inputs["examples"].uri)
  if not rows:
    return []
  label = class_label(task)
  samples = [
    {"label": as_text(row[label]) if label else "", "augmented": [], **render_example(task, row, None)}
    for row in rows
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
    for row in rows_of(features):
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
    name: tf.constant(_stacked([row[name] for row in rows], item), DTYPES[item.dtype])
    for name, item in wanted.items()
  }
  model_inputs, targets = task.parse(outputs.transform(outputs.features_layer(), raw), config, outputs)
  if not _are_pictures(model_inputs):
    return

  def uris(images: tf.Tensor, targets: Any) -> list[str]:
    """The pictures, with their targets drawn where the task draws them: they have to be where the pixels are."""
    if not task.draw_target:
      return image_uris(images)
    rows = np.asarray(targets)
    return image_uris(images, lambda png, place: task.draw_target(png, rows[place], config, outputs))

  yield "preprocessed", uris(model_inputs, targets)
  augment = task.augment(config, outputs)
  for copy in range(AUGMENTED_COPIES if augment else 0):
    augmented, moved = augment(model_inputs, targets, tf.constant([config.seed, copy], tf.int32))
    yield "augmented", uris(augmented, moved)


def _stacked(values: list[Any], feature: Feature) -> np.ndarray:
  """One array of the examples' values; lists are filled up to the longest of them."""
  if not feature.is_list:
    return np.stack(values)
  longest = max(len(value) for value in values)
  filler = b"" if feature.dtype == "bytes" else 0
  return np.stack([np.pad(value, (0, longest - len(value)), constant_values=filler) for value in values])


def _are_pictures(inputs: Any) -> bool:
  return isinstance(inputs, tf.Tensor) and inputs.shape.rank == 4 and inputs.shape[-1] in (1, 3)
