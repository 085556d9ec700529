"""What a client sends, as tensors."""

import itertools

import numpy as np
import pytest

from serving.client_inputs import as_tensor, example_batches, joined, split


def test_inputs_become_tensors():
  assert as_tensor("x", [1.5, 2]).dtype == np.float32
  assert as_tensor("x", [[1], [2]]).dtype == np.int64
  assert as_tensor("x", [True]).dtype == np.bool_
  assert as_tensor("x", np.float64([1.5])).dtype == np.float64
  assert as_tensor("x", [b"a\x00", "ü"]).tolist() == [b"a\x00", "ü".encode()]
  assert as_tensor("x", np.array(["ab", "c"])).tolist() == [b"ab", b"c"]
  assert as_tensor("x", b"scalar").shape == ()


@pytest.mark.parametrize(
  ("value", "text"),
  [([b"a", 1], 'input "x" holds int'), ([[1, 2], [3]], 'rows of input "x"'), ([None], "holds NoneType")],
)
def test_inputs_that_no_tensor_holds_are_named(value, text):
  with pytest.raises(ValueError, match=text):
    as_tensor("x", value)


def test_neighbours_of_equal_shapes_are_a_batch():
  rows = [[1.0], [2.0], [3.0], [4.0, 5.0], [6.0, 7.0], [8.0]]
  batches = list(example_batches(({"x": row} for row in rows), 2))
  assert [len(batch) for batch in batches] == [2, 1, 2, 1]
  assert [joined(batch)["x"].tolist() for batch in batches] == [
    [[1.0], [2.0]],
    [[3.0]],
    [[4.0, 5.0], [6.0, 7.0]],
    [[8.0]],
  ]
  assert joined(batches[0])["x"].dtype == np.float32


def test_names_and_dtypes_tell_batches_apart_and_lengths_of_texts_do_not():
  examples = [{"x": "one"}, {"x": "a longer one"}, {"y": "one"}, {"y": 1}, {"y": np.float32(1)}]
  batches = list(example_batches(examples, 8))
  assert [len(batch) for batch in batches] == [2, 1, 1, 1]
  assert joined(batches[0])["x"].tolist() == [b"one", b"a longer one"]


def test_no_more_is_read_than_the_next_batch_needs():
  read = []
  endless = ({"x": read.append(number) or number} for number in itertools.count())
  batches = example_batches(endless, 3)
  assert joined(next(batches))["x"].tolist() == [0, 1, 2]
  assert len(read) == 3
  assert joined(next(batches))["x"].tolist() == [3, 4, 5]


def test_outputs_are_split_by_example():
  outputs = {"a": np.array([[1, 2], [3, 4]]), "b": np.array([b"x", b"y"], object)}
  first, second = split(outputs, 2)
  assert first["a"].tolist() == [1, 2] and first["b"] == b"x"
  assert second["a"].tolist() == [3, 4] and second["b"] == b"y"


def test_outputs_that_are_not_one_an_example():
  outputs = {"a": np.zeros((3, 2)), "mean": np.float32(0.5)}
  assert split(outputs, 3) is None and split({"a": np.zeros((4, 2))}, 2) is None
  (only,) = split(outputs, 1)
  assert only["a"].shape == (3, 2) and only["mean"] == 0.5
