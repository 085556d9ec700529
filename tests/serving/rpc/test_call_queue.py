"""Calls taken from gRPC's core by one thread: a real grpc.server, asked by real clients."""

import concurrent.futures
import contextlib
import threading
import time

import grpc
import pytest

from serving.rpc.call_queue import LARGEST_GROUP, CallEnded, CallQueue
from tests.serving.servers import wait_for

METHOD = "/test.Echo/Echo"


class Served:
  """An address, the groups of calls as they were passed on, and a gate that holds up the first of them."""

  def __init__(self, answer):
    self.groups, self.gate = [], threading.Event()
    self._answer = answer
    self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    self.queue = CallQueue(self.server, METHOD)
    self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
    other = grpc.unary_unary_rpc_method_handler(lambda request, context: b"other " + request)
    self.server.add_generic_rpc_handlers(
      (grpc.method_handlers_generic_handler("test.Echo", {"Other": other}),)
    )
    self.server.start()
    self.queue.start(self._take)

  def _take(self, calls):
    self.groups.append(len(calls))
    if len(self.groups) == 1:
      assert self.gate.wait(60)
    for call in calls:
      self._answer(call)
    return True


@contextlib.contextmanager
def served(answer, is_open=True):
  one = Served(answer)
  if is_open:
    one.gate.set()
  try:
    yield one
  finally:
    one.gate.set()
    one.server.stop(5).wait()
    one.queue.close()


def echo(call):
  call.answer(call.message[::-1])


@contextlib.contextmanager
def asked(address, method=METHOD):
  with grpc.insecure_channel(address) as channel:
    yield channel.unary_unary(method)


def test_each_client_gets_the_answer_to_its_own_message():
  def ask(number):
    with asked(one.address) as method:
      return [method(b"%d-%d" % (number, i), timeout=60) for i in range(50)]

  with served(echo) as one, concurrent.futures.ThreadPoolExecutor(12) as pool:
    answers = list(pool.map(ask, range(12)))
  assert answers == [[(b"%d-%d" % (n, i))[::-1] for i in range(50)] for n in range(12)]
  assert sum(one.groups) == 600


def test_what_comes_while_others_are_answered_is_passed_on_together():
  with served(echo, is_open=False) as one, asked(one.address) as method:
    first = method.future(b"first", timeout=60)
    wait_for(lambda: one.groups)
    later = [method.future(b"%d" % i, timeout=60) for i in range(10)]
    time.sleep(0.3)
    one.gate.set()
    assert first.result() == b"tsrif"
    assert [future.result() for future in later] == [(b"%d" % i)[::-1] for i in range(10)]
  assert one.groups[0] == 1 and sum(one.groups) == 11
  assert max(one.groups) > 1 and max(one.groups) <= LARGEST_GROUP


def test_other_methods_are_the_servers_own():
  with served(echo) as one:
    with asked(one.address, "/test.Echo/Other") as method:
      assert method(b"x", timeout=60) == b"other x"
    with asked(one.address, "/test.Echo/None") as method, pytest.raises(grpc.RpcError) as caught:
      method(b"x", timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_errors_have_their_code_and_text():
  def answer(call):
    with pytest.raises(CallEnded):
      call.abort(grpc.StatusCode.FAILED_PRECONDITION, "nö")

  with served(answer) as one, asked(one.address) as method, pytest.raises(grpc.RpcError) as caught:
    method(b"x", timeout=60)
  assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "nö")


def test_deadlines_are_known():
  remaining_s = []

  def answer(call):
    remaining_s.append(call.time_remaining())
    call.answer(b"")

  with served(answer) as one, asked(one.address) as method:
    method(b"x", timeout=60)
    method(b"x", wait_for_ready=True)
  assert 50 < remaining_s[0] <= 60 and remaining_s[1] > 86_400 * 365


def test_cancelled_calls_are_known_and_may_be_answered_all_the_same():
  seen = []

  def answer(call):
    seen.append(call.is_cancelled)
    call.answer(call.message)

  with served(answer, is_open=False) as one, asked(one.address) as method:
    first = method.future(b"first", timeout=60)
    wait_for(lambda: one.groups)
    second, third = (method.future(b"x", timeout=60) for _ in range(2))
    time.sleep(0.3)
    second.cancel()
    time.sleep(0.3)
    one.gate.set()
    assert first.result() == b"first" and third.result() == b"x"
    assert method(b"still there", timeout=60) == b"still there"
  # The thread may have learnt of the cancellation before the message, or not at all before its turn.
  assert sum(seen) <= 1 and len(seen) in (3, 4)


def test_a_call_without_a_message_is_refused():
  with served(echo) as one, grpc.insecure_channel(one.address) as channel:
    with pytest.raises(grpc.RpcError) as caught:
      channel.stream_unary(METHOD)(iter(()), timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert caught.value.details() == "The method requires exactly one request message."
    assert channel.unary_unary(METHOD)(b"ab", timeout=60) == b"ba"


def test_a_stopping_server_answers_what_it_has_begun_and_refuses_the_rest():
  with served(echo, is_open=False) as one, asked(one.address) as method:
    first = method.future(b"first", timeout=60)
    wait_for(lambda: one.groups)
    stopped = one.server.stop(60)
    with pytest.raises(grpc.RpcError) as caught:
      method(b"late", timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not stopped.is_set()
    one.gate.set()
    assert first.result() == b"tsrif"
    assert stopped.wait(60)
  assert one.groups == [1]


def test_a_handler_that_outlives_the_server_does_no_harm():
  calls = []
  with served(calls.append) as one, asked(one.address) as method:
    future = method.future(b"x", timeout=60)
    wait_for(lambda: calls)
    one.server.stop(0.1).wait()
    assert future.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
    one.queue.close()
    # gRPC itself would abort the process here.
    calls[0].answer(b"too late")
    with pytest.raises(CallEnded):
      calls[0].abort(grpc.StatusCode.INTERNAL, "too late")


def test_calls_that_are_lost_take_no_others_with_them(caplog):
  def answer(call):
    if call.message == b"fault":
      raise OSError("a fault")
    echo(call)

  with served(answer) as one, asked(one.address) as method:
    with pytest.raises(grpc.RpcError) as caught:
      method(b"fault", timeout=0.5)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert method(b"ab", timeout=60) == b"ba"
  assert "a call was lost" in caplog.text and "OSError: a fault" in caplog.text


def test_a_queue_is_closed_where_the_server_never_answered():
  with served(echo) as one:
    pass
  assert not one.groups and not one.queue._thread.is_alive()
