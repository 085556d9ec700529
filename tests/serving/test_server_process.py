"""`python -m serving.server` as its own process: what it tells, and how it ends."""

import json
import signal
import threading
import time
import urllib.request

import numpy as np
import psutil

from serving.client import PredictClient
from serving.errors import ServingError
from serving.server import main
from tests.serving.servers import wait_for

FEATURES = np.array([[1.0, 2.0, 3.0]], np.float32)


def test_a_server_process_announces_itself_and_ends_on_sigterm(tmp_path, push, serve_process, logits_of):
  base_path = tmp_path / "models"
  base_path.mkdir()
  flags = ("--model_name=affine", f"--model_base_path={base_path}", "--file_system_poll_wait_seconds=0.1")
  served = serve_process(*flags, "--enable_profiler=false")
  where = f"{served.address} (gRPC), {served.rest_address} (REST)"
  wait_for(lambda: f"listening at {where}; not every model is available yet\n" in served.log.read_text())
  assert f"no versions of affine under {base_path}; waiting for one\n" in served.log.read_text()
  assert "--enable_profiler has no effect in the embedded server\n" in served.log.read_text()
  push(base_path, 1)
  wait_for(lambda: f"serving affine version 1 at {where}\n" in served.log.read_text())
  with PredictClient(served.address, timeout_s=30) as client:
    assert client.predict("affine", {"features": FEATURES})[1] == 1
  url = f"http://{served.rest_address}/v1/models/affine:predict"
  body = json.dumps({"instances": FEATURES.tolist()}).encode()
  with urllib.request.urlopen(url, body, timeout=30) as response:
    (answer,) = json.load(response)["predictions"]
  np.testing.assert_allclose(answer["logits"], logits_of(FEATURES)[0], rtol=1e-6)
  soft, hard = psutil.Process(served.process.pid).rlimit(psutil.RLIMIT_NOFILE)
  assert soft == hard
  # It ends on a signal, even if a request would go on for ever.
  errors = []

  def ask():
    try:
      with PredictClient(served.address, timeout_s=300) as client:
        client.predict("affine", {"steps": np.array([10**15], np.int64)}, "slow")
    except ServingError as error:
      errors.append(error)

  thread = threading.Thread(target=ask)
  thread.start()
  time.sleep(1)
  served.process.send_signal(signal.SIGTERM)
  assert served.process.wait(60) == 0
  thread.join(60)
  assert errors and "Traceback" not in served.log.read_text()
  assert served.log.read_text().endswith("stopping affine\n")


def test_the_command_line_tells_what_is_wrong_in_one_line(capsys):
  assert main(["--model_name=m", "--model_base_path=/missing", "--port=0"]) == 1
  output = capsys.readouterr()
  assert output.err == "model_base_path /missing of model m is no directory; push a model there first\n"
