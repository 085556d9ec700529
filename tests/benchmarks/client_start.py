"""Seconds from the start of a client's process to its first answer, against the official stubs."""

import concurrent.futures
import os
import statistics
import subprocess
import sys
import tempfile
import time

import grpc
import numpy as np

from serving.messages.protos import ModelSpec
from serving.messages.tensors import decode_tensor
from serving.messages.wire import PredictAnswer, PredictCall, read_predict_request, write_predict_response

OURS = """
import sys
from serving.client import PredictClient
with PredictClient(sys.argv[1]) as client:
  outputs, version = client.predict("model", {"features": [[1.0, 2.0]]})
assert outputs["sums"].tolist() == [3.0] and version == 1
"""
OFFICIAL = """
import sys
import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(sys.argv[1]))
request = predict_pb2.PredictRequest()
request.model_spec.name = "model"
request.inputs["features"].CopyFrom(tf.make_tensor_proto([[1.0, 2.0]]))
response = stub.Predict(request, 60)
assert tf.make_ndarray(response.outputs["sums"]).tolist() == [3.0]
"""
RUNS = 5


def measure() -> dict:
  """Wall seconds of a new process, median of five; both have their byte code cached, as after an installation."""
  server, address = _start_server()
  with tempfile.TemporaryDirectory(prefix="deepline-bytecode-") as cache:
    seconds = {
      name: _median_s(code, address, cache)
      for name, code in (("import", "import serving.client"), ("ours", OURS), ("official", OFFICIAL))
    }
  server.stop(0)
  return {
    "import_s": round(seconds["import"], 3),
    "first_answer_s": round(seconds["ours"], 3),
    "first_answer_with_official_stubs_s": round(seconds["official"], 3),
    "ratio": round(seconds["official"] / seconds["ours"], 1),
  }


def _start_server() -> tuple[grpc.Server, str]:
  """A server in this process that answers Predict with the sum of each row of "features", and its address."""
  spec = ModelSpec(name="model")
  spec.version.value = 1

  def answer(call: PredictCall, _: grpc.ServicerContext) -> PredictAnswer:
    return PredictAnswer(spec, {"sums": np.sum(decode_tensor(call.inputs["features"]), axis=1)})

  method = grpc.unary_unary_rpc_method_handler(answer, read_predict_request, write_predict_response)
  server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
  server.add_generic_rpc_handlers(
    (grpc.method_handlers_generic_handler("tensorflow.serving.PredictionService", {"Predict": method}),)
  )
  address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
  server.start()
  return server, address


def _median_s(code: str, address: str, cache: str) -> float:
  environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache, "TF_CPP_MIN_LOG_LEVEL": "3"}
  environment.pop("PYTHONDONTWRITEBYTECODE", None)
  seconds = []
  # The first run only fills the cache.
  for _ in range(RUNS + 1):
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, address], check=True, capture_output=True, env=environment)
    seconds.append(time.perf_counter() - started)
  return statistics.median(seconds[1:])
