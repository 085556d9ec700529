"""What the options mean: configuration files and their changes, batching, what stands against a start."""

import logging
import re
import time

import grpc
import numpy as np
import pytest
from google.protobuf import text_format
from tensorflow_serving.apis import (
  model_management_pb2,
  model_service_pb2_grpc,
)

from serving.errors import ServingError
from serving.options import ServerOptions
from serving.server import ModelServer
from tests.serving.servers import running, wait_for

FEATURES = np.array([[1.0, 2.0, 3.0]], np.float32)


def test_what_stands_against_a_start_is_one_line(tmp_path, affine_server):
  models = {"affine": str(tmp_path)}
  for options, named, message in (
    (
      {},
      {"affine": str(tmp_path / "missing")},
      "missing of model affine is no directory; push a model there",
    ),
    ({}, None, "tell what to serve: --model_base_path or --model_config_file"),
    ({"port": affine_server.port}, models, f"cannot listen on 127.0.0.1:{affine_server.port}: it is in use"),
    ({"rest_api_port": affine_server.rest_port}, models, "the REST API cannot listen at 127.0.0.1:"),
    ({"grpc_channel_arguments": "grpc.max_connection_age_ms"}, models, "is not of the form name=value"),
    ({"grpc_socket_path": str(tmp_path / "no" / "socket")}, models, "cannot listen on unix:"),
    ({"ssl_config_file": "/missing"}, models, "--ssl_config_file=/missing: cannot read it"),
  ):
    server = ModelServer(ServerOptions(**{"port": 0, **options}), named)
    with pytest.raises(ServingError, match=re.escape(message)) as caught:
      server.start()
    assert "\n" not in str(caught.value)


def config_text(*entries):
  """A model_config_list of (name, base path, further fields)."""
  entries = " ".join(
    f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" {more} }}'
    for name, path, more in entries
  )
  return f"model_config_list {{ {entries} }}"


def test_a_configuration_file_and_its_changes(tmp_path, push, logits_of):
  for name in ("a", "b"):
    (tmp_path / name).mkdir()
    push(tmp_path / name, 1)
    push(tmp_path / name, 2)
  file = tmp_path / "models.config"
  file.write_text(
    config_text(("a", tmp_path / "a", "model_version_policy { all {} }"), ("b", tmp_path / "b", ""))
  )
  # The model that the flags name is not served.
  options = {"model_config_file": str(file), "model_config_file_poll_wait_seconds": 0.1, "model_name": "m"}
  with running(**options, model_base_path="/missing") as (server, client):
    assert set(server.statuses()) == {"a", "b"} and server.wait_until_available(120)
    wait_for(lambda: [state.name for _, state, _ in server.statuses()["a"]] == ["AVAILABLE", "AVAILABLE"])
    for version in (1, 2):
      outputs, number = client.predict("a", {"features": FEATURES}, version=version)
      assert number == version
      np.testing.assert_allclose(outputs["logits"], logits_of(FEATURES, version), rtol=1e-6)
    assert client.predict("b", {"features": FEATURES})[1] == 2
    labelled = "model_version_policy { all {} } version_labels { key: 'stable' value: 1 }"
    file.write_text(config_text(("a", tmp_path / "a", labelled)))
    wait_for(lambda: set(server.statuses()) == {"a"})
    assert client.predict("a", {"features": FEATURES}, version_label="stable")[1] == 1


def test_a_configuration_file_that_becomes_wrong_changes_nothing(tmp_path, push, caplog):
  push(tmp_path, 1)
  file = tmp_path / "models.config"
  file.write_text(config_text(("a", tmp_path, "")))
  with caplog.at_level("ERROR", "serving.server"):
    with running(model_config_file=str(file), model_config_file_poll_wait_seconds=0.05) as (server, client):
      assert server.wait_until_available(120)
      for text, message in (
        ("model_config_list {", "not a ModelServerConfig in text format"),
        (config_text(("a", "relative", "")), "Expected model a to have an absolute path"),
      ):
        file.write_text(text)
        wait_for(lambda message=message: any(message in record.getMessage() for record in caplog.records))
      time.sleep(0.5)
      assert client.predict("a", {"features": FEATURES})[1] == 1
  # Told once, not with each reading.
  assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 2


def test_a_configuration_file_that_is_wrong_at_the_start(tmp_path, push):
  push(tmp_path, 1)
  file = tmp_path / "models.config"
  for text, message in (
    ("nonsense", "not a ModelServerConfig in text format: 1:"),
    (
      config_text(("a", "relative", "")),
      "Expected model a to have an absolute path or URI; got base_path()=rel",
    ),
    (
      config_text(("a", tmp_path, 'version_labels { key: "stable" value: 1 }')),
      "Request to assign label to version 1 of model a, which is not currently available for inference; "
      "--allow_version_labels_for_unavailable_models would allow that",
    ),
  ):
    file.write_text(text)
    server = ModelServer(ServerOptions(port=0, model_config_file=str(file)))
    with pytest.raises(ServingError) as caught:
      server.start()
    assert str(caught.value).startswith(f"--model_config_file={file}: {message}")
  file.write_text(text)
  options = {"model_config_file": str(file), "allow_version_labels_for_unavailable_models": True}
  with running(**options) as (server, client):
    assert server.wait_until_available(120)
    assert client.predict("a", {"features": FEATURES}, version_label="stable")[1] == 1


def test_reload_over_grpc(tmp_path, push, exports):
  for name in ("a", "b"):
    (tmp_path / name).mkdir()
    push(tmp_path / name, 1)
  file = tmp_path / "models.config"
  file.write_text(config_text(("a", tmp_path / "a", "")))
  with running(model_config_file=str(file), file_system_poll_wait_seconds=0) as (server, client):
    assert server.wait_until_available(120)
    # One look was all: a version that comes later stays unknown.
    push(tmp_path / "a", 2)
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(config_text(("a", tmp_path / "a", ""), ("b", tmp_path / "b", "")), request.config)
    with grpc.insecure_channel(server.address) as channel:
      stub = model_service_pb2_grpc.ModelServiceStub(channel)
      assert stub.HandleReloadConfigRequest(request, timeout=60).status.error_code == 0
    assert client.predict("b", {"features": FEATURES})[1] == 1
    assert client.predict("a", {"features": FEATURES})[1] == 1


def test_a_version_may_bring_its_own_batching_parameters(tmp_path, push):
  push(tmp_path, 1)
  flags = {"enable_batching": True, "enable_per_model_batching_parameters": True}
  (tmp_path / "1" / "batching_params.pbtxt").write_text("max_batch_size { value: 2 }")
  with running(tmp_path, **flags) as (server, client):
    assert server.wait_until_available(120)
    assert client.predict("affine", {"features": np.ones((2, 3), np.float32)})[1] == 1
    with pytest.raises(ServingError, match="Task size 3 is larger than maximum input batch size 2"):
      client.predict("affine", {"features": np.ones((3, 3), np.float32)})
  bad = tmp_path / "batching.config"
  bad.write_text("max_batch_size { value: 4 } allowed_batch_sizes: 2")
  options = ServerOptions(port=0, enable_batching=True, batching_parameters_file=str(bad))
  with pytest.raises(ServingError, match=re.escape(f"{bad}: Last entry in allowed_batch_sizes must match")):
    ModelServer(options, {"affine": str(tmp_path)}).start()
