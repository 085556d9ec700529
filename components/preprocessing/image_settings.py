"""How pictures are brought to one scale and normalized: the settings that all tasks on pictures share.

The command line reads this module: TensorFlow is imported inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from components.config import Positive, RunConfig, Section

# Sides that are chosen for a network of several strides are multiples of this, so that few strides leave a rest.
_SIDE_STEP_PX = 8


class ImagePreprocessingConfig(Section):
  """How pictures are brought to one scale and normalized."""

  # "auto": from the medians of the data set's pictures, at most `max_auto_side`.
  height: Positive | Literal["auto"] = "auto"
  width: Positive | Literal["auto"] = "auto"
  channels: Literal[1, 3, "auto"] = "auto"
  max_auto_side: Positive = 128
  scaling: Literal["stretch", "pad", "crop"] = "crop"
  normalization: Literal["standardize", "global_contrast", "local_contrast"] = "standardize"
  # Global contrast normalization: s, lambda and epsilon of the textbook's equation, on pixels in [0, 255].
  gcn_scale: Annotated[float, Field(gt=0)] = 1.0
  gcn_bias: Annotated[float, Field(ge=0)] = 10.0
  gcn_epsilon: Annotated[float, Field(gt=0)] = 1e-8
  # Local contrast normalization: standard deviation of the Gaussian window, and the floor of the contrast.
  lcn_window_stddev_px: Annotated[float, Field(gt=0)] = 2.0
  lcn_epsilon: Annotated[float, Field(gt=0)] = 10.0
  lcn_across_channels: bool = False

  @property
  def shape(self) -> tuple[int, int, int]:
    """Rows, columns and channels of the model's pictures."""
    return (self.height, self.width, self.channels)


def normalize_layer(section: ImagePreprocessingConfig, sample: Mapping[str, Any]) -> Any:
  """The model's first layer.

  Args:
    section: the settings.
    sample: transformed features with channel_mean and channel_stddev, see `TransformOutputs.sample`.
  """
  from components.preprocessing.image import NormalizeImages

  return NormalizeImages(
    section.normalization,
    mean=sample["channel_mean"][0],
    stddev=sample["channel_stddev"][0],
    gcn_scale=section.gcn_scale,
    gcn_bias=section.gcn_bias,
    gcn_epsilon=section.gcn_epsilon,
    lcn_window_stddev_px=section.lcn_window_stddev_px,
    lcn_epsilon=section.lcn_epsilon,
    lcn_across_channels=section.lcn_across_channels,
    name="normalize",
  )


def is_resolved(section: ImagePreprocessingConfig) -> bool:
  """Whether no size or number of channels is left "auto"."""
  return "auto" not in (section.height, section.width, section.channels)


def with_sizes(section: Any, height_px: float, width_px: float, channels: int) -> Any:
  """The settings with what is "auto" filled in: the given size, scaled down to `max_auto_side` if it is larger.

  Args:
    section: an `ImagePreprocessingConfig`.
    height_px: median height of the data set's pictures.
    width_px: their median width.
    channels: 1 or 3.
  """
  factor = min(1.0, section.max_auto_side / max(height_px, width_px))
  values = {"height": _side(height_px * factor), "width": _side(width_px * factor), "channels": channels}
  return section.model_copy(
    update={name: value for name, value in values.items() if getattr(section, name) == "auto"}
  )


def _side(length_px: float) -> int:
  return max(_SIDE_STEP_PX, round(length_px / _SIDE_STEP_PX) * _SIDE_STEP_PX)


def pixel_inputs(config: RunConfig, outputs: Any) -> dict[str, Any]:
  """Pixels at the model's own scale, for clients that decode and scale themselves; see `Task.tensor_inputs`."""
  import tensorflow as tf

  return {"pixels": tf.TensorSpec([None, *config.preprocessing.shape], tf.float32, name="pixels")}


def encode_picture(path: str) -> dict[str, Any]:
  """The bytes of a picture file, brought to a form that TensorFlow decodes as the reader does; see `Task.encode_input`.

  Raises:
    ValueError: the file is not a picture that the reader would accept.
  """
  from components.example_gen.image import clean_image_file

  return {"image": clean_image_file(path)}
