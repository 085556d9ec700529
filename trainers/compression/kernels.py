"""Which variables of a model are kernels: what pruning prunes and the report counts zeros in."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import keras


@dataclasses.dataclass(frozen=True)
class Kernel:
  """A kernel or embedding table. `name` is the layer's path, with the weight's name if it is no "kernel"."""

  name: str
  layer: keras.layers.Layer
  variable: keras.Variable

  @property
  def is_embedding(self) -> bool:
    """True for a table that is looked up by row."""
    return self.variable.name.endswith("embeddings")


def all_kernels(model: keras.Model) -> list[Kernel]:
  """Every kernel and embedding table, trained or frozen, in the order of the layers, each once."""
  found = {}
  for layer in _walk(model):
    for variable in layer._trainable_variables:
      if len(variable.shape) >= 2 and variable.name.endswith(("kernel", "embeddings")):
        found.setdefault(id(variable), Kernel(weight_name(model, variable), layer, variable))
  return list(found.values())


def _walk(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
  """A layer and those inside it, depth first, in the order in which they were added."""
  yield layer
  for inner in layer._layers:
    yield from _walk(inner)


def weight_name(model: keras.Model, variable: keras.Variable) -> str:
  """Path inside the model: "conv/kernel" becomes "conv"; "lstm/cell/recurrent_kernel" stays."""
  return re.sub(r"/(kernel|embeddings)$", "", variable.path.removeprefix(f"{model.name}/"))
