"""A TFLite file behind the interface of a session.

Source: tensorflow_serving/servables/tensorflow/tflite_session.cc
"""

from __future__ import annotations

import contextlib
import os
import queue
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from serving.errors import RequestError, invalid_argument

DEFAULT_SIGNATURE = "serving_default"
PREDICT_METHOD = "tensorflow/serving/predict"


class TfliteSession:
  """One TFLite file. Any number of threads may call `run` at once; each run has an interpreter to itself.

  A file without signatures gets "serving_default", with its tensors' names as those of inputs and outputs; a file's
  only signature is "serving_default" besides its own name.

  Args:
    path: of the .tflite file.
    num_threads: of an interpreter; 0: one.

  Raises:
    Exception: whatever TFLite raises for a file that it cannot load.
  """

  def __init__(self, path: str, num_threads: int = 0):
    with open(path, "rb") as file:
      self._content = file.read()
    self._num_threads = num_threads or 1
    first = _Interpreter(self._content, self._num_threads)
    self._inputs = {_tensor_name(key, name): (key, name, of) for key, name, of in first.inputs()}
    self._outputs = {_tensor_name(key, name): (key, name) for key, name, _ in first.outputs()}
    self.signatures = _signature_defs(first)
    # The other interpreters are made when they are needed; None stands for one that is not made yet.
    self._free: queue.SimpleQueue = queue.SimpleQueue()
    for interpreter in (first, *[None] * (len(os.sched_getaffinity(0)) - 1)):
      self._free.put(interpreter)

  def run(
    self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout_ms: int = 0
  ) -> list[np.ndarray]:
    """Values of the fetched tensors.

    Args:
      feeds: {tensor name: value}; names and fetches are those of one of the `signatures`.
      timeout_ms: the longest that the call may wait for its turn; 0: no limit. A run that has begun goes on to its end.

    Raises:
      RequestError: INVALID_ARGUMENT, a value or a name is wrong; DEADLINE_EXCEEDED; INTERNAL, the run failed.
    """
    keys, inputs = set(), {}
    for name, array in feeds.items():
      if name not in self._inputs:
        raise invalid_argument(f"Missing input TFLite tensor: {name}")
      key, alias, details = self._inputs[name]
      _check(alias, array, details)
      keys.add(key)
      inputs[alias] = array
    for name in fetches:
      if name not in self._outputs:
        raise invalid_argument(f"Missing output TFLite tensor: {name}")
      keys.add(self._outputs[name][0])
    if len(keys) != 1:
      raise invalid_argument(f"a TFLite model runs one signature at once, not {len(keys)}")
    with self._interpreter(timeout_ms) as interpreter:
      try:
        outputs = interpreter.run(keys.pop(), inputs)
      except (RuntimeError, ValueError) as error:
        message = f"Failed to run interpreter: {' '.join(str(error).split())}"
        raise RequestError(grpc.StatusCode.INTERNAL, message) from error
    return [outputs[self._outputs[name][1]] for name in fetches]

  def close(self) -> None:
    """Frees the interpreters. No `run` may be under way or come later."""
    with contextlib.suppress(queue.Empty):
      while True:
        self._free.get_nowait()

  def runs_in_caller_thread(self, fetches: Sequence[str]) -> bool:
    """No: how long a run takes cannot be told from a TFLite file, which may hold loops."""
    return False

  @contextlib.contextmanager
  def _interpreter(self, timeout_ms: int) -> Iterator[_Interpreter]:
    try:
      interpreter = self._free.get(timeout=timeout_ms / 1000 if timeout_ms else None)
    except queue.Empty:
      raise RequestError(
        grpc.StatusCode.DEADLINE_EXCEEDED, "timeout exceeded while waiting for a free TFLite interpreter"
      ) from None
    try:
      interpreter = interpreter or _Interpreter(self._content, self._num_threads)
      yield interpreter
    finally:
      self._free.put(interpreter)


class _Interpreter:
  """TFLite's interpreter with one way to call it, whether the file has signatures or not."""

  def __init__(self, content: bytes, num_threads: int):
    self._interpreter = tf.lite.Interpreter(model_content=content, num_threads=num_threads)
    self._interpreter.allocate_tensors()
    self._runners = {
      key: self._interpreter.get_signature_runner(key) for key in self._interpreter.get_signature_list()
    }

  def inputs(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(signature, input, its details) of all inputs; the signature is "" in a file without any."""
    if not self._runners:
      yield from (("", details["name"], details) for details in self._interpreter.get_input_details())
    for key, runner in self._runners.items():
      yield from ((key, name, details) for name, details in runner.get_input_details().items())

  def outputs(self) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """As `inputs`."""
    if not self._runners:
      yield from (("", details["name"], details) for details in self._interpreter.get_output_details())
    for key, runner in self._runners.items():
      yield from ((key, name, details) for name, details in runner.get_output_details().items())

  def run(self, key: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{output: array} of one signature, for all of its inputs."""
    if key:
      return self._runners[key](**inputs)
    details = self._interpreter.get_input_details()
    for of in details:
      self._interpreter.resize_tensor_input(of["index"], inputs[of["name"]].shape)
    self._interpreter.allocate_tensors()
    for of in details:
      self._interpreter.set_tensor(of["index"], inputs[of["name"]])
    self._interpreter.invoke()
    return {
      of["name"]: self._interpreter.get_tensor(of["index"]) for of in self._interpreter.get_output_details()
    }


def _tensor_name(key: str, name: str) -> str:
  """What a feed or fetch is called: unique in the file, which the names of its subgraphs' tensors are not."""
  return f"{key}_{name}:0" if key else name


def _signature_defs(interpreter: _Interpreter) -> dict[str, meta_graph_pb2.SignatureDef]:
  signatures: dict[str, meta_graph_pb2.SignatureDef] = {}
  for kind, tensors in (("inputs", interpreter.inputs()), ("outputs", interpreter.outputs())):
    for key, name, details in tensors:
      signature = signatures.setdefault(
        key or DEFAULT_SIGNATURE, meta_graph_pb2.SignatureDef(method_name=PREDICT_METHOD)
      )
      info = getattr(signature, kind)[name]
      info.name = _tensor_name(key, name)
      info.dtype = tf.as_dtype(_dtype(details)).as_datatype_enum
      info.tensor_shape.SetInParent()
      for size in _shape(details):
        info.tensor_shape.dim.add(size=size)
  if len(signatures) == 1:
    signatures.setdefault(DEFAULT_SIGNATURE, *signatures.values())
  return signatures


def _dtype(details: Mapping[str, Any]) -> np.dtype:
  dtype = np.dtype(details["dtype"])
  return np.dtype(object) if dtype.kind == "S" else dtype


def _shape(details: Mapping[str, Any]) -> list[int]:
  """With -1 for the sizes that are open. Without any, TFLite leaves the signature of the shape empty."""
  shape = details["shape_signature"] if len(details["shape_signature"]) else details["shape"]
  return [int(size) for size in shape]


def _check(name: str, array: np.ndarray, details: Mapping[str, Any]) -> None:
  """TFLite takes any shape of a possible size and makes another batch of it."""
  wanted, dtype = _shape(details), _dtype(details)
  if array.dtype != dtype:
    raise invalid_argument(
      f"input {name} must be {tf.as_dtype(dtype).name}, not {tf.as_dtype(array.dtype).name}"
    )
  fits = len(wanted) == array.ndim and all(a in (-1, b) for a, b in zip(wanted, array.shape, strict=True))
  if not fits:
    raise invalid_argument(f"input {name} has the shape {list(array.shape)}, the model takes {wanted}")
