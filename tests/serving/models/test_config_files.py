"""Text-format configuration files: what they mean, and what is wrong with them in one line."""

import pytest
from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.errors import RequestError, ServingError
from serving.models.config_files import model_configs, read_batching, read_metrics_path, read_models, read_ssl
from serving.models.version_folders import ALL_VERSIONS, VersionPolicy


def models(text):
  return model_configs(text_format.Parse(text, model_server_config_pb2.ModelServerConfig()))


def written(tmp_path, text):
  path = tmp_path / "file.config"
  path.write_text(text)
  return str(path)


def test_models_with_policies_labels_and_logging(tmp_path):
  a, b, c, d = models("""
    model_config_list {
      config { name: "a" base_path: "/m/a" model_platform: "tensorflow" }
      config {
        name: "b" base_path: "/m/b" model_platform: "tensorflow"
        model_version_policy { specific { versions: 3 versions: 5 } }
        version_labels { key: "stable" value: 3 }
        version_labels { key: "canary" value: 5 }
      }
      config { name: "c" base_path: "/m/c" model_type: TENSORFLOW model_version_policy { all {} } }
      config {
        name: "d" base_path: "/m/d" model_platform: "caffe" model_version_policy { latest { num_versions: 2 } }
        logging_config {
          log_collector_config { filename_prefix: "/logs/d" }
          sampling_config { sampling_rate: 0.25 }
        }
      }
    }
  """)
  assert (a.name, a.base_path, a.policy, a.labels, a.logging) == (
    "a",
    "/m/a",
    VersionPolicy(latest=1),
    {},
    None,
  )
  assert b.policy == VersionPolicy(latest=None, specific=frozenset({3, 5}))
  assert b.labels == {"stable": 3, "canary": 5}
  assert (c.policy, c.platform) == (ALL_VERSIONS, "tensorflow")
  assert (d.policy, d.platform) == (VersionPolicy(latest=2), "caffe")
  assert (d.logging.filename_prefix, d.logging.sampling_rate) == ("/logs/d", 0.25)


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ("", "Illegal setting neither ModelServerConfig::model_type (deprecated) nor"),
    (
      'model_type: TENSORFLOW model_platform: "tensorflow"',
      "Illegal setting both ModelServerConfig::model_type",
    ),
    (
      'model_platform: "tensorflow" model_version_policy { specific {} }',
      "Model m has a specific version policy without versions",
    ),
  ],
)
def test_models_that_make_no_sense(fields, message):
  with pytest.raises(RequestError) as caught:
    models(f'model_config_list {{ config {{ name: "m" base_path: "/m" {fields} }} }}')
  assert caught.value.code.name == "INVALID_ARGUMENT" and caught.value.message.startswith(message)


@pytest.mark.parametrize("text", ["", "model_config_list {}"])
def test_no_models(tmp_path, text):
  assert model_configs(read_models(written(tmp_path, text))) == []


@pytest.mark.parametrize(
  ("read", "flag", "text", "message"),
  [
    (
      read_models,
      "model_config_file",
      "model_config_list { nam: 1 }",
      "not a ModelServerConfig in text format: 1:21",
    ),
    (read_models, "model_config_file", "custom_model_config {}", "custom_model_config is not supported"),
    (read_ssl, "ssl_config_file", "server_key: 5", "not a SSLConfig in text format: 1:"),
    (
      read_ssl,
      "ssl_config_file",
      'server_cert: "-----BEGIN"',
      "server_key is missing; put the PEM text there",
    ),
    (
      read_ssl,
      "ssl_config_file",
      'server_key: "/key.pem" server_cert: "-----BEGIN"',
      "server_key is no PEM text; put the text there, not a path",
    ),
    (
      read_ssl,
      "ssl_config_file",
      'server_key: "-----BEGIN" server_cert: "-----BEGIN" client_verify: true',
      "client_verify needs custom_ca",
    ),
    (
      read_batching,
      "batching_parameters_file",
      "max_batch_size: 3",
      "not a BatchingParameters in text format: 1:",
    ),
    (
      lambda path: read_metrics_path(path, "/metrics"),
      "monitoring_config_file",
      'prometheus_config { enable: true path: "metrics" }',
      "path has to begin with /, not metrics",
    ),
  ],
)
def test_what_is_wrong_in_a_file(tmp_path, read, flag, text, message):
  path = written(tmp_path, text)
  with pytest.raises(ServingError) as caught:
    read(path)
  assert str(caught.value).startswith(f"--{flag}={path}: {message}") and "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
  with pytest.raises(ServingError, match="--model_config_file=/missing: cannot read it .No such file"):
    read_models("/missing")
  (tmp_path / "binary").write_bytes(b"\xff\xfe")
  with pytest.raises(ServingError, match="binary: it is no text file"):
    read_models(str(tmp_path / "binary"))


@pytest.mark.parametrize(
  ("text", "path"),
  [
    ("prometheus_config { enable: true }", "/default"),
    ('prometheus_config { enable: true path: "/metrics" }', "/metrics"),
    ('prometheus_config { path: "/metrics" }', None),
    ("", None),
  ],
)
def test_metrics_path(tmp_path, text, path):
  assert read_metrics_path(written(tmp_path, text), "/default") == path


def test_batching_parameters(tmp_path):
  read = read_batching(
    written(tmp_path, "max_batch_size { value: 8 } allowed_batch_sizes: 4 allowed_batch_sizes: 8")
  )
  assert read.max_batch_size.value == 8 and list(read.allowed_batch_sizes) == [4, 8]
