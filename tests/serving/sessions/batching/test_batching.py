"""Joint runs of a real session, which a gate makes wait so that the tests know who waits with whom."""

import grpc
import numpy as np
import pytest
import tensorflow as tf

from serving.errors import RequestError
from tests.serving.sessions.batching.calls import GATE, WAIT_S, rows


def test_a_lone_caller_is_not_kept_waiting(clients):
  one = clients(num_batch_threads=1)
  for value in (1, 2, 3):
    doubled, sums = one.ask("serving_default", x=rows([value, 1])).result()
    assert sums.tolist() == [value + 1] and doubled.tolist() == [2 * (value + 1)]
  assert one.gated.sizes == [1, 1, 1]


def test_what_waits_runs_together_and_each_gets_its_rows(clients, patient):
  many = clients(num_batch_threads=1)
  first = many.ask("serving_default", x=rows([GATE, 1]))
  many.wait_for_runs(1)
  sent = [rows(*([i, j] for j in range(1 + i % 3))) for i in range(6)]
  futures = [many.ask("serving_default", fetches=["sums", "doubled_sums"], x=x) for x in sent]
  many.wait_for_queued(6)
  many.gated.open.set()
  for x, future in zip(sent, futures, strict=True):
    sums, doubled = future.result()
    np.testing.assert_array_equal(sums, x.sum(axis=1))
    np.testing.assert_array_equal(doubled, 2 * x.sum(axis=1))
  assert first.result()[1].tolist() == [GATE + 1]
  assert many.gated.sizes == [1, 12]


def test_a_batch_holds_no_more_than_its_limit(clients, patient):
  many = clients(num_batch_threads=1, max_batch_size=4)
  many.ask("serving_default", x=rows([GATE]))
  many.wait_for_runs(1)
  futures = [many.ask("serving_default", x=rows([i], [i])) for i in range(5)]
  many.until(lambda: len(many.session._scheduler._waiting) == 3)
  assert many.ask("serving_default", x=rows(*[[1]] * 5)).result()[1].tolist() == [1] * 5
  many.gated.open.set()
  assert [future.result()[1].tolist() for future in futures] == [[i, i] for i in range(5)]
  # The request of five, beyond the limit, ran alone and did not wait.
  assert many.gated.sizes == [1, 5, 4, 4, 2]


def test_a_long_run_does_not_hold_up_the_others(clients):
  many = clients(num_batch_threads=1)
  first = many.ask("serving_default", x=rows([GATE]))
  many.wait_for_runs(1)
  assert many.ask("serving_default", x=rows([3])).result(WAIT_S)[1].tolist() == [3]
  assert not first.done()
  many.gated.open.set()
  assert first.result()[1].tolist() == [GATE]
  assert many.ask("serving_default", x=rows([4])).result(WAIT_S)[1].tolist() == [4]


def test_requests_of_other_shapes_or_dtypes_stay_apart(clients, patient):
  many = clients(num_batch_threads=1)
  many.ask("serving_default", x=rows([GATE]))
  many.wait_for_runs(1)
  futures = [many.ask("serving_default", x=rows([i] * width)) for i, width in enumerate((1, 2, 1, 2))]
  wrong = many.ask("serving_default", x=np.ones((1, 2)))
  many.wait_for_queued(5)
  many.gated.open.set()
  assert [future.result()[1].tolist() for future in futures] == [[0], [2], [2], [6]]
  with pytest.raises(tf.errors.InvalidArgumentError, match="float but double is provided"):
    wrong.result()
  assert sorted(many.gated.shapes) == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_an_error_of_one_request_does_not_reach_the_others(clients, patient):
  many = clients(num_batch_threads=1)
  many.ask("serving_default", x=rows([GATE]))
  many.wait_for_runs(1)
  futures = [many.ask("picky", x=rows(value)) for value in (1, 4, -9, 16)]
  many.wait_for_queued(4)
  many.gated.open.set()
  assert [futures[i].result()[0].tolist() for i in (0, 1, 3)] == [[1], [2], [4]]
  with pytest.raises(tf.errors.InvalidArgumentError, match="below zero"):
    futures[2].result()
  assert many.gated.sizes == [1, 4, 1, 1, 1, 1]


def test_a_signature_whose_rows_cannot_be_told_apart_is_given_up(clients, patient):
  many = clients(num_batch_threads=1)
  many.ask("serving_default", x=rows([GATE]))
  many.wait_for_runs(1)
  futures = [many.ask("positive", x=rows(*values)) for values in ((1, -1), (2, 3), (-4, -5))]
  many.wait_for_queued(3)
  many.gated.open.set()
  assert [future.result()[0].tolist() for future in futures] == [[1], [2, 3], []]
  assert many.gated.sizes == [1, 6, 2, 2, 2]
  many.gated.open.clear()
  many.ask("positive", x=rows(GATE))
  many.wait_for_runs(6)
  assert many.ask("positive", x=rows(7, -7)).result(WAIT_S)[0].tolist() == [7]


@pytest.mark.parametrize(
  ("signature", "answers"), [("fixed", [[3.0], [7.0]]), ("lengthened", [[[97]], [[98, 99]]])]
)
def test_signatures_without_an_open_batch_or_with_ragged_answers_run_alone(clients, signature, answers):
  many = clients(num_batch_threads=1)
  many.session._scheduler.take_slot()
  sent = (
    [rows(1, 2), rows(3, 4)]
    if signature == "fixed"
    else [np.array([b"a"], object), np.array([b"bc"], object)]
  )
  name = "x" if signature == "fixed" else "text"
  futures = [many.ask(signature, **{name: value}) for value in sent]
  assert [future.result(WAIT_S)[0].tolist() for future in futures] == answers
  assert many.gated.sizes == [len(value) for value in sent]


def test_scalars_empty_and_uneven_requests_are_the_sessions_affair(clients):
  one = clients()
  assert one.ask("serving_default", x=np.zeros((0, 2), np.float32)).result()[1].shape == (0,)
  assert one.ask("added", x=rows(1), y=rows(1, 2)).result()[0].tolist() == [2, 3]
  assert one.ask("added", x=np.float32(1), y=rows(1, 2)).result()[0].tolist() == [2, 3]
  assert one.gated.sizes[0] == 0 and len(one.gated.sizes) == 3


@pytest.mark.parametrize("greedy", [True, False])
def test_the_deadline_ends_the_waiting_and_others_go_on(clients, patient, greedy):
  many = clients(num_batch_threads=1, greedy=greedy)
  first = many.ask("serving_default", x=rows([GATE]))
  many.wait_for_runs(1)
  late = many.ask("serving_default", timeout_ms=300, x=rows([1]))
  many.wait_for_queued(1)
  # These follow the one whose time will be up, which leads their batch.
  futures = [many.ask("serving_default", timeout_ms=timeout_ms, x=rows([2])) for timeout_ms in (0, 60_000)]
  with pytest.raises(RequestError, match="timeout exceeded while waiting") as caught:
    late.result()
  assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED
  many.wait_for_queued(2)
  many.gated.open.set()
  assert [future.result()[1].tolist() for future in futures] == [[2], [2]]
  assert first.result()[1].tolist() == [GATE]
  assert many.gated.sizes == [1, 2]


@pytest.mark.parametrize(
  "settings",
  [
    {"num_batch_threads": 1, "max_batch_size": 8},
    {
      "num_batch_threads": 2,
      "max_batch_size": 8,
      "batch_timeout_us": 2000,
      "allowed_batch_sizes": (4, 8),
      "greedy": False,
    },
  ],
)
def test_many_callers_get_what_they_would_get_alone(clients, settings):
  many = clients(**settings)
  rng = np.random.default_rng(0)
  futures = []
  for i in range(400):
    if i % 3:
      x = rng.normal(size=(rng.integers(1, 4), rng.integers(1, 3))).astype(np.float32)
      futures.append((many.ask("serving_default", timeout_ms=60_000, fetches=["sums"], x=x), x.sum(axis=1)))
    else:
      x = rng.uniform(0, 9, size=rng.integers(1, 4)).astype(np.float32)
      futures.append((many.ask("picky", x=x), np.sqrt(x)))
  for future, expected in futures:
    np.testing.assert_allclose(future.result(WAIT_S)[0], expected, rtol=1e-5, atol=1e-6)
  scheduler = many.session._scheduler
  assert (scheduler._free_slots, scheduler._open, scheduler._waiting) == (
    settings["num_batch_threads"],
    {},
    type(scheduler._waiting)(),
  )
  assert not scheduler._enqueued
