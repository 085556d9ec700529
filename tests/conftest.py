"""For all tests."""

import sys

import pytest
from xdist.scheduler import LoadScopeScheduling


def pytest_configure(config):
  """Hides pytest's own arguments: TFX's executors look for flags in them, and -v is one of theirs."""
  del config
  sys.argv[1:] = []


def pytest_collection_modifyitems(items):
  """The slow ones come first: none of them is left to a single worker at the end."""
  items.sort(key=lambda item: item.get_closest_marker("slow") is None)


class _ByFile(LoadScopeScheduling):
  """The tests of a file stay together, those of the contract by their task: each has a run of its own."""

  def _split_scope(self, nodeid):
    path, _, name = nodeid.partition("::")
    return path + name[name.find("[") :] if path.endswith("test_contract.py") else path


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
  """Called where there are several workers."""
  return _ByFile(config, log)
