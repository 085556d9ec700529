"""Strategies by name, and errors that say which key to change."""

import pathlib
import socket
import time

import numpy as np
import pytest
import tensorflow as tf

from trainers import strategies
from trainers.strategies import configure_devices, make_strategy

SCRIPT = pathlib.Path(__file__).with_name("strategies_run.py")


@pytest.fixture(scope="module")
def found(run_script):
  code, result = run_script(SCRIPT)
  assert code == 0
  return result


def test_two_replicas_give_what_one_device_gives(found):
  assert found["replicas"] == 2 and found["kind"] == "MirroredStrategy"
  for mirrored, alone in zip(found["mirrored"]["weights"], found["one_device"]["weights"], strict=True):
    np.testing.assert_allclose(mirrored, alone, atol=1e-5)
  np.testing.assert_allclose(found["mirrored"]["losses"], found["one_device"]["losses"], atol=1e-5)
  # It has learned something: equal by standing still would not count.
  assert found["one_device"]["losses"][-1][0] < found["one_device"]["losses"][0][0] - 0.01


def test_devices_that_are_not_there(found):
  assert found["too_many"] == "training.num_logical_cpus=3, but this process has 2; start a new process"
  assert found["too_late"].startswith(
    "training.num_logical_cpus=4: TensorFlow already runs with other devices"
  )


def test_mirrored_refuses_jit(found):
  assert found["jit"] == (
    "training.jit_compile does not work with training.strategy=mirrored: turn one of them off"
  )


def test_one_device_is_the_default():
  configure_devices(1)
  for name in ("one_device", "auto"):
    strategy = make_strategy(name)
    assert isinstance(strategy, tf.distribute.OneDeviceStrategy)
    assert strategy.num_replicas_in_sync == 1


def test_mirrored_with_a_single_device():
  assert make_strategy("mirrored").num_replicas_in_sync == 1


def test_unknown_name():
  with pytest.raises(
    ValueError, match="^training.strategy='horovod': use auto, one_device, mirrored or tpu$"
  ):
    make_strategy("horovod")


def test_tpu_without_a_name():
  with pytest.raises(ValueError, match="^training.strategy=tpu needs training.tpu_name"):
    make_strategy("tpu")


def tpu_error(name):
  started = time.monotonic()
  with pytest.raises(ValueError) as caught:
    make_strategy("tpu", tpu_name=name)
  assert time.monotonic() - started < 30
  message = str(caught.value)
  assert message.startswith(f"training.tpu_name={name!r}: no TPU answers there (")
  assert "\n" not in message
  return message


def test_tpu_at_an_address_where_nobody_listens():
  with socket.socket() as unused:
    unused.bind(("127.0.0.1", 0))
    address = f"grpc://127.0.0.1:{unused.getsockname()[1]}"
    assert "refused" in tpu_error(address)


def test_tpu_at_an_address_that_never_answers(monkeypatch):
  monkeypatch.setattr(strategies, "_TPU_ANSWER_TIMEOUT_S", 1)
  with socket.create_server(("127.0.0.1", 0)) as silent:
    address = f"127.0.0.1:{silent.getsockname()[1]}"
    assert f"{address} does not speak gRPC" in tpu_error(f"grpc://{address}")


def test_tpu_name_that_is_unknown():
  tpu_error("no-such-tpu")
