"""For all tests."""

import sys


def pytest_configure(config):
  """Hides pytest's own arguments: TFX's executors look for flags in them, and -v is one of theirs."""
  del config
  sys.argv[1:] = []
