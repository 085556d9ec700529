"""Asks a server about inputs as users have them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from components.task import Task
from serving.client import PredictClient, ServingError

__all__ = ["Generation", "ServingError", "predict_inputs", "read_lines"]


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


def predict_inputs(
  task: Task,
  inputs: Sequence[str],
  server: str,
  model_name: str,
  timeout_s: float,
  save_dir: str | None = None,
  generation: Generation | None = None,
) -> Iterator[dict[str, Any]]:
  """One answer an input, in order: {"input", "outputs"} or {"input", "error"}.

  Args:
    task: knows how an input is encoded and an answer is read.
    inputs: paths, or texts.
    server: "host:port" of a TF Serving API.
    model_name: the model's name on that server.
    timeout_s: seconds to wait for each answer.
    save_dir: directory for rendered pictures or texts; None: none are made.
    generation: how text that goes on from each input is generated; None: it is not.

  Raises:
    ServingError: the server does not answer, or refuses the request, `save_dir` cannot be made, or the task does not
      generate.
  """
  if generation and not task.decode_generated:
    raise ServingError(f"--generate: {task.name} generates no text")
  if save_dir:
    _make_folder(save_dir)
  with PredictClient(server, timeout_s) as client:
    for number, text in enumerate(inputs):
      try:
        features = task.encode_input(text)
      except ValueError as error:
        yield {"input": text, "error": str(error)}
        continue
      request = {name: [value] for name, value in features.items()}
      outputs = _first(client.predict(model_name, request)[0])
      decoded = task.decode_output(outputs)
      if generation:
        request |= generation.inputs()
        generated, _ = client.predict(model_name, request, signature_name="generate")
        decoded |= task.decode_generated(_first(generated))
      answer = {"input": text, "outputs": decoded}
      if save_dir:
        stem = pathlib.Path(text).stem if task.raw_features.keys() != {"text"} else "text"
        answer["saved"] = _save(
          task.render(features, decoded), pathlib.Path(save_dir) / f"{number:04d}_{stem[:60]}"
        )
      yield answer


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


def _make_folder(path: str) -> None:
  try:
    pathlib.Path(path).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ServingError(f"--save {path}: cannot make this folder ({error.strerror})") from error
