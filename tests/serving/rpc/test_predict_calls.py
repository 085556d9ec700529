"""Predict under load, where requests are joined, and where the server itself is at fault."""

import concurrent.futures

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_service_pb2_grpc

from serving.methods.api import ModelApi
from serving.models.manager import ModelManager
from serving.options import ServerOptions
from serving.rpc.grpc_listener import GrpcListener
from serving.rpc.servicer import LARGEST_AT_ONCE_BYTES
from serving.telemetry.monitoring import Monitoring
from serving.telemetry.request_log import RequestLog
from tests.serving.grpc_calls import refusal, request_for

NUM_CLIENTS = 16
CALLS = 60


def test_joined_requests_get_their_own_answers_and_errors(affine_server, logits_of):
  def ask(seed):
    random = np.random.default_rng(seed)
    with grpc.insecure_channel(affine_server.address) as channel:
      stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
      for i in range(CALLS):
        features = random.normal(size=(random.integers(1, 4), 3)).astype(np.float32)
        response = stub.Predict(request_for({"features": features}), timeout=60)
        logits = tf.make_ndarray(response.outputs["logits"])
        np.testing.assert_allclose(logits, logits_of(features), rtol=1e-5, atol=1e-6)
        if i % 10 == seed % 10:
          wrong = request_for({"features": features[:, :2]})
          code, text = refusal(stub.Predict, wrong, timeout=60)
          assert code == grpc.StatusCode.INVALID_ARGUMENT and "Matrix size-incompatible" in text
    return CALLS

  with concurrent.futures.ThreadPoolExecutor(NUM_CLIENTS) as pool:
    assert list(pool.map(ask, range(NUM_CLIENTS))) == [CALLS] * NUM_CLIENTS


def test_large_messages_are_answered_in_between(affine_server, logits_of):
  features = np.ones((LARGEST_AT_ONCE_BYTES // 12 + 1, 3), np.float32)
  with grpc.insecure_channel(affine_server.address) as channel:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    large = stub.Predict.future(request_for({"features": features}), timeout=60)
    small = stub.Predict.future(request_for({"features": features[:1]}), timeout=60)
    for future, rows in ((large, features), (small, features[:1])):
      logits = tf.make_ndarray(future.result().outputs["logits"])
      np.testing.assert_allclose(logits, logits_of(rows), rtol=1e-5)


def test_a_fault_of_the_server_is_told_to_every_client(caplog):
  class Faulty(ModelApi):
    def predict_together(self, calls):
      raise OSError("a fault\nof two lines")

  monitoring = Monitoring()
  api = Faulty(ModelManager(lambda path: None), monitoring, RequestLog())
  listener = GrpcListener(ServerOptions(port=0), api, monitoring)
  try:
    with grpc.insecure_channel(f"127.0.0.1:{listener.port}") as channel:
      stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
      futures = [stub.Predict.future(request_for(), timeout=60) for _ in range(5)]
      for future in futures:
        with pytest.raises(grpc.RpcError) as caught:
          future.result()
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == "a fault of two lines"
  finally:
    listener.stop(5).wait()
  assert any("OSError: a fault" in record.exc_text for record in caplog.records if record.exc_text)
  text = monitoring.exposition()[0].decode()
  assert ':tensorflow:serving:request_count{model_name="affine",status="INTERNAL"} 5.0' in text
