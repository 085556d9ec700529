"""Asks a server about inputs as users have them."""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from components.example_gen.folder import FolderSource
from components.task import Task
from serving.client import PredictClient, ServingError
from serving.connection import TlsFiles

__all__ = ["Generation", "ServingError", "SummaryFile", "predict_inputs", "read_lines"]


@dataclasses.dataclass(frozen=True)
class Generation:
  """How text is generated; see the signature "generate"."""

  max_length: int
  temperature: float
  top_k: int
  top_p: float
  seed: int

  def inputs(self) -> dict[str, np.ndarray]:
    """As inputs of the signature, one example."""
    values = dataclasses.asdict(self)
    return {
      name: np.array([value], np.float32 if isinstance(value, float) else np.int64)
      for name, value in values.items()
    }


def read_lines(path: str) -> list[str]:
  """The lines of a file that are not blank, as inputs.

  Raises:
    ServingError: the file cannot be read, or is no UTF-8 text.
  """
  try:
    text = pathlib.Path(path).read_text(encoding="utf-8-sig")
  except (OSError, UnicodeDecodeError) as error:
    raise ServingError(f"--file {path}: {getattr(error, 'strerror', None) or error}") from error
  return [line for line in text.split("\n") if line.strip()]


def list_inputs(task: Task, inputs: Sequence[str]) -> list[str]:
  """The inputs, with the files in it in the place of each folder, sorted by name; texts are taken as they are.

  Raises:
    ServingError: a folder holds nothing, or cannot be read.
  """
  if task.raw_features.keys() == {"text"}:
    return list(inputs)
  found: list[str] = []
  for path in inputs:
    if not os.path.isdir(path):
      found.append(path)
      continue
    try:
      # What cannot be read is among them: its answer says why.
      names = [os.path.join(path, entry.name) for entry in FolderSource(path).entries()]
    except ValueError as error:
      raise ServingError(str(error)) from error
    if not names:
      raise ServingError(f"{path}: the folder holds no file")
    found += names
  return found


def predict_inputs(
  task: Task,
  inputs: Sequence[str],
  server: str,
  model_name: str,
  timeout_s: float,
  save_dir: str | None = None,
  generation: Generation | None = None,
  batch_size: int = 8,
  tls: TlsFiles | None = None,
) -> Iterator[dict[str, Any]]:
  """One answer an input, in order: {"input", "outputs"} or {"input", "error"}.

  However many inputs there are, only those of a few batches are in memory at once.

  Args:
    task: knows how an input is encoded and an answer is read.
    inputs: paths, or texts; a folder stands for its files.
    server: "host:port" of a TF Serving API.
    model_name: the model's name on that server.
    timeout_s: seconds to wait for each answer.
    save_dir: directory for rendered pictures or texts; None: none are made.
    generation: how text that goes on from each input is generated; None: it is not.
    batch_size: inputs in one request at most.
    tls: for an encrypted connection.

  Raises:
    ServingError: the server does not answer, or refuses for a reason that lies in no input, `save_dir` cannot be made,
      or the task does not generate.
  """
  if generation and not task.decode_generated:
    raise ServingError(f"--generate: {task.name} generates no text")
  inputs = list_inputs(task, inputs)
  if save_dir:
    make_folder(save_dir)
  # Read, and not answered yet: (number of the input, what is sent, or why it cannot be).
  waiting: collections.deque[tuple[int, dict[str, Any] | ValueError]] = collections.deque()
  with PredictClient(server, timeout_s, tls=tls) as client:
    for outputs in client.predict_many(model_name, _encoded(task, inputs, waiting), batch_size):
      yield from _unreadable(inputs, waiting)
      number, features = waiting.popleft()
      if isinstance(outputs, ServingError):
        yield {"input": inputs[number], "error": str(outputs)}
        continue
      answer = to_answer(task, number, inputs[number], features, outputs, save_dir)
      if generation:
        request = {name: [value] for name, value in features.items()} | generation.inputs()
        generated, _ = client.predict(model_name, request, signature_name="generate")
        answer["outputs"] |= task.decode_generated(_first(generated))
      yield answer
    yield from _unreadable(inputs, waiting)


def _encoded(task: Task, inputs: Sequence[str], waiting: collections.deque) -> Iterator[dict[str, Any]]:
  """What is sent of each input that can be read; `waiting` gets all of them."""
  for number, text in enumerate(inputs):
    try:
      features = task.encode_input(text)
    except ValueError as error:
      waiting.append((number, error))
      continue
    waiting.append((number, features))
    yield features


def _unreadable(inputs: Sequence[str], waiting: collections.deque) -> Iterator[dict[str, Any]]:
  """The answers to the inputs that come first and cannot be read."""
  while waiting and isinstance(waiting[0][1], ValueError):
    number, error = waiting.popleft()
    yield {"input": inputs[number], "error": str(error)}


def to_answer(
  task: Task,
  number: int,
  text: str,
  features: Mapping[str, Any],
  outputs: Mapping[str, Any],
  save_dir: str | None,
) -> dict[str, Any]:
  """{"input", "outputs", and where something was saved "saved"} of one example.

  Args:
    task: reads and renders the answer.
    number: of the input, from 0, with which the names of the files that are saved begin.
    text: the input, a path or a text.
    features: of the request, without the batch.
    outputs: {output name: numpy array} of the answer, without the batch.
    save_dir: a folder for files; None: none are written.

  Raises:
    ServingError: the outputs are not those of the task's models.
  """
  try:
    answer = {"input": text, "outputs": task.decode_output(outputs)}
  except KeyError as error:
    raise ServingError(
      f"the model has no output {error}, only {', '.join(sorted(outputs))}: it is none of {task.name}'s"
    ) from error
  if save_dir:
    stem = pathlib.Path(text).stem if task.raw_features.keys() != {"text"} else "text"
    path = pathlib.Path(save_dir) / f"{number:04d}_{stem[:60]}"
    answer["saved"] = _save(task.render(features, outputs), path)
    for key, (suffix, content) in (task.extra_files(outputs) if task.extra_files else {}).items():
      extra = path.with_name(path.name + suffix)
      extra.write_bytes(content)
      answer["outputs"][key] = str(extra)
  return answer


class SummaryFile:
  """Gathers answers for the file in which a task has them all together; nothing where it has none.

  Args:
    task: the application.
    save_dir: the folder; None: no file is written.
  """

  def __init__(self, task: Task, save_dir: str | None):
    self._task = task if save_dir and task.summary_file else None
    self._save_dir = save_dir
    self._answers: list[tuple[str, dict[str, Any]]] = []

  def add(self, answer: Mapping[str, Any]) -> None:
    """Takes the answer to one input, in their order; errors are left out."""
    if self._task and "outputs" in answer:
      self._answers.append((answer["input"], answer["outputs"]))

  def write(self) -> str | None:
    """Writes the file and returns its name, None where there is none."""
    if not self._task:
      return None
    name, content = self._task.summary_file(self._answers)
    path = pathlib.Path(self._save_dir) / name
    path.write_bytes(content)
    return str(path)


def _first(outputs: Mapping[str, Any]) -> dict[str, Any]:
  """What a server said of the only example of a request."""
  return {name: values[0] for name, values in outputs.items()}


def _save(rendered: bytes | str, path: pathlib.Path) -> str:
  """Writes a picture or a text, and returns the file's name."""
  if isinstance(rendered, str):
    path = path.with_name(path.name + ".txt")
    path.write_text(rendered + "\n", encoding="utf-8")
  else:
    path = path.with_name(path.name + ".png")
    path.write_bytes(rendered)
  return str(path)


def make_folder(path: str) -> None:
  """Makes the folder of --save.

  Raises:
    ServingError: it cannot be made.
  """
  try:
    pathlib.Path(path).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ServingError(f"--save {path}: cannot make this folder ({error.strerror})") from error
