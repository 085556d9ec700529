"""Steps of a compression recipe that work on n-grams."""

from __future__ import annotations

import time

from components.compression_steps import Candidate, Setting, measured
from components.config import InterpolateStep, PruneNgramsStep, QuantizeNgramsStep
from components.counted_model import load_counted
from components.input import eval_dataset
from components.language import vocabulary
from components.progress import report_progress
from trainers.models.interpolated import InterpolatedModel
from trainers.models.ngram import NgramModel
from trainers.ngram.pruning import prune, prune_to


def prune_ngrams(setting: Setting, candidate: Candidate, step: PruneNgramsStep) -> Candidate:
  """Leaves out what hardly changes the distribution."""
  started = time.monotonic()
  counted = candidate.model.to_backoff_model(vocabulary(setting.outputs))
  if step.keep is None:
    pruned = prune(counted, step.threshold)
  else:
    pruned = prune_to(counted, round(step.keep * sum(len(section) for section in counted.sections)))
  model = NgramModel.from_backoff_model(pruned)
  return measured(setting, candidate, step.step, candidate.config, model, started)


def quantize_ngrams(setting: Setting, candidate: Candidate, step: QuantizeNgramsStep) -> Candidate:
  """Keeps codes of a few bits in the place of logarithms."""
  started = time.monotonic()
  model = candidate.model.quantized(step.bits)
  return measured(setting, candidate, step.step, candidate.config, model, started)


def interpolate(setting: Setting, candidate: Candidate, step: InterpolateStep) -> Candidate:
  """Mixes the candidate with the counted n-grams."""
  started = time.monotonic()
  model = InterpolatedModel(candidate.model, load_counted(setting.run_dir), name="interpolated")
  validation = eval_dataset(setting.task, candidate.config, setting.outputs, setting.validation_files)
  weight = model.tune(token_ids for token_ids, _ in validation)
  report_progress(f"{step.step}: weight of the neural model {weight:.3f}")
  return measured(setting, candidate, step.step, candidate.config, model, started)
