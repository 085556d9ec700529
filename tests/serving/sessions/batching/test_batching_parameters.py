"""Batches as TF Serving's parameters ask for them."""

import re

import grpc
import numpy as np
import pytest

from serving.errors import RequestError, ServingError
from serving.messages.protos import BatchingParameters
from serving.sessions.batching_settings import BatchingSettings
from tests.serving.sessions.batching.calls import GATE, WAIT_S, rows


def test_a_full_batch_does_not_wait_for_its_timeout(clients):
  many = clients(num_batch_threads=2, max_batch_size=4, batch_timeout_us=10**9, greedy=False)
  futures = [many.ask("serving_default", x=rows([i], [i])) for i in range(4)]
  assert [future.result(WAIT_S)[1].tolist() for future in futures] == [[i, i] for i in range(4)]
  assert many.gated.sizes == [4, 4]


def test_a_batch_that_stays_small_runs_when_its_timeout_is_over(clients):
  many = clients(num_batch_threads=2, max_batch_size=100, batch_timeout_us=1_000_000, greedy=False)
  futures = [many.ask("serving_default", x=rows([i])) for i in range(3)]
  many.wait_for_queued(3)
  assert many.gated.sizes == []
  assert [future.result(WAIT_S)[1].tolist() for future in futures] == [[0], [1], [2]]
  assert many.gated.sizes == [3]


def test_batches_are_filled_up_to_an_allowed_size(clients):
  one = clients(num_batch_threads=1, max_batch_size=8, allowed_batch_sizes=(2, 4, 8), greedy=False)
  for size, allowed in ((1, 2), (3, 4), (4, 4), (5, 8)):
    x = np.arange(size * 2, dtype=np.float32).reshape(size, 2)
    assert one.ask("serving_default", x=x).result()[1].tolist() == x.sum(axis=1).tolist()
    assert one.gated.sizes[-1] == allowed
  text = one.monitoring.exposition()[0].decode()
  assert re.search(r"processed_batch_size_sum{[^}]*} 18.0\n", text)
  assert re.search(r"padding_size_sum{[^}]*} 5.0\n", text)


def test_variable_lengths_are_filled_up_with_a_value_of_their_own(clients):
  many = clients(
    num_batch_threads=1,
    max_batch_size=2,
    batch_timeout_us=10**9,
    pad_variable_length_inputs=True,
    greedy=False,
  )
  futures = [many.ask("serving_default", x=x) for x in (rows([5, 1]), rows([1, 2, 3, 4]))]
  assert [future.result(WAIT_S)[1].tolist() for future in futures] == [[5 + 1 + 5 + 5], [10]]
  assert many.gated.shapes == [(2, 4)]


def test_a_full_queue_refuses_the_next_request(clients):
  many = clients(num_batch_threads=1, max_batch_size=1, max_enqueued_batches=2, greedy=False)
  first = many.ask("serving_default", x=rows([GATE]))
  many.wait_for_runs(1)
  futures = [many.ask("serving_default", x=rows([i])) for i in range(2)]
  many.until(lambda: len(many.session._scheduler._waiting) == 2)
  with pytest.raises(RequestError) as caught:
    many.ask("serving_default", x=rows([9])).result()
  assert caught.value.code is grpc.StatusCode.UNAVAILABLE
  assert caught.value.message == (
    "The batch scheduling queue to which this task was submitted is full; "
    "currently 2 batches enqueued and max_enqueued_batches is 2"
  )
  # Another signature has its own queue.
  other = many.ask("picky", x=rows(4))
  many.gated.open.set()
  assert [future.result()[1].tolist() for future in (first, *futures)] == [[GATE], [0], [1]]
  assert other.result()[0].tolist() == [2]
  assert many.ask("serving_default", x=rows([9])).result()[1].tolist() == [9]


@pytest.mark.parametrize(
  ("signature", "inputs", "message"),
  [
    ("serving_default", {"x": rows(*[[1]] * 5)}, "Task size 5 is larger than maximum input batch size 4"),
    (
      "added",
      {"x": np.float32(1), "y": rows(1)},
      "Batching Run() input tensors must have at least one dimension",
    ),
    (
      "added",
      {"x": rows(1), "y": rows(1, 2)},
      "Batching Run() input tensors must have equal 0th-dimension size",
    ),
  ],
)
def test_requests_that_tf_serving_refuses(clients, signature, inputs, message):
  one = clients(max_batch_size=4, greedy=False)
  with pytest.raises(RequestError) as caught:
    one.ask(signature, **inputs).result()
  assert (caught.value.code, caught.value.message) == (grpc.StatusCode.INVALID_ARGUMENT, message)
  assert one.gated.sizes == []


def test_large_requests_run_in_parts(clients):
  one = clients(
    max_batch_size=10,
    enable_large_batch_splitting=True,
    max_execution_batch_size=4,
    num_batch_threads=1,
    greedy=False,
  )
  x = np.arange(18, dtype=np.float32).reshape(9, 2)
  doubled, sums = one.ask("serving_default", x=x).result()
  np.testing.assert_array_equal(sums, x.sum(axis=1))
  np.testing.assert_array_equal(doubled, 2 * x.sum(axis=1))
  assert one.gated.sizes == [4, 4, 1]
  with pytest.raises(RequestError, match="Task size 11 is larger than maximum input batch size 10"):
    one.ask("serving_default", x=np.zeros((11, 2), np.float32)).result()


def test_parameters_left_out_have_tf_servings_defaults():
  settings = BatchingSettings.from_parameters(BatchingParameters())
  assert not settings.greedy
  assert (settings.max_batch_size, settings.batch_timeout_us, settings.max_enqueued_batches) == (1000, 0, 10)
  assert settings.num_batch_threads >= 1 and settings.allowed_batch_sizes == ()


def test_parameters_are_taken_over():
  parameters = BatchingParameters(allowed_batch_sizes=[2, 8], pad_variable_length_inputs=True)
  parameters.max_batch_size.value, parameters.batch_timeout_micros.value = 8, 1500
  parameters.max_enqueued_batches.value, parameters.num_batch_threads.value = 7, 3
  assert BatchingSettings.from_parameters(parameters) == BatchingSettings(
    8, 1500, 7, 3, (2, 8), True, greedy=False
  )


@pytest.mark.parametrize(
  ("values", "sizes", "message"),
  [
    ({"num_batch_threads": 0}, (), "num_batch_threads must be positive; was 0"),
    ({"max_batch_size": 0}, (), "max_batch_size must be positive; was 0"),
    ({"max_enqueued_batches": -1}, (), "max_enqueued_batches must be positive; was -1"),
    ({"batch_timeout_micros": -1}, (), "batch_timeout_micros must be non-negative; was -1"),
    (
      {"max_batch_size": 8},
      (2, 4),
      "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 8",
    ),
    (
      {"max_batch_size": 8},
      (4, 2, 8),
      "allowed_batch_sizes entries must be positive and monotonically increasing",
    ),
    (
      {"enable_large_batch_splitting": True, "max_batch_size": 8, "max_execution_batch_size": 4},
      (2, 8),
      "Last entry in allowed_batch_sizes must match max_execution_batch_size; last entry was 8; expected 4",
    ),
  ],
)
def test_parameters_that_contradict_each_other(values, sizes, message):
  parameters = BatchingParameters(allowed_batch_sizes=sizes)
  for name, value in values.items():
    getattr(parameters, name).value = value
  with pytest.raises(ServingError) as caught:
    BatchingSettings.from_parameters(parameters)
  assert str(caught.value) == message
