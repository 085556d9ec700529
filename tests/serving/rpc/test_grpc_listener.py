"""The gRPC side: TLS, channel arguments, health, content."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
  predict_pb2,
  prediction_service_pb2_grpc,
)

from serving.messages import protos
from serving.rpc.grpc_listener import channel_arguments
from tests.certificates import write_certificates
from tests.serving.servers import running

FEATURES = np.array([[1.0, 2.0, 3.0]], np.float32)


def ask(channel):
  """The version that answers."""
  with channel:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "affine"
    request.inputs["features"].CopyFrom(tf.make_tensor_proto(FEATURES))
    return stub.Predict(request, timeout=20).model_spec.version.value


def ask_with_tls(server, folder, ca, client=None):
  """The version that answers a client who trusts `ca` and shows the certificate of `client`."""
  read = {
    "root_certificates": (folder / f"{ca}.crt").read_bytes(),
    "private_key": client and (folder / f"{client}.key").read_bytes(),
    "certificate_chain": client and (folder / f"{client}.crt").read_bytes(),
  }
  return ask(grpc.secure_channel(server.address, grpc.ssl_channel_credentials(**read)))


def test_tls_with_and_without_client_certificates(tmp_path, push):
  base_path, folder = tmp_path / "models", write_certificates(tmp_path)
  base_path.mkdir()
  push(base_path, 1)
  config = protos.SSLConfig(
    server_key=(folder / "server.key").read_text(), server_cert=(folder / "server.crt").read_text()
  )
  file = tmp_path / "ssl.config"
  file.write_text(text_format.MessageToString(config))
  with running(base_path, ssl_config_file=str(file)) as (server, _):
    assert server.wait_until_available(120)
    assert ask_with_tls(server, folder, "ca") == 1
    with pytest.raises(grpc.RpcError) as caught:
      ask(grpc.insecure_channel(server.address))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
  config.client_verify, config.custom_ca = True, (folder / "ca.crt").read_text()
  file.write_text(text_format.MessageToString(config))
  with running(base_path, ssl_config_file=str(file)) as (server, _):
    assert server.wait_until_available(120)
    assert ask_with_tls(server, folder, "ca", "client") == 1
    for client in (None, "other"):
      with pytest.raises(grpc.RpcError) as caught:
        ask_with_tls(server, folder, "ca", client)
      assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_channel_arguments():
  assert channel_arguments("") == []
  assert channel_arguments("grpc.max_connection_age_ms=2000,grpc.primary_user_agent=x=y") == [
    ("grpc.max_connection_age_ms", 2000),
    ("grpc.primary_user_agent", "x=y"),
  ]


def test_without_health_checks(tmp_path, push):
  push(tmp_path, 1)
  with running(tmp_path, enable_grpc_healthcheck_service=False) as (server, client):
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
      health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_outputs_as_tensor_content(tmp_path, push, logits_of):
  push(tmp_path, 1)
  with running(tmp_path, enable_serialization_as_tensor_content=True) as (server, client):
    assert server.wait_until_available(120)
    request = predict_pb2.PredictRequest(output_filter=["logits"])
    request.model_spec.name = "affine"
    request.inputs["features"].CopyFrom(tf.make_tensor_proto(FEATURES))
    with grpc.insecure_channel(server.address) as channel:
      stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
      logits = stub.Predict(request, timeout=60).outputs["logits"]
  assert logits.tensor_content and not logits.float_val
  np.testing.assert_allclose(tf.make_ndarray(logits), logits_of(FEATURES), rtol=1e-6)
