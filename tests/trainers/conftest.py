"""Processes of their own for what cannot be tested in this one: a kill, another number of devices."""

import json
import multiprocessing
import os
import runpy

import pytest


@pytest.fixture(scope="session")
def run_script(tmp_path_factory):
  """(script, **arguments) -> (exit code, the JSON that the script has written to its `result_path`, or None).

  The processes are forked from one that has imported Keras, but has not started TensorFlow's runtime.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  context = multiprocessing.get_context("forkserver")
  context.set_forkserver_preload(["keras", "tensorflow"])
  folder = tmp_path_factory.mktemp("results")

  def run(script, timeout_s=240, **arguments):
    result_path = folder / f"{len(list(folder.iterdir()))}.json"
    result_path.touch()
    names = {"arguments": arguments, "result_path": str(result_path)}
    process = context.Process(target=runpy.run_path, args=(str(script), names, "__main__"))
    process.start()
    process.join(timeout_s)
    if process.is_alive():
      process.kill()
      process.join()
      pytest.fail(f"{script} did not end within {timeout_s} s")
    text = result_path.read_text()
    return process.exitcode, json.loads(text) if text else None

  return run
