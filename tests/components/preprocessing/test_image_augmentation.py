import numpy as np
import pytest
import tensorflow as tf

from components.preprocessing.augmentation import AugmentationConfig, make_augment
from components.preprocessing.image_augmentation import SeedSequence

RNG = np.random.default_rng(3)
LUMA = np.array([0.299, 0.587, 0.114])


def augmented(images, seed=(1, 2), **settings):
  images = tf.constant(images, tf.float32)
  return make_augment(AugmentationConfig(**settings))(images, None, tf.constant(seed))[0].numpy()


def noise(num_images=32, height=10, width=14, channels=3):
  return RNG.integers(1, 256, (num_images, height, width, channels)).astype(np.float32)


def find_shift(image, moved, limits, **pad):
  """(rows, columns) by which numpy's own padding and slicing makes `moved` out of `image`."""
  height, width = image.shape[:2]
  padded = np.pad(image, ((limits[0],) * 2, (limits[1],) * 2, (0, 0)), **pad)
  for row in range(2 * limits[0] + 1):
    for column in range(2 * limits[1] + 1):
      if np.array_equal(padded[row : row + height, column : column + width], moved):
        return row - limits[0], column - limits[1]
  return None


def test_flip_mirrors_about_half_of_the_images():
  images = noise(64)
  result = augmented(images, horizontal_flip=True)
  is_flipped = [np.array_equal(new, old[:, ::-1]) for new, old in zip(result, images, strict=True)]
  is_same = [np.array_equal(new, old) for new, old in zip(result, images, strict=True)]
  assert all(a != b for a, b in zip(is_flipped, is_same, strict=True))
  assert 20 <= sum(is_flipped) <= 44


@pytest.mark.parametrize(("fill", "pad"), [("reflect", "symmetric"), ("edge", "edge"), ("zeros", "constant")])
@pytest.mark.parametrize(
  ("settings", "limits"), [({"shift_fraction": 0.2}, (2, 3)), ({"crop_padding_px": 4}, (4, 4))]
)
def test_shift_and_crop_move_by_whole_pixels_up_to_the_limit(fill, pad, settings, limits):
  images = noise(96)
  result = augmented(images, fill=fill, **settings)
  shifts = [find_shift(old, new, limits, mode=pad) for old, new in zip(images, result, strict=True)]
  assert None not in shifts
  rows, columns = zip(*shifts, strict=True)
  assert set(rows) == set(range(-limits[0], limits[0] + 1))
  assert set(columns) == set(range(-limits[1], limits[1] + 1))


def test_flip_and_shift_together():
  images = noise(16)
  result = augmented(images, horizontal_flip=True, crop_padding_px=2, fill="edge")
  for old, new in zip(images, result, strict=True):
    assert find_shift(old, new, (2, 2), mode="edge") or find_shift(old[:, ::-1], new, (2, 2), mode="edge")


def test_shift_beyond_the_picture_reflects_again():
  image = np.arange(1, 5, dtype=np.float32).reshape(1, 1, 4, 1)
  result = augmented(np.tile(image, (64, 1, 1, 1)), crop_padding_px=9)
  periodic = np.tile(np.r_[image.ravel(), image.ravel()[::-1]], 4)
  possible = {tuple(periodic[start : start + 4]) for start in range(8)}
  assert {tuple(row) for row in result[:, 0, :, 0]} == possible


def test_rotation_turns_about_the_centre_up_to_the_limit():
  rows, columns = np.mgrid[:33, :33] - 16.0
  spot = np.exp(-((rows**2 + (columns - 11) ** 2) / 4))[None, :, :, None] * 255
  result = augmented(np.tile(spot, (48, 1, 1, 1)), rotation_degrees=30, fill="zeros")[..., 0]
  mass = result.sum(axis=(1, 2))
  angles = np.degrees(np.arctan2((result * rows).sum(axis=(1, 2)), (result * columns).sum(axis=(1, 2))))
  distance = np.hypot((result * rows).sum(axis=(1, 2)), (result * columns).sum(axis=(1, 2))) / mass
  np.testing.assert_allclose(distance, 11, atol=0.1)
  assert np.abs(angles).max() <= 30.5
  assert angles.min() < -20
  assert angles.max() > 20


def test_brightness_adds_one_number_to_an_image():
  images = np.clip(noise(), 100, 150)
  change = (augmented(images, brightness=0.2) - images).reshape(len(images), -1)
  np.testing.assert_allclose(change, np.tile(change[:, :1], change.shape[1]), atol=1e-4)
  assert np.abs(change).max() <= 51
  assert change.min() < -20
  assert change.max() > 20


def test_contrast_scales_about_the_mean_both_ways():
  images = np.clip(noise(), 110, 140)
  mean = images.mean(axis=(1, 2), keepdims=True)
  result = augmented(images, contrast=0.5)
  factor = ((result - mean) * (images - mean)).sum(axis=(1, 2, 3)) / ((images - mean) ** 2).sum(
    axis=(1, 2, 3)
  )
  np.testing.assert_allclose(result, mean + factor[:, None, None, None] * (images - mean), atol=1e-3)
  assert 0.5 <= factor.min() < 0.7
  assert 1.3 < factor.max() <= 1.5


def test_saturation_moves_from_or_towards_grey():
  images = np.clip(noise(), 100, 150)
  grey = (images @ LUMA)[..., None]
  result = augmented(images, saturation=0.5)
  factor = ((result - grey) * (images - grey)).sum(axis=(1, 2, 3)) / ((images - grey) ** 2).sum(
    axis=(1, 2, 3)
  )
  np.testing.assert_allclose(result, grey + factor[:, None, None, None] * (images - grey), atol=0.02)
  assert 0.5 <= factor.min() < 0.7
  assert 1.3 < factor.max() <= 1.5


def test_hue_turns_colours_and_keeps_greys_and_luminance():
  images = np.clip(noise(), 110, 140)
  images[:, 0] = images[:, 0, :, :1]
  result = augmented(images, hue=0.25)
  np.testing.assert_allclose(result[:, 0], images[:, 0], atol=0.05)
  np.testing.assert_allclose(result @ LUMA, images @ LUMA, atol=0.05)
  to_iq = np.array([[0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]]).T
  before, after = images[:, 1:] @ to_iq, result[:, 1:] @ to_iq
  np.testing.assert_allclose(np.hypot(*after.T), np.hypot(*before.T), atol=0.1)
  turn = np.angle(((after @ [1, 1j]) * np.conj(before @ [1, 1j])).sum(axis=(1, 2)))
  assert np.abs(turn).max() <= np.pi / 2 + 0.01
  assert turn.min() < -1
  assert turn.max() > 1


@pytest.mark.parametrize("channels", [1, 3])
def test_cutout_erases_a_square_that_may_stick_out(channels):
  images = noise(200, 12, 20, channels)
  result = augmented(images, cutout_fraction=0.5)
  sizes = set()
  for old, new in zip(images, result, strict=True):
    erased = np.isclose(new, old.mean(axis=(0, 1)), atol=1e-3).all(axis=-1)
    np.testing.assert_array_equal(new[~erased], old[~erased])
    rows, columns = np.flatnonzero(erased.any(axis=1)), np.flatnonzero(erased.any(axis=0))
    assert erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    size = (len(rows), len(columns))
    # Side 6, cut only by the border.
    assert size[0] == 6 or rows[0] == 0 or rows[-1] == 11
    assert size[1] == 6 or columns[0] == 0 or columns[-1] == 19
    sizes.add(size)
  assert max(sizes) == (6, 6)
  assert min(min(size) for size in sizes) == 3


def test_mixup_mixes_images_and_targets_alike():
  images = noise(12)
  targets = np.eye(12, dtype=np.float32)
  mixed, mixed_targets = make_augment(AugmentationConfig(mixup_alpha=1.0))(
    tf.constant(images), tf.constant(targets), tf.constant([4, 4])
  )
  np.testing.assert_allclose(np.sum(mixed_targets, axis=1), 1, rtol=1e-6)
  # Each class is one image, so that the targets are the weights of the images.
  np.testing.assert_allclose(mixed, np.tensordot(mixed_targets, images, 1), atol=1e-2)
  assert (np.count_nonzero(mixed_targets, axis=1) == 2).sum() >= 6


def test_mixup_with_a_tiny_alpha_stays_finite():
  images = noise(2048, 2, 2, 1)
  targets = np.eye(2, dtype=np.float32)[np.arange(2048) % 2]
  mixed, mixed_targets = make_augment(AugmentationConfig(mixup_alpha=0.01))(
    tf.constant(images), tf.constant(targets), tf.constant([0, 0])
  )
  assert np.isfinite(mixed).all()
  np.testing.assert_allclose(np.sum(mixed_targets, axis=1), 1, rtol=1e-6)


def test_seed_sequence():
  first, second = SeedSequence(tf.constant([1, 2])), SeedSequence(tf.constant([1, 2]))
  drawn = [tuple(first.next().numpy()) for _ in range(5)]
  assert len(set(drawn)) == 5
  assert drawn == [tuple(second.next().numpy()) for _ in range(5)]
