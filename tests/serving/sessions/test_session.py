"""The session over real exports."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from serving.errors import ServingError
from serving.sessions.session import SavedModelSession, session_config

FEATURES = np.array([[1, 2, 3], [-1, 0, 0.5]], np.float32)


@pytest.fixture(scope="module")
def session(exports):
  session = SavedModelSession(exports[1])
  yield session
  session.close()


def names(session, signature="serving_default"):
  found = session.signatures[signature]
  return (
    {alias: info.name for alias, info in found.inputs.items()},
    {alias: info.name for alias, info in found.outputs.items()},
  )


def test_a_run_gives_the_values_of_the_fetches_in_their_order(session, logits_of):
  inputs, outputs = names(session)
  fetches = [outputs["name"], outputs["logits"]]
  labels, logits = session.run({inputs["features"]: FEATURES}, fetches)
  np.testing.assert_allclose(logits, logits_of(FEATURES), rtol=1e-6)
  expected = [[b"left", b"right"][i] for i in np.argmax(logits_of(FEATURES), axis=-1)]
  assert labels.tolist() == expected and labels.dtype == object


def test_a_wrong_dtype_is_told_in_the_words_of_the_run(session):
  inputs, outputs = names(session)
  with pytest.raises(tf.errors.InvalidArgumentError, match="to be float but double is provided"):
    session.run({inputs["features"]: FEATURES.astype(np.float64)}, [outputs["logits"]])


def test_an_unknown_tensor_is_named(session):
  with pytest.raises(tf.errors.InvalidArgumentError, match="Tensor nothing:0 was not found"):
    session.run({}, ["nothing:0"])


def test_the_timeout_ends_a_run(session):
  inputs, outputs = names(session, "slow")
  steps = {inputs["steps"]: np.array([10**9], np.int64)}
  with pytest.raises(tf.errors.DeadlineExceededError):
    session.run(steps, [outputs["count"]], timeout_ms=100)


def test_many_threads_run_at_once(session, logits_of):
  inputs, outputs = names(session)
  rng = np.random.default_rng(0)
  batches = [rng.normal(size=(1 + i % 4, 3)).astype(np.float32) for i in range(40)]
  answers = [None] * len(batches)

  def ask(start):
    for i in range(start, len(batches), 4):
      (answers[i],) = session.run({inputs["features"]: batches[i]}, [outputs["logits"]], timeout_ms=60_000)

  threads = [threading.Thread(target=ask, args=(start,)) for start in range(4)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  for batch, answer in zip(batches, answers, strict=True):
    np.testing.assert_allclose(answer, logits_of(batch), rtol=1e-5, atol=1e-6)


def test_tags_that_are_not_in_the_export_fail_the_load(exports):
  with pytest.raises(RuntimeError, match="gpu"):
    SavedModelSession(exports[1], tags=["serve", "gpu"])


def test_the_configuration_file_is_taken_and_the_arguments_come_before_it(tmp_path, exports, logits_of):
  path = tmp_path / "session.config"
  path.write_text(
    "intra_op_parallelism_threads: 3 inter_op_parallelism_threads: 2 allow_soft_placement: true"
  )
  config = session_config(str(path), intra_op_threads=1)
  assert config.intra_op_parallelism_threads == 1
  assert config.inter_op_parallelism_threads == 2
  assert config.allow_soft_placement and not config.experimental.disable_thread_spinning
  session = SavedModelSession(exports[1], config_file=str(path))
  inputs, outputs = names(session)
  np.testing.assert_allclose(
    session.run({inputs["features"]: FEATURES}, [outputs["logits"]])[0], logits_of(FEATURES), rtol=1e-6
  )
  session.close()


def test_idle_threads_do_not_spin():
  assert session_config().experimental.disable_thread_spinning


@pytest.mark.parametrize("content", [None, b"no_such_field: 1", b"\xff\xfe"])
def test_a_wrong_configuration_file_is_named_in_one_line(tmp_path, content):
  path = tmp_path / "session.config"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(ServingError) as caught:
    session_config(str(path))
  assert str(path) in str(caught.value) and "tensorflow.ConfigProto" in str(caught.value)
  assert "\n" not in str(caught.value)
