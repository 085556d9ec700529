"""The command line: exit status, one line for a user's mistake, and a help that answers at once."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest

from pipeline import cli

HEAVY = ("tensorflow", "keras", "tfx", "apache_beam", "tensorflow_transform", "numpy", "grpc")


def deepline(*arguments):
  command = [sys.executable, "-m", "pipeline.cli", *arguments]
  return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def called(monkeypatch, capfd):
  """(*arguments) -> (exit status, standard output, standard error) of the console script's own function."""

  def call(*arguments):
    monkeypatch.setattr(sys, "argv", ["deepline", *arguments])
    with pytest.raises(SystemExit) as caught:
      cli.main()
    found = capfd.readouterr()
    return caught.value.code, found.out, found.err

  return call


@pytest.mark.parametrize(
  "arguments, status, message",
  [
    (
      ["run", "image_classification", "--set", "training.epoch=3"],
      2,
      "deepline: training.epoch: no such key; did you mean epochs?\n",
    ),
    (
      ["run", "image_classification", "--data", "no/such/folder"],
      2,
      "deepline: data.path=no/such/folder: no such file or folder; name one with --data\n",
    ),
  ],
)
def test_a_mistake_is_one_line_and_loads_nothing_heavy(arguments, status, message):
  """As a process of its own: what it prints, how it ends, and which modules it has imported by then."""
  code = (
    "import atexit, sys\n"
    f"atexit.register(lambda: print('heavy:', *(name for name in {HEAVY!r} if name in sys.modules)))\n"
    "from pipeline.cli import main\n"
    f"sys.argv = ['deepline', *{arguments!r}]\n"
    "main()\n"
  )
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
  assert (done.returncode, done.stdout, done.stderr) == (status, "heavy:\n", message)


def test_help_lists_the_verbs_and_loads_nothing_heavy():
  done = subprocess.run(
    [sys.executable, "-X", "importtime", "-m", "pipeline.cli", "--help"],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0
  for verb in ("tasks", "run", "compile", "serve", "predict", "runs"):
    assert f" {verb} " in done.stdout
  imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
  assert "typer" in imported
  assert not imported & {*HEAVY, "pydantic", "yaml"}


def test_the_libraries_own_warnings_are_not_shown(tmp_path):
  """In a new process, where they are imported for the first time."""
  picture = tmp_path / "a.png"
  cv2.imwrite(str(picture), np.zeros((8, 8), np.uint8))
  done = deepline("predict", "image_classification", str(picture), "--server", "127.0.0.1:1")
  assert (done.returncode, done.stdout) == (1, "")
  assert done.stderr.startswith("deepline: no model server answers at 127.0.0.1:1")
  assert done.stderr.count("\n") == 1


def test_a_wrong_flag_ends_with_2_and_no_traceback():
  done = deepline("run", "image_classification", "--epochs", "3")
  assert done.returncode == 2
  assert "--epochs" in done.stderr and "Traceback" not in done.stderr
  assert done.stdout == ""


def test_the_tasks(called):
  from pipeline.tasks import TASKS

  status, out, _ = called("tasks")
  assert status == 0
  assert [line.split()[0] for line in out.splitlines()] == list(TASKS)
  status, out, _ = called("tasks", "--json")
  assert [json.loads(line)["task"] for line in out.splitlines()] == list(TASKS)
  assert all(json.loads(line)["summary"] for line in out.splitlines())


@pytest.mark.parametrize(
  "arguments, status, message",
  [
    (["run", "no_such_task"], 2, "no such task: no_such_task; choose from "),
    (["predict", "no_such_task", "a.jpg"], 2, "no such task: no_such_task; choose from "),
    (["predict", "language_model"], 2, "nothing to ask about: give INPUT... or --file F"),
    (
      ["predict", "language_model", "--file", "missing.txt"],
      1,
      "--file missing.txt: No such file or directory",
    ),
    (
      ["predict", "image_classification", "a.jpg", "--generate"],
      1,
      "--generate: image_classification generates no",
    ),
    (["run", "image_classification", "--config", "missing.yaml"], 2, "missing.yaml: cannot read the config"),
    (["run", "image_classification", "--set", "training.epochs"], 2, "--set training.epochs: write it as "),
    (
      ["compile", "image_classification", "--set", "seed=-1", "--output", "p.yaml"],
      2,
      "seed=-1: Input should be ",
    ),
    (["runs", "--output", "missing"], 2, "missing: no such folder; name the --output of a run"),
    (
      ["serve", "--model_name", "m", "--model_base_path", "missing", "--port", "0"],
      1,
      "model_base_path missing of model m is no directory; push a model there first",
    ),
    (
      ["predict", "image_classification", "a.jpg", "--server", "127.0.0.1:1", "--save", "taken"],
      1,
      "--save taken: cannot make this folder (File exists)",
    ),
    (["run", "image_classification", "--data", "photos", "--output", "taken"], 1, "taken: "),
    (
      ["run", "ngram_language_model", "--set", "ngram.arpa=missing"],
      2,
      "ngram.arpa=missing: No such file or",
    ),
    (
      ["run", "language_model", "--set", "ngram=null"],
      2,
      "compression.recipe: interpolate mixes in n-grams; ",
    ),
  ],
)
def test_mistakes_of_every_verb(called, tmp_path, monkeypatch, arguments, status, message):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "taken").touch()
  (tmp_path / "photos").mkdir()
  found, out, err = called(*arguments)
  assert (found, out) == (status, "")
  assert err.startswith(f"deepline: {message}")
  assert err.count("\n") == 1


def test_debug_shows_the_traceback(called):
  status, _, err = called("run", "no_such_task", "--debug")
  assert status == 2
  assert "Traceback" in err and err.splitlines()[-1].startswith(
    "deepline: no such task: no_such_task; choose from image_classification, "
  )


def test_what_cannot_be_read_is_answered_in_its_place_without_a_server(called, tmp_path):
  missing, text = str(tmp_path / "missing.jpg"), tmp_path / "text.jpg"
  text.write_text("no picture")
  status, out, err = called("predict", "image_classification", missing, str(text), "--json")
  assert (status, err) == (1, "")
  answers = [json.loads(line) for line in out.splitlines()]
  assert [answer["input"] for answer in answers] == [missing, str(text)]
  assert answers[0]["error"].lower().startswith(f"{missing}: no such file".lower())
  assert answers[1]["error"].startswith(f"{text}: ")
