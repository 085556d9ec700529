import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from components.preprocessing import image as ops

RNG = np.random.default_rng(7)


def encode(pixels, kind="PNG"):
  file = io.BytesIO()
  Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, kind)
  return file.getvalue()


def decode(pictures, height, width, channels=3, scaling="stretch"):
  return ops.decode_and_scale(tf.constant(pictures), height, width, channels, scaling).numpy()


def noise(height, width, channels=3):
  return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("scaling", ["stretch", "pad", "crop"])
@pytest.mark.parametrize("channels", [1, 3])
def test_picture_of_the_right_size_keeps_every_pixel(scaling, channels):
  pictures = [noise(9, 14, channels) for _ in range(3)]
  encoded = [encode(picture) for picture in pictures]
  for batch in (encoded, [[one] for one in encoded]):
    np.testing.assert_array_equal(decode(batch, 9, 14, channels, scaling), np.stack(pictures))


def test_static_shape_is_known_in_a_graph():
  graph = tf.function(lambda encoded: ops.decode_and_scale(encoded, 8, 6, 3, "pad"))
  for spec in (tf.TensorSpec([None], tf.string), tf.TensorSpec([None, 1], tf.string)):
    assert graph.get_concrete_function(spec).output_shapes == [None, 8, 6, 3]
  assert graph(tf.constant([], tf.string)).shape == (0, 8, 6, 3)


def test_shrinking_by_two_takes_the_mean_of_each_block():
  small = noise(8, 5)
  blocks = small.repeat(2, axis=0).repeat(2, axis=1)
  np.testing.assert_array_equal(decode([encode(blocks)], 8, 5), small[np.newaxis])
  columns = np.tile(np.array([10, 20, 100, 140], np.uint8)[None, :, None], (2, 1, 3))
  np.testing.assert_array_equal(decode([encode(columns)], 2, 2)[0, :, :, 0], [[15, 120], [15, 120]])


def test_enlarging_interpolates_between_pixel_centres():
  picture = np.array([[[0], [100]]], np.uint8)
  np.testing.assert_array_equal(decode([encode(picture)], 1, 4, 1)[0, 0, :, 0], [0, 25, 75, 100])


def test_one_side_shrinks_and_the_other_grows():
  picture = np.tile(np.array([40, 60, 200, 220], np.uint8)[None, :, None], (1, 1, 3))
  scaled = decode([encode(picture)], 3, 2)[0]
  assert scaled.shape == (3, 2, 3)
  # Antialiased: a triangle of twice the width over each target pixel, weights 3, 3, 1 of 7 from the border.
  expected = [(3 * 40 + 3 * 60 + 200) / 7, (60 + 3 * 200 + 3 * 220) / 7]
  np.testing.assert_allclose(scaled[:, :, 0], np.tile(expected, (3, 1)), atol=1)


def test_pad_fits_inside_and_centres():
  white = np.full((40, 20, 3), 255, np.uint8)
  expected = np.zeros((20, 20, 3), np.uint8)
  expected[:, 5:15] = 255
  np.testing.assert_array_equal(decode([encode(white)], 20, 20, 3, "pad")[0], expected)
  lying = np.ascontiguousarray(white.transpose(1, 0, 2))
  np.testing.assert_array_equal(decode([encode(lying)], 20, 20, 3, "pad")[0], expected.transpose(1, 0, 2))


@pytest.mark.parametrize(
  ("size", "target", "filled"),
  [
    # 20 / 30 * 16 = 10.67 -> 11 columns, 2 left and 3 right.
    ((30, 20), (16, 16), (slice(0, 16), slice(2, 13))),
    # Small pictures are enlarged; 5 / 4 * 8 = 10 -> 10 columns, 1 left and 1 right.
    ((4, 5), (8, 12), (slice(0, 8), slice(1, 11))),
    # At least one row is left of an extreme one; 3 above and 4 below.
    ((1, 500), (8, 8), (slice(3, 4), slice(0, 8))),
    # No resize, only a frame.
    ((6, 3), (6, 6), (slice(0, 6), slice(1, 4))),
  ],
)
def test_pad_of_odd_sizes(size, target, filled):
  white = np.full((*size, 1), 255, np.uint8)
  expected = np.zeros((*target, 1), np.uint8)
  expected[filled] = 255
  np.testing.assert_array_equal(decode([encode(white)], *target, 1, "pad")[0], expected)


def test_crop_fills_the_frame_and_cuts_both_sides():
  values = np.arange(20, dtype=np.uint8) * 10
  picture = np.tile(values.repeat(2)[None, :, None], (20, 1, 3))
  # 20x40 becomes 10x20, of which columns 5 to 14 remain.
  expected = np.tile(values[5:15][None, :, None], (10, 1, 3))
  np.testing.assert_array_equal(decode([encode(picture)], 10, 10, 3, "crop")[0], expected)
  standing = np.ascontiguousarray(picture.transpose(1, 0, 2))
  np.testing.assert_array_equal(decode([encode(standing)], 10, 10, 3, "crop")[0], expected.transpose(1, 0, 2))


def test_crop_without_resize_keeps_the_middle():
  picture = noise(7, 12)
  np.testing.assert_array_equal(decode([encode(picture)], 7, 5, 3, "crop")[0], picture[:, 3:8])


def test_crop_of_an_extreme_picture_has_the_right_size():
  assert decode([encode(noise(1, 300)), encode(noise(300, 1))], 8, 6, 3, "crop").shape == (2, 8, 6, 3)


def test_formats_and_channels():
  picture = noise(6, 6)
  alpha = np.concatenate([picture, np.full((6, 6, 1), 255, np.uint8)], axis=-1)
  exact = decode([encode(picture, "PNG"), encode(picture, "BMP"), encode(alpha, "PNG")], 6, 6)
  np.testing.assert_array_equal(exact, np.stack([picture] * 3))
  smooth = np.full((6, 6, 3), 90, np.uint8)
  assert np.abs(decode([encode(smooth, "JPEG"), encode(smooth, "GIF")], 6, 6).astype(int) - 90).max() <= 1
  grey = decode([encode(picture, "PNG")], 6, 6, 1)[0, :, :, 0]
  np.testing.assert_allclose(grey, picture @ [0.299, 0.587, 0.114], atol=1)


def test_broken_picture_and_unknown_scaling_are_errors():
  with pytest.raises(tf.errors.InvalidArgumentError):
    decode([encode(noise(5, 5))[:40]], 5, 5)
  with pytest.raises(ValueError, match='scaling is "fit"'):
    decode([b""], 5, 5, 3, "fit")


@pytest.mark.parametrize("shape", [(28, 28, 1), (5, 7, 3), (4,)])
def test_pack_and_unpack(shape):
  images = RNG.integers(0, 256, (6, *shape), dtype=np.uint8)
  packed = ops.pack_uint8(tf.constant(images))
  assert [one.tobytes() for one in images] == packed.numpy().tolist()
  for strings in (packed, packed[:, tf.newaxis]):
    np.testing.assert_array_equal(ops.unpack_uint8(strings, shape).numpy(), images)


def test_unpack_in_a_graph_and_of_a_wrong_size():
  graph = tf.function(lambda strings: ops.unpack_uint8(strings, (2, 3, 1)))
  assert graph.get_concrete_function(tf.TensorSpec([None], tf.string)).output_shapes == [None, 2, 3, 1]
  assert graph(tf.constant([], tf.string)).shape == (0, 2, 3, 1)
  # Twelve bytes would make two pictures of six.
  with pytest.raises(tf.errors.InvalidArgumentError):
    graph(tf.constant([b"123456123456"]))


def test_statistics_of_a_full_pass(tmp_path):
  import tensorflow_transform as tft
  import tensorflow_transform.beam as tft_beam
  from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

  # Sizes that divide into uneven batches, and a channel that never changes.
  pixels = RNG.integers(0, 256, (23, 6, 5, 3), dtype=np.uint8)
  pixels[..., 2] = 200
  schema = schema_utils.schema_from_feature_spec({"image": tf.io.FixedLenFeature([], tf.string)})
  metadata = dataset_metadata.DatasetMetadata(schema)

  def preprocessing_fn(inputs):
    images = ops.decode_and_scale(inputs["image"], 6, 5, 3, "crop")
    mean, stddev = ops.channel_statistics(images)
    ones = tf.ones([tf.shape(images)[0], 1])
    return {"pixels": ops.pack_uint8(images), "mean": ones * mean, "stddev": ones * stddev}

  rows = [{"image": encode(one)} for one in pixels]
  with tft_beam.Context(temp_dir=str(tmp_path), desired_batch_size=4):
    (data, _), transform_fn = (rows, metadata) | tft_beam.AnalyzeAndTransformDataset(preprocessing_fn)
    transform_fn | tft_beam.WriteTransformFn(str(tmp_path / "graph"))
  assert [row["pixels"] for row in data] == [one.tobytes() for one in pixels]
  flat = pixels.reshape(-1, 3).astype(np.float64)
  np.testing.assert_allclose(data[0]["mean"], flat.mean(axis=0), rtol=1e-6)
  expected = np.maximum(flat.std(axis=0), np.sqrt(1 / 12))
  np.testing.assert_allclose(data[-1]["stddev"], expected, rtol=1e-6)
  # The same graph, as serving loads it.
  layer = tft.TFTransformOutput(str(tmp_path / "graph")).transform_features_layer()
  served = layer({"image": tf.constant([rows[5]["image"]])})
  assert served["pixels"].numpy().tolist() == [pixels[5].tobytes()]


def test_exported_graph_answers_in_a_session(tmp_path):
  module = tf.Module()

  @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image")])
  def serve(image):
    packed = ops.pack_uint8(ops.decode_and_scale(image, 8, 8, 3, "crop"))
    return {"packed": packed, "pixels": ops.unpack_uint8(packed, (8, 8, 3))}

  module.serve = serve
  tf.saved_model.save(module, str(tmp_path), signatures={"serve": serve})
  encoded = [encode(noise(20, 13)), encode(noise(8, 8)), encode(noise(4, 30), "JPEG")]
  expected = serve(tf.constant(encoded))
  with tf.Graph().as_default(), tf.compat.v1.Session() as session:
    meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], str(tmp_path))
    signature = meta_graph.signature_def["serve"]
    fetches = {name: info.name for name, info in signature.outputs.items()}
    outputs = session.run(fetches, {signature.inputs["image"].name: encoded})
  np.testing.assert_array_equal(outputs["pixels"], expected["pixels"].numpy())
  assert outputs["packed"].tolist() == expected["packed"].numpy().tolist()
