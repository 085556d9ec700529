"""A session whose runs are told to the monitoring."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from tensorflow.core.protobuf import meta_graph_pb2

if TYPE_CHECKING:
  from serving.telemetry.monitoring import Monitoring


class TimedSession:
  """A version's session that tells the metrics how long each run took."""

  __slots__ = ("_api", "_model_name", "_monitoring", "_session", "signatures")

  def __init__(self, session: Any, monitoring: Monitoring, model_name: str, api: str):
    self._session = session
    self._monitoring = monitoring
    self._model_name = model_name
    self._api = api
    self.signatures: Mapping[str, meta_graph_pb2.SignatureDef] = session.signatures

  def run(
    self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout_ms: int = 0
  ) -> list[np.ndarray]:
    began_s = time.perf_counter()
    values = self._session.run(feeds, fetches, timeout_ms)
    self._monitoring.runtime(self._model_name, self._api, (time.perf_counter() - began_s) * 1e6)
    return values
