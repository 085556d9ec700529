"""Pictures of simple shapes and a small network that was really trained on them."""

import keras
import numpy as np

SIZE = 12
CLASSES = ("square", "cross", "diagonal", "stripes")


def draw(count, seed):
  """Pictures float32 [count, 12, 12, 1] in [0, 255], noisy and shifted; one-hot targets [count, 4]."""
  rng = np.random.default_rng(seed)
  labels = np.arange(count) % len(CLASSES)
  pictures = rng.uniform(0, 120, (count, SIZE, SIZE)).astype("float32")
  for picture, label in zip(pictures, labels, strict=True):
    row, column = rng.integers(0, 5, 2)
    patch = picture[row : row + 7, column : column + 7]
    mask = _shape(label)
    patch[mask] += rng.uniform(60, 130)
  return pictures[..., np.newaxis], np.eye(len(CLASSES), dtype="float32")[labels]


def _shape(label):
  rows, columns = np.mgrid[:7, :7]
  edge = (rows % 6 == 0) | (columns % 6 == 0)
  return [edge, (rows == 3) | (columns == 3), (rows == columns) | (rows + columns == 6), rows % 2 == 0][label]


def train(epochs=4):
  """A convolutional network with the normalization inside, from pixels to logits."""
  keras.utils.set_random_seed(5)
  layers = keras.layers
  model = keras.Sequential(
    [
      layers.Input((SIZE, SIZE, 1)),
      layers.Normalization(mean=75.0, variance=45.0**2),
      layers.Conv2D(24, 3, padding="same", use_bias=False, name="conv_1"),
      layers.BatchNormalization(momentum=0.8),
      layers.ReLU(),
      layers.MaxPooling2D(2),
      layers.Conv2D(48, 3, padding="same", activation="relu", name="conv_2"),
      layers.GlobalAveragePooling2D(),
      layers.Dense(len(CLASSES), name="logits"),
    ]
  )
  model.compile(keras.optimizers.Adam(3e-3), keras.losses.CategoricalCrossentropy(from_logits=True))
  model.fit(*draw(1024, 1), batch_size=32, epochs=epochs, verbose=0)
  return model
