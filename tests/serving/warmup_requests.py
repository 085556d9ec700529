"""Reading back the requests that an export is warmed up with."""

import os

import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2


def read_warmup_requests(export_dir):
  """[(signature name, {input name: array})] of an export's warm-up file; none where it has no such file."""
  path = os.path.join(export_dir, "assets.extra", "tf_serving_warmup_requests")
  if not os.path.exists(path):
    return []
  requests = [
    prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
    for record in tf.data.TFRecordDataset(path)
  ]
  return [
    (
      request.model_spec.signature_name,
      {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()},
    )
    for request in requests
  ]
