"""The steps that a compression recipe may name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

# Name of the step, which is also its function's, and the module that has it: imported only where it is used.
STEP_MODULES = {
  "prune": "components.compression_steps",
  "distill": "components.compression_steps",
  "quantize": "components.compression_steps",
  "prune_ngrams": "components.ngram_steps",
  "quantize_ngrams": "components.ngram_steps",
  "interpolate": "components.ngram_steps",
}


def step_function(name: str) -> Callable[[Any, Any, Any], Any]:
  """The function (Setting, Candidate, step's settings) -> Candidate of a step."""
  return getattr(importlib.import_module(STEP_MODULES[name]), name)
