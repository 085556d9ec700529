"""TextCounter: counts n-grams and co-occurrences of the training examples in Beam, and smooths the n-grams."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence

import apache_beam as beam
from tfx.dsl.components.base.base_beam_component import BaseBeamComponent
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.dsl.components.base.executor_spec import BeamExecutorSpec
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.channel import BaseChannel, Channel
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.utils import io_utils, path_utils

from components.config import EmbeddingsConfig, NgramConfig
from components.cooccurrence_counting import CountCooccurrences
from components.input import split_files
from components.language import TOKEN_IDS, vocabulary
from components.ngram_counting import Estimate, EstimateNgrams, WriteChunks, piece_path, read_counts
from components.progress import report_progress
from components.task import TransformOutputs, load_task
from trainers.embeddings.cooccurrence import Window
from trainers.ngram.arpa import FOOTER, header, section_title, write_arpa
from trainers.ngram.arpa_reader import read_arpa
from trainers.ngram.smoothing import Smoothing
from trainers.ngram.tables import join_pieces, save_piece, save_vocabulary

ARPA_FILE = "model.arpa"
COOCCURRENCES = "cooccurrences"


def order_dir(directory: str, order: int) -> str:
  """Where the model with n-grams of up to `order` words is, below what TextCounter wrote."""
  return os.path.join(directory, f"order-{order}")


class Executor(BaseBeamExecutor):
  """Cuts the text into chunks once, and counts in them what the configuration asks for."""

  def Do(self, input_dict: dict, output_dict: dict, exec_properties: dict) -> None:
    """Writes `model`: an ARPA file of the highest order, each order's model as arrays, the co-occurrences."""
    task, config = load_task(exec_properties["task"], exec_properties["config"])
    files = split_files(artifact_utils.get_single_uri(input_dict["transformed_examples"]), "train")
    outputs = TransformOutputs(artifact_utils.get_single_uri(input_dict["transform_graph"]))
    words = vocabulary(outputs)
    target = path_utils.serving_model_dir(artifact_utils.get_single_uri(output_dict["model"]))
    with tempfile.TemporaryDirectory(prefix="counts-", dir=exec_properties.get("work_dir")) as work_dir:
      # Put together on this machine: a remote folder takes whole files only.
      result = os.path.join(work_dir, "result")
      os.makedirs(result)
      if config.ngram and config.ngram.arpa:
        _take(config.ngram.arpa, result, words)
        estimates = []
      else:
        estimates = _estimates(config.ngram, work_dir) if config.ngram else []
      # Not every task with n-grams has word vectors.
      embeddings = getattr(config, "embeddings", None)
      if estimates or embeddings:
        self._count(files, words, estimates, embeddings, work_dir)
      for estimate in estimates:
        _finish(estimate, result, words)
      if "://" in target:
        io_utils.copy_dir(result, target)
      else:
        shutil.move(result, target)

  def _count(
    self,
    files: Sequence[str],
    words: Sequence[str],
    estimates: Sequence[Estimate],
    embeddings: EmbeddingsConfig | None,
    work_dir: str,
  ) -> None:
    with self._make_beam_pipeline() as pipeline:
      chunks = (
        pipeline
        | "Files" >> beam.Create(list(enumerate(files)), reshuffle=False)
        | "Spread" >> beam.Reshuffle()
        | "WriteChunks" >> WriteChunks(work_dir, TOKEN_IDS, len(words))
      )
      if estimates:
        _ = chunks | "Estimate" >> EstimateNgrams(estimates, words)
      if embeddings:
        near = os.path.join(work_dir, "result", COOCCURRENCES)
        os.makedirs(near)
        _ = chunks | "Near" >> CountCooccurrences(near, len(words), Window(embeddings.window))


def _estimates(settings: NgramConfig, work_dir: str) -> list[Estimate]:
  estimates = [
    Estimate(order_dir(work_dir, order), order, smoothing_of(settings, order), order == settings.order)
    for order in orders_of(settings)
  ]
  for estimate in estimates:
    os.makedirs(estimate.directory)
  return estimates


def _finish(estimate: Estimate, result: str, words: Sequence[str]) -> None:
  """Puts a model's pieces together."""
  folder, found = order_dir(result, estimate.order), read_counts(estimate.directory)
  os.makedirs(folder)
  counts = _join(estimate.directory, folder, found, words)
  if estimate.with_arpa:
    _join_arpa(estimate.directory, os.path.join(result, ARPA_FILE), found)
    shown = ", ".join(f"{count} of {number}" for number, count in enumerate(counts, 1))
    report_progress(f"n-grams by number of words: {shown}")


def _take(path: str, result: str, words: Sequence[str]) -> None:
  """Writes the model of an ARPA file as if it had been counted here.

  Raises:
    ValueError: the file's words are not the vocabulary.
  """
  model = read_arpa(path)
  if list(model.vocabulary) != list(words):
    raise ValueError(f"{path} has changed since its words became the vocabulary: run again")
  folder = order_dir(result, len(model.sections))
  os.makedirs(folder)
  for number, section in enumerate(model.sections):
    piece = os.path.join(folder, f"piece-{number}")
    save_piece(piece, section)
    join_pieces(folder, number, [piece], [len(model.sections[number - 1])] if number else [])
  save_vocabulary(folder, words)
  write_arpa(os.path.join(result, ARPA_FILE), model)


def orders_of(settings: NgramConfig) -> list[int]:
  """The orders of the models that are estimated."""
  return list(range(1 if settings.compare_orders else settings.order, settings.order + 1))


def smoothing_of(settings: NgramConfig, order: int) -> Smoothing:
  """The smoothing of the model with n-grams of up to `order` words.

  Raises:
    ValueError: cut-offs that do not go together.
  """
  return Smoothing(settings.smoothing, settings.add_k, settings.cutoffs[:order])


def _join(folder: str, target: str, counts: Sequence[Sequence[int]], words: Sequence[str]) -> list[int]:
  """Puts the arrays of all parts together; returns the numbers of n-grams of 1, 2, ... words."""
  for number in range(len(counts[0])):
    pieces = [piece_path(folder, part, number) for part in range(len(counts))]
    join_pieces(target, number, pieces, [part[number - 1] for part in counts] if number else [])
  save_vocabulary(target, words)
  return [sum(column) for column in zip(*counts, strict=True)]


def _join_arpa(folder: str, target: str, counts: Sequence[Sequence[int]]) -> None:
  """Puts the lines of all parts together."""
  with open(target, "wb") as file:
    file.write(header([sum(column) for column in zip(*counts, strict=True)]))
    for number in range(len(counts[0])):
      file.write(section_title(number))
      for part in range(len(counts)):
        with open(f"{piece_path(folder, part, number)}.arpa", "rb") as lines:
          shutil.copyfileobj(lines, file)
    file.write(FOOTER)


class TextCounterSpec(ComponentSpec):
  """What the TextCounter takes and gives."""

  PARAMETERS = {
    "task": ExecutionParameter(type=str),
    "config": ExecutionParameter(type=str),
    "work_dir": ExecutionParameter(type=str, optional=True),
  }
  INPUTS = {
    "transformed_examples": ChannelParameter(type=standard_artifacts.Examples),
    "transform_graph": ChannelParameter(type=standard_artifacts.TransformGraph),
  }
  OUTPUTS = {"model": ChannelParameter(type=standard_artifacts.Model)}


class TextCounter(BaseBeamComponent):
  """Counts and smooths n-grams of token ids, and counts which words stand near each other.

  Output `model`, which the Trainer takes as its base model: under Format-Serving, with a section "ngram", an ARPA file
  (`ARPA_FILE`) and the arrays of each order's model (`order_dir`, trainers.ngram.tables); with a section "embeddings",
  the folder `COOCCURRENCES` (components.cooccurrence_counting).

  Args:
    task: `Task.path`.
    config: JSON of the sections "ngram" and "embeddings", see `RunConfig.only`.
    examples: Transform's materialised examples, with the feature "token_ids".
    transform_graph: Transform's graph, with the vocabulary.
    work_dir: `BeamConfig.work_dir`.
  """

  SPEC_CLASS = TextCounterSpec
  EXECUTOR_SPEC = BeamExecutorSpec(Executor)

  def __init__(
    self,
    task: str,
    config: str,
    examples: BaseChannel,
    transform_graph: BaseChannel,
    work_dir: str | None = None,
  ):
    super().__init__(
      spec=TextCounterSpec(
        task=task,
        config=config,
        work_dir=work_dir,
        transformed_examples=examples,
        transform_graph=transform_graph,
        model=Channel(type=standard_artifacts.Model),
      )
    )
