"""What a process that does nothing but serve asks for before it imports TensorFlow."""

import contextlib
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int) -> None:
  """Makes the kernel kill this process when the one that started it ends in whatever way, SIGKILL included.

  Elsewhere than on Linux nothing happens: the parent's own clean-up has to do.

  Args:
    parent_pid: the process id that this process expects as its parent; it ends if that is gone already.
  """
  if not sys.platform.startswith("linux"):
    return
  with contextlib.suppress(OSError, AttributeError):
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
  if os.getppid() != parent_pid:
    os._exit(1)


def without_keras() -> None:
  """Spares this process the import of Keras, a third of TensorFlow's, as nothing that is served needs it.

  TensorFlow imports one Keras or the other when it is imported itself; the older one is the lighter.
  """
  os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
