"""Any architecture of keras.applications as a classifier; keras.applications names the paper of each."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import os
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

_WEIGHTS_SUFFIXES = (".keras", ".h5", ".hdf5")
# Keras's 0.99 and 0.999 are made for the many steps of ImageNet; resnet.py has the same value as here.
_NORM_MOMENTUM = 0.9


def build_application(
  architecture: str,
  input_shape: tuple[int, int, int],
  num_classes: int,
  normalize: Callable[[Any], Any],
  weights: str | None = None,
  dropout: float = 0.0,
) -> keras.Model:
  """A keras.applications network without its top, global average pooling, and a dense layer of logits.

  Args:
    architecture: name in keras.applications, for example "MobileNetV2".
    input_shape: rows, columns and channels (1 or 3) of the pictures.
    num_classes: number of logits.
    normalize: layer applied to the raw pixels first, so that the model takes pixels in [0, 255]; the
      network's own preprocessing is then taken out. With `weights` it is the other way round: they only mean
      something together with the preprocessing that they were learned with, so that one is applied instead.
    weights: local file of the architecture's own weights, with or without its top: .weights.h5 or .keras, or
      the .h5 in which ImageNet's weights are given away. Grey pictures are then repeated to the 3 channels
      that it expects. For EfficientNet B0 to B7 it holds the statistics of the normalization layer, too.
    dropout: rate before the last layer.

  Returns:
    A model from float32 [batch, rows, columns, channels] to float32 logits [batch, num_classes]. It is flat:
    the network's layers are the model's own.

  Raises:
    ValueError: one line; no such architecture, pictures too small for it, or a file that is missing or does
      not fit.
  """
  inputs = keras.Input(input_shape, name="pixels")
  backbone = _backbone(architecture, inputs, normalize, weights)
  x = layers.GlobalAveragePooling2D(name="head_pool")(backbone.output)
  if dropout:
    x = layers.Dropout(dropout, name="head_dropout")(x)
  # float32 whatever the precision policy: the loss is sensitive to small logits.
  logits = layers.Dense(num_classes, dtype="float32", name="logits")(x)
  return keras.Model(inputs, logits, name=architecture.lower())


def backbone_features(
  architecture: str, inputs: Any, normalize: Callable[[Any], Any], weights: str | None = None
) -> dict[int, Any]:
  """Features of a keras.applications network by their stride: for each the last layer that has it.

  Args:
    architecture: name in keras.applications.
    inputs: symbolic pixels [batch, rows, columns, 1 or 3] in [0, 255].
    normalize: see `build_application`.
    weights: see `build_application`.

  Returns:
    {stride in pixels: symbolic features [batch, rows / stride, columns / stride, channels]}, the finest first. Sides
    are rounded up: features of networks that cut borders off are not among them.

  Raises:
    ValueError: as `build_application`.
  """
  backbone = _backbone(architecture, inputs, normalize, weights)
  rows, columns = inputs.shape[1:3]
  # Strides beyond the picture leave one row and column, too: the smallest of them is meant.
  strides = [2**power for power in range(max(rows, columns).bit_length(), -1, -1)]
  by_size = {(math.ceil(rows / stride), math.ceil(columns / stride)): stride for stride in strides}
  smallest = backbone.output.shape[1:3]
  found = {}
  for layer in backbone.layers:
    shape = layer.output.shape if isinstance(layer.output, keras.KerasTensor) else ()
    # A border can bring features to the size of a finer stride.
    if len(shape) == 4 and not isinstance(layer, layers.ZeroPadding2D):
      # What is smaller than the network's output is a gate of squeeze-and-excitation, 1x1 whatever the stride.
      is_gate = shape[1] < smallest[0] or shape[2] < smallest[1]
      if tuple(shape[1:3]) in by_size and not is_gate:
        found[by_size[tuple(shape[1:3])]] = layer.output
  return dict(sorted(found.items()))


def _backbone(
  architecture: str, inputs: Any, normalize: Callable[[Any], Any], weights: str | None
) -> keras.Model:
  """The network without its top, from `inputs` on, its weights loaded where there are any."""
  constructor = _find_constructor(architecture)
  input_shape = inputs.shape[1:]
  if weights:
    x = inputs if input_shape[-1] == 3 else layers.Concatenate(name="grey_to_rgb")([inputs] * 3)
    x = OwnPreprocessing(architecture, name="own_preprocessing")(x)
  else:
    x = normalize(inputs)
    if _always_divides_by_255(constructor):
      x = layers.Rescaling(255.0, name="undo_rescaling")(x)

  backbone = _build_backbone(constructor, x, keeps_preprocessing=bool(weights))
  if weights:
    # From the preprocessed pixels on: this part has the layers of the file, in the file's order.
    _load_weights(keras.Model(x, backbone.output), architecture, weights)
  for layer in backbone.layers:
    if isinstance(layer, layers.BatchNormalization):
      layer.momentum = min(layer.momentum, _NORM_MOMENTUM)
  return backbone


@keras.saving.register_keras_serializable(package="deepline")
class OwnPreprocessing(layers.Layer):
  """What the architecture's authors did to pixels in [0, 255]: `preprocess_input` of its module, in float32.

  Args:
    architecture: name in keras.applications.
    **kwargs: of keras.layers.Layer.
  """

  def __init__(self, architecture: str, **kwargs: Any):
    # Keras would cast the input to the compute dtype, and float16 or bfloat16 pixels lose digits.
    super().__init__(autocast=False, **kwargs)
    self.architecture = architecture
    module = importlib.import_module(_find_constructor(architecture).__module__)
    self._preprocess = module.preprocess_input

  def call(self, pixels: Any) -> Any:
    """float [batch, rows, columns, 3] in [0, 255] -> same shape, in the policy's compute dtype."""
    preprocessed = self._preprocess(keras.ops.cast(pixels, "float32"), data_format="channels_last")
    return keras.ops.cast(preprocessed, self.compute_dtype)

  def compute_output_shape(self, input_shape: Any) -> Any:
    """The input's shape."""
    return input_shape

  def get_config(self) -> dict[str, Any]:
    """All constructor arguments, as plain values."""
    return {**super().get_config(), "architecture": self.architecture}


def _find_constructor(architecture: str) -> Callable[..., keras.Model]:
  """The function of keras.applications that builds an architecture."""
  known = {
    name: value
    for name, value in vars(keras.applications).items()
    if inspect.isfunction(value) and "include_top" in inspect.signature(value).parameters
  }
  if architecture in known:
    return known[architecture]
  by_lower_case = {name.lower(): name for name in (*known, "resnet")}
  close = difflib.get_close_matches(architecture.lower(), by_lower_case, n=3, cutoff=0.6)
  names = " or ".join(by_lower_case[name] for name in close)
  hint = (
    f"did you mean {names}?" if names else "use resnet, or a name from keras.applications, like MobileNetV2"
  )
  raise ValueError(f"model.architecture={architecture!r}: no such architecture; {hint}")


def _always_divides_by_255(constructor: Callable[..., keras.Model]) -> bool:
  """EfficientNet B0 to B7 have their rescaling built in; in the others it can be left out or is not there."""
  return constructor.__module__.endswith(".efficientnet")


def _build_backbone(
  constructor: Callable[..., keras.Model], x: Any, keeps_preprocessing: bool
) -> keras.Model:
  options = {}
  if "include_preprocessing" in inspect.signature(constructor).parameters:
    options["include_preprocessing"] = keeps_preprocessing
  try:
    return constructor(include_top=False, weights=None, input_tensor=x, input_shape=x.shape[1:], **options)
  except ValueError as error:
    rows, columns = x.shape[1:3]
    raise ValueError(
      f"model.architecture={constructor.__name__} does not take pictures of {rows}x{columns}: "
      f"{_first_line(error)}; set preprocessing.height and preprocessing.width"
    ) from error


def _load_weights(backbone: keras.Model, architecture: str, path: str) -> None:
  if not path.endswith(_WEIGHTS_SUFFIXES):
    raise ValueError(f"model.weights={path}: name a .weights.h5, .keras or .h5 file")
  if not os.path.isfile(path):
    raise ValueError(f"model.weights={path}: no such file")
  try:
    backbone.load_weights(path)
  except Exception as error:  # h5py, zipfile and Keras raise whatever they do for a file that is not theirs
    raise ValueError(f"model.weights={path}: not weights of {architecture} ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
  lines = str(error).strip().splitlines()
  return lines[0] if lines else type(error).__name__
