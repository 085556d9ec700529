"""For all tests."""

import sys

import pytest


def pytest_configure(config):
  """Hides pytest's own arguments: TFX's executors look for flags in them, and -v is one of theirs."""
  del config
  sys.argv[1:] = []


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  """With several workers: the tests of a file stay together, those of a parametrized module by its parameter, and the
  slow ones come first, so that none of them is left to a single worker at the end.
  """
  for item in items:
    name = item.nodeid.partition("::")[0]
    callspec = getattr(item, "callspec", None)
    # What a fixture of a whole module was made for is shared by the tests that use it.
    shared = [str(callspec.params[key]) for key in ("finished",) if callspec and key in callspec.params]
    item.add_marker(pytest.mark.xdist_group("-".join([name, *shared])))
  items.sort(key=lambda item: item.get_closest_marker("slow") is None)
