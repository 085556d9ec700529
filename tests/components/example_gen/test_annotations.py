"""What makes a box invalid, and what becomes of the others."""

import math

import pytest

from components.example_gen.annotations import Annotation, Box, check_box, shorten, size_problem, to_number
from components.example_gen.image_cleaning import ImageInfo


def box(*corners, name="cat", **fields):
  return Box("a.xml object 1", name, corners, **fields)


def test_a_good_box_stays_and_gets_its_area():
  checked = check_box(box(1.0, 2.0, 11.0, 6.0), 20, 10)
  assert (checked.corners, checked.area) == ((1.0, 2.0, 11.0, 6.0), 40.0)


def test_the_files_own_area_stays():
  assert check_box(box(1.0, 2.0, 11.0, 6.0, area=33.5), 20, 10).area == 33.5
  for useless in (0.0, -3.0, math.nan):
    assert check_box(box(1.0, 2.0, 11.0, 6.0, area=useless), 20, 10).area == 40.0


@pytest.mark.parametrize(
  ("corners", "reason"),
  [
    ((5, 2, 3, 6), "'cat' box with x_min 5, y_min 2, x_max 3, y_max 6 is inverted"),
    ((5, 6, 9, 2), "'cat' box with x_min 5, y_min 6, x_max 9, y_max 2 is inverted"),
    ((5, 2, 5, 6), "'cat' box with x_min 5, y_min 2, x_max 5, y_max 6 is of no area"),
    ((5, 2, 9, 2), "is of no area"),
    ((5, 2, 20.2, 6), "x_max 20.2, y_max 6 reaches outside its picture of 20x10 pixels"),
    ((-0.2, 2, 9, 6), "reaches outside"),
    ((5, 2, 9, 11), "reaches outside"),
    ((20, 2, 30, 6), "lies wholly outside its picture of 20x10 pixels"),
    ((5, -9, 9, 0), "lies wholly outside"),
    ((math.nan, 2, 9, 6), "x_min nan, y_min 2, x_max 9, y_max 6 is not finite"),
    ((5, 2, math.inf, 6), "is not finite"),
  ],
)
def test_bad_boxes(corners, reason):
  with pytest.raises(ValueError) as error:
    check_box(box(*corners), 20, 10)
  assert reason in str(error.value)


def test_rounding_is_moved_to_the_edge():
  assert check_box(box(-0.05, 0.0, 20.05, 10.0), 20, 10).corners == (0.0, 0.0, 20.0, 10.0)


def test_clipping_cuts_what_is_outside():
  clipped = check_box(box(-5.0, 2.0, 25.0, 60.0), 20, 10, clip=True)
  assert (clipped.corners, clipped.area) == ((0.0, 2.0, 20.0, 10.0), 160.0)


def test_clipping_refuses_boxes_of_which_nothing_is_left():
  with pytest.raises(ValueError, match="wholly outside"):
    check_box(box(21.0, 2.0, 25.0, 6.0), 20, 10, clip=True)


def test_classes():
  assert check_box(box(1, 2, 3, 4), 20, 10, ("dog", "cat")).class_name == "cat"
  with pytest.raises(ValueError, match="class 'cat' is not among the classes 'dog, cow'"):
    check_box(box(1, 2, 3, 4), 20, 10, ("dog", "cow"))
  with pytest.raises(ValueError, match="without a class name"):
    check_box(box(1, 2, 3, 4, name=""), 20, 10)


def test_numbers():
  assert [to_number(value, "x") for value in (3, 2.5, "7", " 1e2 ")] == [3.0, 2.5, 7.0, 100.0]


@pytest.mark.parametrize(
  ("value", "reason"),
  [
    ("left", "xmin is 'left', which is not a number"),
    ("", "xmin is '', which is not a number"),
    (None, "xmin is None, which is not a number"),
    (True, "xmin is True, which is not a number"),
    ([1], r"xmin is \[1\], which is not a number"),
    (10**400, "which is not a number"),
    ("nan", "xmin is 'nan', which is not finite"),
    (math.inf, "xmin is inf, which is not finite"),
  ],
)
def test_what_is_no_number(value, reason):
  with pytest.raises(ValueError, match=reason):
    to_number(value, "xmin")


def test_long_values_are_shortened():
  assert shorten([1, 2]) == "[1, 2]"
  assert len(shorten("a" * 10_000)) <= 80
  assert shorten(list(range(1_000_000))) == "[0, 1, 2, 3, 4, 5, ...]"


def test_size_of_the_picture():
  info = ImageInfo(20, 10, "png")
  assert size_problem(Annotation(), "a.xml", info) == ""
  assert size_problem(Annotation(size_px=(20.0, 10)), "a.xml", info) == ""
  expected = "its annotation a.xml tells 10x20 pixels, the picture itself has 20x10"
  assert size_problem(Annotation(size_px=(10.0, 20)), "a.xml", info) == expected
  assert size_problem(Annotation(size_px=(None, "big")), "", info).startswith(
    "its annotation file tells Nonex'big'"
  )
