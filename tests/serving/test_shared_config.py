"""A configuration handed from process to process; here each has a thread."""

import threading

from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from serving.shared_config import SharedConfig
from tests.serving.servers import wait_for


def config(name):
  text = f'model_config_list {{ config {{ name: "{name}" base_path: "/m" }} }}'
  return text_format.Parse(text, model_server_config_pb2.ModelServerConfig())


def test_what_one_publishes_all_apply(tmp_path):
  stop, applied = threading.Event(), {0: [], 1: [], 2: []}
  processes = [SharedConfig(str(tmp_path), index) for index in applied]
  try:
    for index, process in enumerate(processes):
      process.follow(applied[index].append, stop)
    assert applied == {0: [], 1: [], 2: []}
    # Returns when the others have applied it; the one that publishes serves it already.
    processes[1].publish(config("a"))
    assert applied == {0: [config("a")], 1: [], 2: [config("a")]}
    processes[0].publish(config("b"))
    assert applied == {0: [config("a")], 1: [config("b")], 2: [config("a"), config("b")]}
    # A process that is started anew begins with the last one.
    applied[3] = []
    SharedConfig(str(tmp_path), 2).follow(applied[3].append, stop)
    assert applied[3] == [config("b")]
  finally:
    stop.set()


def test_one_that_cannot_apply_it_holds_up_nobody(tmp_path, caplog):
  stop = threading.Event()

  def fail(config):
    raise ValueError("no room")

  try:
    one, other = SharedConfig(str(tmp_path), 0), SharedConfig(str(tmp_path), 1)
    one.follow(fail, stop)
    other.follow(fail, stop)
    one.publish(config("a"))
    wait_for(lambda: "is not complete here: no room" in caplog.text)
  finally:
    stop.set()
