"""50 hot swaps under load: no request fails, every answer is right, memory levels off."""

import shutil
import threading

import grpc
import httpx
import numpy as np
import psutil
import pytest

NUM_CLIENTS, NUM_SWAPS, WARM_SWAPS = 16, 50, 10
X = np.array([2.0, 6.0], np.float32)
# A version holds 4 MiB of weights and its graph's memory besides; 40 versions that leak would take more than 160 MiB.
ALLOWED_GROWTH_BYTES = 64 * 2**20


class Load:
  """Client threads that ask until they are told to stop; half of them pause like people, a quarter use REST."""

  def __init__(self, server, client):
    self._server, self._request = server, client.predict_request({"x": X})
    self.answers = {"gRPC": [], "REST": []}
    self.failures = []
    self.stopping = threading.Event()
    self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(NUM_CLIENTS)]

  def __enter__(self):
    for thread in self._threads:
      thread.start()
    return self

  def __exit__(self, *_):
    self.stopping.set()
    for thread in self._threads:
      thread.join()

  def _ask(self, i):
    pause_s = 0.05 if i % 2 else 0.002
    ask = self._rest() if i % 4 == 0 else self._grpc()
    while not self.stopping.is_set():
      try:
        next(ask)
      except (grpc.RpcError, httpx.HTTPError, AssertionError) as error:
        self.failures.append(error)
        return
      self.stopping.wait(pause_s)

  def _grpc(self):
    while True:
      response = self._server.prediction.Predict(self._request, timeout=60)
      y = tuple(response.outputs["y"].float_val)
      self.answers["gRPC"].append((response.model_spec.version.value, y))
      yield

  def _rest(self):
    with httpx.Client(base_url=self._server.http.base_url, timeout=60) as http:
      while True:
        response = http.post("/v1/models/m:predict", json={"instances": X.tolist()})
        assert response.status_code == 200, response.text
        self.answers["REST"].append(tuple(response.json()["predictions"]))
        yield


@pytest.mark.slow
def test_fifty_hot_swaps_under_load(start, publish, client, wait_for, tmp_path):
  base_path = tmp_path / "m"
  base_path.mkdir()
  publish(base_path, 1)
  resident_bytes = {}
  flags = {"model_name": "m", "model_base_path": base_path, "file_system_poll_wait_seconds": 1}
  with start(flags) as server:
    wait_for(lambda: server.available() == [1])
    process = psutil.Process(server.process.pid)
    with Load(server, client) as load:
      for version in range(2, NUM_SWAPS + 2):
        publish(base_path, version)
        wait_for(lambda version=version: server.available() == [version] or load.failures)
        assert not load.failures
        if version > 2:
          shutil.rmtree(base_path / str(version - 2))
        if version - 1 in (WARM_SWAPS, NUM_SWAPS):
          resident_bytes[version - 1] = process.memory_info().rss
    assert not load.failures
    states = server.states()
  assert states.pop(NUM_SWAPS + 1) == "AVAILABLE" and set(states.values()) == {"END"}

  expected = {version: (1.0 + version, 3.0 + version) for version in range(1, NUM_SWAPS + 2)}
  assert {version for version, _ in load.answers["gRPC"]} == set(expected)
  assert set(load.answers["gRPC"]) == set(expected.items())
  assert set(load.answers["REST"]) <= set(expected.values())
  assert len(set(load.answers["REST"])) > NUM_SWAPS // 2
  growth_bytes = resident_bytes[NUM_SWAPS] - resident_bytes[WARM_SWAPS]
  assert growth_bytes < ALLOWED_GROWTH_BYTES, f"{growth_bytes / 2**20:.0f} MiB more after {NUM_SWAPS} swaps"
