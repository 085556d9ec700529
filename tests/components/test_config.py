"""Sections refuse what they do not know, and stages get what they read."""

import json

import pydantic
import pytest

from components.config import (
  CompressionConfig,
  DataConfig,
  DistillStep,
  PruneStep,
  QuantizeStep,
  RunConfig,
  ServingConfig,
  SplitFractions,
  TrainingConfig,
)
from pipeline.tasks.image_classification import TASK, ImageClassificationConfig


def test_only_hands_out_the_sections_asked_for():
  config = ImageClassificationConfig(
    seed=3,
    data={"path": "photos", "max_reject_fraction": 0.2},
    preprocessing={"height": 20},
    training={"epochs": 3},
    compression={"recipe": [{"step": "quantize"}]},
  )
  handed = json.loads(config.only("data", "training"))
  assert set(handed) == {"task", "seed", "data", "training"}
  assert handed["data"]["path"] == "photos" and handed["training"]["epochs"] == 3

  read = TASK.config_class.model_validate_json(config.only("data", "training"))
  assert isinstance(read, ImageClassificationConfig)
  assert (read.seed, read.data, read.training) == (3, config.data, config.training)
  assert read.preprocessing.height == "auto"
  assert read.compression.recipe == ()


def test_a_section_that_a_stage_does_not_read_does_not_change_its_configuration():
  config = ImageClassificationConfig(training={"epochs": 3})
  other = ImageClassificationConfig(training={"epochs": 3}, compression={"latency_calls": 5}, seed=17)
  assert config.only("data", "training") == other.only("data", "training")
  assert config.only("compression") != other.only("compression")


def test_everything_survives_a_round_trip():
  config = ImageClassificationConfig(
    compression={
      "recipe": [{"step": "prune", "pattern": "2:4"}, {"step": "distill", "student": {"widths": [8]}}]
    },
    evaluation={"min_metrics": {"accuracy": 0.5}},
  )
  assert ImageClassificationConfig.model_validate_json(config.model_dump_json()) == config


def test_the_step_says_which_settings_it_has():
  recipe = CompressionConfig(
    recipe=[
      {"step": "prune", "sparsity": 0.5},
      {"step": "distill"},
      {"step": "quantize", "formats": ["int8"]},
    ]
  ).recipe
  assert [type(step) for step in recipe] == [PruneStep, DistillStep, QuantizeStep]
  with pytest.raises(pydantic.ValidationError):
    CompressionConfig(recipe=[{"step": "quantize", "sparsity": 0.5}])
  with pytest.raises(pydantic.ValidationError):
    CompressionConfig(recipe=[{"sparsity": 0.5}])


@pytest.mark.parametrize(
  "model, values",
  [
    (RunConfig, {"task": "x", "trainig": {}}),
    (TrainingConfig, {"epoch": 3}),
    (TrainingConfig, {"epochs": 0}),
    (TrainingConfig, {"epochs": 1.5}),
    (TrainingConfig, {"learning_rate": 0}),
    (TrainingConfig, {"learning_rate": float("nan")}),
    (TrainingConfig, {"precision": "float64"}),
    (TrainingConfig, {"strategy": "multi_worker"}),
    (TrainingConfig, {"warmup_fraction": 1.1}),
    (DataConfig, {"max_reject_fraction": -0.1}),
    (DataConfig, {"examples_per_shard": 0}),
    (PruneStep, {"sparsity": 1.0}),
    (PruneStep, {"pattern": "3:4"}),
    (ServingConfig, {"warmup_requests": 1001}),
    (RunConfig, {"task": "x", "seed": 2**31}),
    (SplitFractions, {"train": 0.8, "validation": 0.1, "test": 0.2}),
    (SplitFractions, {"train": 0.9, "validation": 0.1, "test": 0.0}),
  ],
)
def test_wrong_values_are_refused(model, values):
  with pytest.raises(pydantic.ValidationError):
    model(**values)


def test_shares_of_the_splits_say_what_is_wrong_with_them():
  with pytest.raises(pydantic.ValidationError, match="train . validation . test is 1.1; make it 1"):
    SplitFractions(train=0.8, validation=0.1, test=0.2)
  with pytest.raises(pydantic.ValidationError, match="every split needs a share above 0"):
    SplitFractions(train=1.0, validation=0.0, test=0.0)
  assert SplitFractions(train=0.7, validation=0.2, test=0.1).train == 0.7


def test_values_are_fixed():
  with pytest.raises(pydantic.ValidationError):
    TrainingConfig().epochs = 3
