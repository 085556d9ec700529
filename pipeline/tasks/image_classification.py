"""Image classification: a folder of pictures, one sub-folder a class."""

from __future__ import annotations

from typing import Any, Literal

from components.config import Fraction, Positive, RunConfig, Section
from components.preprocessing.augmentation import AugmentationConfig
from components.preprocessing.image_settings import ImagePreprocessingConfig, encode_picture, pixel_inputs
from components.task import Feature, Task


class ModelConfig(Section):
  """Which network, and how large."""

  # "resnet", or the name of any architecture in keras.applications, for example "MobileNetV2".
  architecture: str = "resnet"
  # The residual network: channels of each stage, and blocks in each.
  widths: tuple[Positive, ...] = (32, 64, 128)
  blocks_per_stage: Positive = 1
  dropout: Fraction = 0.0
  # keras.applications only: a local .weights.h5 or .keras file of its own weights.
  weights: str | None = None


class ImageClassificationConfig(RunConfig):
  """The settings of an image classification run."""

  task: Literal["image_classification"] = "image_classification"
  preprocessing: ImagePreprocessingConfig = ImagePreprocessingConfig()
  augmentation: AugmentationConfig = AugmentationConfig()
  model: ModelConfig = ModelConfig()


def read(data: Any) -> Any:
  """Reader of class folders, split folders and archives of them."""
  from components.example_gen.image import ImageFolderReader

  return ImageFolderReader(data.path, max_pixels=data.max_pixels, examples_per_chunk=data.examples_per_shard)


def resolve(config: RunConfig) -> RunConfig:
  """Fills an "auto" height, width and number of channels from a sample of the data set's pictures."""
  from components.example_gen.image import ImageFolderReader, probe

  section = config.preprocessing
  if "auto" not in (section.height, section.width, section.channels):
    return config
  found = probe(ImageFolderReader(config.data.path, max_pixels=config.data.max_pixels))
  side = min(found.median_side_px, section.max_auto_side)
  values = {"height": side, "width": side, "channels": found.channels}
  values = {name: value for name, value in values.items() if getattr(section, name) == "auto"}
  return config.model_copy(update={"preprocessing": section.model_copy(update=values)})


def preprocess(inputs: dict[str, Any], config: RunConfig) -> dict[str, Any]:
  """Pixels at one scale, class ids, and the statistics of the training pixels."""
  import tensorflow_transform as tft

  from components.preprocessing import image as ops

  section = config.preprocessing
  pixels = ops.decode_and_scale(
    inputs["image"], section.height, section.width, section.channels, section.scaling
  )
  return {
    **ops.pixel_features(pixels),
    "label": tft.compute_and_apply_vocabulary(inputs["label"], vocab_filename="label"),
  }


def parse(features: dict[str, Any], config: RunConfig, outputs: Any) -> tuple[Any, Any]:
  """float32 pixels [batch, height, width, channels] in [0, 255] and one-hot targets float32 [batch, classes]."""
  import tensorflow as tf

  from components.preprocessing import image as ops

  shape = config.preprocessing.shape
  pixels = tf.cast(ops.unpack_uint8(features["pixels"], shape), tf.float32)
  if "label" not in features:
    return pixels, None
  return pixels, tf.one_hot(tf.reshape(features["label"], [-1]), len(outputs.vocabulary("label")))


def augment(config: RunConfig, outputs: Any) -> Any:
  """Seeded augmentation of training batches, as the configuration asks."""
  from components.preprocessing.augmentation import make_augment

  return make_augment(config.augmentation)


def augment_example(config: RunConfig, outputs: Any) -> Any:
  """Seeded augmentation of single examples, for copies made before training: only the pixels change."""
  from components.preprocessing import image as ops
  from components.preprocessing.augmentation import make_example_augment

  augment_images = make_example_augment(config.augmentation)
  if augment_images is None:
    return None
  shape = config.preprocessing.shape

  def change(features: dict[str, Any], seeds: Any) -> dict[str, Any]:
    pixels = ops.unpack_uint8(features["pixels"], shape)
    return {"pixels": ops.pack_uint8(augment_images(pixels, seeds))}

  return change


def build_model(config: RunConfig, outputs: Any) -> Any:
  """The network, from pixels in [0, 255] to class logits float32 [batch, classes]."""
  from components.preprocessing.image_settings import normalize_layer

  section = config.preprocessing
  model = config.model
  normalize = normalize_layer(section, outputs.sample)
  shape = section.shape
  num_classes = len(outputs.vocabulary("label"))
  if num_classes < 2:
    raise ValueError(
      f"the data has one class only, {outputs.vocabulary('label')[0]!r}: put pictures of others beside it"
    )
  if model.architecture == "resnet":
    from trainers.models.resnet import build_resnet

    return build_resnet(shape, num_classes, normalize, model.widths, model.blocks_per_stage, model.dropout)
  from trainers.models.applications import build_application

  return build_application(model.architecture, shape, num_classes, normalize, model.weights, model.dropout)


def loss(config: RunConfig) -> Any:
  """Softmax cross-entropy on logits, with label smoothing."""
  import keras

  return keras.losses.CategoricalCrossentropy(
    from_logits=True, label_smoothing=config.training.label_smoothing
  )


def training_metrics(config: RunConfig) -> list[Any]:
  """What the learning curves show."""
  import keras

  return [keras.metrics.CategoricalAccuracy(name="accuracy")]


def predict(model: Any, inputs: Any, features: Any, config: RunConfig, outputs: Any) -> dict[str, Any]:
  """Probabilities [batch, classes], the class names beside them, and the best class."""
  import tensorflow as tf

  names = tf.constant(outputs.vocabulary("label"))
  probabilities = tf.nn.softmax(tf.cast(model(inputs, training=False), tf.float32))
  best = tf.argmax(probabilities, axis=-1)
  return {
    "label": tf.gather(names, best),
    "probability": tf.reduce_max(probabilities, axis=-1),
    "probabilities": probabilities,
    "classes": tf.tile(names[tf.newaxis], [tf.shape(probabilities)[0], 1]),
  }


def signatures(model: Any, to_inputs: Any, config: RunConfig, outputs: Any) -> dict[str, Any]:
  """The class ids of labels, for the Evaluator."""
  from components.export import labels_signature

  return labels_signature(TASK, to_inputs)


def eval_config(config: RunConfig) -> Any:
  """Accuracy, top-k, per-class and calibration metrics; slices; thresholds."""
  from components.evaluation import classification_eval_config

  return classification_eval_config(config.evaluation, label_key="label", prediction_key="probabilities")


def decode_output(outputs: dict[str, Any]) -> dict[str, Any]:
  """One answer as plain JSON values."""
  names = [name.decode("utf-8") for name in outputs["classes"]]
  return {
    "label": outputs["label"].decode("utf-8"),
    "probability": float(outputs["probability"]),
    "probabilities": {
      name: float(value) for name, value in zip(names, outputs["probabilities"], strict=True)
    },
  }


def render(features: dict[str, Any], outputs: dict[str, Any] | None) -> bytes:
  """The picture itself as PNG, with the predicted class under it where there is one."""
  from components.example_gen.image import caption_image

  caption = f"{outputs['label'].decode('utf-8')} {outputs['probability']:.0%}" if outputs else ""
  return caption_image(features["image"], caption)


TASK = Task(
  name="image_classification",
  config_class=ImageClassificationConfig,
  raw_features={"image": Feature("bytes")},
  labels={"label": Feature("bytes")},
  read=read,
  resolve=resolve,
  preprocess=preprocess,
  parse=parse,
  augment=augment,
  build_model=build_model,
  loss=loss,
  training_metrics=training_metrics,
  quality_metric="accuracy",
  predict=predict,
  tensor_inputs=pixel_inputs,
  signatures=signatures,
  eval_config=eval_config,
  encode_input=encode_picture,
  decode_output=decode_output,
  render=render,
  augment_example=augment_example,
)
