"""Answers requests from an export without a server, and then serves it: the process that a trial starts.

`python -m serving.check EXPORT REQUESTS ANSWERS [flags of serving.server]` loads the export through a TF1
session (the path that TF Serving takes) and with tf.saved_model.load, writes what both answer, and starts the
server. One process for both, since importing TensorFlow takes longer than all the rest of a trial.
"""

from __future__ import annotations

import argparse
import os
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from serving import server
from serving.process import die_with_parent, without_keras

Inputs = Mapping[str, np.ndarray]
Outputs = dict[str, np.ndarray]
# How an export is loaded, in the words of a failure report.
LOADERS = ("TF1 session", "tf.saved_model.load")


def answer_requests(export_dir: str, requests: Sequence[tuple[str, Inputs]]) -> dict[str, list[Outputs]]:
  """Loads an export in both ways and runs every request.

  Args:
    requests: (signature name, {input name: array}).

  Returns:
    {loader: [{output name: array} of each request]}.

  Raises:
    RuntimeError: a load or a request failed; one line that says which and why.
  """
  answers = {}
  for loader, load in zip(LOADERS, (_load_session, _load_functions), strict=True):
    try:
      run = load(export_dir)
    except Exception as error:
      raise RuntimeError(f"load failed: {loader}: {_one_line(error)}") from error
    answers[loader] = []
    for signature_name, inputs in requests:
      try:
        answers[loader].append(run(signature_name, inputs))
      except Exception as error:
        raise RuntimeError(f"request to {signature_name} failed: {loader}: {_one_line(error)}") from error
  return answers


def _load_session(export_dir: str) -> Callable[[str, Inputs], Outputs]:
  from serving.messages.tensors import encode_tensor
  from serving.methods.predict import predict
  from serving.sessions.session import SavedModelSession

  session = SavedModelSession(export_dir)

  def run(signature_name: str, inputs: Inputs) -> Outputs:
    return predict(session, signature_name, {name: encode_tensor(array) for name, array in inputs.items()})

  return run


def _load_functions(export_dir: str) -> Callable[[str, Inputs], Outputs]:
  import tensorflow as tf

  from serving.sessions.session import register_ops

  register_ops()
  loaded = tf.saved_model.load(export_dir)

  def run(signature_name: str, inputs: Inputs) -> Outputs:
    if signature_name not in loaded.signatures:
      raise KeyError(f"no signature {signature_name}")
    outputs = loaded.signatures[signature_name](
      **{name: tf.constant(array) for name, array in inputs.items()}
    )
    return {name: value.numpy() for name, value in outputs.items()}

  return run


def _one_line(error: Exception) -> str:
  text = " ".join(str(getattr(error, "message", None) or error).split())
  return f"{type(error).__name__}: {text}"


def main(arguments: Sequence[str] | None = None) -> int:
  """Pickled requests in, pickled answers out; exit status 1 and one line on stderr where something failed."""
  parser = argparse.ArgumentParser(prog="serving.check", description=__doc__)
  parser.add_argument("export")
  parser.add_argument("requests")
  parser.add_argument("answers")
  parser.add_argument("--parent_pid", type=int, required=True)
  flags, server_flags = parser.parse_known_args(arguments)
  die_with_parent(flags.parent_pid)
  without_keras()
  with open(flags.requests, "rb") as file:
    requests = pickle.load(file)
  try:
    answers = answer_requests(flags.export, requests)
  except RuntimeError as error:
    print(error, file=sys.stderr)
    return 1
  partial = f"{flags.answers}.partial"
  with open(partial, "wb") as file:
    pickle.dump(answers, file)
  os.replace(partial, flags.answers)
  return server.main(server_flags)


if __name__ == "__main__":
  sys.exit(main())
