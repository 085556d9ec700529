"""Finds the model that is to be beaten: the newest one that passed every check before the present candidate."""

from __future__ import annotations

from tfx import types
from tfx.dsl.components.common import resolver


class LastBlessedStrategy(resolver.ResolverStrategy):
  """Chooses among all models of the pipeline.

  Channels: `candidate`, the model under test; `model`, all models; `blessing`, all InfraBlessings of ours, which
  decline models that an Evaluator has refused. The candidate itself and everything after it are left out: a run that
  is repeated unchanged then resolves the same baseline and is found in the cache.
  """

  def resolve_artifacts(
    self, store: object, input_dict: dict[str, list[types.Artifact]]
  ) -> dict[str, list[types.Artifact]]:
    del store
    candidates = [artifact.id for artifact in input_dict["candidate"]]
    blessed = {
      blessing.get_int_custom_property("current_model_id"): blessing
      for blessing in input_dict["blessing"]
      if blessing.get_int_custom_property("blessed") == 1
    }
    models = [
      model
      for model in input_dict["model"]
      if model.id in blessed and candidates and model.id < min(candidates)
    ]
    best = max(models, key=lambda model: model.id, default=None)
    return {
      "candidate": input_dict["candidate"],
      "model": [best] if best else [],
      "blessing": [blessed[best.id]] if best else [],
    }
