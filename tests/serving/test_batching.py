"""Joint runs of a real session, which a gate makes wait so that the tests know who waits with whom."""

import concurrent.futures
import re
import threading
import time

import grpc
import numpy as np
import pytest
import tensorflow as tf

from serving.batching import BatchingSession, BatchingSettings
from serving.errors import RequestError, ServingError
from serving.export import export_saved_model
from serving.monitoring import Monitoring
from serving.protos import BatchingParameters
from serving.session import SavedModelSession

GATE = 1000.0  # A row with this value waits until the gate is opened.
WAIT_S = 60


def row_sums(x):
  return {"sums": tf.reduce_sum(x, axis=1), "doubled_sums": 2 * tf.reduce_sum(x, axis=1)}


def positive(x):
  # Says [batch] and keeps fewer rows: the sums of a joint run cannot be told apart.
  return {"kept": tf.boolean_mask(x, x > 0)}


def picky(x):
  with tf.control_dependencies([tf.debugging.assert_non_negative(x, message="below zero")]):
    return {"roots": tf.sqrt(x)}


def lengthened(text):
  return {"bytes": tf.strings.unicode_decode(text, "UTF-8").to_tensor()}


def added(x, y):
  return {"sum": x + y}


def fixed(x):
  return {"total": tf.reduce_sum(x)[tf.newaxis]}


@pytest.fixture(scope="module")
def session(tmp_path_factory):
  numbers = tf.TensorSpec([None], tf.float32)
  endpoints = {
    "serving_default": (row_sums, {"x": tf.TensorSpec([None, None], tf.float32)}),
    "positive": (positive, {"x": numbers}),
    "picky": (picky, {"x": numbers}),
    "lengthened": (lengthened, {"text": tf.TensorSpec([None], tf.string)}),
    "added": (added, {"x": numbers, "y": numbers}),
    "fixed": (fixed, {"x": numbers}),
  }
  directory = str(tmp_path_factory.mktemp("batching") / "1")
  loaded = SavedModelSession(export_saved_model(directory, [], endpoints))
  yield loaded
  loaded.close()


class Gated:
  """The session, with a record of its runs; runs that hold a `GATE` value wait for `open`."""

  def __init__(self, session):
    self.signatures = session.signatures
    self._session = session
    self.open = threading.Event()
    self.sizes = []
    self.shapes = []

  def run(self, feeds, fetches, timeout_ms=0):
    array = next(iter(feeds.values()))
    self.sizes.append(len(array) if array.ndim else None)
    self.shapes.append(array.shape)
    if array.dtype == np.float32 and np.any(array == GATE):
      assert self.open.wait(WAIT_S)
    return self._session.run(feeds, fetches, timeout_ms)


class Clients:
  """Concurrent callers of a batching session."""

  def __init__(self, session, **settings):
    self.gated = Gated(session)
    self.monitoring = Monitoring()
    self.session = BatchingSession(self.gated, BatchingSettings(**settings), self.monitoring)
    self._pool = concurrent.futures.ThreadPoolExecutor(32)

  def ask(self, signature, timeout_ms=0, fetches=None, **inputs):
    of = self.session.signatures[signature]
    feeds = {of.inputs[name].name: np.asarray(value) for name, value in inputs.items()}
    outputs = [of.outputs[name].name for name in fetches or sorted(of.outputs)]
    return self._pool.submit(self.session.run, feeds, outputs, timeout_ms)

  def queued(self):
    return sum(len(batch.tasks) for batch in self.session._scheduler._open.values())

  def until(self, condition):
    deadline = time.monotonic() + WAIT_S
    while not condition():
      assert time.monotonic() < deadline
      time.sleep(0.002)

  def wait_for_runs(self, count):
    self.until(lambda: len(self.gated.sizes) >= count)

  def wait_for_queued(self, count):
    self.until(lambda: self.queued() == count)


@pytest.fixture
def clients(session):
  made = []

  def make(**settings):
    made.append(Clients(session, **settings))
    return made[-1]

  yield make
  for one in made:
    one.gated.open.set()
    one._pool.shutdown()


@pytest.fixture
def patient(monkeypatch):
  """Greedy callers that wait for a slot for as long as it takes."""
  monkeypatch.setattr("serving.batch_scheduler.PATIENCE_S", WAIT_S)


def rows(*values):
  return np.array(values, np.float32)


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
