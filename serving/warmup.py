"""Warm-up requests inside an export: TF Serving replays them before a version becomes available.

Source: https://www.tensorflow.org/tfx/serving/saved_model_warmup,
tensorflow_serving/servables/tensorflow/{saved_model_warmup,saved_model_warmup_util}.cc
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import message
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from serving.errors import RequestError, invalid_argument
from serving.messages.tensors import encode_tensor
from serving.methods.inference import Session, classify, multi_inference, regress
from serving.methods.predict import predict

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


def replay(session: Session, export_dir: str, iterations: int = 1, *, check_method_name: bool = False) -> int:
  """Answers the warm-up requests of an export: Predict, Classify, Regress and MultiInference.

  Args:
    session: the loaded export.
    iterations: how often each request is answered.
    check_method_name: as in `serving.methods.inference.classify`.

  Returns:
    How many records there are; 0 where the export has no warm-up file.

  Raises:
    RequestError: a request fails, or the file cannot be read or holds more than 1000 records.
  """
  count = 0
  for log in _read_logs(export_dir):
    for _ in range(iterations):
      _answer(session, log, check_method_name)
    count += 1
  return count


def _answer(session: Session, log: prediction_log_pb2.PredictionLog, check_method_name: bool) -> None:
  kind = log.WhichOneof("log_type")
  if kind == "session_run_log":
    number = prediction_log_pb2.PredictionLog.SESSION_RUN_LOG_FIELD_NUMBER
    raise RequestError(grpc.StatusCode.UNIMPLEMENTED, f"Unsupported log_type for warmup: {number}")
  if kind not in ("predict_log", "classify_log", "regress_log", "multi_inference_log"):
    # As TF Serving: a record without a request, or with one of a streamed answer, warms nothing up.
    return
  request = getattr(log, kind).request
  if kind == "predict_log":
    inputs = {name: tensor.SerializeToString() for name, tensor in request.inputs.items()}
    predict(session, request.model_spec.signature_name, inputs, request.output_filter)
  elif kind == "multi_inference_log":
    multi_inference(session, request.tasks, request.input, check_method_name=check_method_name)
  else:
    answer = classify if kind == "classify_log" else regress
    answer(session, request.model_spec.signature_name, request.input, check_method_name=check_method_name)


def _read_logs(export_dir: str) -> Iterator[prediction_log_pb2.PredictionLog]:
  path = os.path.join(export_dir, WARMUP_FILE)
  if not os.path.isfile(path):
    return
  try:
    for count, record in enumerate(tf.data.TFRecordDataset(path).as_numpy_iterator(), start=1):
      if count > MAX_WARMUP_REQUESTS:
        raise invalid_argument(
          f"Number of warmup records exceeds the maximum ({MAX_WARMUP_REQUESTS}) at {path}"
        )
      yield _parsed(record, count, path)
  except tf.errors.DataLossError as error:
    raise RequestError(
      grpc.StatusCode.DATA_LOSS,
      f"{error.message}. Please verify your warmup data is in TFRecord format: {path}",
    ) from error


def _parsed(record: bytes, count: int, path: str) -> prediction_log_pb2.PredictionLog:
  try:
    return prediction_log_pb2.PredictionLog.FromString(record)
  except message.DecodeError as error:
    raise invalid_argument(
      f"Failed to parse warmup record: number {count} from {path} is no PredictionLog"
    ) from error


def _prediction_log(
  model_name: str, signature_name: str, inputs: Mapping[str, np.ndarray]
) -> prediction_log_pb2.PredictionLog:
  request = predict_pb2.PredictRequest()
  request.model_spec.name = model_name
  request.model_spec.signature_name = signature_name
  for name, array in inputs.items():
    request.inputs[name].MergeFromString(encode_tensor(np.asarray(array)))
  return prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
