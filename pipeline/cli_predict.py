"""`deepline predict`."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Annotated, Any

import typer

from pipeline.cli_options import EXIT_DONE, EXIT_FAILED, Debug, Json, TaskName, UserError, task_named


def predict(
  task_name: TaskName,
  inputs: Annotated[
    list[str] | None,
    typer.Argument(metavar="INPUT...", help="Files, or texts for text tasks.", show_default=False),
  ] = None,
  server: Annotated[str, typer.Option("--server", metavar="HOST:PORT")] = "localhost:8500",
  model_name: Annotated[
    str | None, typer.Option("--model_name", help="Default: the task's name.", show_default=False)
  ] = None,
  file: Annotated[str | None, typer.Option("--file", metavar="F", help="Inputs, one a line.")] = None,
  save: Annotated[
    str | None, typer.Option("--save", metavar="DIR", help="Write rendered pictures or texts.")
  ] = None,
  generate: Annotated[
    bool, typer.Option("--generate", help="Also generate text that goes on from INPUT.")
  ] = False,
  max_length: Annotated[int, typer.Option("--max_length", min=1, help="Tokens generated at most.")] = 40,
  temperature: Annotated[
    float, typer.Option("--temperature", min=0, help="0: always the likeliest token.")
  ] = 1.0,
  top_k: Annotated[
    int, typer.Option("--top_k", min=0, help="Draw from the k likeliest tokens; 0: from all.")
  ] = 0,
  top_p: Annotated[
    float,
    typer.Option("--top_p", min=0, max=1, help="Draw from the likeliest tokens of this share; 1: from all."),
  ] = 1.0,
  seed: Annotated[int, typer.Option("--seed", help="The same seed generates the same text.")] = 17,
  bulk: Annotated[
    bool, typer.Option("--bulk", help="Answer with Beam and the model's files, without a server.")
  ] = False,
  model_dir: Annotated[
    str | None,
    typer.Option(
      "--model_dir",
      metavar="DIR",
      help="With --bulk: a SavedModel, or numbered ones. Default: runs/TASK/serving/TASK.",
      show_default=False,
    ),
  ] = None,
  num_workers: Annotated[int, typer.Option("--num_workers", min=1, help="Processes of --bulk.")] = 1,
  batch_size: Annotated[
    int, typer.Option("--batch_size", min=1, help="Inputs sent to the server at once.")
  ] = 8,
  tls: Annotated[bool, typer.Option("--tls", help="Encrypt; the system's authorities are trusted.")] = False,
  tls_ca: Annotated[
    str | None, typer.Option("--tls_ca", metavar="PEM", help="Encrypt; these authorities are trusted.")
  ] = None,
  tls_cert: Annotated[
    str | None, typer.Option("--tls_cert", metavar="PEM", help="For a server that asks for a certificate.")
  ] = None,
  tls_key: Annotated[str | None, typer.Option("--tls_key", metavar="PEM", help="Its key.")] = None,
  timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait for an answer.")] = 30,
  as_json: Json = False,
  debug: Debug = False,
) -> None:
  """Ask a server about files, folders or texts, one line each, in their order."""
  del debug
  task = task_named(task_name)
  if not inputs and not file:
    raise UserError("nothing to ask about: give INPUT... or --file F")
  from pipeline.prediction import Generation, ServingError, SummaryFile, predict_inputs, read_lines
  from serving.connection import TlsFiles

  failed = False
  generation = Generation(max_length, temperature, top_k, top_p, seed) if generate else None
  if bulk and generation:
    raise UserError("--generate needs a server: leave --bulk out")
  try:
    asked = [*(inputs or []), *(read_lines(file) if file else [])]
    if bulk:
      from pipeline.bulk_prediction import predict_in_bulk

      # Beam warns of what it cannot measure of a worker's memory.
      logging.getLogger().setLevel(logging.ERROR)
      folder = model_dir or os.path.join("runs", task.name, "serving", task.name)
      answers = predict_in_bulk(task, asked, folder, num_workers, save)
    else:
      name = model_name or task.name
      files = TlsFiles(tls_ca, tls_cert, tls_key) if tls or tls_ca or tls_cert or tls_key else None
      answers = predict_inputs(task, asked, server, name, timeout_s, save, generation, batch_size, files)
    summary = SummaryFile(task, save)
    for answer in answers:
      failed |= "error" in answer
      summary.add(answer)
      print(json.dumps(answer) if as_json else _answer_line(task, answer), flush=True)
    if written := summary.write():
      print(f"wrote {written}", file=sys.stderr)
  except ServingError as error:
    raise UserError(str(error), EXIT_FAILED) from error
  sys.exit(EXIT_FAILED if failed else EXIT_DONE)


def _answer_line(task: Any, answer: dict[str, Any]) -> str:
  if "error" in answer:
    return f"{answer['input']}: error: {answer['error']}"
  if task.in_words:
    return f"{answer['input']}: {task.in_words(answer['outputs'])}"
  shown = [
    f"{value:.3f}" if isinstance(value, float) else str(value)
    for value in answer["outputs"].values()
    if not isinstance(value, (dict, list))
  ]
  return f"{answer['input']}: {' '.join(shown)}"
