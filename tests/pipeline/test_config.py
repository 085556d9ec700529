"""A run's configuration from files and single values, and one line for everything that is wrong."""

import pytest

from pipeline.config import CONFIGS_DIR, ConfigError, load_config
from pipeline.tasks import TASKS

TASK = TASKS["image_classification"]


@pytest.fixture
def load(tmp_path):
  """(*overrides, text of a YAML file) -> configuration, with data that is there."""
  (tmp_path / "photos").mkdir()

  def read(*overrides, yaml=None, data=str(tmp_path / "photos")):
    config_file = None
    if yaml is not None:
      config_file = tmp_path / "settings.yaml"
      config_file.write_text(yaml)
    return load_config(TASK, str(config_file) if config_file else None, overrides, data)

  return read


def error_of(load, *overrides, **kwargs):
  with pytest.raises(ConfigError) as caught:
    load(*overrides, **kwargs)
  message = str(caught.value)
  assert "\n" not in message
  return message


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_defaults_that_are_valid(name, tmp_path):
  config = load_config(TASKS[name], data=str(tmp_path))
  assert config.task == name
  assert isinstance(config, TASKS[name].config_class)
  assert (CONFIGS_DIR / f"{name}.yaml").exists()


def test_single_values_win_over_the_file_and_the_file_over_the_defaults(load):
  default = load()
  config = load("training.epochs=7", yaml="training: {epochs: 5, batch_size: 64}\nseed: 3\n")
  assert (config.training.epochs, config.training.batch_size, config.seed) == (7, 64, 3)
  assert config.training.label_smoothing == default.training.label_smoothing
  assert config.augmentation == default.augmentation


def test_an_empty_mapping_empties_the_defaults_one(load):
  assert load().evaluation.min_metrics
  assert load("evaluation.min_metrics={}").evaluation.min_metrics == {}
  assert load(yaml="evaluation: {max_drop: {}}").evaluation.max_drop == {}


def test_values_have_yamls_notation(load):
  config = load(
    "training.learning_rate=1e-3",
    "training.weight_decay=0",
    "training.jit_compile=true",
    "model.widths=[8, 16]",
    "training.clip_norm=null",
    "evaluation.min_metrics={accuracy: 0.5, auc: 2e-1}",
    "data.span_pattern=span-{SPAN}/version-{VERSION}",
    "beam.args=['--temp_location=a=b']",
    "model.architecture=MobileNetV2",
    "preprocessing.height=auto",
  )
  assert config.training.learning_rate == 0.001
  assert config.training.weight_decay == 0
  assert config.training.jit_compile is True
  assert config.model.widths == (8, 16)
  assert config.training.clip_norm is None
  assert config.evaluation.min_metrics == {"accuracy": 0.5, "auc": 0.2}
  assert config.data.span_pattern == "span-{SPAN}/version-{VERSION}"
  assert config.beam.args == ("--temp_location=a=b",)
  assert config.model.architecture == "MobileNetV2"
  assert config.preprocessing.height == "auto"


def test_sections_are_merged_and_lists_replaced(load):
  config = load(
    "data.splits.train=0.5",
    "data.splits.test=0.4",
    yaml="compression: {recipe: [{step: quantize}]}\nevaluation: {max_drop: {auc: 0.5}}\n",
  )
  assert (config.data.splits.train, config.data.splits.validation, config.data.splits.test) == (0.5, 0.1, 0.4)
  assert [step.step for step in config.compression.recipe] == ["quantize"]
  assert config.evaluation.max_drop == {**load().evaluation.max_drop, "auc": 0.5}


def test_an_empty_file_changes_nothing(load):
  assert load(yaml="# nothing\n") == load()


@pytest.mark.parametrize(
  "override, message",
  [
    ("training.epoch=3", "training.epoch: no such key; did you mean epochs?"),
    ("trainig.epochs=3", "trainig: no such key; did you mean training?"),
    ("epochs=3", "epochs: no such key; did you mean training.epochs?"),
    ("training.hieght=3", "training.hieght: no such key; did you mean preprocessing.height?"),
    ("zzz=3", "zzz: no such key"),
    ("compression.prune.sparsity=0.5", "compression.prune: no such key"),
    (
      "compression.recipe=[{step: quantize}, {step: prune, sparsty: 0.5}]",
      "compression.recipe.1.sparsty: no such key; did you mean sparsity?",
    ),
    ("training.epochs=0", "training.epochs=0: Input should be greater than or equal to 1"),
    ("training.epochs=", "training.epochs=None: Input should be a valid integer"),
    ("training.epochs.x=3", "training.epochs={'x': 3}: Input should be a valid integer"),
    ("training=3", "training=3: Input should be a valid dictionary or instance of TrainingConfig"),
    ("task=translation", "task='translation': Input should be 'image_classification'"),
    ("training.epochs", "--set training.epochs: write it as key=value, for example --set training.epochs=20"),
    ("=3", "--set =3: write it as key=value, for example --set training.epochs=20"),
    ("model.widths=[8", "--set model.widths=[8: the value is not valid YAML"),
  ],
)
def test_a_wrong_single_value_is_named(load, override, message):
  assert error_of(load, override) == message


def test_errors_of_validators_name_the_section(load):
  message = error_of(load, "data.splits={train: 0.8, validation: 0.1, test: 0.3}")
  assert message.startswith("data.splits={'train': 0.8")
  assert message.endswith(": train + validation + test is 1.2; make it 1")
  assert "compression.recipe.0" in error_of(load, "compression.recipe=[{step: prun}]")


def test_all_that_is_wrong_is_told_at_once(load):
  message = error_of(load, yaml="training: {epoch: 3}\nseed: -1\n")
  assert "training.epoch: no such key; did you mean epochs?" in message
  assert "seed=-1: Input should be greater than or equal to 0" in message


@pytest.mark.parametrize(
  "yaml, message",
  [
    ("- a\n- b\n", "has to hold keys and values, not a list"),
    ("training: [\n", "not valid YAML (while parsing a flow node"),
    ("a: b: c\n", "not valid YAML (mapping values are not allowed here"),
  ],
)
def test_a_file_that_is_no_configuration(load, tmp_path, yaml, message):
  assert error_of(load, yaml=yaml).startswith(f"{tmp_path / 'settings.yaml'}: {message}")


def test_files_that_cannot_be_read(tmp_path):
  (tmp_path / "latin.yaml").write_bytes(b"a: \xff\n")
  for name, message in [
    ("missing.yaml", "cannot read the configuration (No such file or directory)"),
    (".", "cannot read the configuration (Is a directory)"),
    ("latin.yaml", "not valid YAML ('utf-8' codec can't decode byte 0xff"),
  ]:
    with pytest.raises(ConfigError) as caught:
      load_config(TASK, str(tmp_path / name), data=str(tmp_path))
    assert str(caught.value).startswith(f"{tmp_path / name}: {message}")


def test_data_that_is_not_there(load, tmp_path):
  missing = str(tmp_path / "nowhere")
  message = f"data.path={missing}: no such file or folder; name one with --data"
  assert error_of(load, data=missing) == message
  assert error_of(load, f"data.path={missing}", data=None) == message
  assert error_of(load, "data.path=null", data=None) == "data.path is not set: name the data with --data"


def test_paths_of_data(load, tmp_path, monkeypatch):
  assert load().data.path == str(tmp_path / "photos")
  monkeypatch.chdir(tmp_path)
  assert load(data="photos").data.path == str(tmp_path / "photos")
  assert load("data.path=photos", data=None).data.path == str(tmp_path / "photos")
  # A relative path that is not in the working directory is that of a sample.
  sample = load("data.path=README.md", data=None).data.path
  assert sample == str(CONFIGS_DIR.parents[1] / "tests" / "data" / "README.md")
