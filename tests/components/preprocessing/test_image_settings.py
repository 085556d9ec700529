"""Sizes and classes that are left "auto", from the data sets themselves."""

import importlib.util
import pathlib

import numpy as np
import pytest

from components.config import DataConfig, SplitFractions
from components.preprocessing.image_settings import (
  ImagePreprocessingConfig,
  is_resolved,
  normalize_layer,
  with_sizes,
)
from pipeline.tasks.object_detection import TASK as DETECTION
from pipeline.tasks.semantic_segmentation import TASK as SEGMENTATION

_SPEC = importlib.util.spec_from_file_location(
  "annotated_data", pathlib.Path(__file__).parents[1] / "example_gen" / "annotated_data.py"
)
annotated_data = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(annotated_data)


@pytest.mark.parametrize(
  "height_px, width_px, expected",
  [
    (480, 640, (240, 320)),
    (640, 480, (320, 240)),
    (120, 120, (120, 120)),
    (101, 99, (104, 96)),
    (321, 320, (320, 320)),
    (3, 2, (8, 8)),
    # A side that would vanish keeps one step.
    (10, 1000, (8, 320)),
  ],
)
def test_a_size_is_scaled_down_to_multiples_of_8(height_px, width_px, expected):
  section = with_sizes(ImagePreprocessingConfig(max_auto_side=320), height_px, width_px, 3)
  assert section.shape == (*expected, 3) and is_resolved(section)


def test_what_is_set_stays():
  section = with_sizes(ImagePreprocessingConfig(height=50, channels=1), 480, 640, 3)
  assert section.shape == (50, 128, 1)
  assert not is_resolved(ImagePreprocessingConfig(height=50, width=20))
  assert is_resolved(ImagePreprocessingConfig(height=50, width=20, channels=1))


def test_the_first_layer_normalizes_by_what_the_transform_learned():
  section = ImagePreprocessingConfig(height=2, width=2, channels=1)
  sample = {"channel_mean": np.float32([[10.0], [10.0]]), "channel_stddev": np.float32([[5.0], [5.0]])}
  found = normalize_layer(section, sample)(np.full((1, 2, 2, 1), 20, np.float32))
  np.testing.assert_allclose(found, np.full((1, 2, 2, 1), 2.0))


def detection_config(path, **sections):
  return DETECTION.config_class(data={"path": path}, **sections)


@pytest.fixture
def voc(tmp_path):
  """Pictures of 640 x 480, each with a box."""
  files = {}
  for number in range(3):
    files[f"JPEGImages/{number}.png"] = annotated_data.picture(640, 480)
    files[f"Annotations/{number}.xml"] = annotated_data.voc_xml(
      ("cat", 1, 1, 9, 9), size=(640, 480), name=f"{number}.png"
    )
  return annotated_data.write(tmp_path, files)


def test_a_detectors_size_is_that_of_its_pictures(voc):
  config = DETECTION.resolve(detection_config(voc))
  assert config.preprocessing.shape == (240, 320, 3)
  config = DETECTION.resolve(detection_config(voc, preprocessing={"max_auto_side": 64, "channels": 1}))
  assert config.preprocessing.shape == (48, 64, 1)


def test_explicit_sizes_are_not_looked_up():
  sizes = {"height": 33, "width": 47, "channels": 3}
  config = detection_config("no/such/folder", preprocessing=sizes)
  assert DETECTION.resolve(config) == config


@pytest.mark.parametrize("strides", [(8, 16, 24), (8, 8), (16, 8), (4, 16)])
def test_strides_that_do_not_double_are_refused(strides):
  with pytest.raises(ValueError, match=r"^model.strides=\[.*\]: each has to be twice the one before$"):
    DETECTION.resolve(detection_config(None, model={"strides": strides}))


def masks(tmp_path, **files):
  own = {
    "images/a.png": annotated_data.picture(40, 30),
    "masks/a.png": annotated_data.grey_png([[0, 1] * 20] * 30),
  }
  return annotated_data.write(tmp_path, own | files)


def segmentation_config(path, classes=None, **preprocessing):
  return SEGMENTATION.config_class(data={"path": path, "classes": classes}, preprocessing=preprocessing)


def test_classes_are_those_of_classes_txt(tmp_path):
  path = masks(tmp_path, **{"classes.txt": "background\ncat\n"})
  config = SEGMENTATION.resolve(segmentation_config(path))
  assert config.preprocessing.classes == ("background", "cat")
  assert config.preprocessing.shape == (32, 40, 3)


def test_classes_of_the_configuration_come_first(tmp_path):
  path = masks(tmp_path, **{"classes.txt": "background\ncat\n"})
  config = SEGMENTATION.resolve(segmentation_config(path, ("ground", "sky"), height=16))
  assert config.preprocessing.classes == ("ground", "sky")
  assert config.preprocessing.shape == (16, 40, 3)
  sizes = {"height": 16, "width": 24, "channels": 3, "classes": ("a", "b")}
  config = SEGMENTATION.config_class(data={"path": "no/such/folder"}, preprocessing=sizes)
  assert SEGMENTATION.resolve(config) == config


def test_classes_of_which_nothing_is_known_are_an_error(tmp_path):
  with pytest.raises(ValueError, match="classes") as caught:
    SEGMENTATION.resolve(segmentation_config(masks(tmp_path)))
  assert "\n" not in str(caught.value)


def test_validations_share_of_what_is_not_test():
  assert SplitFractions(train=0.6, validation=0.2, test=0.2).validation_of_rest == pytest.approx(0.25)
  assert DataConfig().splits.validation_of_rest == pytest.approx(1 / 9)
  fractions = SplitFractions(train=0.6, validation=0.2, test=0.2)
  for task in (DETECTION, SEGMENTATION):
    reader = task.read(task.config_class(data={"path": "x", "splits": fractions.model_dump()}).data)
    assert reader.validation_fraction == pytest.approx(0.25)
