"""The settings of a run, section by section.

Every model refuses unknown keys, so that a misspelt one is an error and never a silent default. A Task may put its own
models in the place of `preprocessing`, `augmentation` and `model` by subclassing `RunConfig`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field


class Section(pydantic.BaseModel):
  """A part of the configuration: unknown keys are errors, values are fixed after validation."""

  model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class SplitFractions(Section):
  """Shares of the examples where the data set does not name its splits itself."""

  train: Fraction = 0.8
  validation: Fraction = 0.1
  test: Fraction = 0.1

  @pydantic.model_validator(mode="after")
  def _sums_to_one(self):
    total = self.train + self.validation + self.test
    if abs(total - 1) > 1e-6:
      raise ValueError(f"train + validation + test is {total:g}; make it 1")
    if min(self.train, self.validation, self.test) <= 0:
      raise ValueError("every split needs a share above 0")
    return self

  @property
  def validation_of_rest(self) -> float:
    """Validation's share of what is not test: where a data set names a test split and nothing else."""
    return self.validation / (self.train + self.validation)


class DataConfig(Section):
  """Where the raw data lies and how it is read."""

  path: str | None = None
  # "span-{SPAN}" or "span-{SPAN}/version-{VERSION}" below `path`, as in TFX's ExampleGens: the newest one is ingested.
  span_pattern: str | None = None
  # A span to ingest instead of the newest.
  span: int | None = None
  splits: SplitFractions = SplitFractions()
  max_reject_fraction: Fraction = 0.1
  # A picture of more pixels is a reject, told from its header alone: it is never decoded.
  max_pixels: Positive = 50_000_000
  # Examples a shard: also the unit of parallel work, so it does not depend on the number of workers.
  examples_per_shard: Positive = 2048


class TextDataConfig(DataConfig):
  """How text is read: one sentence or passage a line."""

  # Neighbouring lines that stay in one split; None: all lines of a file, so that whole documents are held out.
  lines_per_group: Positive | None = 50
  # A longer line is a reject.
  max_line_bytes: Positive = 1 << 14
  # Whether a line that occurred before, anywhere in the data set, is a reject.
  drop_duplicates: bool = False


class NgramConfig(Section):
  """How n-grams are counted and smoothed."""

  # Words of the longest n-grams.
  order: Annotated[int, Field(ge=1, le=6)] = 5
  smoothing: Literal["kneser_ney", "add_k", "maximum_likelihood"] = "kneser_ney"
  # What "add_k" adds to each count.
  add_k: Annotated[float, Field(gt=0)] = 0.1
  # N-grams seen at most so often are left out: one number for each length from 1 on, the last one for all longer ones.
  cutoffs: tuple[Annotated[int, Field(ge=0)], ...] = ()
  # Whether the models of all lower orders are estimated too, to compare with in the report.
  compare_orders: bool = True
  # An ARPA file made elsewhere, perhaps gzipped, in the place of what is counted here: its words are the vocabulary,
  # and the settings above are not read.
  arpa: str | None = None


class EmbeddingsConfig(Section):
  """Word vectors made before the network is trained: its first weights."""

  # Counted ("ppmi": Levy and Goldberg 2014) or trained ("skip_gram": Mikolov et al. 2013).
  method: Literal["ppmi", "skip_gram"] = "ppmi"
  # Words to either side that are near.
  window: Annotated[int, Field(ge=1, le=20)] = 5
  # Passes of "skip_gram" over the text, and the relative frequency from which it leaves words out at times; 0: never.
  epochs: Positive = 5
  subsampling: Annotated[float, Field(ge=0)] = 1e-4


class TrainingConfig(Section):
  """How the model is fitted."""

  epochs: Positive = 10
  batch_size: Positive = 128
  optimizer: Literal["adamw", "sgd"] = "adamw"
  learning_rate: Annotated[float, Field(gt=0)] = 1e-3
  warmup_fraction: Fraction = 0.1
  weight_decay: Annotated[float, Field(ge=0)] = 1e-4
  label_smoothing: Fraction = 0.0
  clip_norm: Annotated[float, Field(gt=0)] | None = None
  # Epochs without a better validation loss before training ends; 0: never ends early.
  early_stopping_patience: Annotated[int, Field(ge=0)] = 0
  shuffle_buffer: Positive = 10_000
  steps_per_execution: Positive = 10
  strategy: Literal["auto", "one_device", "mirrored", "tpu"] = "auto"
  # Logical CPU devices for "mirrored" on a machine without GPUs.
  num_logical_cpus: Positive = 1
  tpu_name: str | None = None
  precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
  jit_compile: bool = False


class PruneStep(Section):
  """Magnitude pruning with fine-tuning (Zhu and Gupta 2017, arXiv:1710.01878)."""

  step: Literal["prune"] = "prune"
  sparsity: Annotated[float, Field(gt=0, lt=1)] = 0.8
  # "2:4": two of each four neighbouring weights are zero, and `sparsity` is not read (Mishra et al. 2021,
  # arXiv:2104.08378).
  pattern: Literal["unstructured", "2:4"] = "unstructured"
  schedule: Literal["polynomial", "constant"] = "polynomial"
  epochs: Positive = 4
  learning_rate: Annotated[float, Field(gt=0)] = 5e-4
  # Weight and temperature of the soft targets that the model gives before it is pruned (see DistillStep); 0: none.
  alpha: Fraction = 0.0
  temperature: Annotated[float, Field(gt=0)] = 1.5
  # Names of layers (regular expressions) to leave dense.
  skip: tuple[str, ...] = ()
  skip_first_layer: bool = False
  skip_last_layer: bool = False
  skip_embeddings: bool = False


class DistillStep(Section):
  """A smaller student learns from the trained model (Hinton et al. 2015, arXiv:1503.02531)."""

  step: Literal["distill"] = "distill"
  # Overrides of the `model` section that make the student.
  student: dict[str, Any] = {}
  temperature: Annotated[float, Field(gt=0)] = 1.5
  # Weight of the teacher's soft targets; the labels' loss has 1 - alpha.
  alpha: Fraction = 0.6
  # Weight of the distance between the features of both, of tasks that name some; 0: only the answers are learned.
  feature_weight: Annotated[float, Field(ge=0)] = 0.0
  epochs: Positive = 10
  learning_rate: Annotated[float, Field(gt=0)] = 1e-3


class QuantizeStep(Section):
  """TFLite files beside the SavedModel; int8 is calibrated on real training examples."""

  step: Literal["quantize"] = "quantize"
  formats: tuple[Literal["int8", "float16"], ...] = ("int8", "float16")
  calibration_examples: Positive = 256


class PruneNgramsStep(Section):
  """Leaves n-grams out whose absence changes the distribution least (Stolcke 1998, arXiv:cs/0006025)."""

  step: Literal["prune_ngrams"] = "prune_ngrams"
  # Share of the n-grams that stays; None: as many as `threshold` leaves.
  keep: Annotated[float, Field(gt=0, le=1)] | None = None
  # Relative rise of the perplexity that leaving one n-gram out may cause.
  threshold: Annotated[float, Field(ge=0)] = 1e-7


class QuantizeNgramsStep(Section):
  """Probabilities and backoff weights as codes of a few bits (Federico and Bertoldi 2006)."""

  step: Literal["quantize_ngrams"] = "quantize_ngrams"
  bits: Annotated[int, Field(ge=2, le=8)] = 8


class InterpolateStep(Section):
  """Mixes the neural model with the counted n-grams; the weight is tuned on the validation split."""

  step: Literal["interpolate"] = "interpolate"


CompressionStep = Annotated[
  PruneStep | DistillStep | QuantizeStep | PruneNgramsStep | QuantizeNgramsStep | InterpolateStep,
  Field(discriminator="step"),
]


class CompressionConfig(Section):
  """The recipe: steps in the order in which they are applied to the trained model. Empty: nothing is done."""

  recipe: tuple[CompressionStep, ...] = ()
  # Calls timed for each latency percentile.
  latency_calls: Positive = 100


class EvaluationConfig(Section):
  """What the Evaluator measures and what a blessing takes."""

  # Metric name -> lowest value allowed, on the whole test split, of metrics of which more is better.
  min_metrics: dict[str, float] = {}
  # Metric name -> highest value allowed, of metrics of which less is better, such as perplexity.
  max_metrics: dict[str, float] = {}
  # Metric name -> how far the compressed model may lie below the uncompressed one, and below the last blessed one.
  max_drop: dict[str, float] = {}
  # The same for metrics of which less is better: how far it may lie above them, in the metric's own unit.
  max_rise: dict[str, float] = {}
  # Features to slice by, besides the whole: the label or any metadata column.
  slice_by: tuple[str, ...] = ()
  top_k: Positive = 3


class ServingConfig(Section):
  """What is put into the exported model, and how it is tried before it is pushed."""

  warmup_requests: Annotated[int, Field(ge=0, le=1000)] = 8
  infra_validation_requests: Positive = 16
  infra_validation_timeout_s: Positive = 600


class BeamConfig(Section):
  """How Beam runs. The number of workers never changes what is written."""

  num_workers: Positive = 1
  # Further arguments, for example --runner=DataflowRunner --project=...
  args: tuple[str, ...] = ()
  # A folder, which all workers see, for what one pass of counting leaves to the next; None: the temporary folder here.
  work_dir: str | None = None


class StageResources(Section):
  """What one stage asks of the cluster."""

  cpu_limit: Annotated[float, Field(gt=0)] | None = None
  memory_limit_gib: Annotated[float, Field(gt=0)] | None = None
  # The cluster's name of it, for example nvidia.com/gpu.
  accelerator_type: str | None = None
  accelerator_count: Positive = 1

  @pydantic.model_validator(mode="after")
  def _count_has_type(self):
    if "accelerator_count" in self.model_fields_set and not self.accelerator_type:
      raise ValueError("accelerator_count needs accelerator_type, for example nvidia.com/gpu")
    return self


class KubeflowConfig(Section):
  """Only read by `deepline compile`."""

  image: str = "deepline:latest"
  # Object store of the artifacts (gs://, s3:// or minio://); None: the cluster's default.
  pipeline_root: str | None = None
  # Claim of the volume that every pod mounts at `volume_path`: data, pushed models, checkpoints. None: no volume.
  volume_claim: str | None = "deepline"
  volume_path: str = "/deepline"
  # None: serving/ and checkpoints/ on the volume.
  serving_root: str | None = None
  checkpoint_root: str | None = None
  resources: dict[str, StageResources] = {}


class RunConfig(Section):
  """Everything a run depends on."""

  task: str
  seed: Annotated[int, Field(ge=0, lt=2**31)] = 17
  data: DataConfig = DataConfig()
  preprocessing: Section = Section()
  augmentation: Section = Section()
  model: Section = Section()
  training: TrainingConfig = TrainingConfig()
  compression: CompressionConfig = CompressionConfig()
  evaluation: EvaluationConfig = EvaluationConfig()
  serving: ServingConfig = ServingConfig()
  beam: BeamConfig = BeamConfig()
  kubeflow: KubeflowConfig = KubeflowConfig()

  def only(self, *sections: str) -> str:
    """JSON of `task`, `seed` and the named sections, the rest left at its defaults.

    A stage is handed the sections it reads and no others, so that changing one section re-runs just the stages that
    depend on it and finds the others in TFX's cache.
    """
    return self.model_dump_json(include={"task", "seed", *sections})
