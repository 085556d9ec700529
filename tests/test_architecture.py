"""Who may import whom, and other rules of the layout, read from every file's syntax tree."""

import ast
import importlib.metadata
import pathlib
import re
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
# Each folder and those it may import, itself included.
ALLOWED = {
  "kubeflow": {"kubeflow", "pipeline", "components", "trainers", "serving"},
  "pipeline": {"pipeline", "components", "trainers", "serving"},
  "components": {"components", "trainers", "serving"},
  "trainers": {"trainers"},
  "serving": {"serving"},
}
MAX_LINES = 300
VAGUE_NAMES = {"util", "utils", "helper", "helpers", "misc", "common", "base"}
# One release of TFX is two distributions; tfx.types and tfx.dsl come with the other one.
RELEASED_TOGETHER = {"tfx": "ml-pipelines-sdk"}
SOURCE_SUFFIXES = {".py", ".sh", ".yaml", ".yml", ".toml", ".jinja", ".js", ".css"}


def sources(*folders):
  """All files of the project's own below some of its folders."""
  for folder in folders:
    for path in sorted((ROOT / folder).rglob("*")):
      relative = path.relative_to(ROOT)
      if path.is_file() and relative.parts[:2] != ("tests", "data") and "__pycache__" not in relative.parts:
        yield path


def trees(*folders):
  for path in sources(*folders):
    if path.suffix == ".py":
      yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(tree):
  """(line, dotted name) of every import, inside functions too; `from a import b` is a.b."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      for alias in node.names:
        yield node.lineno, alias.name
    elif isinstance(node, ast.ImportFrom):
      for alias in node.names:
        yield node.lineno, "." * node.level + ".".join(filter(None, [node.module, alias.name]))


def test_the_folders_are_there():
  assert {folder for folder in ALLOWED if (ROOT / folder).is_dir()} == set(ALLOWED)
  assert len(list(trees("pipeline", "components", "trainers", "serving"))) > 30


@pytest.mark.parametrize("folder", ALLOWED)
def test_a_folder_imports_itself_and_what_lies_below_it(folder):
  own = set(ALLOWED) | {"tests"}
  wrong = []
  for path, tree in trees(folder):
    for line, name in imports(tree):
      top = name.split(".")[0]
      if name.startswith(".") or (top in own and top not in ALLOWED[folder]):
        wrong.append(f"{path}:{line} imports {name}")
  assert not wrong, "\n".join(wrong)


def test_nobody_imports_the_folder_kubeflow():
  """It would shadow Kubeflow's own SDK, and so it is no package either."""
  found = [
    f"{path}:{line}"
    for path, tree in trees("pipeline", "components", "trainers", "serving", "tests")
    for line, name in imports(tree)
    if name.split(".")[0] == "kubeflow"
  ]
  assert not found
  assert not (ROOT / "kubeflow" / "__init__.py").exists()


def test_tests_are_no_packages():
  assert not [path for path in sources("tests") if path.name == "__init__.py"]


def test_packages_are_packages():
  missing = {
    path.parent.relative_to(ROOT)
    for path in sources("pipeline", "components", "trainers", "serving")
    if path.suffix == ".py" and not (path.parent / "__init__.py").exists()
  }
  assert not missing


def test_keras_is_keras_3():
  """Importing tfmot or tft may make tf.keras mean Keras 2 for the whole process."""
  found = []
  for path, tree in trees(*ALLOWED, "tests"):
    for line, name in imports(tree):
      if name.startswith(("tensorflow.keras", "tensorflow.python.keras", "tf_keras")):
        found.append(f"{path}:{line} imports {name}")
    for node in ast.walk(tree):
      is_keras = isinstance(node, ast.Attribute) and node.attr == "keras"
      if is_keras and isinstance(node.value, ast.Name) and node.value.id in ("tf", "tensorflow"):
        found.append(f"{path}:{node.lineno} uses {node.value.id}.keras")
  assert not found, "\n".join(found)


def test_files_are_named_after_what_they_hold():
  vague = []
  for path in sources(*ALLOWED, "tests"):
    parts = path.relative_to(ROOT).with_suffix("").parts
    if VAGUE_NAMES & {part.lower().removeprefix("test_") for part in parts}:
      vague.append(str(path.relative_to(ROOT)))
  assert not vague


def test_files_are_short():
  long = []
  for path in sources(*ALLOWED, "tests", ".ci"):
    if path.suffix in SOURCE_SUFFIXES:
      num_lines = len(path.read_text(encoding="utf-8").splitlines())
      if num_lines >= MAX_LINES:
        long.append(f"{path.relative_to(ROOT)}: {num_lines} lines")
  assert not long, "\n".join(long)


def declared(*sections):
  """Names of the distributions in lists of pyproject.toml, in their normal form."""
  text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
  names = set()
  for section in sections:
    block = re.search(rf"^{section} = \[(.*?)\]$", text, re.MULTILINE | re.DOTALL)
    names |= {normal(name) for name in re.findall(r'"([A-Za-z0-9][A-Za-z0-9._-]*)', block[1])}
  return names


def normal(name):
  return re.sub(r"[-_.]+", "-", name).lower()


def provided(distributions):
  """Top-level modules of distributions; of a namespace such as `google` the modules in it, "google.protobuf".

  Not importlib.metadata.packages_distributions, which on Python 3.10 misses those without top_level.txt.
  """
  found = set()
  for name in distributions:
    try:
      record = importlib.metadata.distribution(name).read_text("RECORD") or ""
    except importlib.metadata.PackageNotFoundError:
      continue
    paths = {line.split(",")[0] for line in record.splitlines()}
    for path in paths:
      parts = path.split("/")
      is_module = len(parts) == 1 or f"{parts[0]}/__init__.py" in paths
      found.add(".".join(part.split(".")[0] for part in parts[: 1 if is_module else 2]))
  return found


@pytest.mark.parametrize(
  "folders, sections",
  [
    (("pipeline", "components", "trainers", "serving", "kubeflow"), ("dependencies", "kubeflow")),
    (("tests",), ("dependencies", "kubeflow", "dev")),
  ],
)
def test_every_direct_import_is_a_declared_dependency(folders, sections):
  known = declared(*sections)
  assert "tensorflow" in known and "numpy" in known
  modules = provided(known | {RELEASED_TOGETHER[name] for name in known & set(RELEASED_TOGETHER)})
  assert {"numpy", "tensorflow", "yaml", "google.protobuf"} <= modules
  # Modules that lie beside a script and are imported from there.
  local = {path.stem for path in sources("kubeflow", "tests") if path.suffix == ".py"}
  undeclared = []
  for path, tree in trees(*folders):
    for line, name in imports(tree):
      top = name.split(".")[0]
      if top in sys.stdlib_module_names or top in {*ALLOWED, "tests"} or top in local:
        continue
      if not {top, ".".join(name.split(".")[:2])} & modules:
        undeclared.append(f"{path}:{line} imports {name}")
  assert not undeclared, "\n".join(undeclared)
