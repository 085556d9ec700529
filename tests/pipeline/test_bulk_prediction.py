"""Answers by Beam from a model's files: those that a server gives, in their order, whatever the number of workers."""

import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline import bulk_prediction, cli
from pipeline.bulk_prediction import predict_in_bulk
from pipeline.prediction import ServingError, predict_inputs
from pipeline.tasks.image_classification import TASK
from serving.export import export_saved_model
from serving.options import ServerOptions
from serving.server import ModelServer

CLASSES = ["dark", "bright"]


def classify(image):
  """Bright pictures and dark ones, by their first pixel."""

  def brightness(data):
    return tf.cast(tf.io.decode_image(data, 1, expand_animations=False)[0, 0, 0], tf.float32) / 255

  bright = tf.map_fn(brightness, image, fn_output_signature=tf.float32)
  probabilities = tf.stack([1 - bright, bright], axis=1)
  return {
    "label": tf.gather(tf.constant(CLASSES), tf.argmax(probabilities, axis=1)),
    "probability": tf.reduce_max(probabilities, axis=1),
    "probabilities": probabilities,
    "classes": tf.tile(tf.constant(CLASSES)[None], [tf.shape(image)[0], 1]),
  }


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
  """A folder of versions, of which the newest is the one to ask, and a version that is not yet whole."""
  folder = tmp_path_factory.mktemp("versions")
  spec = {"image": tf.TensorSpec([None], tf.string)}
  export_saved_model(str(folder / "10"), [], {"serving_default": (classify, spec)})
  wrong = {**spec, "other": tf.TensorSpec([None], tf.string)}
  export_saved_model(
    str(folder / "9"), [], {"serving_default": (lambda image, other: {"label": image + other}, wrong)}
  )
  (folder / "11").mkdir()
  (folder / "notes").mkdir()
  return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
  """A folder with more pictures than a batch holds, of different sizes, and files that are none among them."""
  folder = tmp_path_factory.mktemp("pictures")
  for number in range(19):
    pixels = np.full((4 + number % 3, 5, 3), 13 * number, np.uint8)
    Image.fromarray(pixels).save(folder / f"picture{number:02d}.png")
  (folder / "picture07a.jpg").write_text("no picture")
  return [str(folder / "missing.png"), str(folder)]


@pytest.fixture(scope="module")
def expected(model_dir, inputs):
  """What a server answers."""
  server = ModelServer(ServerOptions(port=0), {"brightness": str(model_dir)})
  server.start()
  assert server.wait_until_available(240)
  answers = list(predict_inputs(TASK, inputs, server.address, "brightness", 20))
  server.stop()
  return answers


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_answers_are_those_of_a_server(model_dir, inputs, expected, num_workers, tmp_path, monkeypatch):
  if num_workers == 1:
    # More than one file of answers; other processes would not know of it.
    monkeypatch.setattr(bulk_prediction, "_ANSWERS_A_FILE", 6)
  save_dir = str(tmp_path / "saved") if num_workers == 1 else None
  answers = list(predict_in_bulk(TASK, inputs, str(model_dir), num_workers, save_dir))
  saved = [answer.pop("saved", None) for answer in answers]
  assert answers == expected
  assert len(answers) == 21 and [number for number, row in enumerate(answers) if "error" in row] == [0, 9]
  if save_dir:
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
      f"{number + (1 if number < 8 else 2):04d}_picture{number:02d}.png" for number in range(19)
    ]
    assert [path is None for path in saved] == ["error" in answer for answer in answers]


def test_a_saved_model_itself_may_be_named(model_dir, inputs, expected):
  (answer,) = predict_in_bulk(TASK, [f"{inputs[1]}/picture03.png"], str(model_dir / "10"))
  assert answer == expected[4]


@pytest.mark.parametrize("content", ["nothing", "an empty version", "a file"])
def test_a_model_that_is_not_there(tmp_path, content):
  path = tmp_path / "model"
  if content == "an empty version":
    (path / "1").mkdir(parents=True)
  elif content == "a file":
    path.touch()
  message = f"^--model_dir {path}: no SavedModel there, and no numbered versions of one$"
  with pytest.raises(ServingError, match=message):
    next(predict_in_bulk(TASK, ["a.png"], str(path)))


def call(monkeypatch, capfd, *arguments):
  """(exit status, standard output, standard error) of the console script's own function."""
  monkeypatch.setattr(sys, "argv", ["deepline", *map(str, arguments)])
  with pytest.raises(SystemExit) as caught:
    cli.main()
  found = capfd.readouterr()
  return caught.value.code, found.out, found.err


def test_mistakes_on_the_command_line_are_a_line_each(inputs, tmp_path, monkeypatch, capfd):
  monkeypatch.chdir(tmp_path)
  bulk = ["predict", "image_classification", inputs[1], "--bulk"]
  status, out, err = call(monkeypatch, capfd, *bulk, "--model_dir", "no/such")
  assert (status, out) == (1, "")
  assert err == "deepline: --model_dir no/such: no SavedModel there, and no numbered versions of one\n"
  status, _, err = call(monkeypatch, capfd, *bulk)
  assert status == 1 and "runs/image_classification/serving/image_classification: no SavedModel" in err
  status, out, err = call(monkeypatch, capfd, "predict", "language_model", "a", "--bulk", "--generate")
  assert (status, out) == (2, "") and err == "deepline: --generate needs a server: leave --bulk out\n"


def test_the_command_line_takes_the_runs_own_model(model_dir, inputs, expected, tmp_path, monkeypatch, capfd):
  monkeypatch.chdir(tmp_path)
  served = tmp_path / "runs" / "image_classification" / "serving" / "image_classification"
  shutil.copytree(model_dir, served)
  path = f"{inputs[1]}/picture18.png"
  status, out, _ = call(monkeypatch, capfd, "predict", "image_classification", path, "--bulk")
  probability = expected[-1]["outputs"]["probability"]
  assert (status, out) == (0, f"{path}: bright {probability:.3f}\n")
