"""The Task contract: the one place where an application is added.

A Task is a frozen dataclass of module-level callables (Beam pickles them). Stages receive its dotted path and find it
again in whatever process they run in; they know nothing else about the application.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol

from components.config import RunConfig

SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Feature:
  """One column of the raw examples: "bytes", "int64" or "float32".

  An empty shape is one value an example, and (None,) a list whose length varies, which may be empty.
  """

  dtype: str
  shape: tuple[int | None, ...] = ()

  @property
  def is_list(self) -> bool:
    """Whether the number of values varies."""
    return self.shape == (None,)


@dataclasses.dataclass(frozen=True)
class Row:
  """One raw example as a reader yields it.

  `key` is the example's own name, unique in the data set; rows of one `group` never straddle splits; `split` is set
  where the data set names its splits itself. `features` holds bytes, str, int, float or a list of one of them.
  """

  key: str
  features: Mapping[str, Any]
  group: str | None = None
  split: str | None = None


@dataclasses.dataclass(frozen=True)
class Reject:
  """Something that was read and is not among the examples, with the reason in words for its owner."""

  path: str
  reason: str


class Reader(Protocol):
  """Raw data as it lies. `chunks` names the pieces of work, `read` does one of them in any process."""

  def chunks(self) -> Iterable[Any]:
    """Yields picklable pieces of work, always in the same order, whatever the number of workers."""

  def read(self, chunk: Any) -> Iterator[Row | Reject]:
    """Yields a Row or a Reject for every item of the chunk; never raises for bad data."""


@dataclasses.dataclass(frozen=True)
class Task:
  """One application of deep learning. See README.md, "Add a task"."""

  name: str
  # The RunConfig subclass that holds this task's preprocessing, augmentation and model sections.
  config_class: type[RunConfig]
  # What clients send, and what only the training data has.
  raw_features: Mapping[str, Feature]
  labels: Mapping[str, Feature]
  # (data section) -> Reader
  read: Callable[[Any], Reader]
  # (config) -> config, with everything left "auto" filled in by a look at the data. Runs before the graph is built.
  resolve: Callable[[RunConfig], RunConfig]
  # (raw tensors, config) -> tensors that tf.Example can hold (bytes, int64, float32); tf.Transform analyzers allowed.
  preprocess: Callable[[Mapping[str, Any], RunConfig], dict[str, Any]]
  # (transformed features, config, TransformOutputs) -> (model inputs, targets, None where the features hold no label);
  # TensorFlow ops on batches, in training and in serving alike.
  parse: Callable[[Mapping[str, Any], RunConfig, Any], tuple[Any, Any]]
  # (config, TransformOutputs) -> fn(inputs, targets, seed int32 [2]) -> (inputs, targets) on training batches; or None.
  augment: Callable[[RunConfig, Any], Callable | None]
  # (config, TransformOutputs) -> keras.Model, not compiled; None where `train` and `load_model` do without.
  build_model: Callable[[RunConfig, Any], Any] | None
  # (config) -> keras.losses.Loss on (targets, the model's output); (config) -> list of keras.metrics.Metric.
  loss: Callable[[RunConfig], Any]
  training_metrics: Callable[[RunConfig], list]
  # The metric by which two models of this task compare, of `quality_metrics` where there are any, in Keras's own name.
  quality_metric: str
  # (model, model inputs, the transformed features behind them or {} where the client sent model inputs, config,
  # TransformOutputs) -> {output name: tensor}: what a served signature answers.
  predict: Callable[[Any, Any, Mapping[str, Any], RunConfig, Any], dict[str, Any]]
  # (config, TransformOutputs) -> {name: tf.TensorSpec} of the signature that takes the model's own input tensors.
  tensor_inputs: Callable[[RunConfig, Any], dict[str, Any]]
  # (config) -> tfma.EvalConfig of the test split; the candidate against a baseline.
  eval_config: Callable[[RunConfig], Any]
  # (path or text) -> {input name: value} of one serving request, cleaned the same way as the reader cleans.
  encode_input: Callable[[str], dict[str, Any]]
  # ({output name: numpy array of one example}) -> the JSON object that `deepline predict` prints.
  decode_output: Callable[[Mapping[str, Any]], dict[str, Any]]
  # (raw features of one example, in the report its labels too; {output name: numpy array of it} or None) -> PNG bytes
  # or text for the report and `predict --save`.
  render: Callable[[Mapping[str, Any], Mapping[str, Any] | None], bytes | str]
  # (config, TransformOutputs) -> metrics of compressed models on (targets, the model's output), with Keras's methods
  # update_state and result and a name; they run outside of graphs. None: `training_metrics`.
  quality_metrics: Callable[[RunConfig, Any], list] | None = None
  # Whether of two models the one with the lower `quality_metric` is better.
  lower_is_better: bool = False
  # (components.trainer.TrainingRun) -> (model, one dict an epoch). None: gradient descent on `build_model`'s model.
  train: Callable[[Any], tuple[Any, list[dict[str, float]]]] | None = None
  # (config, TransformOutputs, directory of the training run) -> the trained keras.Model. None: `build_model`'s model
  # with the weights that gradient descent left.
  load_model: Callable[[RunConfig, Any, str], Any] | None = None
  # (model, model inputs, training=...) -> logits [..., classes] by which a student learns; None: the model's output.
  logits: Callable[..., Any] | None = None
  # (temperature) -> keras.losses.Loss on (the teacher's output, the student's) where these are no logits of classes
  # that exclude each other; None: the divergence of their softmax.
  soft_loss: Callable[[float], Any] | None = None
  # (config) -> names of the layers whose outputs a student may imitate; None: there are none.
  feature_layers: Callable[[RunConfig], tuple[str, ...]] | None = None
  # Steps that a compression recipe of this task may have.
  compression_steps: tuple[str, ...] = ("prune", "distill", "quantize")
  # Transformed feature whose length varies: training batches then hold examples of about the same length.
  length_feature: str | None = None
  # (model, function from raw features as keywords to (model inputs, transformed features), config, TransformOutputs) ->
  # {name: (function of keyword tensors -> {output name: tensor}, {input name: tf.TensorSpec})}: further signatures.
  signatures: Callable[[Any, Callable, RunConfig, Any], dict[str, tuple[Callable, dict[str, Any]]]] | None = (
    None
  )
  # ({output name: numpy array of one example}) -> JSON object, for `predict --generate`; the signature is "generate".
  decode_generated: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None
  # (raw features and labels of one example, {output name: numpy array of it}) -> (how good the answer is, in [0, 1];
  # what is wrong with it, in words). None: the report shows the first answers and not the worst.
  compare: Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[float, str]] | None = None
  # (PNG of a model's input, its target, config, TransformOutputs) -> PNG with the target drawn; None: it has no place.
  draw_target: Callable[[bytes, Any, RunConfig, Any], bytes] | None = None
  # (decoded output) -> it in a few words, for people; None: its plain values, one after the other.
  in_words: Callable[[Mapping[str, Any]], str] | None = None
  # ({output name: numpy array of one example}) -> {key of the decoded output: (file suffix, bytes)}: what `predict
  # --save` writes beside the rendered picture; the files' paths are added to the decoded output.
  extra_files: Callable[[Mapping[str, Any]], dict[str, tuple[str, bytes]]] | None = None
  # ([(input, decoded output)]) -> (file name, bytes): all answers of `predict --save` in the field's own format.
  summary_file: Callable[[Any], tuple[str, bytes]] | None = None
  # (config, {input name of the Report component: artifact}) -> sections of the task's own; see components/report.
  report: Callable[[RunConfig, Mapping[str, Any]], list[dict[str, Any]]] | None = None
  # (config, TransformOutputs) -> fn(transformed features of a batch, seeds int32 [batch, 2]) -> the features
  # that change, dense, each example by its own seed alone; or None. For copies made before training.
  augment_example: Callable[[RunConfig, Any], Callable | None] | None = None

  @property
  def path(self) -> str:
    """Dotted path by which a stage finds this task in another process."""
    return f"pipeline.tasks.{self.name}:TASK"


def find_task(path: str) -> Task:
  """The task of a `Task.path`."""
  module, attribute = path.split(":")
  return getattr(importlib.import_module(module), attribute)


def load_task(path: str, config_json: str) -> tuple[Task, RunConfig]:
  """Finds a task by `Task.path` and reads the configuration it was given as JSON (see `RunConfig.only`)."""
  task = find_task(path)
  return task, task.config_class.model_validate_json(config_json)


class TransformOutputs:
  """What the Transform stage learned: its graph, vocabularies and one transformed batch.

  Args:
    uri: directory of TFX's TransformGraph artifact.
    sample: transformed features of a few examples, {name: numpy array [batch, ...]}; the values that analyzers found
      (means, variances) are columns of it.
  """

  def __init__(self, uri: str, sample: Mapping[str, Any] | None = None):
    import tensorflow_transform as tft

    self.uri = uri
    self.sample = sample or {}
    self._output = tft.TFTransformOutput(uri)

  def vocabulary(self, name: str) -> list[str]:
    """The vocabulary's entries in the order of their ids."""
    return [entry.decode("utf-8") for entry in self._output.vocabulary_by_name(name)]

  def transformed_feature_spec(self) -> dict[str, Any]:
    """Parsing spec of the materialised examples."""
    return self._output.transformed_feature_spec()

  def raw_feature_spec(self) -> dict[str, Any]:
    """Parsing spec of the raw examples, labels included."""
    return self._output.raw_feature_spec()

  def features_layer(self) -> Any:
    """The graph as a layer, which a SavedModel has to track. Call it through `transform`."""
    return self._output.transform_features_layer()

  def transform(self, layer: Any, features: Mapping[str, Any]) -> dict[str, Any]:
    """Raw tensors -> transformed tensors; labels may be missing.

    Args:
      layer: what `features_layer` returned.
      features: {raw feature: tensor [batch, *Feature.shape]}; brought to the shapes that the inferred schema has, where
        one value an example is a column of one and lists of varying length are sparse.
    """
    import tensorflow as tf

    spec = self.raw_feature_spec()
    found = {}
    for name, value in features.items():
      if isinstance(spec[name], tf.io.VarLenFeature):
        everywhere = tf.where(tf.ones_like(value, tf.bool))
        shape = tf.shape(value, tf.int64)
        found[name] = tf.SparseTensor(everywhere, tf.reshape(value, [-1]), shape)
      else:
        found[name] = tf.reshape(value, [-1, *spec[name].shape])
    return layer(found)
