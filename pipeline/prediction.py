"""Asks a server about inputs as users have them."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from components.task import Task
from serving.client import PredictClient, ServingError

__all__ = ["ServingError", "predict_inputs"]


def predict_inputs(
  task: Task,
  inputs: Sequence[str],
  server: str,
  model_name: str,
  timeout_s: float,
  save_dir: str | None = None,
) -> Iterator[dict[str, Any]]:
  """One answer an input, in order: {"input", "outputs"} or {"input", "error"}.

  Args:
    task: knows how an input is encoded and an answer is read.
    inputs: paths, or texts.
    server: "host:port" of a TF Serving API.
    model_name: the model's name on that server.
    timeout_s: seconds to wait for each answer.
    save_dir: directory for rendered pictures; None: none are made.

  Raises:
    ServingError: the server does not answer, or refuses the request, or `save_dir` cannot be made.
  """
  if save_dir:
    _make_folder(save_dir)
  with PredictClient(server, timeout_s) as client:
    for number, text in enumerate(inputs):
      try:
        features = task.encode_input(text)
      except ValueError as error:
        yield {"input": text, "error": str(error)}
        continue
      outputs, _ = client.predict(model_name, {name: [value] for name, value in features.items()})
      decoded = task.decode_output({name: values[0] for name, values in outputs.items()})
      answer = {"input": text, "outputs": decoded}
      if save_dir:
        path = pathlib.Path(save_dir) / f"{number:04d}_{pathlib.Path(text).stem[:60]}.png"
        path.write_bytes(task.render(features, decoded))
        answer["saved"] = str(path)
      yield answer


def _make_folder(path: str) -> None:
  try:
    pathlib.Path(path).mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise ServingError(f"--save {path}: cannot make this folder ({error.strerror})") from error
