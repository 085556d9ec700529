"""The artifacts that the Compressor takes, made for real from 400 small pictures."""

import importlib.util
import json
import os
import pathlib

import cv2
import keras
import tensorflow as tf

from components.export import export_model
from components.input import count_examples, eval_dataset, load_outputs, split_files, train_dataset
from pipeline.tasks.image_classification import TASK
from trainers.fit import fit

_SPEC = importlib.util.spec_from_file_location(
  "shapes", pathlib.Path(__file__).parents[1] / "trainers" / "compression" / "shapes.py"
)
shapes = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(shapes)

SECTIONS = {
  "preprocessing": {"height": 12, "width": 12, "channels": 1},
  "model": {"widths": [24]},
  "training": {"epochs": 10, "batch_size": 32, "learning_rate": 1e-2, "steps_per_execution": 4},
  "serving": {"warmup_requests": 3},
}


def config_json(recipe=(), **sections):
  """Configuration of the stage with this recipe."""
  compression = {"recipe": list(recipe), "latency_calls": 5}
  return json.dumps({"task": "image_classification", **SECTIONS, "compression": compression, **sections})


def read_config(text):
  return TASK.config_class.model_validate_json(text)


def make_inputs(folder):
  """Writes all artifacts; returns {name: uri}."""
  uris = {name: os.path.join(folder, name) for name in ("raw_examples", "examples", "transform_graph")}
  config = read_config(config_json())
  for split, count, seed in (("train", 400, 1), ("validation", 200, 2)):
    _write(
      uris["raw_examples"], split, (_raw_example(*row) for row in zip(*shapes.draw(count, seed), strict=True))
    )
  _transform(uris, config, folder)
  return {**uris, **_train(uris, config, folder)}


def _write(uri, split, examples):
  path = os.path.join(uri, f"Split-{split}", "data-00000-of-00001.gz")
  os.makedirs(os.path.dirname(path), exist_ok=True)
  with tf.io.TFRecordWriter(path, "GZIP") as writer:
    for example in examples:
      writer.write(example)


def _raw_example(picture, target):
  png = cv2.imencode(".png", picture.clip(0, 255).astype("uint8"))[1].tobytes()
  values = {"image": png, "label": shapes.CLASSES[target.argmax()].encode()}
  feature = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v])) for name, v in values.items()}
  return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def _transform(uris, config, folder):
  """tf.Transform on the training split, then its graph on both splits."""
  import tensorflow_transform as tft
  import tensorflow_transform.beam as tft_beam
  from apache_beam.runners.portability.fn_api_runner import FnApiRunner
  from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

  raw_spec = {name: tf.io.FixedLenFeature([], tf.string) for name in ("image", "label")}
  metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(raw_spec))

  def rows(split):
    batch = list(tf.data.TFRecordDataset(split_files(uris["raw_examples"], split), compression_type="GZIP"))
    parsed = tf.io.parse_example(tf.stack(batch), raw_spec)
    values = zip(*(parsed[name].numpy() for name in raw_spec), strict=True)
    return [dict(zip(raw_spec, row, strict=True)) for row in values]

  with tft_beam.Context(temp_dir=os.path.join(folder, "tft")):
    import apache_beam as beam

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
      data = pipeline | beam.Create(rows("train"))
      function = (data, metadata) | tft_beam.AnalyzeDataset(lambda inputs: TASK.preprocess(inputs, config))
      function | tft_beam.WriteTransformFn(uris["transform_graph"])
      raw_metadata_dir = os.path.join(uris["transform_graph"], tft.TFTransformOutput.RAW_METADATA_DIR)
      metadata | tft_beam.WriteMetadata(raw_metadata_dir, pipeline)
  output = tft.TFTransformOutput(uris["transform_graph"])
  coder = tft.coders.ExampleProtoCoder(output.transformed_metadata.schema)
  layer = output.transform_features_layer()
  for split in ("train", "validation"):
    columns = {name: tf.constant([row[name] for row in rows(split)]) for name in raw_spec}
    transformed = {name: value.numpy() for name, value in layer(columns).items()}
    count = len(transformed["label"])
    _write(
      uris["examples"],
      split,
      (coder.encode({name: values[i] for name, values in transformed.items()}) for i in range(count)),
    )


def _train(uris, config, folder):
  """What the Trainer writes: an export and the weights."""
  files = split_files(uris["examples"], "train")
  outputs = load_outputs(uris["transform_graph"], files)
  keras.utils.set_random_seed(config.seed)
  model = TASK.build_model(config, outputs)
  fit(
    model,
    train_dataset(TASK, config, outputs, files),
    eval_dataset(TASK, config, outputs, split_files(uris["examples"], "validation")),
    loss=TASK.loss(config),
    metrics=TASK.training_metrics(config),
    training=config.training,
    steps_per_epoch=count_examples(files) // config.training.batch_size,
    seed=config.seed,
  )
  model_run = os.path.join(folder, "model_run")
  os.makedirs(model_run)
  model.save_weights(os.path.join(model_run, "model.weights.h5"))
  base = os.path.join(folder, "model")
  export_model(TASK, config, model, outputs, os.path.join(base, "Format-Serving"))
  return {"base_model": base, "model_run": model_run}
