"""Object detection: pictures with boxes around objects, as COCO, Pascal VOC or YOLO have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from components.config import DataConfig, Fraction, Positive, RunConfig, Section
from components.picture_labels import BOXES, IMAGE
from components.preprocessing.dense_augmentation import DenseAugmentationConfig
from components.preprocessing.image_settings import ImagePreprocessingConfig, encode_picture, pixel_inputs
from components.task import Task


class DetectionDataConfig(DataConfig):
  """How boxes are read."""

  # Names of the classes; boxes of others are rejects. None: all that occur, or that the data set declares.
  classes: tuple[str, ...] | None = None
  # Whether boxes that stick out of their picture are cut off at its borders; if not, they are rejects.
  clip_boxes: bool = False
  examples_per_shard: Positive = 512


class PreprocessingConfig(ImagePreprocessingConfig):
  """How pictures and their boxes are brought to one scale."""

  max_auto_side: Positive = 320
  scaling: Literal["stretch", "pad", "crop"] = "pad"
  # Boxes that a picture is trained with at most, the largest ones; all of them are evaluated.
  max_boxes: Positive = 100
  # A box of which less is left is not trained with: "crop" cuts some off.
  min_visible: Annotated[float, Field(gt=0, le=1)] = 0.3


class ModelConfig(Section):
  """Which network, and how large."""

  # "resnet", or the name of any architecture in keras.applications, for example "MobileNetV2".
  architecture: str = "resnet"
  # The residual network: channels of each stage, and blocks in each.
  widths: tuple[Positive, ...] = (48, 96, 192)
  blocks_per_stage: Positive = 2
  # keras.applications only: a local .weights.h5 or .keras file of its own weights.
  weights: str | None = None
  # Of the feature pyramid's levels, in pixels, each twice the one before.
  strides: Annotated[tuple[Positive, ...], Field(min_length=1)] = (8, 16, 32)
  pyramid_width: Positive = 64
  head_convolutions: Annotated[int, Field(ge=0)] = 2


class DetectionConfig(Section):
  """What the served model answers."""

  max_detections: Annotated[int, Field(ge=1, le=1000)] = 100
  score_threshold: Fraction = 0.02
  # Of two boxes of one class that overlap more (intersection over union) the better one stays.
  iou_threshold: Fraction = 0.6


class ObjectDetectionConfig(RunConfig):
  """The settings of an object detection run."""

  task: Literal["object_detection"] = "object_detection"
  data: DetectionDataConfig = DetectionDataConfig()
  preprocessing: PreprocessingConfig = PreprocessingConfig()
  augmentation: DenseAugmentationConfig = DenseAugmentationConfig()
  model: ModelConfig = ModelConfig()
  detection: DetectionConfig = DetectionConfig()


def read(data: DetectionDataConfig) -> Any:
  """Reader of COCO, Pascal VOC and YOLO data sets."""
  from components.example_gen.detection import DetectionReader

  return DetectionReader(
    data.path,
    classes=data.classes,
    clip_boxes=data.clip_boxes,
    max_pixels=data.max_pixels,
    examples_per_chunk=data.examples_per_shard,
    validation_fraction=data.splits.validation_of_rest,
  )


def resolve(config: RunConfig) -> RunConfig:
  """Fills an "auto" height, width and number of channels from a sample of the data set's pictures."""
  from components.preprocessing.image_settings import is_resolved, with_sizes

  section = config.preprocessing
  for finer, stride in zip(config.model.strides, config.model.strides[1:], strict=False):
    if stride != 2 * finer:
      raise ValueError(f"model.strides={list(config.model.strides)}: each has to be twice the one before")
  if is_resolved(section):
    return config
  return config.model_copy(update={"preprocessing": with_sizes(section, *read(config.data).probe())})


def preprocess(inputs: dict[str, Any], config: RunConfig) -> dict[str, Any]:
  """Pixels and boxes at one scale; see `components.detection`."""
  from components import detection

  return detection.preprocess(inputs, config)


def parse(features: dict[str, Any], config: RunConfig, outputs: Any) -> tuple[Any, Any]:
  """Pixels and targets; see `components.detection`."""
  from components import detection

  return detection.parse(features, config, outputs)


def augment(config: RunConfig, outputs: Any) -> Any:
  """Seeded augmentation of training batches, boxes included."""
  from components.preprocessing.dense_augmentation import make_dense_augment
  from components.preprocessing.dense_moves import BoxLabels

  return make_dense_augment(config.augmentation, BoxLabels(config.augmentation.min_visible))


def build_model(config: RunConfig, outputs: Any) -> Any:
  """FCOS, from pixels in [0, 255] to what it says of each location."""
  from components.detection import VOCABULARY_NAME
  from components.preprocessing.image_settings import normalize_layer
  from trainers.models.fcos import build_fcos

  section = config.preprocessing
  normalize = normalize_layer(section, outputs.sample)
  num_classes = len(outputs.vocabulary(VOCABULARY_NAME))
  return build_fcos(section.shape, num_classes, normalize, **config.model.model_dump())


def loss(config: RunConfig) -> Any:
  """Focal loss, GIoU loss and centerness."""
  from trainers.detection_losses import FcosLoss

  section = config.preprocessing
  return FcosLoss(section.height, section.width, config.model.strides)


def training_metrics(config: RunConfig) -> list[Any]:
  """None: mean average precision takes non-maximum suppression, which is no part of training."""
  return []


def quality_metrics(config: RunConfig, outputs: Any) -> list[Any]:
  """COCO's mean average precision, in pixels of the model's own pictures."""
  from components.detection_quality import MeanAveragePrecision

  return [MeanAveragePrecision(config)]


def soft_loss(temperature: float) -> Any:
  """How far a student's classes, boxes and centerness are from the teacher's."""
  from trainers.detection_losses import SoftDetectionLoss

  return SoftDetectionLoss(temperature)


def feature_layers(config: RunConfig) -> tuple[str, ...]:
  """The levels of the pyramid."""
  return tuple(f"pyramid_{stride}" for stride in config.model.strides)


def predict(model: Any, inputs: Any, features: Any, config: RunConfig, outputs: Any) -> dict[str, Any]:
  """Boxes after class-wise non-maximum suppression, in pixels of the picture that was sent."""
  from components import detection

  return detection.predict(model, inputs, features, config, outputs)


def signatures(model: Any, to_inputs: Any, config: RunConfig, outputs: Any) -> dict[str, Any]:
  """What the Evaluator compares."""
  from components import detection

  return detection.signatures(model, to_inputs, config, outputs)


def eval_config(config: RunConfig) -> Any:
  """COCO's average precisions and recalls; slices; thresholds."""
  from components.evaluation import detection_eval_config

  return detection_eval_config(config.evaluation)


def decode_output(outputs: Mapping[str, Any]) -> dict[str, Any]:
  """What was found, the best first: boxes as [x_min, y_min, x_max, y_max] in pixels, labels and scores.

  `classes` are all that the model knows.
  """
  count = int(outputs["num_detections"])
  return {
    "boxes": [[float(value) for value in box] for box in outputs["boxes"][:count]],
    "labels": [label.decode("utf-8") for label in outputs["labels"][:count]],
    "scores": [float(score) for score in outputs["scores"][:count]],
    "classes": [name.decode("utf-8") for name in outputs["class_names"]],
  }


def in_words(output: Mapping[str, Any]) -> str:
  """How many objects of each class are drawn."""
  from components.detection_pictures import count_objects

  return count_objects(output)


def render(features: Mapping[str, Any], outputs: Mapping[str, Any] | None) -> bytes:
  """The picture with the boxes that were found, or, without an answer, with the true ones where they are known."""
  from components.detection_pictures import draw_answer, draw_truth

  return draw_answer(features["image"], decode_output(outputs)) if outputs else draw_truth(features)


def draw_target(png: bytes, target: Any, config: RunConfig, outputs: Any) -> bytes:
  """A picture as the model sees it, with the boxes that it learns."""
  from components.detection import VOCABULARY_NAME
  from components.detection_pictures import draw_boxes_by_id

  return draw_boxes_by_id(png, target, outputs.vocabulary(VOCABULARY_NAME))


def compare(features: Mapping[str, Any], outputs: Mapping[str, Any]) -> tuple[float, str]:
  """F1 of what was found in a picture, and in words what is wrong."""
  from components.detection_pictures import compare_boxes

  return compare_boxes(features, outputs)


def summary_file(answers: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[str, bytes]:
  """All answers in COCO's format of results."""
  from components.detection_pictures import coco_results

  return "coco_results.json", coco_results(answers)


def report(config: RunConfig, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
  """The objects of the data set, and precision against recall."""
  from components.detection_report import objects_section, precision_section

  return [section for section in (objects_section(inputs), precision_section(inputs)) if section]


TASK = Task(
  name="object_detection",
  config_class=ObjectDetectionConfig,
  raw_features=IMAGE,
  labels=BOXES,
  read=read,
  resolve=resolve,
  preprocess=preprocess,
  parse=parse,
  augment=augment,
  build_model=build_model,
  loss=loss,
  training_metrics=training_metrics,
  quality_metrics=quality_metrics,
  quality_metric="mean_average_precision",
  soft_loss=soft_loss,
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
  summary_file=summary_file,
  in_words=in_words,
  report=report,
)
