"""Warm-up requests inside an export: TF Serving replays them before a version becomes available.

Source: https://www.tensorflow.org/tfx/serving/saved_model_warmup
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2

from serving.errors import invalid_argument
from serving.tensors import decode_tensor, encode_tensor
from serving.wire import PredictCall, read_predict_request, write_predict_request

WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
MAX_WARMUP_REQUESTS = 1000

Request = tuple[str, Mapping[str, np.ndarray]]


def write_warmup_requests(export_dir: str, model_name: str, requests: Sequence[Request]) -> str:
  """Puts warm-up requests into an export, in place of those that are there.

  Args:
    export_dir: directory of the SavedModel.
    model_name: the name that the model is served under.
    requests: (signature name, {input name: array [batch, ...]}), at most 1000; strings as object arrays.

  Returns:
    Path of the file: a TFRecord of PredictionLog messages.

  Raises:
    ValueError: too many requests, or `export_dir` holds no SavedModel.
  """
  if len(requests) > MAX_WARMUP_REQUESTS:
    raise ValueError(f"{len(requests)} warm-up requests; TF Serving takes at most {MAX_WARMUP_REQUESTS}")
  if not os.path.isfile(os.path.join(export_dir, "saved_model.pb")):
    raise ValueError(f"{export_dir} holds no saved_model.pb; export the model first")
  path = os.path.join(export_dir, WARMUP_FILE)
  os.makedirs(os.path.dirname(path), exist_ok=True)
  partial = f"{path}.partial-{os.getpid()}"
  with tf.io.TFRecordWriter(partial) as writer:
    for signature_name, inputs in requests:
      writer.write(_prediction_log(model_name, signature_name, inputs).SerializeToString())
  os.replace(partial, path)
  return path


def read_warmup_requests(export_dir: str) -> list[tuple[str, dict[str, np.ndarray]]]:
  """The Predict requests that an export is warmed up with; none where it has no warm-up file.

  Returns:
    (signature name, {input name: array}) of each.

  Raises:
    RequestError: the file cannot be read or holds more than 1000 records.
  """
  return [
    (call.model_spec.signature_name, {name: decode_tensor(data) for name, data in call.inputs.items()})
    for call in warmup_calls(export_dir)
    if call is not None
  ]


def warmup_calls(export_dir: str) -> Iterator[PredictCall | None]:
  """The warm-up requests as Predict calls; None for one of another kind (Classify, Regress, MultiInference).

  Raises:
    RequestError: the file cannot be read or holds more than 1000 records.
  """
  path = os.path.join(export_dir, WARMUP_FILE)
  if not os.path.isfile(path):
    return
  try:
    for count, record in enumerate(tf.data.TFRecordDataset(path).as_numpy_iterator(), start=1):
      if count > MAX_WARMUP_REQUESTS:
        raise invalid_argument(
          f"Number of warmup records exceeds the maximum ({MAX_WARMUP_REQUESTS}) at {path}"
        )
      log = prediction_log_pb2.PredictionLog.FromString(record)
      if log.WhichOneof("log_type") == "predict_log":
        yield read_predict_request(log.predict_log.request.SerializeToString())
      else:
        yield None
  except tf.errors.DataLossError as error:
    raise invalid_argument(
      f"{error.message}. Please verify your warmup data is in TFRecord format."
    ) from error


def _prediction_log(
  model_name: str, signature_name: str, inputs: Mapping[str, np.ndarray]
) -> prediction_log_pb2.PredictionLog:
  spec = model_pb2.ModelSpec(name=model_name, signature_name=signature_name)
  call = PredictCall(spec, {name: encode_tensor(np.asarray(array)) for name, array in inputs.items()}, [])
  request = predict_pb2.PredictRequest.FromString(write_predict_request(call))
  return prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
