"""Boxes and masks drawn over pictures, read back pixel by pixel."""

from __future__ import annotations

import io
import itertools
import re

import numpy as np
import pytest
from PIL import Image

from components.example_gen.drawing import class_colour, draw_boxes, mask_png, overlay_mask

GREY = (128, 128, 128)
WHITE = (255, 255, 255)
BLUE, ORANGE, GREEN = (0, 114, 178), (230, 159, 0), (0, 158, 115)
NAMES = ["background", "cell", "nucleus"]


def encode(picture, kind="PNG"):
  file = io.BytesIO()
  picture.save(file, kind)
  return file.getvalue()


def plain(width_px=400, height_px=300, colour=GREY):
  return encode(Image.new("RGB", (width_px, height_px), colour))


def decode(data):
  """uint8 [height, width, 3] of a picture that was drawn, which is always an RGB PNG."""
  with Image.open(io.BytesIO(data)) as picture:
    assert (picture.format, picture.mode) == ("PNG", "RGB")
    return np.asarray(picture)


def extent(pixels, colour):
  """(left, top, right, bottom) of a colour's pixels, the last ones included."""
  rows, columns = np.nonzero((pixels == colour).all(axis=-1))
  return columns.min(), rows.min(), columns.max(), rows.max()


def at(pixels, x, y):
  return tuple(pixels[y, x].tolist())


def test_class_colours_are_fixed_and_differ():
  assert [class_colour(position) for position in range(3)] == [BLUE, ORANGE, GREEN]
  colours = [class_colour(position) for position in range(255)]
  assert len(set(colours)) == 255 and (0, 0, 0) not in colours
  assert all(0 <= part <= 255 for colour in colours for part in colour)


def test_a_box_has_crisp_edges_and_its_inside_is_untouched():
  pixels = decode(draw_boxes(plain(), [[100, 90, 300, 250]], ["cell"]))
  assert pixels.shape == (300, 400, 3)
  # 2 pixels wide, inwards; x_max and y_max are where the box ends.
  for x, y in ((100, 150), (101, 150), (299, 150), (298, 150), (200, 90), (200, 91), (200, 249), (200, 248)):
    assert at(pixels, x, y) == BLUE
  for x, y in ((99, 150), (102, 150), (300, 150), (297, 150), (200, 92), (200, 250), (200, 247)):
    assert at(pixels, x, y) == GREY
  assert (pixels[92:248, 102:298] == GREY).all()


def test_a_tag_stands_above_its_box_with_readable_text():
  pixels = decode(draw_boxes(plain(), [[100, 90, 300, 250]], ["cell"], [0.5]))
  left, top, _, bottom = extent(pixels, BLUE)
  assert (left, bottom) == (100, 249) and 70 < top < 85
  tag = pixels[top:90, 100:125]
  assert tag[..., 0].max() > 200 and not (tag == GREY).all(axis=-1).any()
  assert (pixels[top:90, 200:] == GREY).all()


def test_text_is_dark_on_light_tags():
  pixels = decode(draw_boxes(plain(), [[100, 90, 300, 250]], ["b"], class_names=["a", "b"]))
  tag = pixels[extent(pixels, ORANGE)[1] : 90, 100:115]
  assert tag[..., 0].min() < 40 and tag[..., 0].max() <= ORANGE[0]


def test_a_score_widens_the_tag():
  widths_px = []
  for scores in (None, [0.87]):
    pixels = decode(draw_boxes(plain(), [[100, 90, 300, 250]], ["cell"], scores))
    widths_px.append((pixels[80] == BLUE).all(axis=-1).sum())
  assert widths_px[1] > widths_px[0] + 9


def test_colours_follow_the_sorted_labels_or_the_class_names():
  boxes, labels = [[20, 50, 120, 250], [200, 50, 300, 250]], ["wbc", "rbc"]
  by_label = decode(draw_boxes(plain(), boxes, labels))
  assert (at(by_label, 20, 200), at(by_label, 200, 200)) == (ORANGE, BLUE)
  by_name = decode(draw_boxes(plain(), boxes, labels, class_names=("wbc", "platelet", "rbc")))
  assert (at(by_name, 20, 200), at(by_name, 200, 200)) == (BLUE, GREEN)


def test_the_likelier_box_lies_on_top():
  boxes = [[100, 90, 200, 200], [150, 90, 300, 250]]
  for scores, colour in (([0.9, 0.3], BLUE), ([0.3, 0.9], ORANGE)):
    pixels = decode(draw_boxes(plain(), boxes, ["a", "b"], scores))
    assert at(pixels, 150, 199) == colour


def test_flattened_boxes_are_taken_too():
  boxes = np.array([[20, 50, 120, 250], [200, 50, 300, 250]], np.float32)
  assert draw_boxes(plain(), boxes.ravel(), ["a", "b"]) == draw_boxes(plain(), boxes, ["a", "b"])


def test_small_pictures_are_enlarged_with_their_boxes():
  pixels = decode(draw_boxes(plain(100, 50), [[10, 20, 30, 40]], ["cell"]))
  assert pixels.shape == (200, 400, 3) and extent(pixels[80:], BLUE) == (40, 0, 119, 79)


@pytest.mark.parametrize("place", [(0, 0), (360, 0), (0, 270), (360, 270), (180, 140)])
def test_tags_stay_inside(place):
  """A tag is as large in a corner as in the middle."""
  label, (x, y) = "a rather long name", place
  pixels = decode(draw_boxes(plain(), [[x, y, x + 40, y + 30]], [label], [0.5]))
  middle = decode(draw_boxes(plain(), [[180, 140, 220, 170]], [label], [0.5]))
  # Nothing but text is lighter than the ground; all of it is to be seen.
  assert (pixels[..., 0] > 150).sum() == (middle[..., 0] > 150).sum() > 20


def test_a_tag_too_long_for_the_picture_is_shortened():
  pixels = decode(draw_boxes(plain(), [[100, 90, 300, 250]], ["word\n" * 100]))
  left, _, right, _ = extent(pixels, BLUE)
  assert 0 <= left < 100 and 380 < right <= 399


def test_tags_of_neighbours_do_not_cover_each_other():
  boxes = [[100, 100, 200, 200], [102, 101, 202, 201], [101, 102, 201, 202]]
  labels = ["a", "b", "c"]
  pixels = decode(draw_boxes(plain(), boxes, labels, [0.5, 0.6, 0.7]))
  alone = [
    decode(draw_boxes(plain(), [box], [label], [0.5], labels))
    for box, label in zip(boxes, labels, strict=True)
  ]
  for colour, picture in zip((BLUE, ORANGE, GREEN), alone, strict=True):
    tag_px = (picture == colour).all(axis=-1).sum() - (2 * 2 * (100 + 100) - 16)
    assert (pixels == colour).all(axis=-1).sum() > 0.8 * tag_px


def test_dense_pictures_get_thinner_lines():
  boxes = [[x, y, x + 60, y + 60] for x, y in itertools.product(range(10, 600, 100), range(30, 400, 100))]
  for number, width_px in ((6, 3), (24, 2)):
    pixels = decode(draw_boxes(plain(640, 480), boxes[:number], ["cell"] * number))
    assert (pixels[60, :40] == BLUE).all(axis=-1).sum() == width_px


def test_boxes_are_clipped_and_those_outside_left_out():
  pixels = decode(draw_boxes(plain(), [[-50, -60, 150, 120], [350, 250, 4000, 1e9]], ["a", "a"]))
  assert at(pixels, 0, 60) == at(pixels, 149, 60) == at(pixels, 75, 119) == BLUE
  assert at(pixels, 399, 280) == at(pixels, 370, 299) == BLUE
  outside = [[-50, 10, 0, 60], [400, 10, 450, 60], [10, 300, 60, 350], [60, 60, 60, 90], [90, 60, 60, 90]]
  outside += [[float("nan"), 10, 60, 60], [10, 10, float("inf"), 60]]
  pixels = decode(draw_boxes(plain(), outside, ["a"] * len(outside)))
  assert (pixels == GREY).all()


@pytest.mark.parametrize("size_px", [(1, 1), (1, 9), (9, 1), (3, 3), (5, 4)])
def test_thin_boxes_are_filled_and_no_larger_than_they_are(size_px):
  x_max, y_max = 200 + size_px[0], 200 + size_px[1]
  pixels = decode(draw_boxes(plain(), [[200, 200, x_max, y_max]], ["a"]))
  # The tag is above.
  is_drawn = (pixels[200:] != GREY).any(axis=-1)
  assert is_drawn.sum() == size_px[0] * size_px[1] == is_drawn[: size_px[1], 200:x_max].sum()


def test_a_part_of_the_last_pixel():
  assert at(decode(draw_boxes(plain(), [[399.7, 299.7, 400, 300]], ["a"])), 399, 299) == BLUE


@pytest.mark.parametrize("boxes", [[], np.zeros((0, 4), np.float32), np.zeros(0)])
def test_no_boxes(boxes):
  assert (decode(draw_boxes(plain(), boxes, [], [])) == GREY).all()
  assert (decode(draw_boxes(plain(), boxes, [], class_names=["a"])) == GREY).all()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
@pytest.mark.parametrize("size", [(1, 1), (400, 3), (3, 400), (28, 28)])
def test_pictures_of_other_modes_and_odd_sizes(mode, size):
  data = encode(Image.new(mode, size, 0))
  pixels = decode(draw_boxes(data, [[0, 0, 1, 1]], ["a"], [0.5]))
  assert max(pixels.shape) >= 320 and (pixels == BLUE).all(axis=-1).any()
  assert decode(overlay_mask(data, np.ones(size[::-1], np.uint8), NAMES)).shape[0] > pixels.shape[0]


def test_grey_jpegs_stay_grey_inside():
  data = encode(Image.new("L", (400, 300), 77), "JPEG")
  pixels = decode(draw_boxes(data, [[100, 90, 300, 250]], ["a"]))
  assert at(pixels, 200, 170) == (77, 77, 77) and at(pixels, 100, 170) == BLUE


def test_boxes_labels_and_scores_must_match():
  with pytest.raises(ValueError, match="2 boxes, 1 labels, 2 scores: give each box one of each"):
    draw_boxes(plain(), [[0, 0, 9, 9]] * 2, ["a"])
  with pytest.raises(ValueError, match="1 boxes, 1 labels, 0 scores"):
    draw_boxes(plain(), [[0, 0, 9, 9]], ["a"], [])
  with pytest.raises(ValueError, match=re.escape("class 'c' is not in class_names ['a', 'b']; add it there")):
    draw_boxes(plain(), [[0, 0, 9, 9]], ["c"], class_names=("a", "b"))


def test_mask_png_round_trip():
  ids = np.arange(256).reshape(8, 32)
  for dtype in (np.uint8, np.int32, np.int64):
    with Image.open(io.BytesIO(mask_png(ids.astype(dtype)))) as picture:
      assert (picture.format, picture.mode) == ("PNG", "L")
      np.testing.assert_array_equal(picture, ids)


@pytest.mark.parametrize(
  "ids, telling",
  [
    (np.zeros((2, 2), np.float32), "mask of float32 [2, 2]: give whole numbers"),
    (np.zeros((2, 2, 1), np.uint8), "mask of uint8 [2, 2, 1]"),
    (np.zeros((0, 2), np.uint8), "mask of uint8 [0, 2]"),
    (np.array([[0, 256]]), "class ids 0 to 256: an 8-bit picture holds 0 to 255"),
    (np.array([[-1, 2]]), "class ids -1 to 2"),
  ],
)
def test_what_is_no_mask_is_refused(ids, telling):
  with pytest.raises(ValueError, match=re.escape(telling)):
    mask_png(ids)


def blended(colour, ground=128, alpha=0.45):
  return [alpha * part + (1 - alpha) * ground for part in colour]


def test_a_mask_tints_its_classes_and_not_the_background():
  ids = np.zeros((300, 400), np.uint8)
  ids[100:200, 100:200], ids[100:200, 200:300] = 1, 2
  pixels = decode(overlay_mask(plain(), ids, NAMES))
  np.testing.assert_allclose(pixels[150, 150], blended(BLUE), atol=1)
  np.testing.assert_allclose(pixels[150, 250], blended(ORANGE), atol=1)
  assert (pixels[:300][ids == 0] == GREY).all()
  # Borders are one pixel of each class's own colour.
  assert at(pixels, 100, 150) == at(pixels, 199, 150) == at(pixels, 150, 100) == BLUE
  assert at(pixels, 200, 150) == at(pixels, 299, 150) == ORANGE
  np.testing.assert_allclose(pixels[150, 101], blended(BLUE), atol=1)
  faint = decode(overlay_mask(plain(), ids, NAMES, alpha=0.1))
  np.testing.assert_allclose(faint[150, 150], blended(BLUE, alpha=0.1), atol=1)


def test_the_legend_names_the_classes_present():
  ids = np.zeros((300, 400), np.uint8)
  ids[:150] = 2
  legend = decode(overlay_mask(plain(), ids, NAMES))[300:]
  assert 15 < len(legend) < 60
  has = {colour: (legend == colour).all(axis=-1).any() for colour in (WHITE, (0, 0, 0), BLUE, ORANGE)}
  assert has == {WHITE: True, (0, 0, 0): True, BLUE: False, ORANGE: True}


def test_the_legend_takes_as_many_lines_as_it_needs():
  ids = np.tile(np.arange(20, dtype=np.uint8), (300, 20))
  names = ["background", *(f"a class called {number}" for number in range(1, 20))]
  legend = decode(overlay_mask(plain(), ids, names))[300:]
  assert len(legend) > 150
  for class_id in range(1, 20):
    assert (legend == class_colour(class_id - 1)).all(axis=-1).any()
  assert (legend[:, -3:] == WHITE).all() and (legend[-3:] == WHITE).all()


def test_a_first_class_that_is_no_background_is_tinted_and_ids_without_a_name_are_not():
  ids = np.zeros((300, 400), np.uint8)
  ids[:, 200:] = 255
  pixels = decode(overlay_mask(plain(), ids, ["road", "car"]))
  np.testing.assert_allclose(pixels[150, 100], blended((0, 0, 0)), atol=1)
  assert at(pixels, 300, 150) == at(pixels, 200, 150) == GREY


def test_small_pictures_are_enlarged_with_their_masks():
  ids = np.zeros((60, 80), np.uint8)
  ids[20:40, 20:40] = 1
  pixels = decode(overlay_mask(plain(80, 60), ids, NAMES))
  assert pixels.shape[1] == 320 and extent(pixels[:240], BLUE) == (80, 80, 159, 159)
  narrow = decode(overlay_mask(plain(10, 80), np.ones((80, 10), np.uint8), NAMES))
  assert narrow.shape[1] == 320
  np.testing.assert_allclose(narrow[100, 160], blended(BLUE), atol=1)
  assert at(narrow, 10, 100) == WHITE


def test_a_mask_of_another_size_is_refused():
  telling = "mask [height, width] [400, 300], picture [300, 400]: resize the mask to the picture"
  with pytest.raises(ValueError, match=re.escape(telling)):
    overlay_mask(plain(), np.zeros((400, 300), np.uint8), NAMES)
