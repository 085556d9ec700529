"""Distribution strategies by name."""

from __future__ import annotations

import socket
from typing import Any

import grpc
import tensorflow as tf

_TPU_ANSWER_TIMEOUT_S = 20


def configure_devices(num_logical_cpus: int) -> None:
  """Splits the CPU into logical devices, so that MirroredStrategy has replicas without GPUs.

  Has to be called before TensorFlow touches its devices.

  Raises:
    ValueError: TensorFlow is running already with another number of devices.
  """
  if num_logical_cpus < 2:
    return
  cpu = tf.config.list_physical_devices("CPU")[0]
  wanted = [tf.config.LogicalDeviceConfiguration()] * num_logical_cpus
  if len(tf.config.get_logical_device_configuration(cpu) or ()) == num_logical_cpus:
    return
  try:
    tf.config.set_logical_device_configuration(cpu, wanted)
  except RuntimeError as error:
    raise ValueError(
      f"training.num_logical_cpus={num_logical_cpus}: TensorFlow already runs with other devices; "
      "start a new process"
    ) from error


def make_strategy(
  name: str, num_logical_cpus: int = 1, tpu_name: str | None = None
) -> tf.distribute.Strategy:
  """The strategy under which a model is built and fitted.

  Args:
    name: "one_device", "mirrored" (all GPUs, or the logical CPUs), "tpu", or "auto": mirrored where there are
      several GPUs or logical CPUs, else one device.
    num_logical_cpus: replicas of "mirrored" on a machine without GPUs.
    tpu_name: name or grpc address of the TPU.

  Raises:
    ValueError: the devices that the strategy needs are not there; the message names the key to change.
  """
  gpus = tf.config.list_logical_devices("GPU")
  if name == "auto":
    name = "mirrored" if len(gpus) > 1 or num_logical_cpus > 1 else "one_device"
  if name == "one_device":
    return tf.distribute.OneDeviceStrategy("/gpu:0" if gpus else "/cpu:0")
  if name == "mirrored":
    return tf.distribute.MirroredStrategy([device.name for device in gpus or _logical_cpus(num_logical_cpus)])
  if name == "tpu":
    return _tpu_strategy(tpu_name)
  raise ValueError(f"training.strategy={name!r}: use auto, one_device, mirrored or tpu")


def _logical_cpus(count: int) -> list[Any]:
  cpus = tf.config.list_logical_devices("CPU")
  if len(cpus) < count:
    raise ValueError(
      f"training.num_logical_cpus={count}, but this process has {len(cpus)}; start a new process"
    )
  return cpus[:count]


def _tpu_strategy(tpu_name: str | None) -> tf.distribute.Strategy:
  """Connects to a TPU by its name and initializes it."""
  if not tpu_name:
    raise ValueError(
      "training.strategy=tpu needs training.tpu_name: a TPU's name, its grpc address, or 'local'"
    )
  try:
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=tpu_name)
    if tpu_name != "local":
      _wait_for_servers(resolver)
      tf.config.experimental_connect_to_cluster(resolver)
    tf.tpu.experimental.initialize_tpu_system(resolver)
  except Exception as error:  # the resolver raises whatever its cloud client does
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    raise ValueError(f"training.tpu_name={tpu_name!r}: no TPU answers there ({reason})") from error
  return tf.distribute.TPUStrategy(resolver)


def _wait_for_servers(resolver: tf.distribute.cluster_resolver.TPUClusterResolver) -> None:
  """Raises OSError where a worker does not answer: TensorFlow itself would wait for it without end."""
  addresses = [address for job in resolver.cluster_spec().as_dict().values() for address in job]
  for address in addresses:
    host, _, port = address.rpartition(":")
    # A refused connection is told at once; gRPC would try again until its time is over.
    with socket.create_connection((host.strip("[]"), int(port)), _TPU_ANSWER_TIMEOUT_S):
      pass
    with grpc.insecure_channel(address) as channel:
      try:
        grpc.channel_ready_future(channel).result(_TPU_ANSWER_TIMEOUT_S)
      except grpc.FutureTimeoutError as error:
        raise OSError(f"{address} does not speak gRPC") from error
