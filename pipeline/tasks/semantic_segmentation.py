"""Semantic segmentation: pictures with a class for each pixel, as masks or COCO's polygons have it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from components.config import DataConfig, Fraction, Positive, RunConfig, Section
from components.picture_labels import IMAGE, MASK
from components.preprocessing.dense_augmentation import DenseAugmentationConfig
from components.preprocessing.image_settings import ImagePreprocessingConfig, encode_picture, pixel_inputs
from components.task import Task


class SegmentationDataConfig(DataConfig):
  """How masks are read."""

  # Names of the classes in the order of their ids. None: classes.txt, or COCO's categories after the background.
  classes: tuple[str, ...] | None = None
  # Id of pixels that belong to no class. None: there are none, and every id has to be a class's.
  void_id: Annotated[int, Field(ge=0, le=255)] | None = None
  examples_per_shard: Positive = 512


class PreprocessingConfig(ImagePreprocessingConfig):
  """How pictures and their masks are brought to one scale."""

  scaling: Literal["stretch", "pad", "crop"] = "pad"
  # Filled in from the data: `data.classes`, or what is found there.
  classes: tuple[str, ...] | Literal["auto"] = "auto"


class ModelConfig(Section):
  """Which network, and how large."""

  # "unet"; "deeplab", which has a residual network below it; or "deeplab" on a network of keras.applications.
  architecture: Literal["unet", "deeplab"] = "unet"
  # Channels of each level of the U-Net, or of each stage of the residual network.
  widths: tuple[Positive, ...] = (16, 32, 64, 128)
  dropout: Fraction = 0.0
  # Only "deeplab": its backbone, "resnet" or the name of an architecture in keras.applications.
  backbone: str = "resnet"
  blocks_per_stage: Positive = 2
  # keras.applications only: a local .weights.h5 or .keras file of its own weights.
  weights: str | None = None
  # Only "deeplab": stride in pixels of the features that the atrous pyramid looks at, its rates and its channels.
  deep_stride: Positive = 8
  rates: tuple[Positive, ...] = (2, 4, 6)
  pyramid_width: Positive = 64


class LossConfig(Section):
  """What is minimized."""

  # Weight of one minus the Dice coefficient; cross-entropy has 1.
  dice_weight: Annotated[float, Field(ge=0)] = 1.0


class SemanticSegmentationConfig(RunConfig):
  """The settings of a semantic segmentation run."""

  task: Literal["semantic_segmentation"] = "semantic_segmentation"
  data: SegmentationDataConfig = SegmentationDataConfig()
  preprocessing: PreprocessingConfig = PreprocessingConfig()
  augmentation: DenseAugmentationConfig = DenseAugmentationConfig()
  model: ModelConfig = ModelConfig()
  loss: LossConfig = LossConfig()


def read(data: SegmentationDataConfig) -> Any:
  """Reader of pictures with masks, and of COCO data sets with polygons."""
  from components.example_gen.segmentation import SegmentationReader

  return SegmentationReader(
    data.path,
    classes=data.classes,
    void_id=data.void_id,
    max_pixels=data.max_pixels,
    examples_per_chunk=data.examples_per_shard,
    validation_fraction=data.splits.validation_of_rest,
  )


def resolve(config: RunConfig) -> RunConfig:
  """Fills in the classes, and an "auto" size and number of channels from a sample of the data set's pictures."""
  from components.preprocessing.image_settings import is_resolved, with_sizes

  section = config.preprocessing
  if section.classes == "auto":
    from components.example_gen.segmentation import find_classes

    classes = config.data.classes or find_classes(config.data.path)
    section = section.model_copy(update={"classes": tuple(classes)})
  if not is_resolved(section):
    section = with_sizes(section, *read(config.data).probe())
  return config.model_copy(update={"preprocessing": section})


def preprocess(inputs: dict[str, Any], config: RunConfig) -> dict[str, Any]:
  """Pixels and class ids at one scale; see `components.segmentation`."""
  from components import segmentation

  return segmentation.preprocess(inputs, config)


def parse(features: dict[str, Any], config: RunConfig, outputs: Any) -> tuple[Any, Any]:
  """Pixels and class ids; see `components.segmentation`."""
  from components import segmentation

  return segmentation.parse(features, config, outputs)


def augment(config: RunConfig, outputs: Any) -> Any:
  """Seeded augmentation of training batches, masks included."""
  from components.preprocessing.dense_augmentation import make_dense_augment
  from components.preprocessing.dense_moves import MaskLabels

  return make_dense_augment(config.augmentation, MaskLabels())


def build_model(config: RunConfig, outputs: Any) -> Any:
  """The network, from pixels in [0, 255] to logits of each pixel."""
  from components.preprocessing.image_settings import normalize_layer

  section, model = config.preprocessing, config.model
  normalize = normalize_layer(section, outputs.sample)
  num_classes = len(section.classes)
  if model.architecture == "unet":
    from trainers.models.unet import build_unet

    return build_unet(section.shape, num_classes, normalize, model.widths, model.dropout)
  from trainers.models.deeplab import build_deeplab

  settings = model.model_dump(exclude={"architecture", "backbone"})
  return build_deeplab(section.shape, num_classes, normalize, architecture=model.backbone, **settings)


def loss(config: RunConfig) -> Any:
  """Cross-entropy and Dice."""
  from trainers.segmentation_losses import SegmentationLoss

  return SegmentationLoss(config.loss.dice_weight, config.training.label_smoothing)


def training_metrics(config: RunConfig) -> list[Any]:
  """Mean IoU at the model's scale."""
  from trainers.segmentation_losses import MeanIou

  return [MeanIou(len(config.preprocessing.classes))]


def feature_layers(config: RunConfig) -> tuple[str, ...]:
  """The deepest features and the last ones before the logits."""
  if config.model.architecture == "deeplab":
    return ("pyramid", "decoder2")
  return (f"down{len(config.model.widths) - 1}_second", "up0_second")


def predict(model: Any, inputs: Any, features: Any, config: RunConfig, outputs: Any) -> dict[str, Any]:
  """Class ids in the size of each picture that was sent."""
  from components import segmentation

  return segmentation.predict(model, inputs, features, config, outputs)


def signatures(model: Any, to_inputs: Any, config: RunConfig, outputs: Any) -> dict[str, Any]:
  """Probabilities, for those who ask for them, and what the Evaluator adds up."""
  from components import segmentation

  return segmentation.signatures(model, to_inputs, config, outputs)


def eval_config(config: RunConfig) -> Any:
  """Mean IoU, that of each class, and accuracies; slices; thresholds."""
  from components.evaluation import segmentation_eval_config

  return segmentation_eval_config(config.evaluation)


def decode_output(outputs: Mapping[str, Any]) -> dict[str, Any]:
  """The size of the mask in pixels, and the share of the pixels that each class has."""
  from components.segmentation_pictures import shares

  return {"height": int(outputs["height"]), "width": int(outputs["width"]), "shares": shares(outputs)}


def in_words(output: Mapping[str, Any]) -> str:
  """The size, and the share of each class."""
  found = ", ".join(f"{name} {share:.1%}" for name, share in output["shares"].items())
  return f"{output['width']}x{output['height']}: {found}"


def render(features: Mapping[str, Any], outputs: Mapping[str, Any] | None) -> bytes:
  """The picture with its mask laid over: the answer's, or the true one where it is known."""
  from components.segmentation_pictures import draw

  return draw(features, outputs)


def draw_target(png: bytes, target: Any, config: RunConfig, outputs: Any) -> bytes:
  """A picture as the model sees it, with the mask that it learns."""
  from components.example_gen.drawing import overlay_mask

  return overlay_mask(png, target, config.preprocessing.classes, with_legend=False)


def compare(features: Mapping[str, Any], outputs: Mapping[str, Any]) -> tuple[float, str]:
  """Mean IoU of one picture, and each class's in words."""
  from components.segmentation_pictures import compare_masks

  return compare_masks(features, outputs)


def extra_files(outputs: Mapping[str, Any]) -> dict[str, tuple[str, bytes]]:
  """The mask itself: a PNG of class ids in the picture's own size."""
  from components.segmentation_pictures import mask_file

  return {"mask": ("_mask.png", mask_file(outputs))}


def report(config: RunConfig, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
  """The classes' pixels by split, and what is taken for what."""
  from components.segmentation_report import confusion_section, pixels_section

  return [pixels_section(config, inputs), *confusion_section(config, inputs)]


TASK = Task(
  name="semantic_segmentation",
  config_class=SemanticSegmentationConfig,
  raw_features=IMAGE,
  labels=MASK,
  read=read,
  resolve=resolve,
  preprocess=preprocess,
  parse=parse,
  augment=augment,
  build_model=build_model,
  loss=loss,
  training_metrics=training_metrics,
  quality_metric="mean_iou",
  feature_layers=feature_layers,
  predict=predict,
  signatures=signatures,
  tensor_inputs=pixel_inputs,
  eval_config=eval_config,
  encode_input=encode_picture,
  decode_output=decode_output,
  render=render,
  draw_target=draw_target,
  compare=compare,
  extra_files=extra_files,
  in_words=in_words,
  report=report,
)
