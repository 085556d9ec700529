"""Requests that are run together in one thread: which are joined, and what each is answered."""

import numpy as np
import pytest

from serving.sessions.batching import QUICK_S, BatchingSession
from serving.sessions.batching_settings import BatchingSettings
from tests.serving.sessions.batching.calls import rows


def requests(clients, signature, *arrays, fetches=None, name="x"):
  """(feeds, fetches) of each array."""
  of = clients.session.signatures[signature]
  outputs = [of.outputs[key].name for key in fetches or sorted(of.outputs)]
  return [({of.inputs[name].name: array}, outputs) for array in arrays]


def values(outcomes):
  return [[array.tolist() for array in outcome] for outcome in outcomes]


def test_equal_shapes_are_joined_and_others_are_not(clients):
  one = clients()
  asked = requests(one, "serving_default", rows([1, 2]), rows([3, 4, 5]), rows([5, 6], [7, 8]))
  outcomes = one.session.run_together(asked)
  assert values(outcomes) == [[[6.0], [3.0]], [[24.0], [12.0]], [[22.0, 30.0], [11.0, 15.0]]]
  assert one.gated.shapes == [(3, 2), (1, 3)]


def test_outputs_come_in_the_order_asked_for(clients):
  one = clients()
  asked = requests(one, "serving_default", rows([1, 2]), fetches=["sums", "doubled_sums"])
  asked += requests(one, "serving_default", rows([2, 2]), fetches=["doubled_sums", "sums"])
  assert values(one.session.run_together(asked)) == [[[3.0], [6.0]], [[8.0], [4.0]]]
  assert one.gated.sizes == [2]


def test_batches_are_not_larger_than_allowed(clients):
  one = clients(max_batch_size=4)
  asked = requests(one, "picky", rows(1, 1, 1), rows(4), rows(9, 9), rows(*[16] * 5), rows(25))
  outcomes = one.session.run_together(asked)
  assert values(outcomes) == [[[1.0] * 3], [[2.0]], [[3.0] * 2], [[4.0] * 5], [[5.0]]]
  assert sorted(one.gated.sizes) == [3, 4, 5]


def test_only_the_request_to_blame_gets_the_error(clients):
  one = clients()
  good, bad, also_good = one.session.run_together(requests(one, "picky", rows(4), rows(-1), rows(9)))
  assert values([good, also_good]) == [[[2.0]], [[3.0]]]
  assert "below zero" in str(bad)
  (alone,) = one.session.run_together(requests(one, "picky", rows(-1)))
  assert "below zero" in str(alone)


def test_rows_that_cannot_be_told_apart_are_run_alone(clients):
  one = clients()
  asked = requests(one, "positive", rows(1, -1), rows(2, 3))
  assert values(one.session.run_together(asked)) == [[[1.0]], [[2.0, 3.0]]]
  assert one.gated.sizes == [4, 2, 2]


class Timed:
  """A session with a clock of its own: a run takes as long as its first value says."""

  def __init__(self, session, clock):
    self.signatures = session.signatures
    self.in_caller_thread = True
    self._session, self._clock = session, clock

  def runs_in_caller_thread(self, fetches):
    return self.in_caller_thread

  def run(self, feeds, fetches, timeout_ms=0):
    self._clock[0] += float(next(iter(feeds.values())).flat[0])
    return self._session.run(feeds, fetches, timeout_ms)


@pytest.fixture
def timed(session, monkeypatch):
  clock = [0.0]
  monkeypatch.setattr("serving.sessions.batching.time.thread_time", lambda: clock[0])
  return lambda **settings: BatchingSession(Timed(session, clock), BatchingSettings(**settings))


def test_runs_are_quick_once_they_were_seen_to_be(timed):
  one = timed()
  of = one.signatures["picky"]
  feeds, fetches = {of.inputs["x"].name: rows(QUICK_S / 2)}, [of.outputs["roots"].name]
  assert not one.is_quick(feeds, fetches)
  one.run(feeds, fetches)
  assert one.is_quick(feeds, fetches)
  # More than may be joined, and another signature.
  assert not one.is_quick({of.inputs["x"].name: np.zeros(33, np.float32)}, fetches)
  other = one.signatures["serving_default"]
  assert not one.is_quick({other.inputs["x"].name: rows([1, 1])}, [other.outputs["sums"].name])
  # Slow ones change that, at the latest when they are the rule.
  slow = {of.inputs["x"].name: rows(QUICK_S * 2)}
  for _ in range(10):
    one.run(slow, fetches)
  assert not one.is_quick(feeds, fetches)
  for _ in range(10):
    one.run_together([(feeds, fetches)] * 2)
  assert one.is_quick(feeds, fetches)


def test_runs_in_other_threads_or_for_company_are_never_quick(timed):
  for settings, in_caller_thread in (({"greedy": False}, True), ({}, False)):
    one = timed(**settings)
    one._session.in_caller_thread = in_caller_thread
    of = one.signatures["picky"]
    feeds, fetches = {of.inputs["x"].name: rows(0.0)}, [of.outputs["roots"].name]
    one.run(feeds, fetches)
    assert not one.is_quick(feeds, fetches)
