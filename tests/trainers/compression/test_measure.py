"""Counts, sizes and times against independent ones."""

import gzip
import time

import keras
import numpy as np
import pytest

from trainers.compression.measure import (
  content_bytes,
  latency_ms,
  layer_sparsity,
  parameter_counts,
  saved_model_bytes,
)


@pytest.fixture
def model():
  keras.utils.set_random_seed(1)
  layers = [keras.layers.Input((4,)), keras.layers.Dense(6, name="hidden", bias_initializer="ones")]
  layers += [
    keras.layers.BatchNormalization(),
    keras.layers.Dropout(0.5),
    keras.layers.Dense(2, name="logits"),
  ]
  return keras.Sequential(layers)


def test_parameters_and_zeros_by_hand(model):
  kernel = np.arange(24, dtype="float32").reshape(4, 6)
  kernel[kernel < 7] = 0
  model.get_layer("hidden").kernel.assign(kernel)
  # hidden 24 + 6; batch norm 4 x 6, of which beta and the moving mean are zeros; logits 12 + 2 zero biases.
  assert parameter_counts(model) == {"parameters": 30 + 24 + 14, "non_zero": 17 + 6 + 12 + 12}
  assert layer_sparsity(model) == {"hidden": pytest.approx(7 / 24), "logits": 0.0}


def test_recurrent_kernels_and_embeddings_have_their_own_lines():
  layers = [
    keras.layers.Input((3,)),
    keras.layers.Embedding(5, 2, name="words"),
    keras.layers.GRU(2, name="gru"),
  ]
  recurrent = keras.Sequential([*layers, keras.layers.Dense(1, name="logits")])
  assert set(layer_sparsity(recurrent)) == {
    "words",
    "gru/gru_cell",
    "gru/gru_cell/recurrent_kernel",
    "logits",
  }


def test_sizes_are_those_of_the_model_without_its_extras(tmp_path):
  rng = np.random.default_rng(0)
  files = {
    "saved_model.pb": b"graph " * 500,
    "variables/variables.data-00000-of-00001": rng.bytes(5000),
    "variables/variables.index": b"index",
    "assets/label": b"cat\ndog\n",
  }
  for name, content in {**files, "assets.extra/model_int8.tflite": rng.bytes(9000)}.items():
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
  whole = b"".join(files[name] for name in sorted(files))
  expected = {
    "bytes": len(whole),
    # A gzip header without a file name is 10 bytes long in both.
    "gzip_bytes": len(gzip.compress(whole, 9, mtime=0)),
  }
  assert saved_model_bytes(str(tmp_path)) == expected == saved_model_bytes(str(tmp_path))
  assert expected["gzip_bytes"] < expected["bytes"]


def test_zeros_compress(tmp_path):
  dense = np.random.default_rng(0).normal(size=10_000).astype("float32")
  pruned = np.where(np.random.default_rng(1).random(10_000) < 0.8, 0, dense).astype("float32")
  sizes = [content_bytes(array.tobytes())["gzip_bytes"] for array in (dense, pruned)]
  assert sizes[1] / sizes[0] < 0.35


def test_a_folder_without_a_model_is_refused(tmp_path):
  with pytest.raises(ValueError, match="holds no SavedModel"):
    saved_model_bytes(str(tmp_path))


def test_latencies_are_milliseconds_of_the_calls_after_the_warm_up():
  calls = []

  def fn(batch):
    calls.append(batch)
    # The warm-up is slow, and one call in fifty takes 30 ms.
    time.sleep(0.05 if len(calls) <= 3 else 0.03 if len(calls) == 10 else 0.002)

  found = latency_ms(fn, "batch", calls=50, warmup_calls=3)
  assert calls == ["batch"] * 53
  assert 2 <= found["p50"] < 10
  # 99 % of 49 intervals: half way between the slowest and the one before it.
  assert 16 <= found["p99"] < 45
