"""N-gram language model: sentences scored by counted and smoothed n-grams."""

from __future__ import annotations

from typing import Any, Literal

from components.config import NgramConfig, RunConfig, TextDataConfig
from components.language import AnswersConfig, language_task
from components.preprocessing.tokenization import TokenizationConfig


class NgramLanguageModelConfig(RunConfig):
  """The settings of an n-gram language model's run."""

  task: Literal["ngram_language_model"] = "ngram_language_model"
  data: TextDataConfig = TextDataConfig()
  preprocessing: TokenizationConfig = TokenizationConfig()
  ngram: NgramConfig = NgramConfig()
  answers: AnswersConfig = AnswersConfig()


def train(run: Any) -> tuple[Any, list[dict[str, float]]]:
  """What was counted as look-ups in tables; the models of all orders are compared on the validation split."""
  from components.counted_model import train_counted

  return train_counted(run), []


def load_model(config: RunConfig, outputs: Any, run_dir: str) -> Any:
  """The model that `train` left."""
  from components.counted_model import load_counted

  return load_counted(run_dir)


TASK = language_task(
  name="ngram_language_model",
  config_class=NgramLanguageModelConfig,
  build_model=None,
  train=train,
  load_model=load_model,
  compression_steps=("prune_ngrams", "quantize_ngrams"),
)
