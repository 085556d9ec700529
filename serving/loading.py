"""Loading a version: into a session, then warmed up with the requests that it brings along."""

from __future__ import annotations

import logging

from serving.predict import predict
from serving.session import SavedModelSession
from serving.warmup import warmup_calls

LOG = logging.getLogger(__name__)


def load_warmed_up(path: str, intra_op_threads: int = 0, inter_op_threads: int = 0) -> SavedModelSession:
  """Loads a SavedModel and replays its warm-up requests. If one fails, so does the load, as in TF Serving.

  Raises:
    Exception: the export cannot be loaded (whatever TensorFlow raises).
    RequestError: a warm-up request fails, or the warm-up file cannot be read.
  """
  session = SavedModelSession(path, intra_op_threads, inter_op_threads)
  skipped = 0
  try:
    for call in warmup_calls(path):
      if call is None:
        skipped += 1
      else:
        predict(session, call.model_spec.signature_name, call.inputs, call.output_filter)
  except Exception:
    session.close()
    raise
  if skipped:
    LOG.warning("%s: %d warm-up requests of kinds other than Predict are left out", path, skipped)
  return session
