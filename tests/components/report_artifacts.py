"""The artifacts that the Report takes, small but real: examples, transform graph, exports, evaluation."""

import base64
import html.parser
import io
import json
import os

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from tfx.types import standard_artifacts

from components import artifacts
from components.export import export_model
from components.input import load_outputs, split_files
from pipeline.tasks.image_classification import TASK

CLASSES = ["blue & co", "green", "<script>alert(1)</script>"]
SIDE_PX = 12
COUNTS = {"train": 24, "validation": 9, "test": 30}
REJECTS = [
  {"path": "photos/<img src=x>/a.jpg", "reason": "truncated JPEG"},
  {"path": "photos/b.jpg", "reason": "truncated JPEG"},
  {"path": "photos/c.png", "reason": "the file is empty"},
]
HISTORY = [
  {"epoch": 1, "loss": 0.9, "accuracy": 0.5, "val_loss": 1.0, "val_accuracy": 0.45, "seconds": 2.0},
  {"epoch": 2, "loss": 0.6, "accuracy": 0.7, "val_loss": 0.8, "val_accuracy": 0.6543, "seconds": 2.5},
]


def compression_row(name, form, non_zero, gzip_bytes, p50, accuracy):
  """One row as the Compressor writes it."""
  latency = {"p50": p50, "p99": 2 * p50}
  return {
    "name": name,
    "format": form,
    "parameters": 123456,
    "non_zero_parameters": non_zero,
    "sparsity": {"stem/conv": 1 - non_zero / 123456},
    "bytes": 3 * gzip_bytes,
    "gzip_bytes": gzip_bytes,
    "latency_ms": {"batch_1": latency, "batch_32": latency},
    "quality": {"accuracy": accuracy, "loss": 0.5},
    "seconds": 3.25,
  }


COMPRESSION = [
  compression_row("base", "saved_model", 123456, 800_000, 1.5, 0.9),
  compression_row("prune", "saved_model", 24691, 250_000, 1.4, 0.89),
  compression_row("int8", "tflite", 24691, 70_000, 0.2, 0.88),
]


def make_config():
  """Settings under which the model below fails on both thresholds."""
  sections = {
    "preprocessing": {"height": SIDE_PX, "width": SIDE_PX, "channels": 3},
    "augmentation": {"horizontal_flip": True},
    "evaluation": {"min_metrics": {"accuracy": 0.99}, "max_drop": {"accuracy": 0.0}, "slice_by": ["source"]},
  }
  return TASK.config_class.model_validate(sections)


def artifact(kind, uri):
  """An artifact as the launcher hands it to an executor."""
  made = kind()
  made.uri, made.id = str(uri), 1
  if kind is standard_artifacts.Examples:
    made.split_names = json.dumps(list(COUNTS))
    made.set_string_custom_property("payload_format", "FORMAT_TF_EXAMPLE")
  return made


def make_artifacts(root):
  """Writes everything below `root`; returns {input name of the Report: artifact}."""
  config = make_config()
  pictures = write_examples(str(root / "examples"))
  transform(config, pictures["train"], root)
  outputs = load_outputs(str(root / "graph"), split_files(str(root / "transformed"), "train"))
  # The share of noise is how often a model answers by chance: the compressed one more often.
  for name, noise in (("base_model", 0.3), ("model", 3.0)):
    export_model(TASK, config, colour_model(noise), outputs, str(root / name / "Format-Serving"))
  evaluate(config, root)
  write_json_lines(root / "rejects" / "rejects.jsonl", REJECTS)
  written = sum(COUNTS.values())
  counts = {"read": written + len(REJECTS), "written": written, "rejected": len(REJECTS), "splits": COUNTS}
  (root / "rejects" / "counts.json").write_text(json.dumps(counts))
  write_json_lines(root / "model_run" / "history.jsonl", HISTORY)
  os.makedirs(root / "compression")
  (root / "compression" / "report.json").write_text(json.dumps({"steps": COMPRESSION}))
  os.makedirs(root / "infra")
  (root / "infra" / "INFRA_NOT_BLESSED").touch()
  (root / "infra" / "reasons.json").write_text('{"reasons": ["no answer within 120 s"]}')
  kinds = {
    "examples": (standard_artifacts.Examples, "examples"),
    "rejects": (artifacts.Rejects, "rejects"),
    "transformed_examples": (standard_artifacts.Examples, "transformed"),
    "transform_graph": (standard_artifacts.TransformGraph, "graph"),
    "base_model": (standard_artifacts.Model, "base_model"),
    "model": (standard_artifacts.Model, "model"),
    "model_run": (standard_artifacts.ModelRun, "model_run"),
    "compression_report": (artifacts.CompressionReport, "compression"),
    "evaluation": (standard_artifacts.ModelEvaluation, "evaluation"),
    "blessing": (standard_artifacts.ModelBlessing, "blessing"),
    "infra_blessing": (standard_artifacts.InfraBlessing, "infra"),
  }
  return {name: artifact(kind, root / folder) for name, (kind, folder) in kinds.items()}


def write_examples(uri):
  """Noisy pictures in the colour of their class; returns {split: [(png, class name)]}."""
  rng = np.random.default_rng(3)
  written = {}
  for split, count in COUNTS.items():
    os.makedirs(os.path.join(uri, f"Split-{split}"))
    written[split] = []
    path = os.path.join(uri, f"Split-{split}", "data_tfrecord-00000-of-00001.gz")
    with tf.io.TFRecordWriter(path, "GZIP") as writer:
      for i in range(count):
        pixels = rng.integers(0, 120, (SIDE_PX, SIDE_PX, 3), np.uint8)
        pixels[..., 2 - i % 3] += 60
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "PNG")
        row = encoded.getvalue(), CLASSES[i % 3]
        written[split].append(row)
        values = {"image": row[0], "label": row[1].encode(), "source": [b"phone", b"scanner"][i % 2]}
        feature = {name: tf.train.Feature(bytes_list={"value": [value]}) for name, value in values.items()}
        writer.write(tf.train.Example(features={"feature": feature}).SerializeToString())
  return written


def transform(config, rows, root):
  """tf.Transform on the training split: the graph and the transformed examples."""
  import apache_beam as beam
  import tensorflow_transform as tft
  import tensorflow_transform.beam as tft_beam
  from apache_beam.runners.portability.fn_api_runner import FnApiRunner
  from tensorflow_transform.tf_metadata import dataset_metadata, metadata_io, schema_utils

  from components.preprocessing import image as ops

  def preprocess(inputs):
    """The task's own without the statistics of the pixels, whose analysis takes most of the time."""
    section = config.preprocessing
    pixels = ops.decode_and_scale(
      inputs["image"], section.height, section.width, section.channels, section.scaling
    )
    label = tft.compute_and_apply_vocabulary(inputs["label"], vocab_filename="label")
    return {"pixels": ops.pack_uint8(pixels), "label": label}

  spec = {name: tf.io.FixedLenFeature([], tf.string) for name in ("image", "label")}
  metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))
  data = [{"image": image, "label": label.encode()} for image, label in rows]
  with tft_beam.Context(temp_dir=str(root / "tft")), beam.Pipeline(runner=FnApiRunner()) as pipeline:
    function = (pipeline | beam.Create(data), metadata) | tft_beam.AnalyzeDataset(preprocess)
    _ = function | tft_beam.WriteTransformFn(str(root / "graph"))
  metadata_io.write_metadata(metadata, str(root / "graph" / "metadata"))
  output = tft.TFTransformOutput(str(root / "graph"))
  coder = tft.coders.ExampleProtoCoder(output.transformed_metadata.schema)
  columns = {name: tf.constant([row[name] for row in data]) for name in spec}
  transformed = {name: value.numpy() for name, value in output.transform_features_layer()(columns).items()}
  os.makedirs(root / "transformed" / "Split-train")
  with tf.io.TFRecordWriter(str(root / "transformed" / "Split-train" / "data.gz"), "GZIP") as writer:
    for i in range(len(data)):
      writer.write(coder.encode({name: values[i] for name, values in transformed.items()}))


def colour_model(noise):
  """Logits from the mean colour, and from single pixels as much as `noise` says."""
  rng = np.random.default_rng(8)
  inputs = keras.Input((SIDE_PX, SIDE_PX, 3))
  dense = keras.layers.Dense(3, use_bias=False)
  model = keras.Model(inputs, dense(keras.layers.Flatten()(inputs)))
  # Ids go by frequency, then by name in descending order: all three classes are equally frequent.
  channel_of_id = [{"blue & co": 2, "green": 1}.get(name, 0) for name in sorted(CLASSES, reverse=True)]
  signal = np.zeros((SIDE_PX, SIDE_PX, 3, 3))
  for class_id, channel in enumerate(channel_of_id):
    signal[:, :, channel, class_id] = 0.12 / SIDE_PX**2
  weights = signal + rng.normal(size=signal.shape) * noise * 0.12 / SIDE_PX**2
  dense.set_weights([weights.reshape(-1, 3).astype(np.float32)])
  return model


def evaluate(config, root):
  """TFX's Evaluator on the test split."""
  from google.protobuf import json_format
  from tfx.components.evaluator.executor import Executor

  beam_args = [
    "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner",
    "--sdk_container_image=none",  # else TFX packs its own sources for remote workers
  ]
  os.makedirs(root / "blessing")
  inputs = {
    "examples": [artifact(standard_artifacts.Examples, root / "examples")],
    "model": [artifact(standard_artifacts.Model, root / "model")],
    "baseline_model": [artifact(standard_artifacts.Model, root / "base_model")],
  }
  outputs = {
    "evaluation": [artifact(standard_artifacts.ModelEvaluation, root / "evaluation")],
    "blessing": [artifact(standard_artifacts.ModelBlessing, root / "blessing")],
  }
  settings = {
    "eval_config": json_format.MessageToJson(TASK.eval_config(config)),
    "example_splits": '["test"]',
  }
  context = Executor.Context(beam_pipeline_args=beam_args, tmp_dir=str(root / "tmp"), unique_id="1")
  Executor(context).Do(inputs, outputs, {**settings, "fairness_indicator_thresholds": "null"})


def write_json_lines(path, rows):
  os.makedirs(path.parent, exist_ok=True)
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))


class Page(html.parser.HTMLParser):
  """Tags, ids, addresses and text of a page."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.ids, self.addresses, self.text = [], [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    for name, value in attrs:
      if name == "id":
        self.ids.append(value)
      if name.split(":")[-1] in ("src", "href", "srcset", "data", "action", "poster"):
        self.addresses.append(value)

  def handle_data(self, data):
    self.text.append(data)


def decode(uri):
  """Pixels uint8 [height, width, 3] of a PNG in a data URI."""
  kind, data = uri.split(";base64,")
  assert kind == "data:image/png"
  return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))
