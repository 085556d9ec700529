"""`deepline predict` over an encrypted connection."""

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.cli_options import UserError
from serving.export import export_saved_model
from serving.messages.protos import SSLConfig
from serving.options import ServerOptions
from serving.server import ModelServer
from tests.certificates import write_certificates


@pytest.fixture(scope="module")
def server(tmp_path_factory):
  """(server, folder of its PEM files); it wants certificates of its clients."""
  folder = write_certificates(tmp_path_factory.mktemp("pem"))
  base_path = tmp_path_factory.mktemp("served")

  def classify(image):
    of_each = tf.ones([tf.shape(image)[0], 1])
    return {
      "label": tf.fill(tf.shape(image), "bright"),
      "probability": of_each[:, 0],
      "probabilities": of_each,
      "classes": tf.fill(tf.shape(of_each), "bright"),
    }

  endpoints = {"serving_default": (classify, {"image": tf.TensorSpec([None], tf.string)})}
  export_saved_model(str(base_path / "1"), [], endpoints)
  config = SSLConfig(
    server_key=(folder / "server.key").read_text(),
    server_cert=(folder / "server.crt").read_text(),
    custom_ca=(folder / "ca.crt").read_text(),
    client_verify=True,
  )
  (folder / "ssl.config").write_text(text_format.MessageToString(config))
  options = ServerOptions(port=0, ssl_config_file=str(folder / "ssl.config"))
  server = ModelServer(options, {"image_classification": str(base_path)})
  server.start()
  assert server.wait_until_available(240)
  yield server, folder
  server.stop()


@pytest.fixture
def ask(server, tmp_path):
  """(option, ...) -> the result of asking about a picture."""
  picture = tmp_path / "white.png"
  Image.fromarray(np.full((6, 9), 255, np.uint8)).save(picture)
  arguments = [
    "predict",
    "image_classification",
    str(picture),
    "--server",
    server[0].address,
    "--timeout",
    "20",
  ]
  return lambda *options: CliRunner().invoke(app, [*arguments, *map(str, options)])


def test_both_sides_are_checked(server, ask):
  folder = server[1]
  client = ["--tls_cert", folder / "client.crt", "--tls_key", folder / "client.key"]
  result = ask("--tls_ca", folder / "ca.crt", *client)
  assert result.exit_code == 0 and "bright" in result.output


@pytest.mark.parametrize(
  ("options", "text"),
  [
    ((), "no model server answers at"),
    (("--tls",), "over TLS; check"),
    (("--tls_ca", "ca.crt"), "over TLS; check"),
    (("--tls_ca", "missing.crt"), "missing.crt: No such file or directory"),
    (("--tls_cert", "client.crt"), "certificate and its key belong together"),
  ],
)
def test_without_the_right_files_there_is_one_line(server, ask, options, text):
  named = [server[1] / option if option.endswith(".crt") else option for option in options]
  result = ask("--timeout", "2", *named)
  assert isinstance(result.exception, UserError) and text in str(result.exception)
  assert "\n" not in str(result.exception)
