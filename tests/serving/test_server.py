"""The server's life: waiting, loading, hot swap under load, failed versions, configurations, TLS, signals."""

import os
import shutil
import threading
import time
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.errors import ServingError
from tests.serving.servers import running, wait_for

FEATURES = np.array([[1.0, 2.0, 3.0]], np.float32)


def states(client):
  return {status.version: status.state for status in client.status("affine")}


def test_hot_swap_under_load(tmp_path, push, logits_of):
  push(tmp_path, 1)
  answers, errors, done = [], [], threading.Event()

  def ask(client):
    while not done.is_set():
      try:
        outputs, version = client.predict("affine", {"features": FEATURES})
        answers.append((version, outputs["logits"]))
      except Exception as error:
        errors.append(error)

  with running(tmp_path) as (server, client):
    assert server.wait_until_available(120)
    threads = [threading.Thread(target=ask, args=(client,)) for _ in range(4)]
    for thread in threads:
      thread.start()
    wait_for(lambda: len(answers) > 20)
    push(tmp_path, 2)
    wait_for(lambda: states(client) == {1: "END", 2: "AVAILABLE"})
    swapped_at = len(answers)
    wait_for(lambda: len(answers) > swapped_at + 20)
    done.set()
    for thread in threads:
      thread.join()
  assert not errors
  assert {version for version, _ in answers} == {1, 2} and answers[-1][0] == 2
  for version, logits in answers:
    np.testing.assert_allclose(logits, logits_of(FEATURES, version), rtol=1e-6)


def test_a_request_in_flight_finishes_on_the_version_it_began_with(tmp_path, push):
  push(tmp_path, 1)
  found = []
  with running(tmp_path) as (server, client):
    assert server.wait_until_available(120)
    client.predict("affine", {"steps": np.array([10], np.int64)}, "slow")
    began = time.perf_counter()
    client.predict("affine", {"steps": np.array([100_000], np.int64)}, "slow")
    # Long enough on this machine to outlast the loading of version 2.
    steps = int(100_000 * 3 / (time.perf_counter() - began))
    request = ("affine", {"steps": np.array([steps], np.int64)}, "slow")
    thread = threading.Thread(target=lambda: found.append(client.predict(*request)))
    thread.start()
    time.sleep(0.3)
    push(tmp_path, 2)
    wait_for(lambda: states(client).get(2) == "AVAILABLE")
    assert client.predict("affine", {"features": FEATURES})[1] == 2
    assert states(client)[1] == "UNLOADING"
    thread.join()
    wait_for(lambda: states(client)[1] == "END")
  ((outputs, version),) = found
  assert version == 1 and outputs["count"].tolist() == [steps]


def test_a_broken_version_is_reported_and_the_old_one_goes_on(tmp_path, push):
  push(tmp_path, 1)
  with running(tmp_path) as (server, client):
    assert server.wait_until_available(120)
    os.makedirs(tmp_path / "2")
    (tmp_path / "2" / "saved_model.pb").write_bytes(b"not a SavedModel")
    wait_for(lambda: states(client).get(2) == "END")
    broken, good = client.status("affine")
    assert broken.version == 2 and "saved_model.pb" in broken.error
    assert good == (1, "AVAILABLE", "")
    assert client.predict("affine", {"features": FEATURES})[1] == 1
    # A good version 3 takes over, and the broken one is forgotten.
    push(tmp_path, 3, source=2)
    wait_for(lambda: states(client).get(3) == "AVAILABLE" and states(client)[1] == "END")


def test_a_broken_version_is_tried_again(tmp_path, push, exports):
  os.makedirs(tmp_path / "1")
  (tmp_path / "1" / "saved_model.pb").write_bytes(b"")
  with running(tmp_path, load_retry_interval_micros=100_000) as (server, client):
    wait_for(lambda: server.statuses()["affine"])
    shutil.copytree(exports[1], tmp_path / "1", dirs_exist_ok=True)
    assert server.wait_until_available(120)
    assert client.status("affine") == [(1, "AVAILABLE", "")]


def test_unnumbered_folders_are_skipped_and_incomplete_ones_told(tmp_path, push, exports):
  push(tmp_path, 1)
  shutil.copytree(exports[2], tmp_path / "best")
  shutil.copytree(exports[2], tmp_path / "2", ignore=shutil.ignore_patterns("saved_model.pb"))
  with running(tmp_path) as (server, client):
    assert server.wait_until_available(120)
    assert states(client) == {1: "AVAILABLE", 2: "END"}
    assert "Could not find SavedModel .pb or .pbtxt" in client.status("affine")[0].error
    assert client.predict("affine", {"features": FEATURES})[1] == 1
    shutil.copy(Path(exports[2]) / "saved_model.pb", tmp_path / "2")
    wait_for(lambda: states(client) == {1: "END", 2: "AVAILABLE"})


def test_going_back_to_an_older_version(tmp_path, push):
  push(tmp_path, 1)
  push(tmp_path, 2)
  with running(tmp_path) as (server, client):
    assert server.wait_until_available(120)
    assert states(client) == {2: "AVAILABLE"}
    shutil.rmtree(tmp_path / "2")
    wait_for(lambda: states(client) == {1: "AVAILABLE", 2: "END"})
    assert client.predict("affine", {"features": FEATURES})[1] == 1


def test_a_base_path_that_vanishes_unloads_nothing(tmp_path, push):
  base_path = tmp_path / "models"
  base_path.mkdir()
  push(base_path, 1)
  with running(base_path) as (server, client):
    assert server.wait_until_available(120)
    base_path.rename(tmp_path / "elsewhere")
    time.sleep(0.3)
    assert states(client) == {1: "AVAILABLE"}
    assert client.predict("affine", {"features": FEATURES})[1] == 1


def test_a_base_path_without_versions_waits(tmp_path, push):
  with running(tmp_path) as (server, client):
    assert not server.wait_until_available(0.3)
    with pytest.raises(ServingError, match="NOT_FOUND: Could not find any versions of model affine"):
      client.status("affine")
    states_of_health = health_pb2.HealthCheckResponse
    with grpc.insecure_channel(server.address) as channel:
      health = health_pb2_grpc.HealthStub(channel)
      check = health_pb2.HealthCheckRequest(service="PredictionService")
      assert health.Check(check).status == states_of_health.NOT_SERVING
      push(tmp_path, 1)
      assert server.wait_until_available(120)
      wait_for(lambda: health.Check(check).status == states_of_health.SERVING)


def test_a_stopped_server_has_answered_what_was_in_flight(tmp_path, push):
  push(tmp_path, 1)
  found = []
  with running(tmp_path) as (server, client):
    assert server.wait_until_available(120)
    client.predict("affine", {"steps": np.array([10], np.int64)}, "slow")
    request = ("affine", {"steps": np.array([50_000], np.int64)}, "slow")
    thread = threading.Thread(target=lambda: found.append(client.predict(*request)))
    thread.start()
    wait_for(lambda: server._manager.get("affine")._versions[1].requests_in_flight)
    assert server.stop(60)
    assert server.wait(0)
    thread.join()
  assert found[0][0]["count"].tolist() == [50_000]
