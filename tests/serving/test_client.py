"""The client, against a real server."""

import socket
import time

import numpy as np
import pytest

from serving.client import PredictClient, as_tensor
from serving.errors import ServingError

FEATURES = np.array([[1.0, 2.0, 3.0], [0.0, -1.0, 0.5]], np.float32)


@pytest.fixture(scope="module")
def client(affine_server):
  with PredictClient(affine_server.address, timeout_s=20) as client:
    yield client


def test_predict_gives_arrays_and_the_version(client, logits_of):
  outputs, version = client.predict("affine", {"features": FEATURES})
  assert version == 1
  np.testing.assert_allclose(outputs["logits"], logits_of(FEATURES), rtol=1e-6)
  assert outputs["name"].tolist() == [b"right", b"left"]


def test_lists_are_taken_too(client, logits_of):
  outputs, _ = client.predict("affine", {"features": FEATURES.tolist()}, output_filter=["logits"])
  assert set(outputs) == {"logits"}
  np.testing.assert_allclose(outputs["logits"], logits_of(FEATURES), rtol=1e-6)


def test_status_and_metadata(client):
  assert client.status("affine") == [(1, "AVAILABLE", "")]
  signatures, version = client.metadata("affine")
  assert version == 1
  default = signatures["serving_default"]
  assert default.inputs == {"features": ("float32", (None, 3))}
  assert default.outputs == {"logits": ("float32", (None, 2)), "name": ("string", (None,))}


def test_errors_are_one_line_with_address_code_and_text(client):
  with pytest.raises(ServingError) as caught:
    client.predict("nope", {"features": FEATURES})
  assert str(caught.value) == f"{client.address}: NOT_FOUND: Servable not found for request: Latest(nope)"
  with pytest.raises(ServingError, match="INVALID_ARGUMENT: Matrix size-incompatible") as caught:
    client.predict("affine", {"features": FEATURES[:, :2]})
  assert "\n" not in str(caught.value)


def test_a_server_that_is_not_there(affine_server):
  with socket.socket() as unused:
    unused.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{unused.getsockname()[1]}"
    began = time.monotonic()
    with PredictClient(address, timeout_s=0.5) as client:
      with pytest.raises(ServingError) as caught:
        client.status("affine")
  assert time.monotonic() - began < 5
  assert str(caught.value).startswith(f"no model server answers at {address}; start one: deepline serve")


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
