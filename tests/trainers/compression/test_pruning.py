"""Pruning: which weights, how many zeros, in what pattern, and that nothing brings them back."""

import os

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainers.compression.pruning import PruningCallback, matmul_shape, prunable_variables


def conv_model(channels=4):
  keras.utils.set_random_seed(3)
  return keras.Sequential(
    [
      keras.layers.Input((8, 8, channels)),
      keras.layers.Conv2D(16, 3, name="conv_1"),
      keras.layers.BatchNormalization(),
      keras.layers.Conv2D(32, 3, name="conv_2"),
      keras.layers.GlobalAveragePooling2D(),
      keras.layers.Dense(4, name="logits"),
    ]
  )


def token_model():
  keras.utils.set_random_seed(3)
  tokens = keras.layers.Input((6,), dtype="int32")
  x = keras.layers.Embedding(20, 8, name="embedding")(tokens)
  x = keras.layers.MultiHeadAttention(2, 4, name="attention")(x, x)
  x = keras.layers.LayerNormalization()(x)
  x = keras.layers.Bidirectional(keras.layers.LSTM(4), name="bidirectional")(x)
  return keras.Model(tokens, keras.layers.Dense(3, name="logits")(x))


def batch(model, inputs=None):
  rng = np.random.default_rng(0)
  if inputs is None:
    inputs = rng.normal(size=(32, *model.input_shape[1:])).astype("float32")
  return inputs, np.eye(model.output_shape[-1], dtype="float32")[rng.integers(0, 3, 32)]


def fine_tune(model, callbacks, epochs=2, steps=10, steps_per_execution=1, learning_rate=1e-2, inputs=None):
  loss = keras.losses.CategoricalCrossentropy(from_logits=True)
  model.compile(keras.optimizers.SGD(learning_rate), loss, steps_per_execution=steps_per_execution)
  data = tf.data.Dataset.from_tensor_slices(batch(model, inputs)).batch(16).repeat()
  return model.fit(data, epochs=epochs, steps_per_epoch=steps, verbose=0, callbacks=callbacks)


def zeros(variable):
  return float((variable.numpy() == 0).mean())


def test_kernels_of_every_kind_are_found_and_nothing_else():
  assert [weight.name for weight in prunable_variables(conv_model())] == [
    "conv_1",
    "conv_2",
    "logits",
  ]
  names = [weight.name for weight in prunable_variables(token_model())]
  assert names == [
    "embedding",
    "attention/query",
    "attention/key",
    "attention/value",
    "attention/attention_output",
    "bidirectional/forward_lstm/lstm_cell",
    "bidirectional/forward_lstm/lstm_cell/recurrent_kernel",
    "bidirectional/backward_lstm/lstm_cell",
    "bidirectional/backward_lstm/lstm_cell/recurrent_kernel",
    "logits",
  ]


def test_layers_are_spared_on_request():
  model = token_model()
  names = {weight.name for weight in prunable_variables(model)}

  def spared(**options):
    return names - {weight.name for weight in prunable_variables(model, **options)}

  assert spared(skip_embeddings=True) == {"embedding"}
  assert spared(skip_first_layer=True) == {"embedding"}
  assert spared(skip_last_layer=True) == {"logits"}
  assert spared(skip_first_layer=True, skip_last_layer=True) == {"embedding", "logits"}
  assert spared(skip=("attention",)) == {name for name in names if name.startswith("attention/")}
  assert spared(skip=("attention/(query|key)",)) == {"attention/query", "attention/key"}


@pytest.mark.parametrize(
  "skip, message", [(("cnv_1",), "'cnv_1' matches no layer"), (("(",), "no regular"), ((".*",), "nothing to")]
)
def test_skip_patterns_that_cannot_be_meant_are_refused(skip, message):
  with pytest.raises(ValueError, match=message):
    prunable_variables(conv_model(), skip=skip)


@pytest.mark.parametrize("schedule, steps_per_execution", [("polynomial", 1), ("constant", 4)])
def test_every_layer_reaches_the_sparsity_exactly(schedule, steps_per_execution):
  model = conv_model()
  weights = prunable_variables(model, skip_last_layer=True)
  callback = PruningCallback(weights, 0.8, schedule=schedule)
  fine_tune(model, [callback], steps_per_execution=steps_per_execution)
  for weight in weights:
    size = weight.variable.numpy().size
    kept = round(size * 0.2)
    assert np.count_nonzero(weight.variable.numpy()) == kept
    assert abs(zeros(weight.variable) - 0.8) <= 0.005
    assert np.array_equal(weight.variable.numpy() != 0, callback.masks[weight.name] == 1)
    assert weight.variable.constraint is None
  assert zeros(model.get_layer("logits").kernel) == 0


def test_the_smallest_weights_go():
  model = conv_model()
  kernel = model.get_layer("conv_2").kernel
  before = np.abs(kernel.numpy())
  callback = PruningCallback(prunable_variables(model, skip=("conv_1", "logits")), 0.5, schedule="constant")
  fine_tune(model, [callback], epochs=1, steps=1, learning_rate=1e-12)
  threshold = np.sort(before.ravel())[before.size // 2]
  assert np.array_equal(kernel.numpy() != 0, before >= threshold)


class Recorder(keras.callbacks.Callback):
  """Sparsity of a kernel after each batch, with the mask's zeros."""

  def __init__(self, kernel):
    super().__init__()
    self.kernel, self.sparsity, self.zero_sets = kernel, [], []

  def on_train_batch_end(self, batch, logs=None):
    self.sparsity.append(zeros(self.kernel))
    self.zero_sets.append(self.kernel.numpy() == 0)


def test_the_schedule_is_cubic_and_its_last_half_is_at_full_sparsity():
  model = conv_model()
  recorder = Recorder(model.get_layer("conv_2").kernel)
  fine_tune(model, [PruningCallback(prunable_variables(model), 0.8), recorder], epochs=2, steps=20)
  size = recorder.kernel.numpy().size
  # Update i of 20 stands at 0.8 * (1 - (1 - i / 20)^3): Zhu and Gupta's equation 1.
  for i in range(1, 21):
    expected = 0.8 * (1 - (1 - i / 20) ** 3)
    assert abs(recorder.sparsity[i - 1] - expected) <= 1 / size + 1e-6
  assert len(set(recorder.sparsity[19:])) == 1
  assert all(np.array_equal(recorder.zero_sets[19], later) for later in recorder.zero_sets[20:])


def test_the_model_is_sparse_inside_an_execution_of_several_steps():
  """A masked weight has a gradient: without the constraint the second step would see it moved."""
  results = []
  for steps_per_execution in (1, 5):
    model = conv_model()
    callback = PruningCallback(prunable_variables(model), 0.5, schedule="constant")
    callback._ramp_fraction = (
      1e-9  # the same masks in both: chosen at the start and after the first execution
    )
    fine_tune(model, [callback], epochs=1, steps=5, steps_per_execution=steps_per_execution)
    results.append([np.array(w) for w in model.get_weights()])
  for one, several in zip(*results, strict=True):
    np.testing.assert_allclose(one, several, atol=2e-6)


def test_masks_hold_after_other_weights_are_restored_and_after_an_early_end():
  model = conv_model()
  dense_weights = model.get_weights()
  weights = prunable_variables(model)

  class StopEarly(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
      self.model.stop_training = batch == 1

  callback = PruningCallback(weights, 0.75)
  fine_tune(model, [callback, StopEarly()], epochs=3)
  assert all(abs(zeros(weight.variable) - 0.75) <= 0.005 for weight in weights)
  model.set_weights(dense_weights)
  assert zeros(weights[0].variable) == 0
  callback.apply_masks()
  assert all(abs(zeros(weight.variable) - 0.75) <= 0.005 for weight in weights)
  # Without the callback the same compiled model trains freely again.
  model.fit(*batch(model), epochs=1, verbose=0)
  assert zeros(model.get_layer("conv_2").kernel) < 0.5


def groups_of_four(matrix):
  """Non-zeros in each four neighbours down the columns of [inputs, outputs]; inputs divisible by 4."""
  return np.count_nonzero(matrix.reshape(-1, 4, matrix.shape[-1]), axis=1)


def test_two_of_four_along_the_inputs():
  model = conv_model()
  originals = {weight.name: weight.variable.numpy() for weight in prunable_variables(model)}
  callback = PruningCallback(prunable_variables(model), 0.5, pattern="2:4")
  fine_tune(model, [callback], steps_per_execution=5)
  for weight in callback.weights:
    kernel = weight.variable.numpy()
    by_input = np.moveaxis(kernel, -2, 0).reshape(kernel.shape[-2], -1)
    assert np.all(groups_of_four(by_input) == 2), weight.name
    assert zeros(weight.variable) == 0.5
    # Those kept are the two largest of the four before the fine-tuning.
    before = np.moveaxis(np.abs(originals[weight.name]), -2, 0).reshape(by_input.shape)
    before = before.reshape(-1, 4, by_input.shape[-1])
    smallest_kept = np.sort(before, axis=1)[:, 2:3]
    assert np.array_equal(by_input.reshape(before.shape) != 0, before >= smallest_kept)


def test_two_of_four_in_attention_and_recurrent_kernels_but_not_in_embeddings():
  model = token_model()
  callback = PruningCallback(prunable_variables(model), 0.5, pattern="2:4")
  tokens = np.random.default_rng(0).integers(0, 20, (32, 6)).astype("int32")
  fine_tune(model, [callback], inputs=tokens)
  names = [weight.name for weight in callback.weights]
  assert "embedding" not in names and len(names) == 9
  assert zeros(model.get_layer("embedding").embeddings) == 0
  for weight in callback.weights:
    kernel = weight.variable.numpy()
    inputs = 8 if weight.name.startswith("attention") else kernel.shape[0]
    assert np.all(groups_of_four(kernel.reshape(inputs, -1)) == 2), weight.name


@pytest.mark.parametrize("pattern, sparsity", [("2:4", 0.0), ("unstructured", 0.75)])
def test_a_convolution_with_one_input_channel_has_no_four_neighbours(pattern, sparsity):
  model = conv_model(channels=1)
  fine_tune(model, [PruningCallback(prunable_variables(model), 0.75, pattern=pattern)], epochs=1, steps=4)
  assert zeros(model.get_layer("conv_1").kernel) == sparsity
  assert zeros(model.get_layer("conv_2").kernel) == (0.5 if pattern == "2:4" else 0.75)


def test_the_axis_summed_over_is_known_for_each_kind_of_layer():
  shapes = {}
  for layer, inputs in [
    (keras.layers.Conv1D(6, 3), (None, 9, 8)),
    (keras.layers.Conv3D(6, 3), (None, 9, 9, 9, 8)),
    (keras.layers.DepthwiseConv2D(3), (None, 9, 9, 8)),
    (keras.layers.Conv2DTranspose(6, 3), (None, 9, 9, 8)),
    (keras.layers.SeparableConv2D(6, 3), (None, 9, 9, 8)),
    (keras.layers.EinsumDense("ab,cb->ac", output_shape=6), (None, 8)),
  ]:
    layer.build(inputs)
    for weight in prunable_variables(keras.Sequential([layer])):
      shapes[type(layer).__name__, weight.variable.name] = matmul_shape(weight)
  assert shapes == {
    ("Conv1D", "kernel"): (1, 3, 8, 6),
    ("Conv3D", "kernel"): (9, 3, 8, 6),
    ("DepthwiseConv2D", "kernel"): None,
    ("Conv2DTranspose", "kernel"): None,
    ("SeparableConv2D", "depthwise_kernel"): None,
    ("SeparableConv2D", "pointwise_kernel"): (1, 1, 8, 6),
    ("EinsumDense", "kernel"): None,
  }


@pytest.mark.parametrize(
  "options, message",
  [
    ({"sparsity": 1.0}, "sparsity is 1"),
    ({"sparsity": 0.5, "pattern": "1:2"}, "pattern '1:2'"),
    ({"sparsity": 0.5, "schedule": "linear"}, "schedule 'linear'"),
  ],
)
def test_settings_out_of_range_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    PruningCallback(prunable_variables(conv_model()), **options)


def test_tfmot_leaves_the_environment_as_it_was(monkeypatch):
  from trainers.compression.pruning import _tfmot

  monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
  _tfmot()
  assert "TF_USE_LEGACY_KERAS" not in os.environ
  monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")
  _tfmot()
  assert os.environ["TF_USE_LEGACY_KERAS"] == "0"
