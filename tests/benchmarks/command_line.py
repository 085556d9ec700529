"""Seconds until `deepline --help` has answered."""

import statistics
import subprocess
import sys
import time


def measure() -> dict:
  """Wall seconds of a new process, median of five."""
  command = [sys.executable, "-m", "pipeline.cli", "--help"]
  seconds = []
  for _ in range(6):
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds.append(time.perf_counter() - started)
  return {"help_s": round(statistics.median(seconds[1:]), 3)}
