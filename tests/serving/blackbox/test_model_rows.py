"""Status, metadata, reload, labels, polling, policies, hot swap and warm-up: the life of models.

Each test gives the server a configuration of its own, with folders of its own.

Source: tensorflow_serving/model_servers/{server_core,get_model_status_impl,model_service_impl}.cc,
servables/tensorflow/{get_model_metadata_impl,saved_model_warmup_util}.cc,
sources/storage_path/file_system_storage_path_source.cc
"""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, prediction_log_pb2

X = np.array([2.0], np.float32)


class Life:
  """A model of its own in a server that others use too.

  Args:
    server: ServerProcess.
    name: the model's.
    base_path: of its versions.
    publish, entry: the fixtures `publish` and `model_config`.
  """

  def __init__(self, server, name, base_path, publish, entry):
    self.server, self.name, self.base_path = server, name, base_path
    self._publish, self._entry = publish, entry
    base_path.mkdir()

  def publish(self, version, folder=None):
    """A version appears."""
    return self._publish(self.base_path, version, folder)

  def configure(self, more=""):
    """The server has this model, and no other."""
    self.server.reload(f"model_config_list {{ {self.entry(more)} }}")

  def entry(self, more=""):
    """Of a model_config_list."""
    return self._entry(self.name, self.base_path, more)

  def y(self, **version_or_label):
    """(version, y) of the answer to 2.0; y is 1 + version."""
    response = self.server.predict({"x": X}, name=self.name, **version_or_label)
    return response.model_spec.version.value, response.outputs["y"].float_val[0]

  def states(self):
    """{version: state}."""
    return self.server.states(self.name)

  def available(self):
    """Versions that answer."""
    return self.server.available(self.name)


@pytest.fixture(scope="module")
def living(start, publish, model_config, tmp_path_factory):
  """A server that polls each second, as by default, and begins with one model."""
  folder = tmp_path_factory.mktemp("living")
  (folder / "seed").mkdir()
  publish(folder / "seed", 1)
  config_file = folder / "models.config"
  config_file.write_text(f"model_config_list {{ {model_config('seed', folder / 'seed')} }}")
  with start({"model_config_file": config_file, "max_num_load_retries": 0}) as server:
    yield server


@pytest.fixture
def other(living, publish, model_config, tmp_path, request):
  """A second model, not yet configured."""
  return Life(living, f"other_of_{request.node.name}", tmp_path / "other", publish, model_config)


@pytest.fixture
def model(living, publish, model_config, tmp_path, request):
  """The only model in the server, with version 1."""
  life = Life(living, request.node.name, tmp_path / "model", publish, model_config)
  life.publish(1)
  life.configure()
  return life


def test_get_model_metadata(server, refused):
  response = server.metadata()
  assert response.model_spec.name == "m" and response.model_spec.version.value == 2
  assert list(response.metadata) == ["signature_def"]
  found = get_model_metadata_pb2.SignatureDefMap()
  assert response.metadata["signature_def"].Unpack(found)
  default = found.signature_def["serving_default"]
  assert default.method_name == "tensorflow/serving/predict"
  assert default.inputs["x"].dtype == tf.float32.as_datatype_enum
  assert [dim.size for dim in default.inputs["x"].tensor_shape.dim] == [-1]
  assert server.metadata(label="stable").model_spec.version.value == 1
  expected = ("INVALID_ARGUMENT", "GetModelMetadataRequest must specify at least one metadata_field")
  assert refused(server.metadata, fields=()) == expected
  assert refused(server.metadata, fields=("weights",))[0] == "INVALID_ARGUMENT"
  request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
  expected = ("INVALID_ARGUMENT", "Missing ModelSpec")
  assert refused(server.prediction.GetModelMetadata, request, timeout=60) == expected


def test_get_model_status(server, refused):
  assert server.status() == {1: ("AVAILABLE", 0, ""), 2: ("AVAILABLE", 0, "")}
  assert server.status(version=1) == {1: ("AVAILABLE", 0, "")}
  expected = ("NOT_FOUND", "Could not find any versions of model nobody")
  assert refused(server.status, "nobody") == expected
  expected = ("NOT_FOUND", "Could not find version 9 of model m")
  assert refused(server.status, version=9) == expected
  request = get_model_status_pb2.GetModelStatusRequest()
  expected = ("INVALID_ARGUMENT", "Missing ModelSpec")
  assert refused(server.models.GetModelStatus, request, timeout=60) == expected


def test_reload_adds_and_removes_models(living, model, other, refused, wait_for):
  other.publish(4)
  response = living.reload(f"model_config_list {{ {model.entry()} {other.entry()} }}")
  assert (response.status.error_code, response.status.error_message) == (0, "")
  # The answer comes when new models are loaded.
  assert model.y() == (1, 2.0) and other.y() == (4, 5.0)
  other.configure()
  assert other.y() == (4, 5.0)
  wait_for(lambda: not model.available())
  expected = ("NOT_FOUND", f"Servable not found for request: Latest({model.name})")
  assert refused(model.y) == expected


def test_reload_takes_lists_of_models_alone(living, model, refused):
  code, message = refused(living.reload, "")
  assert code == "INVALID_ARGUMENT"
  assert message.startswith("ServerModelConfig type not supported by HandleReloadConfigRequest.")
  assert refused(living.reload, "custom_model_config {}")[0] == "INVALID_ARGUMENT"
  assert model.y() == (1, 2.0)


def test_reload_that_is_illegal_changes_nothing(living, model, other, refused):
  entry = model.entry()
  code, message = refused(living.reload, f"model_config_list {{ {entry.replace('tensorflow', 'caffe')} }}")
  assert code == "INVALID_ARGUMENT"
  changed = f"Illegal to change a model's platform. For model {model.name} platform was tensorflow"
  assert message == f"{changed} and new platform requested is caffe"
  expected = ("INVALID_ARGUMENT", f"Illegal to list model {model.name} multiple times in config list")
  assert refused(living.reload, f"model_config_list {{ {entry} {entry} }}") == expected
  relative = other.entry().replace(str(other.base_path), "relative/path")
  code, message = refused(living.reload, f"model_config_list {{ {relative} }}")
  assert code == "INVALID_ARGUMENT" and "relative/path" in message
  assert model.y() == (1, 2.0)


def labels(**versions):
  """The fields of a configuration that label versions."""
  lines = [f'version_labels {{ key: "{label}" value: {version} }}' for label, version in versions.items()]
  return "model_version_policy { all {} } " + " ".join(lines)


def test_version_labels_only_to_available_versions(model, refused, wait_for):
  model.publish(2)
  model.configure(labels())
  wait_for(lambda: model.available() == [1, 2])
  model.configure(labels(stable=1, canary=2))
  assert model.y(label="stable") == (1, 2.0) and model.y(label="canary") == (2, 3.0)
  message = f"Request to assign label to version 9 of model {model.name}"
  message += ", which is not currently available for inference"
  assert refused(model.configure, labels(stable=9)) == ("FAILED_PRECONDITION", message)
  assert model.y(label="stable") == (1, 2.0)
  # A label moves to another version, and one that is no longer configured is unknown.
  model.configure(labels(stable=2))
  assert model.y(label="stable") == (2, 3.0)
  expected = ("INVALID_ARGUMENT", "Unrecognized servable version label: canary")
  assert refused(model.y, label="canary") == expected


def test_polling_finds_new_versions_and_skips_other_folders(model, wait_for):
  for name in ("best", "v7", "8.5", ".9"):
    model.publish(70, name)
  (model.base_path / "notes.txt").write_text("no version")
  model.publish(2, "0000002")
  wait_for(lambda: model.states() == {1: "END", 2: "AVAILABLE"})
  assert model.y() == (2, 3.0)
  shutil.rmtree(model.base_path / "0000002")
  wait_for(lambda: model.states() == {1: "AVAILABLE", 2: "END"})
  assert model.y() == (1, 2.0)


def test_policies(model, wait_for):
  model.publish(2)
  model.publish(3)
  wait_for(lambda: model.available() == [3])
  model.configure("model_version_policy { latest { num_versions: 2 } }")
  wait_for(lambda: model.available() == [2, 3])
  model.configure("model_version_policy { all {} }")
  wait_for(lambda: model.available() == [1, 2, 3])
  assert [model.y(version=version) for version in (1, 2, 3)] == [(1, 2.0), (2, 3.0), (3, 4.0)]
  model.configure("model_version_policy { specific { versions: 1 versions: 3 } }")
  wait_for(lambda: model.available() == [1, 3])
  model.publish(4)
  model.configure("model_version_policy { specific { versions: 1 } }")
  wait_for(lambda: model.available() == [1])
  assert model.y() == (1, 2.0)


def test_a_base_path_that_vanishes_unloads_nothing(living, model, other, wait_for):
  other.publish(1)
  living.reload(f"model_config_list {{ {model.entry()} {other.entry()} }}")
  elsewhere = model.base_path.with_name("elsewhere")
  model.base_path.rename(elsewhere)
  time.sleep(2.5)  # two polls
  assert model.states() == {1: "AVAILABLE"} and model.y() == (1, 2.0)
  elsewhere.rename(model.base_path)
  model.publish(2)
  wait_for(lambda: model.available() == [2])


def test_hot_swap_finishes_requests_in_flight(living, model, client, wait_for):
  def slow(steps):
    request = client.predict_request({"steps": np.array([steps])}, "slow", model.name)
    return living.prediction.Predict.future(request, timeout=300)

  slow(10).result()
  began_s = time.monotonic()
  slow(30_000).result()
  # Long enough on this machine to outlast the poll and the loading of version 2.
  steps = int(30_000 * 12 / (time.monotonic() - began_s))
  running = slow(steps)
  time.sleep(0.5)
  model.publish(2)
  wait_for(lambda: model.available() == [2])
  assert model.y() == (2, 3.0)
  assert not running.done() and model.states() == {1: "UNLOADING", 2: "AVAILABLE"}
  response = running.result()
  assert response.model_spec.version.value == 1
  assert list(response.outputs["count"].int64_val) == [steps]
  wait_for(lambda: model.states() == {1: "END", 2: "AVAILABLE"})


def test_a_version_that_does_not_load_leaves_the_old_one(living, model, wait_for):
  (model.base_path / "2").mkdir()
  (model.base_path / "2" / "saved_model.pb").write_bytes(b"no model")
  wait_for(lambda: model.states().get(2) == "END")
  _, code, message = living.status(model.name)[2]
  assert code != 0 and message
  assert model.available() == [1] and model.y() == (1, 2.0)


def write_warmup(directory, records):
  """assets.extra/tf_serving_warmup_requests with these PredictionLogs, or bytes."""
  (directory / "assets.extra").mkdir(exist_ok=True)
  path = directory / "assets.extra" / "tf_serving_warmup_requests"
  with tf.io.TFRecordWriter(str(path)) as writer:
    for record in records:
      writer.write(record if isinstance(record, bytes) else record.SerializeToString())


def test_warmup(living, model, client, wait_for):
  """Requests run before the version answers; one that fails, or too many, and it does not load."""

  def log_of(inputs, signature=""):
    request = client.predict_request(inputs, signature, model.name)
    return prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))

  good, bad = log_of({"x": X}), log_of({"at": np.array([7], np.int32)}, "index")
  refused = {2: ([bad], "= 7 is not in [0, 3)"), 3: ([good] * 1001, "(1000)"), 4: ([b"\xff" * 20], "warmup")}
  for version, (records, reason) in refused.items():
    appear(model, version, records)
    wait_for(lambda version=version: model.states().get(version) in ("AVAILABLE", "END"))
    state, code, message = living.status(model.name)[version]
    assert (state, model.available()) == ("END", [1]) and code != 0
    assert reason in message
  appear(model, 5, [good] * 1000)
  wait_for(lambda: model.available() == [5])
  assert model.y() == (5, 6.0)


def appear(model, version, records):
  """A version with warm-up requests, at once."""
  write_warmup(Path(model.publish(version, f"warm-{version}")), records)
  (model.base_path / f"warm-{version}").rename(model.base_path / str(version))
