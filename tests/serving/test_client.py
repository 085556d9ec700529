"""The client, against a real server."""

import itertools
import subprocess
import sys

import grpc
import numpy as np
import pytest
import tensorflow as tf

from serving.client import PredictClient
from serving.errors import CallError, ServingError
from serving.messages.tensors import decode_tensor

FEATURES = np.array([[1.0, 2.0, 3.0], [0.0, -1.0, 0.5]], np.float32)


@pytest.fixture(scope="module")
def client(affine_server):
  with PredictClient(affine_server.address, timeout_s=60) as client:
    yield client


@pytest.fixture
def batch_sizes(client, monkeypatch):
  """Examples in each call that `predict_many` starts, in their order."""
  sizes = []
  start = client._connection.start

  def counting(method, call):
    (tensor,) = call.inputs.values()
    sizes.append(len(decode_tensor(tensor)))
    return start(method, call)

  monkeypatch.setattr(client._connection, "start", counting)
  return sizes


def test_predict_gives_arrays_and_the_version(client, logits_of):
  outputs, version = client.predict("affine", {"features": FEATURES})
  assert version == 1
  np.testing.assert_allclose(outputs["logits"], logits_of(FEATURES), rtol=1e-6)
  assert outputs["name"].tolist() == [b"right", b"left"]


def test_lists_are_taken_too(client, logits_of):
  outputs, _ = client.predict("affine", {"features": FEATURES.tolist()}, output_filter=["logits"])
  assert set(outputs) == {"logits"}
  np.testing.assert_allclose(outputs["logits"], logits_of(FEATURES), rtol=1e-6)


def test_versions_and_labels_reach_the_server(client):
  inputs = {"features": FEATURES}
  assert client.predict("affine", inputs, version=1)[1] == 1
  with pytest.raises(ServingError, match=r"NOT_FOUND: Servable not found for request: Specific\(affine, 9\)"):
    client.predict("affine", inputs, version=9)
  with pytest.raises(ServingError, match="INVALID_ARGUMENT: Unrecognized servable version label: stable"):
    client.predict("affine", inputs, version_label="stable")
  with pytest.raises(ServingError, match=r"Specific\(affine, 9\)"):
    list(client.predict_many("affine", [{"features": FEATURES[0]}], version=9))
  with pytest.raises(ValueError, match="version=1 or version_label='stable', not both"):
    client.predict("affine", inputs, version=1, version_label="stable")


def test_status_and_metadata(client):
  assert client.status("affine") == [(1, "AVAILABLE", "")]
  signatures, version = client.metadata("affine")
  assert version == 1
  default = signatures["serving_default"]
  assert default.inputs == {"features": ("float32", (None, 3))}
  assert default.outputs == {"logits": ("float32", (None, 2)), "name": ("string", (None,))}
  assert signatures["echo"].inputs["bfloat16_in"] == ("bfloat16", (None, None))


def test_errors_are_one_line_with_address_code_and_text(client):
  with pytest.raises(ServingError) as caught:
    client.predict("nope", {"features": FEATURES})
  assert str(caught.value) == f"{client.address}: NOT_FOUND: Servable not found for request: Latest(nope)"
  with pytest.raises(CallError, match="INVALID_ARGUMENT: Matrix size-incompatible") as caught:
    client.predict("affine", {"features": FEATURES[:, :2]})
  assert "\n" not in str(caught.value)
  assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT


def test_many_examples_are_asked_about_in_batches(client, logits_of, batch_sizes):
  rows = np.random.default_rng(0).normal(size=(21, 3)).astype(np.float32)
  answers = list(client.predict_many("affine", ({"features": row} for row in rows), batch_size=8))
  assert batch_sizes == [8, 8, 5]
  assert [set(answer) for answer in answers] == [{"logits", "name"}] * 21
  np.testing.assert_allclose([answer["logits"] for answer in answers], logits_of(rows), rtol=1e-5, atol=1e-6)
  assert [answer["name"] for answer in answers] == [
    (b"left", b"right")[best] for best in logits_of(rows).argmax(-1)
  ]
  assert list(client.predict_many("affine", [])) == []


def test_no_more_examples_are_read_than_are_in_flight(client, logits_of):
  read = []
  endless = ({"features": read.append(number) or np.float32([number, 0, 0])} for number in itertools.count())
  answers = client.predict_many("affine", endless, batch_size=4, in_flight=3)
  for number in range(20):
    np.testing.assert_allclose(next(answers)["logits"], logits_of([number, 0, 0]), rtol=1e-6)
    # Three batches, and the answers of the oldest are handed on one by one.
    assert len(read) <= number // 4 * 4 + 12
  answers.close()


def test_a_bad_example_spoils_no_other(client, logits_of, batch_sizes):
  def serialized(row):
    feature = tf.train.Feature(float_list=tf.train.FloatList(value=row))
    return tf.train.Example(features=tf.train.Features(feature={"features": feature})).SerializeToString()

  examples = [serialized(FEATURES[0]), b"no example", serialized(FEATURES[1]), serialized([1.0])]
  answers = list(
    client.predict_many("affine", ({"examples": one} for one in examples), 3, signature_name="serve_examples")
  )
  np.testing.assert_allclose(answers[0]["logits"], logits_of(FEATURES[0]), rtol=1e-6)
  np.testing.assert_allclose(answers[2]["logits"], logits_of(FEATURES[1]), rtol=1e-6)
  assert isinstance(answers[1], CallError) and isinstance(answers[3], CallError)
  assert str(answers[1]).startswith(f"{client.address}: INVALID_ARGUMENT: ")
  assert sorted(batch_sizes) == [1, 1, 1, 1, 3]


def test_examples_of_another_shape_are_asked_about_apart(client, logits_of, batch_sizes):
  rows = [FEATURES[0], FEATURES[1], FEATURES[0][:2], FEATURES[1]]
  good, other, bad, last = client.predict_many("affine", ({"features": row} for row in rows))
  assert batch_sizes == [2, 1, 1]
  assert isinstance(bad, CallError) and "Matrix size-incompatible" in str(bad)
  for answer, row in ((good, rows[0]), (other, rows[1]), (last, rows[3])):
    np.testing.assert_allclose(answer["logits"], logits_of(row), rtol=1e-6)


def test_what_lies_in_no_example_ends_all(client):
  with pytest.raises(ServingError, match=r"NOT_FOUND: .*Latest\(nope\)"):
    list(client.predict_many("nope", [{"features": FEATURES[0]}]))
  with pytest.raises(ValueError, match='input "features" holds NoneType'):
    list(client.predict_many("affine", [{"features": None}]))


def test_tensorflow_is_not_imported(client):
  code = """
import sys
from serving.client import PredictClient
with PredictClient(sys.argv[1], timeout_s=60) as client:
  outputs, version = client.predict("affine", {"features": [[1.0, 2.0, 3.0]]})
  client.status("affine"), client.metadata("affine")
  list(client.predict_many("affine", [{"features": [1.0, 2.0, 3.0]}]))
print(outputs["name"].tolist(), version)
print(sorted(name for name in sys.modules if name.partition(".")[0].startswith(("tensorflow", "keras"))))
"""
  done = subprocess.run([sys.executable, "-c", code, client.address], capture_output=True, text=True)
  assert done.stdout == "[b'right'] 1\n[]\n", done.stderr
