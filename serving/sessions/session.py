"""A SavedModel in a TF1 session: the path that TF Serving's loader takes."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.saved_model import loader_impl

from serving.errors import ServingError
from serving.sessions.graph_loops import loop_free

SERVE_TAG = "serve"
_IN_CALLER_THREAD = config_pb2.RunOptions(inter_op_thread_pool=-1).SerializeToString()


def register_ops() -> None:
  """Makes TensorFlow Text's ops known where it is installed; TF Serving's binary has them linked in."""
  if importlib.util.find_spec("tensorflow_text"):
    importlib.import_module("tensorflow_text")


def session_config(
  config_file: str = "", intra_op_threads: int = 0, inter_op_threads: int = 0
) -> config_pb2.ConfigProto:
  """How a session is to run.

  Args:
    config_file: a tensorflow.ConfigProto in text format; "": none.
    intra_op_threads, inter_op_threads: threads within one op, and of ops side by side; they take precedence over the
      file's. 0: the file's, or else TensorFlow chooses.

  Raises:
    ServingError: the file cannot be read, or holds something else.
  """
  config = config_pb2.ConfigProto()
  # Threads that find no work would turn in circles for a while, on the processors that other requests wait for: a small
  # model's run costs twice the processor time then.
  config.experimental.disable_thread_spinning = not config_file
  if config_file:
    try:
      with open(config_file, encoding="utf-8") as file:
        text_format.Parse(file.read(), config)
    except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
      reason = " ".join(str(getattr(error, "strerror", None) or error).split())
      raise ServingError(
        f"session configuration file {config_file}: {reason}; it must hold a tensorflow.ConfigProto as text"
      ) from error
  if intra_op_threads:
    config.intra_op_parallelism_threads = intra_op_threads
  if inter_op_threads:
    config.inter_op_parallelism_threads = inter_op_threads
  return config


class SavedModelSession:
  """One loaded SavedModel. Any number of threads may call `run` at once.

  Args:
    path: directory of the SavedModel.
    intra_op_threads, inter_op_threads: see `session_config`.
    tags: of the meta graph that is loaded.
    config_file: see `session_config`.
    in_caller_thread: ops run one after the other in the thread that calls `run`, where there is no loop among them: for
      a small model the hand-over to other threads takes longer than the ops.

  Raises:
    ServingError: `config_file` cannot be read.
    Exception: whatever TensorFlow's loader raises for an export that it cannot load.
  """

  def __init__(
    self,
    path: str,
    intra_op_threads: int = 0,
    inter_op_threads: int = 0,
    *,
    tags: Sequence[str] = (SERVE_TAG,),
    config_file: str = "",
    in_caller_thread: bool = False,
  ):
    register_ops()
    config = session_config(config_file, intra_op_threads, inter_op_threads)
    graph = tf.Graph()
    self._session = tf.compat.v1.Session(graph=graph, config=config)
    try:
      with graph.as_default():
        # What tf.compat.v1.saved_model.load calls, without its warning on the operator's terminal.
        loaded = loader_impl.SavedModelLoader(path).load(self._session, list(tags))
    except Exception:
      _free(self._session)
      raise
    self.signatures: dict[str, meta_graph_pb2.SignatureDef] = dict(loaded.signature_def)
    # Tensors by name, resolved once: a request then costs no look-up in the Python graph.
    self._tensors = {
      info.name: graph.as_graph_element(info.name)._as_tf_output()
      for signature in self.signatures.values()
      for info in (*signature.inputs.values(), *signature.outputs.values())
      if ":" in info.name  # "__saved_model_init_op" names an operation
    }
    self._session._extend_graph()
    self._in_caller_thread_options = pywrap_tf_session.TF_NewBufferFromString(_IN_CALLER_THREAD)
    self._in_caller_thread = loop_free(loaded.graph_def, self._tensors) if in_caller_thread else set()

  def run(
    self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout_ms: int = 0
  ) -> list[np.ndarray]:
    """Values of the fetched tensors.

    This is the raw run call, as TF Serving makes it: Session.run checks shapes and casts values beforehand.

    Args:
      feeds: {tensor name: value}; names and fetches are those in `signatures`.
      timeout_ms: the longest that the run may take; 0: no limit. A run in the caller's thread cannot be ended early,
        but is not long either: without a loop it takes as long as its inputs are large.

    Raises:
      tf.errors.OpError: what the run says.
    """
    if self.runs_in_caller_thread(fetches):
      return self._run(feeds, fetches, self._in_caller_thread_options)
    if not timeout_ms:
      return self._run(feeds, fetches, None)
    options = pywrap_tf_session.TF_NewBufferFromString(
      config_pb2.RunOptions(timeout_in_ms=timeout_ms).SerializeToString()
    )
    try:
      return self._run(feeds, fetches, options)
    finally:
      pywrap_tf_session.TF_DeleteBuffer(options)

  def _run(
    self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], options: object
  ) -> list[np.ndarray]:
    """As `run`, with a TF_Buffer of serialized RunOptions, or None."""
    values = pywrap_tf_session.TF_SessionRun_wrapper(
      self._session._session,
      options,
      {self._tensor(name): value for name, value in feeds.items()},
      [self._tensor(name) for name in fetches],
      [],
      None,
    )
    return [_as_array(value) for value in values]

  def runs_in_caller_thread(self, fetches: Sequence[str]) -> bool:
    """Whether all ops of such a run are run by the thread that calls `run`."""
    return self._in_caller_thread.issuperset(fetches)

  def _tensor(self, name: str) -> object:
    if name not in self._tensors:
      raise tf.errors.InvalidArgumentError(None, None, f"Tensor {name} was not found in the Graph")
    return self._tensors[name]

  def close(self) -> None:
    """Frees the session and its variables. No `run` may be under way or come later."""
    _free(self._session)
    pywrap_tf_session.TF_DeleteBuffer(self._in_caller_thread_options)
    self._session = self._in_caller_thread_options = None
    self._tensors = {}


def _as_array(value: object) -> np.ndarray:
  # A run hands scalars over as bytes or numpy scalars.
  return np.array(value, object) if isinstance(value, bytes) else np.asarray(value)


def _free(session: tf.compat.v1.Session) -> None:
  session.close()
  # Left to itself, Python frees the variables only when it comes to collect the graph's reference cycles.
  session.__del__()
