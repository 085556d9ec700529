"""Answers to whole folders by Beam's RunInference: the job of TFX's BulkInferrer, on files as users have them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions

from components.config import BeamConfig
from components.task import Task, find_task
from pipeline.graph import beam_arguments
from pipeline.prediction import ServingError, list_inputs, make_folder, to_answer
from serving.export import DEFAULT_SIGNATURE
from serving.sessions.session import SavedModelSession

# Sizes that Beam chooses depend on how quick the machine was.
_BATCH_SIZE = 8
# Answers of a file: as many are in memory while they are brought into their order.
_ANSWERS_A_FILE = 256


class DefaultSignatureHandler(ModelHandler[dict[str, Any], dict[str, Any], SavedModelSession]):
  """The signature that clients ask, for RunInference: raw features of an example -> its outputs.

  Args:
    model_dir: of the SavedModel; all workers see it.
  """

  def __init__(self, model_dir: str):
    super().__init__(min_batch_size=_BATCH_SIZE, max_batch_size=_BATCH_SIZE)
    self._model_dir = model_dir

  def load_model(self) -> SavedModelSession:
    """Once in each process."""
    return SavedModelSession(self._model_dir)

  def run_inference(
    self,
    batch: Sequence[dict[str, Any]],
    model: SavedModelSession,
    inference_args: dict[str, Any] | None = None,
  ) -> Iterable[dict[str, np.ndarray]]:
    """One dict of outputs an example."""
    signature = model.signatures[DEFAULT_SIGNATURE]
    feeds = {
      info.name: np.array([features[name] for features in batch], object)
      for name, info in signature.inputs.items()
    }
    names = sorted(signature.outputs)
    values = model.run(feeds, [signature.outputs[name].name for name in names])
    return [dict(zip(names, one, strict=True)) for one in zip(*values, strict=True)]


def predict_in_bulk(
  task: Task, inputs: Sequence[str], model_dir: str, num_workers: int = 1, save_dir: str | None = None
) -> Iterator[dict[str, Any]]:
  """One answer an input, in order, as `pipeline.prediction.predict_inputs` gives them.

  Args:
    task: knows how an input is encoded and an answer is read.
    inputs: paths, or texts; a folder stands for its files.
    model_dir: a SavedModel, or a folder of numbered versions, of which the newest is taken.
    num_workers: processes.
    save_dir: directory for rendered pictures or texts; None: none are made.

  Raises:
    ServingError: there is no model, or `save_dir` cannot be made.
  """
  version = _newest_version(model_dir)
  inputs = list_inputs(task, inputs)
  if save_dir:
    make_folder(save_dir)
  options = PipelineOptions(beam_arguments(BeamConfig(num_workers=num_workers)))
  with tempfile.TemporaryDirectory(prefix="deepline-bulk-") as folder:
    with beam.Pipeline(options=options) as pipeline:
      numbered = pipeline | beam.Create(list(enumerate(inputs)), reshuffle=False) | beam.Reshuffle()
      encoded = numbered | "Encode" >> beam.Map(_encode, task.path).with_outputs("failed", main="requests")
      answers = (
        encoded.requests
        | "Infer" >> RunInference(KeyedModelHandler(DefaultSignatureHandler(version)))
        | "Decode" >> beam.Map(_decode, task.path, save_dir)
      )
      _ = (
        (answers, encoded.failed)
        | beam.Flatten()
        | "ByFile" >> beam.GroupByKey()
        | "Write" >> beam.Map(_write_answers, folder)
      )
    yield from _answers_in_order(folder, len(inputs))


def _newest_version(model_dir: str) -> str:
  if os.path.isfile(os.path.join(model_dir, "saved_model.pb")):
    return model_dir
  names = os.listdir(model_dir) if os.path.isdir(model_dir) else []
  versions = [
    int(name)
    for name in names
    if name.isdigit() and os.path.isfile(os.path.join(model_dir, name, "saved_model.pb"))
  ]
  if not versions:
    raise ServingError(f"--model_dir {model_dir}: no SavedModel there, and no numbered versions of one")
  return os.path.join(model_dir, str(max(versions)))


def _encode(numbered: tuple[int, str], task_path: str) -> Any:
  """((number, input, what was sent), what is sent), or the answer that says why nothing can be."""
  number, text = numbered
  try:
    features = find_task(task_path).encode_input(text)
  except ValueError as error:
    return beam.pvalue.TaggedOutput("failed", _numbered(number, {"input": text, "error": str(error)}))
  return (number, text, features), features


def _decode(answered: tuple[tuple, dict[str, Any]], task_path: str, save_dir: str | None) -> Any:
  (number, text, features), outputs = answered
  return _numbered(number, to_answer(find_task(task_path), number, text, features, outputs, save_dir))


def _numbered(number: int, answer: dict[str, Any]) -> tuple[int, tuple[int, str]]:
  return number // _ANSWERS_A_FILE, (number, json.dumps(answer))


def _write_answers(grouped: tuple[int, Iterable[tuple[int, str]]], folder: str) -> None:
  number, answers = grouped
  with open(_answer_file(folder, number), "w", encoding="utf-8") as file:
    file.writelines(f"{line}\n" for _, line in sorted(answers))


def _answer_file(folder: str, number: int) -> str:
  return os.path.join(folder, f"answers-{number:07d}.jsonl")


def _answers_in_order(folder: str, count: int) -> Iterator[dict[str, Any]]:
  found = 0
  for number in range(-(-count // _ANSWERS_A_FILE)):
    with open(_answer_file(folder, number), encoding="utf-8") as file:
      for line in file:
        found += 1
        yield json.loads(line)
  if found != count:
    raise RuntimeError(f"{found} of {count} answers came back; run again with --num_workers 1")
