"""The model server against a Python gRPC server that does nothing, and a round trip against a call in the process.

All load comes from processes of their own that send prepared bytes. Served and idle rounds alternate, the best of each
counts: the machine may have other work.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parent.parent
METHOD = "/tensorflow.serving.PredictionService/Predict"
NUM_CLIENTS = 32
ROUNDS = 4
ROUND_S = 3.0
CALLS = 100
BATCH_SIZE = 32
_START_S = 120


def export(directory: str) -> dict:
  """Writes a small CNN for 32x32 colour images, and requests for it of one image and of a batch, in `float_val`."""
  import keras
  import numpy as np
  import tensorflow as tf

  from serving.export import export_saved_model
  from serving.messages.protos import ModelSpec
  from serving.messages.tensors import encode_tensor
  from serving.messages.wire import PredictCall, write_predict_request

  layers = [keras.Input((32, 32, 3))]
  for filters in (16, 32):
    layers += [keras.layers.Conv2D(filters, 3, activation="relu"), keras.layers.MaxPooling2D()]
  model = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(10)])

  def serve(image):
    return {"logits": model(image, training=False)}

  spec = {"image": tf.TensorSpec([None, 32, 32, 3], tf.float32)}
  export_saved_model(f"{directory}/cnn/1", [], {"serving_default": (serve, spec)})
  images = np.random.default_rng(0).uniform(size=(BATCH_SIZE, 32, 32, 3)).astype(np.float32)
  for name, batch in (("one", images[:1]), ("batch", images)):
    call = PredictCall(ModelSpec(name="cnn"), {"image": encode_tensor(batch)}, [])
    pathlib.Path(directory, name).write_bytes(write_predict_request(call))
  return {}


def idle(port_file: str) -> None:
  """A gRPC server with as many threads as the model server, whose answers are ready bytes of the size of the CNN's."""
  from concurrent import futures

  import grpc

  answer = bytes(100)
  server = grpc.server(futures.ThreadPoolExecutor(4 * len(os.sched_getaffinity(0))))
  service, method = METHOD[1:].split("/")
  handler = grpc.unary_unary_rpc_method_handler(lambda request, context: answer)
  server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
  port = server.add_insecure_port("127.0.0.1:0")
  server.start()
  pathlib.Path(port_file).write_text(str(port))
  server.wait_for_termination()


def load(address: str, request_file: str) -> dict:
  """Requests a second that `NUM_CLIENTS` clients get answered, each with one request under way."""
  request = pathlib.Path(request_file).read_bytes()
  counts = [0] * NUM_CLIENTS
  start, end = threading.Barrier(NUM_CLIENTS + 1), threading.Event()

  def ask(i: int) -> None:
    with _channel(address) as channel:
      predict = channel.unary_unary(METHOD)
      predict(request, timeout=30, wait_for_ready=True)
      start.wait()
      while not end.is_set():
        predict(request, timeout=30)
        counts[i] += 1

  threads = [threading.Thread(target=ask, args=(i,)) for i in range(NUM_CLIENTS)]
  for thread in threads:
    thread.start()
  start.wait()
  started = time.perf_counter()
  time.sleep(ROUND_S)
  answered, elapsed_s = sum(counts), time.perf_counter() - started
  end.set()
  for thread in threads:
    thread.join()
  return {"requests_per_s": answered / elapsed_s}


def calls(address: str, directory: str) -> dict:
  """Microseconds of one request: over gRPC, in this process, and of its parts. The least median of several rounds."""
  from serving.process import without_keras

  without_keras()
  import tensorflow as tf

  from serving.messages.tensors import decode_tensor
  from serving.messages.wire import PredictAnswer, read_predict_request, write_predict_response
  from serving.methods.predict import predict
  from serving.sessions.session import SavedModelSession

  session = SavedModelSession(f"{directory}/cnn/1", intra_op_threads=1)
  function = tf.saved_model.load(f"{directory}/cnn/1").signatures["serving_default"]
  one, batch = (pathlib.Path(directory, name).read_bytes() for name in ("one", "batch"))
  image = decode_tensor(read_predict_request(one).inputs["image"])
  signature = session.signatures["serving_default"]
  feed, fetch = signature.inputs["image"].name, signature.outputs["logits"].name

  def answer_batch() -> None:
    call = read_predict_request(batch)
    outputs = predict(session, call.model_spec.signature_name, call.inputs)
    write_predict_response(PredictAnswer(call.model_spec, outputs))

  with _channel(address) as channel:
    remote = channel.unary_unary(METHOD)
    timed = {
      "round_trip": lambda: remote(one, timeout=30, wait_for_ready=True),
      "function": lambda: function(image=tf.constant(image))["logits"].numpy(),
      "session_run": lambda: session.run({feed: image}, [fetch]),
      "batch_answer": answer_batch,
      "batch_decoding": lambda: decode_tensor(read_predict_request(batch).inputs["image"]),
    }
    best = dict.fromkeys(timed, float("inf"))
    for _ in range(ROUNDS + 1):
      for name, call in timed.items():
        best[name] = min(best[name], _median_us(call))
  return {f"{name}_us": value for name, value in best.items()}


def _median_us(call) -> float:
  times = []
  for _ in range(CALLS):
    started = time.perf_counter()
    call()
    times.append(time.perf_counter() - started)
  return statistics.median(times) * 1e6


def _channel(address: str):
  import grpc

  # A connection for each client, as they would have on machines of their own.
  return grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])


def _ask_child(*arguments: str) -> dict:
  command = [sys.executable, str(FOLDER / "model_serving.py"), *arguments]
  done = subprocess.run(command, env=_environment(), stdout=subprocess.PIPE, check=True, text=True)
  return json.loads(done.stdout.splitlines()[-1])


def _environment() -> dict[str, str]:
  return {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}


class _Server:
  """A server in a process of its own, from its start until it listens and to its end."""

  def __init__(self, command: list[str], port_file: pathlib.Path):
    self._port_file = port_file
    self._process = subprocess.Popen([sys.executable, *command], env=_environment())

  def __enter__(self) -> str:
    deadline = time.monotonic() + _START_S
    while not (self._port_file.exists() and self._port_file.read_text()):
      if self._process.poll() is not None or time.monotonic() > deadline:
        raise RuntimeError("a server did not start")
      time.sleep(0.05)
    return f"127.0.0.1:{self._port_file.read_text()}"

  def __exit__(self, *_: object) -> None:
    self._process.terminate()
    self._process.wait()


def measure() -> dict:
  """Requests a second at 32 clients, and microseconds of one request."""
  with tempfile.TemporaryDirectory() as name:
    _ask_child("export", name)
    folder = pathlib.Path(name)
    served_command = ["-m", "serving.server", "--model_name=cnn", f"--model_base_path={name}/cnn", "--port=0"]
    served_command += [f"--port_file={name}/served_port"]
    idle_command = [str(FOLDER / "model_serving.py"), "idle", f"{name}/idle_port"]
    with (
      _Server(served_command, folder / "served_port") as served,
      _Server(idle_command, folder / "idle_port") as nothing,
    ):
      _wait_until_served(served, folder / "one")
      rates = {served: 0.0, nothing: 0.0}
      for _ in range(ROUNDS):
        for address in rates:
          found = _ask_child("load", address, f"{name}/one")["requests_per_s"]
          rates[address] = max(rates[address], found)
      times = _ask_child("calls", served, name)
  return {
    "requests_per_s": round(rates[served]),
    "requests_per_s_doing_nothing": round(rates[nothing]),
    "ratio": round(rates[served] / rates[nothing], 3),
    **{key: round(value) for key, value in times.items()},
    "round_trip_to_function": round(times["round_trip_us"] / times["function_us"], 2),
    "round_trip_to_session_run": round(times["round_trip_us"] / times["session_run_us"], 2),
    "share_of_decoding": round(times["batch_decoding_us"] / times["batch_answer_us"], 4),
  }


def _wait_until_served(address: str, request_file: pathlib.Path) -> None:
  import grpc

  request, deadline = request_file.read_bytes(), time.monotonic() + _START_S
  with _channel(address) as channel:
    while time.monotonic() < deadline:
      try:
        channel.unary_unary(METHOD)(request, timeout=10, wait_for_ready=True)
        return
      except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
          raise
        time.sleep(0.1)
  raise RuntimeError("the model was not loaded in time")


if __name__ == "__main__":
  # This folder's modules must not hide the project's.
  sys.path[0] = str(ROOT)
  task = {"export": export, "idle": idle, "load": load, "calls": calls}[sys.argv[1]]
  print(json.dumps(task(*sys.argv[2:])))
