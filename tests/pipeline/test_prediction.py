"""Questions to a real server in this process, which answers about pictures."""

import dataclasses
import io
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from pipeline.prediction import ServingError, predict_inputs
from pipeline.tasks.image_classification import TASK
from serving.export import export_saved_model
from serving.options import ServerOptions
from serving.server import ModelServer

CLASSES = ["dark", "bright"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
  """A model that tells bright pictures from dark ones, with the outputs that the task's export has."""
  base_path = tmp_path_factory.mktemp("served")

  def classify(image):
    def brightness(data):
      return tf.reduce_mean(tf.cast(tf.io.decode_image(data, 1, expand_animations=False), tf.float32))

    bright = tf.map_fn(brightness, image, fn_output_signature=tf.float32) / 255
    probabilities = tf.stack([1 - bright, bright], axis=1)
    names = tf.constant(CLASSES)
    return {
      "label": tf.gather(names, tf.argmax(probabilities, axis=1)),
      "probability": tf.reduce_max(probabilities, axis=1),
      "probabilities": probabilities,
      "classes": tf.tile(names[None], [tf.shape(image)[0], 1]),
    }

  endpoints = {"serving_default": (classify, {"image": tf.TensorSpec([None], tf.string)})}
  export_saved_model(str(base_path / "1"), [], endpoints)
  server = ModelServer(ServerOptions(port=0), {"brightness": str(base_path)})
  server.start()
  assert server.wait_until_available(240)
  yield server
  server.stop()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
  folder = tmp_path_factory.mktemp("pictures")
  for name, value in (("white.png", 255), ("black.png", 0), ("grey.png", 51)):
    Image.fromarray(np.full((6, 9), value, np.uint8)).save(folder / name)
  (folder / "text.jpg").write_text("no picture")
  return folder


def ask(server, inputs, **settings):
  arguments = {"server": server.address, "model_name": "brightness", "timeout_s": 20, **settings}
  return list(predict_inputs(TASK, [str(path) for path in inputs], **arguments))


def test_answers_come_in_the_order_of_the_inputs(server, pictures):
  paths = [pictures / name for name in ("white.png", "missing.png", "grey.png", "text.jpg", "black.png")]
  answers = ask(server, paths)
  assert [answer["input"] for answer in answers] == [str(path) for path in paths]
  white, missing, grey, text, black = answers
  assert white["outputs"] == {
    "label": "bright",
    "probability": 1.0,
    "probabilities": {"dark": 0.0, "bright": 1.0},
  }
  assert grey["outputs"]["label"] == "dark"
  assert grey["outputs"]["probability"] == pytest.approx(0.8, abs=1e-6)
  assert black["outputs"]["probabilities"] == {"dark": 1.0, "bright": 0.0}
  assert set(missing) == set(text) == {"input", "error"}
  assert missing["error"].lower().startswith(f"{paths[1]}: no such file".lower())
  assert text["error"].startswith(f"{paths[3]}: ")


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_picture_that_the_model_refuses_spoils_no_other(server, pictures, batch_size):
  # What the reader would reject is not even sent; here the server gets it.
  task = dataclasses.replace(TASK, encode_input=lambda path: {"image": pathlib.Path(path).read_bytes()})
  names = ["white.png", "text.jpg", "black.png", "grey.png", "text.jpg"]
  arguments = (server.address, "brightness", 20)
  answers = list(
    predict_inputs(task, [str(pictures / name) for name in names], *arguments, batch_size=batch_size)
  )
  assert [answer["input"] for answer in answers] == [str(pictures / name) for name in names]
  assert [answer.get("outputs", {}).get("label") for answer in answers] == [
    "bright",
    None,
    "dark",
    "dark",
    None,
  ]
  for number in (1, 4):
    assert answers[number]["error"].startswith(f"{server.address}: INVALID_ARGUMENT: ")


def test_inputs_are_read_as_their_answers_are_taken(server, pictures):
  read = []

  def encode(path):
    read.append(path)
    return {"image": (pictures / "white.png").read_bytes()}

  task = dataclasses.replace(TASK, encode_input=encode)
  answers = predict_inputs(
    task, [str(number) for number in range(50)], server.address, "brightness", 20, batch_size=3
  )
  for number in range(10):
    assert next(answers)["input"] == str(number)
    # Two batches are in flight.
    assert len(read) <= number // 3 * 3 + 6
  answers.close()


def test_pictures_are_saved_with_their_captions(server, pictures, tmp_path):
  folder = tmp_path / "new" / "folder"
  answers = ask(
    server, [pictures / "white.png", pictures / "text.jpg", pictures / "white.png"], save_dir=str(folder)
  )
  saved = [answer.get("saved") for answer in answers]
  assert saved == [str(folder / "0000_white.png"), None, str(folder / "0002_white.png")]
  with Image.open(io.BytesIO((folder / "0000_white.png").read_bytes())) as picture:
    pixels = np.asarray(picture.convert("L"))
  # The picture of 9 x 6 pixels enlarged, and under it a line of dark text on white.
  assert pixels.shape[1] >= 160 and pixels.shape[0] > pixels.shape[1] * 6 // 9
  assert pixels[: 160 * 6 // 9 - 10].min() == 255
  assert pixels.min() < 100


def test_a_model_that_is_not_there(server, pictures):
  with pytest.raises(ServingError, match="NOT_FOUND"):
    ask(server, [pictures / "white.png"], model_name="other")


def test_a_server_that_is_not_there(pictures):
  with pytest.raises(
    ServingError, match="^no model server answers at 127.0.0.1:1; start one: deepline serve "
  ):
    list(
      predict_inputs(
        TASK, [str(pictures / "white.png")], server="127.0.0.1:1", model_name="brightness", timeout_s=1
      )
    )


def test_a_model_of_another_task(server, pictures):
  task = dataclasses.replace(TASK, decode_output=lambda outputs: {"boxes": outputs["boxes"]})
  with pytest.raises(ServingError, match="no output 'boxes', only classes, label, .*none of image_class"):
    list(predict_inputs(task, [str(pictures / "white.png")], server.address, "brightness", 20))


def test_a_folder_that_cannot_be_made(server, pictures, tmp_path):
  (tmp_path / "taken").touch()
  with pytest.raises(ServingError, match="taken: cannot make this folder .File exists.$"):
    ask(server, [pictures / "white.png"], save_dir=str(tmp_path / "taken"))


def test_the_command_line_does_without_tensorflow(server, pictures, tmp_path):
  code = (
    "import sys, atexit; "
    "atexit.register(lambda: print(sorted({name.partition('.')[0] for name in sys.modules} & {'tensorflow', 'keras', "
    "'tfx', 'apache_beam'}), file=sys.stderr)); "
    "from pipeline.cli import main; main()"
  )
  arguments = ["--server", server.address, "--model_name", "brightness", "--batch_size", "2", "--json"]
  done = subprocess.run(
    [sys.executable, "-c", code, "predict", TASK.name, str(pictures), "--save", str(tmp_path), *arguments],
    capture_output=True,
    text=True,
  )
  # One of the files is no picture.
  assert (done.returncode, done.stderr) == (1, "[]\n")
  answers = [json.loads(line) for line in done.stdout.splitlines()]
  assert [pathlib.Path(answer["input"]).name for answer in answers] == [
    "black.png",
    "grey.png",
    "text.jpg",
    "white.png",
  ]
  assert [answer.get("outputs", {}).get("label") for answer in answers] == ["dark", "dark", None, "bright"]
  assert (tmp_path / "0003_white.png").stat().st_size > 0


def test_a_batch_holds_at_least_one_input(pictures):
  done = subprocess.run(
    [sys.executable, "-m", "pipeline.cli", "predict", TASK.name, str(pictures), "--batch_size", "0"],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2 and "--batch_size" in done.stderr and "Traceback" not in done.stderr
