"""Predict for requests that came together, next to the answers that each gets alone."""

import os
import shutil

import grpc
import numpy as np
import pytest

from serving.errors import RequestError
from serving.messages.protos import ModelSpec
from serving.messages.tensors import encode_tensor
from serving.messages.wire import PredictCall
from serving.methods.api import ModelApi
from serving.models.loading import load_warmed_up
from serving.models.manager import ModelManager
from serving.models.model_config import ModelConfig
from serving.telemetry.monitoring import Monitoring
from serving.telemetry.request_log import RequestLog

SPEC = ModelSpec(name="affine")
RUNS = ':tensorflow:serving:runtime_latency_count{API="Predict",model_name="affine",runtime="TF1"} %.1f\n'


def call(rows, spec=SPEC, output_filter=(), name="features"):
  return PredictCall(spec, {name: encode_tensor(np.asarray(rows, np.float32))}, list(output_filter))


@pytest.fixture
def served(tmp_path, exports):
  """(api, manager, monitoring, base path) of version 1, which has been found to be quick."""
  base_path = tmp_path / "affine"
  shutil.copytree(exports[1], base_path / "1")
  monitoring, manager = Monitoring(), ModelManager(load_warmed_up)
  manager.configure([ModelConfig("affine", str(base_path))], wait=True)
  api = ModelApi(manager, monitoring, RequestLog())
  for output_filter in ((), ("logits",)):
    for _ in range(20):
      api.predict(call([[1, 2, 3]], output_filter=output_filter))
  yield api, manager, monitoring, base_path
  assert manager.close()


def test_each_gets_the_answer_that_it_would_get_alone(served, logits_of):
  api, _, monitoring, _ = served
  calls = [
    call([[1, 2, 3]]),
    call([[4, 5, 6], [7, 8, 9]]),
    call([[0, 1, 0]], output_filter=["logits"]),
    call([[1, 0, 1]], ModelSpec(name="affine", signature_name="serving_default")),
  ]
  answers = api.predict_together(calls)
  for asked, answer in zip(calls, answers, strict=True):
    alone = api.predict(asked)
    assert answer.model_spec == alone.model_spec and answer.model_spec.version.value == 1
    assert answer.outputs.keys() == alone.outputs.keys()
    for name, values in alone.outputs.items():
      if values.dtype == object:
        assert answer.outputs[name].tolist() == values.tolist()
      else:
        np.testing.assert_allclose(answer.outputs[name], values, rtol=1e-6)
  np.testing.assert_allclose(answers[1].outputs["logits"], logits_of([[4, 5, 6], [7, 8, 9]]), rtol=1e-6)
  # 40 before, and each request twice.
  assert RUNS % 48 in monitoring.exposition()[0].decode()


@pytest.mark.parametrize(
  ("asked", "code", "text"),
  [
    (call([[1, 2, 3]], None), "INVALID_ARGUMENT", "Missing ModelSpec"),
    (call([[1, 2, 3]], ModelSpec()), "INVALID_ARGUMENT", "ModelSpec has no name specified."),
    (call([[1, 2, 3]], ModelSpec(name="m")), "NOT_FOUND", "Servable not found for request: Latest(m)"),
    (
      call([[1, 2, 3]], ModelSpec(name="affine", signature_name="X")),
      "FAILED_PRECONDITION",
      'Serving signature key "X" not found.',
    ),
    (
      call([[1, 2, 3]], output_filter=["logits", "logits"]),
      "INVALID_ARGUMENT",
      "duplicate output tensor alias: logits",
    ),
    (call([[1, 2]]), "INVALID_ARGUMENT", "Matrix size-incompatible"),
  ],
)
def test_an_error_is_its_requests_own(served, asked, code, text):
  api, *_ = served
  first, wrong, last = api.predict_together([call([[1, 2, 3]]), asked, call([[3, 2, 1]])])
  assert first.model_spec.version.value == last.model_spec.version.value == 1
  assert isinstance(wrong, RequestError)
  assert wrong.code is grpc.StatusCode[code] and text in wrong.message


def test_what_may_take_long_or_is_odd_is_left_to_others(served):
  api, manager, *_ = served
  slow = PredictCall(
    ModelSpec(name="affine", signature_name="slow"), {"steps": encode_tensor(np.array([1]))}, []
  )
  odd = PredictCall(SPEC, {"features": b"\x08\x01\xff"}, [])
  calls = [slow, odd, call([[1, 2, 3]], name="strange"), call(np.zeros((33, 3))), call([[1, 2, 3]])]
  *left, answer = api.predict_together(calls)
  assert left == [None] * 4 and answer is not None
  # Nothing is held on to: a version that is no longer wanted goes at once.
  with manager.version(SPEC) as version:
    assert version.requests_in_flight == 1


def test_a_new_version_answers_at_once(served, push):
  api, manager, _, base_path = served
  (before,) = api.predict_together([call([[1, 2, 3]])])
  assert before.model_spec.version.value == 1
  push(str(base_path), 2)
  manager.poll(wait=True)
  for _ in range(20):
    api.predict(call([[1, 2, 3]]))
  first, second = api.predict_together([call([[1, 2, 3]])] * 2)
  assert first.model_spec.version.value == second.model_spec.version.value == 2
  np.testing.assert_allclose(first.outputs["logits"], before.outputs["logits"] + 1, rtol=1e-6)
  assert os.path.isdir(base_path / "1")
