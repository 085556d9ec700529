"""The gRPC side: TLS, channel arguments, health, content."""

import datetime

import grpc
import numpy as np
import pytest
import tensorflow as tf
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import text_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
  predict_pb2,
  prediction_service_pb2_grpc,
)

from serving.messages import protos
from serving.rpc.grpc_listener import channel_arguments
from tests.serving.servers import running

FEATURES = np.array([[1.0, 2.0, 3.0]], np.float32)


def certificate(name, issuer=None, is_ca=False):
  """(key, certificate) for localhost, signed by `issuer` or by itself."""
  key = ec.generate_private_key(ec.SECP256R1())
  subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
  now = datetime.datetime.now(datetime.timezone.utc)
  made = (
    x509.CertificateBuilder()
    .subject_name(subject)
    .issuer_name(issuer[1].subject if issuer else subject)
    .public_key(key.public_key())
    .serial_number(x509.random_serial_number())
    .not_valid_before(now - datetime.timedelta(days=1))
    .not_valid_after(now + datetime.timedelta(days=1))
    .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    .sign(issuer[0] if issuer else key, hashes.SHA256())
  )
  return key, made


def pem(item):
  if isinstance(item, x509.Certificate):
    return item.public_bytes(serialization.Encoding.PEM)
  return item.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
  )


def ask(channel):
  """The version that answers."""
  with channel:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "affine"
    request.inputs["features"].CopyFrom(tf.make_tensor_proto(FEATURES))
    return stub.Predict(request, timeout=20).model_spec.version.value


def ask_with_tls(server, **credentials):
  options = [("grpc.ssl_target_name_override", "localhost")]
  return ask(grpc.secure_channel(server.address, grpc.ssl_channel_credentials(**credentials), options))


def test_tls_with_and_without_client_certificates(tmp_path, push):
  push(tmp_path, 1)
  authority = certificate("authority", is_ca=True)
  key, cert = certificate("server", authority)
  client_key, client_cert = certificate("client", authority)
  config = protos.SSLConfig(server_key=pem(key).decode(), server_cert=pem(cert).decode())
  root = {"root_certificates": pem(authority[1])}
  known = {"private_key": pem(client_key), "certificate_chain": pem(client_cert)}
  strange_key, strange_cert = certificate("stranger")
  strange = {"private_key": pem(strange_key), "certificate_chain": pem(strange_cert)}
  file = tmp_path / "ssl.config"
  file.write_text(text_format.MessageToString(config))
  with running(tmp_path, ssl_config_file=str(file)) as (server, _):
    assert server.wait_until_available(120)
    assert ask_with_tls(server, **root) == 1
    with pytest.raises(grpc.RpcError) as caught:
      ask(grpc.insecure_channel(server.address))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
  config.client_verify, config.custom_ca = True, pem(authority[1]).decode()
  file.write_text(text_format.MessageToString(config))
  with running(tmp_path, ssl_config_file=str(file)) as (server, _):
    assert server.wait_until_available(120)
    assert ask_with_tls(server, **root, **known) == 1
    for credentials in (root, {**root, **strange}):
      with pytest.raises(grpc.RpcError) as caught:
        ask_with_tls(server, **credentials)
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
