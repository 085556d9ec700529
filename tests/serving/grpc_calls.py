"""Requests of the official stubs to a server with the model "affine"."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

FEATURES = np.array([[1.0, 2.0, 3.0], [0.0, -1.0, 0.5]], np.float32)


def request_for(inputs=None, name="affine", signature="", output_filter=(), **version):
  request = predict_pb2.PredictRequest(output_filter=output_filter)
  request.model_spec.name = name
  request.model_spec.signature_name = signature
  if "version" in version:
    request.model_spec.version.value = version["version"]
  if "label" in version:
    request.model_spec.version_label = version["label"]
  for key, value in (inputs if inputs is not None else {"features": FEATURES}).items():
    request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
  return request


def refusal(method, request, **options):
  with pytest.raises(grpc.RpcError) as caught:
    method(request, **options)
  return caught.value.code(), caught.value.details()
