"""The residual network: shapes, parameters counted by hand, precision, and what a TPU needs."""

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from components.config import TrainingConfig
from components.preprocessing.normalization import NormalizeImages
from trainers.fit import fit, make_optimizer
from trainers.models.resnet import build_resnet, residual_features

ROOT = pathlib.Path(__file__).resolve().parents[3]


def identity():
  return keras.layers.Identity(name="normalize")


def tiny(input_shape=(8, 8, 1), normalize=None):
  keras.utils.set_random_seed(2)
  return build_resnet(input_shape, 3, normalize or identity(), widths=(4, 8), blocks_per_stage=1)


def test_parameters_counted_by_hand():
  model = tiny()
  norm = 4  # gamma, beta, moving mean and moving variance of each channel
  stem = 3 * 3 * 1 * 8
  stage1 = norm * 8 + 1 * 1 * 8 * 4 + 3 * 3 * 8 * 4 + norm * 4 + 3 * 3 * 4 * 4
  stage2 = norm * 4 + 1 * 1 * 4 * 8 + 3 * 3 * 4 * 8 + norm * 8 + 3 * 3 * 8 * 8
  head = norm * 8 + 8 * 3 + 3
  assert model.count_params() == stem + stage1 + stage2 + head == 1587
  trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
  assert trainable == 1587 - 2 * (8 + 4 + 4 + 8 + 8)


@pytest.mark.parametrize("side, rows", [(28, (14, 7)), (63, (32, 16)), (64, (8, 4)), (100, (13, 7))])
def test_each_stage_halves_and_large_pictures_are_halved_twice_before(side, rows):
  model = tiny((side, side, 3))
  found = tuple(model.get_layer(f"stage{stage}_block1_add").output.shape[1:] for stage in (1, 2))
  assert found == ((rows[0], rows[0], 4), (rows[1], rows[1], 8))
  assert model.output.shape == (None, 3)
  assert model.input.shape == (None, side, side, 3)


@pytest.mark.parametrize(
  "size, sides",
  [
    ((28, 33), [(28, 33), (14, 17), (7, 9)]),
    ((75, 100), [(19, 25), (10, 13), (5, 7)]),
    # The shorter side says whether the stem halves twice.
    ((63, 300), [(63, 300), (32, 150), (16, 75)]),
  ],
)
def test_features_of_the_stem_and_each_stage(size, sides):
  inputs = keras.Input((*size, 3))
  found = residual_features(inputs, (20, 24), 2)
  assert [feature.shape for feature in found] == [
    (None, *side, channels) for side, channels in zip(sides, (10, 20, 24), strict=True)
  ]


def test_the_classifier_is_made_of_these_features():
  model = tiny((16, 16, 1))
  inputs = keras.Input((16, 16, 1))
  features = keras.Model(inputs, residual_features(inputs, (4, 8), 1))
  features.set_weights(keras.Model(model.input, model.get_layer("stage2_block1_add").output).get_weights())
  pixels = np.random.default_rng(1).normal(size=(2, 16, 16, 1)).astype(np.float32)
  expected = keras.Model(model.input, model.get_layer("stage2_block1_add").output)(pixels)
  np.testing.assert_allclose(features(pixels)[-1], expected, rtol=1e-5, atol=1e-6)


def test_depth_and_dropout():
  model = build_resnet((16, 16, 3), 5, identity(), widths=(4, 4), blocks_per_stage=3, dropout=0.25)
  blocks = [layer.name for layer in model.layers if layer.name.endswith("_add")]
  assert blocks == [f"stage{stage}_block{block}_add" for stage in (1, 2) for block in (1, 2, 3)]
  assert model.get_layer("head_dropout").rate == 0.25
  # Only the blocks that change the shape need a projection.
  projections = [layer.name for layer in model.layers if "shortcut" in layer.name]
  assert projections == ["stage1_block1_shortcut", "stage2_block1_shortcut"]


def test_a_block_without_a_contribution_of_its_own_is_the_identity():
  model = build_resnet((8, 8, 1), 3, identity(), widths=(4,), blocks_per_stage=2)
  kernel = model.get_layer("stage1_block2_conv2").kernel
  kernel.assign(np.zeros(kernel.shape))
  blocks = [model.get_layer(f"stage1_block{block}_add").output for block in (1, 2)]
  pixels = np.random.default_rng(1).normal(size=(2, 8, 8, 1)).astype(np.float32)
  before, after = keras.Model(model.input, blocks)(pixels)
  assert np.ptp(before.numpy()) > 0.1
  np.testing.assert_array_equal(before.numpy(), after.numpy())


@pytest.mark.parametrize("side", [8, 9])
@pytest.mark.parametrize("channels", [4, 16])
def test_the_projection_is_a_strided_convolution_however_few_the_channels(side, channels):
  inputs = keras.Input((side, side, channels))
  (strided,) = residual_features(inputs, (6,), 1)[1:]
  model = keras.Model(inputs, strided)
  layer = model.get_layer("stage1_block1_shortcut")
  into, out = keras.Model(inputs, [model.get_layer("stage1_block1_relu1").output, layer.output])(
    np.random.default_rng(3).normal(size=(2, side, side, channels)).astype(np.float32)
  )
  expected = keras.ops.conv(into, layer.kernel, 2, "same")
  np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


def test_narrow_networks_train_on_batches_of_one():
  """In a process of its own: oneDNN aborted it, see `_MIN_STRIDED_CHANNELS`."""
  code = """
import keras, numpy as np
from trainers.models.resnet import build_resnet
model = build_resnet((64, 64, 3), 2, keras.layers.Identity(), widths=(8, 16), blocks_per_stage=1)
model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
rng = np.random.default_rng(0)
model.fit(rng.random((16, 64, 64, 3), np.float32), rng.integers(0, 2, 16), batch_size=1, epochs=4, verbose=0)
print("trained")
"""
  done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
  assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr[-500:]


def test_pixels_are_normalized_first():
  normalize = NormalizeImages("standardize", mean=[100.0], stddev=[50.0], name="normalize")
  plain, normalized = tiny(), tiny(normalize=normalize)
  normalized.set_weights(plain.get_weights())
  pixels = np.random.default_rng(1).uniform(0, 255, (2, 8, 8, 1)).astype(np.float32)
  np.testing.assert_allclose(normalized(pixels), plain((pixels - 100) / 50), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_logits_are_float32_under_mixed_precision(policy):
  keras.mixed_precision.set_global_policy(policy)
  try:
    model = tiny()
  finally:
    keras.mixed_precision.set_global_policy("float32")
  assert model.get_layer("stem").compute_dtype == policy.removeprefix("mixed_")
  assert model.get_layer("stem").kernel.dtype == "float32"
  logits = model(np.zeros((2, 8, 8, 1), np.float32))
  assert logits.dtype == tf.float32


def pictures():
  generator = np.random.default_rng(4)
  pixels = generator.uniform(0, 255, (16, 8, 8, 1)).astype(np.float32)
  targets = np.eye(3, dtype=np.float32)[generator.integers(0, 3, 16)]
  return tf.data.Dataset.from_tensor_slices((pixels, targets))


def compiled():
  """A network as the Trainer has it, with the optimizer's variables made."""
  model = tiny(normalize=NormalizeImages("standardize", mean=[127.0], stddev=[70.0], name="normalize"))
  loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
  training = TrainingConfig(learning_rate=0.01, warmup_fraction=0.0, clip_norm=1.0)
  model.compile(make_optimizer(training, 10), loss, metrics=[keras.metrics.CategoricalAccuracy()])
  model.optimizer.build(model.trainable_variables)
  return model


def test_the_train_step_compiles_under_xla_with_static_shapes():
  """What a TPU demands of a step, shown on the CPU: one compiled program, every shape known beforehand."""
  batches = pictures().batch(8, drop_remainder=True)
  compiled_by_xla, plain = compiled(), compiled()
  step = tf.function(compiled_by_xla.train_step, jit_compile=True)
  graph = step.get_concrete_function(batches.element_spec).graph
  dynamic = {
    f"{operation.type} {output.shape}"
    for operation in graph.get_operations()
    for output in operation.outputs
    if not output.shape.is_fully_defined()
  }
  assert not dynamic
  assert {operation.type for operation in graph.get_operations()} >= {"Conv2D", "Conv2DBackpropFilter"}

  for batch in batches:
    logs = step(batch)
    expected = plain.train_step(batch)
    np.testing.assert_allclose(logs["loss"], expected["loss"], rtol=1e-4)
  assert int(compiled_by_xla.optimizer.iterations.numpy()) == 2
  for found, weight in zip(compiled_by_xla.get_weights(), plain.get_weights(), strict=True):
    np.testing.assert_allclose(found, weight, rtol=1e-3, atol=1e-4)


def test_a_smaller_last_batch_would_have_an_open_shape():
  """The check above can fail: without drop_remainder the batch is not static."""
  step = tf.function(compiled().train_step)
  graph = step.get_concrete_function(pictures().batch(8).element_spec).graph
  assert any(
    not output.shape.is_fully_defined()
    for operation in graph.get_operations()
    for output in operation.outputs
    if operation.type == "Conv2D"
  )


def test_fit_trains_it_under_xla():
  model = tiny(normalize=NormalizeImages("standardize", mean=[127.0], stddev=[70.0], name="normalize"))
  batches = pictures().batch(8, drop_remainder=True)
  history = fit(
    model,
    batches.repeat(),
    batches,
    loss=keras.losses.CategoricalCrossentropy(from_logits=True),
    metrics=[],
    training=TrainingConfig(epochs=6, learning_rate=0.02, jit_compile=True, steps_per_execution=2),
    steps_per_epoch=2,
    seed=1,
    log=lambda line: None,
  )
  assert history[-1]["steps"] == 12
  assert history[-1]["loss"] < history[0]["loss"] - 0.1
