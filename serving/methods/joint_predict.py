"""Predict for requests that came together: their runs are joined as far as their models, dtypes and shapes allow."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import tensorflow as tf

from serving.errors import RequestError, invalid_argument
from serving.messages.wire import PredictAnswer, PredictCall
from serving.methods.predict import DEFAULT_SIGNATURE, Plan, request_error
from serving.models.manager import ModelManager
from serving.sessions.batching import BatchingSession
from serving.telemetry.request_log import RequestLog, predict_log

if TYPE_CHECKING:
  from serving.models.served_model import ServedModel, Version
  from serving.telemetry.monitoring import Monitoring

PREDICT = "Predict"  # the name of the method in metrics
_MAX_TARGETS = 1024


class _Target(NamedTuple):
  """What requests with one model_spec and one output_filter ask for, as long as the version stays the same.

  `asked` is that model_spec; `signatures` are the version's; `spec` is what answers name.
  """

  asked: Any
  signatures: Mapping[str, Any]
  plan: Plan
  spec: Any


class _Run(NamedTuple):
  """A request, by its number among those that came together, ready to be run."""

  number: int
  target: _Target
  feeds: dict[str, np.ndarray]


class JointPredict:
  """Answers the requests for quick models. To be used by one thread.

  Args:
    manager, monitoring, request_log: see `serving.methods.api.ModelApi`.
  """

  def __init__(self, manager: ModelManager, monitoring: Monitoring, request_log: RequestLog):
    self._manager = manager
    self._monitoring = monitoring
    self._request_log = request_log
    self._targets: dict[tuple, _Target] = {}

  def answers(self, calls: Sequence[PredictCall]) -> list[PredictAnswer | Exception | None]:
    """Runs requests in this thread, in as few runs as may be.

    Returns:
      For each its answer, or the error to be answered, or None: it has to be looked at closely, or its run may take
      long, and it is left to `ModelApi.predict`.
    """
    outcomes: list[PredictAnswer | Exception | None] = [None] * len(calls)
    runs: dict[BatchingSession, list[_Run]] = {}
    in_use: list[tuple[ServedModel, Version]] = []
    try:
      for i, call in enumerate(calls):
        try:
          session, run = self._prepared(i, call, in_use)
        except RequestError as error:
          outcomes[i] = error
        else:
          if run is not None:
            runs.setdefault(session, []).append(run)
      for session, members in runs.items():
        for number, outcome in self._run(session, members, calls):
          outcomes[number] = outcome
    finally:
      for model, version in in_use:
        model.release(version)
    return outcomes

  def _prepared(
    self, number: int, call: PredictCall, in_use: list[tuple[ServedModel, Version]]
  ) -> tuple[BatchingSession | None, _Run | None]:
    """The session and the run for a request; None where it is not to be run here."""
    model, version = self._manager.take(given_spec(call))
    in_use.append((model, version))
    session = version.session
    if not isinstance(session, BatchingSession):
      return None, None
    target = self._target(call, version)
    feeds = target.plan.feeds(call.inputs)
    if feeds is None or not session.is_quick(feeds, target.plan.fetches):
      return None, None
    return session, _Run(number, target, feeds)

  def _target(self, call: PredictCall, version: Version) -> _Target:
    # Requests that name the same model share the object that does so.
    key = (id(call.model_spec), *call.output_filter)
    target = self._targets.get(key)
    signatures = version.session.signatures
    if target is None or target.signatures is not signatures:
      if len(self._targets) >= _MAX_TARGETS:
        self._targets.clear()
      plan = Plan.of(signatures, call.model_spec.signature_name, call.output_filter)
      spec = resolved_spec(call.model_spec, version.number)
      target = self._targets[key] = _Target(call.model_spec, signatures, plan, spec)
    return target

  def _run(
    self, session: BatchingSession, runs: Sequence[_Run], calls: Sequence[PredictCall]
  ) -> Iterator[tuple[int, PredictAnswer | Exception]]:
    """(number, outcome) of each run."""
    began_s = time.perf_counter()
    results = session.run_together([(run.feeds, run.target.plan.fetches) for run in runs])
    run_us = (time.perf_counter() - began_s) * 1e6
    for run, result in zip(runs, results, strict=True):
      if isinstance(result, Exception):
        yield run.number, request_error(result) if isinstance(result, tf.errors.OpError) else result
        continue
      spec = run.target.spec
      self._monitoring.runtime(spec.name, PREDICT, run_us)
      answer = PredictAnswer(spec, dict(zip(run.target.plan.names, result, strict=True)))
      self._request_log.record(spec.name, lambda i=run.number, answer=answer: predict_log(calls[i], answer))
      yield run.number, answer


def given_spec(call: PredictCall) -> Any:
  """The ModelSpec of a request.

  Raises:
    RequestError: INVALID_ARGUMENT, there is none.
  """
  if call.model_spec is None:
    raise invalid_argument("Missing ModelSpec")
  return call.model_spec


def resolved_spec(spec: Any, number: int) -> Any:
  """The ModelSpec of an answer, of the same class as the request's: with the signature and the version used."""
  resolved = type(spec)(name=spec.name, signature_name=spec.signature_name or DEFAULT_SIGNATURE)
  resolved.version.value = number
  return resolved
