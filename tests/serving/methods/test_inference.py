"""Classify, Regress and MultiInference on a real session: values, and TF Serving's errors."""

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import inference_pb2, input_pb2

from serving.errors import RequestError
from serving.methods.inference import classify, multi_inference, regress, serialized_examples
from serving.sessions.session import SavedModelSession
from tests.serving import example_export
from tests.serving.example_export import CLASSIFY, REGRESS, example

INVALID = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture(scope="module")
def session(tmp_path_factory):
  loaded = SavedModelSession(example_export.export(str(tmp_path_factory.mktemp("examples") / "1")))
  yield loaded
  loaded.close()


def given(*examples, context=None):
  if context is None:
    return input_pb2.Input(example_list=input_pb2.ExampleList(examples=examples))
  return input_pb2.Input(
    example_list_with_context=input_pb2.ExampleListWithContext(examples=examples, context=context)
  )


def task(signature_name, method_name, name="m"):
  asked = inference_pb2.InferenceTask(method_name=method_name)
  asked.model_spec.name, asked.model_spec.signature_name = name, signature_name
  return asked


def error_of(call, *arguments, **options):
  with pytest.raises(RequestError) as caught:
    call(*arguments, **options)
  return caught.value.code, caught.value.message


ONE = given(example(a=1.5))
TWO = given(example(a=1.5), example(a=-2.0, b=0.5))


def classes_of(result):
  return [[(one.label, one.score) for one in row.classes] for row in result.classifications]


def values_of(result):
  return [one.value for one in result.regressions]


@pytest.mark.parametrize("signature_name", ["", "serving_default", "as_predict"])
def test_classes_and_scores(session, signature_name):
  assert classes_of(classify(session, signature_name, TWO)) == [
    [("up", 1.5), ("down", -1.5)],
    [("up", -1.5), ("down", 1.5)],
  ]


def test_scores_or_classes_alone(session):
  assert classes_of(classify(session, "only_scores", ONE)) == [[("", 1.5), ("", -1.5)]]
  assert classes_of(classify(session, "only_classes", ONE)) == [[("up", 0.0), ("down", 0.0)]]


def test_regression_of_vectors_and_columns(session):
  assert values_of(regress(session, "regress", TWO)) == [1.5, -1.5]
  assert values_of(regress(session, "regress_column", TWO)) == [15.0, -15.0]


def test_the_context_is_part_of_every_example(session):
  shared = given(example(a=1.0), example(a=2.0, b=0.25), context=example(b=10.0))
  assert values_of(regress(session, "regress", shared)) == [11.0, 2.25]


def test_examples_become_strings_each_with_the_context_before_it():
  strings = serialized_examples(TWO)
  assert strings.shape == (2,) and strings.dtype == object
  assert [tf.train.Example.FromString(string) for string in strings] == list(TWO.example_list.examples)
  (shared,) = serialized_examples(given(example(a=1.0), context=example(b=10.0)))
  assert shared == example(b=10.0).SerializeToString() + example(a=1.0).SerializeToString()


@pytest.mark.parametrize("nothing", [input_pb2.Input(), given(), given(context=example(a=1.0))])
def test_an_input_without_examples(session, nothing):
  assert error_of(classify, session, "", nothing) == (INVALID, "Input is empty.")
  assert error_of(regress, session, "regress", nothing) == (INVALID, "Input is empty.")


def test_what_the_graph_says_of_an_example_is_passed_on(session):
  code, message = error_of(classify, session, "", given(example(b=1.0)))
  assert code == INVALID and "a" in message and "required but could not be found" in message


CLASSIFY_ERRORS = {
  "nothing": "No signature was found with the name: nothing",
  "two_inputs": "Expected one input Tensor.",
  "three_outputs": "Expected one or two output Tensors, found 3",
  "input_misnamed": "No classification inputs found in SignatureDef: inputs {",
  "outputs_misnamed": (
    'Expected classification signature outputs to contain at least one of "classes" or "scores". '
    "Signature was: inputs {"
  ),
  "flat_scores": "Expected Tensor shape: [batch_size num_classes] but got [2]",
  "double_scores": "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE",
  "numbers_as_classes": "Expected classes Tensor of DT_STRING. Got: DT_FLOAT",
  "too_many_rows": "Expected scores output batch size of 2. Got: 4",
  "unequal_widths": "Tensors class and score should match in dim_size(1). Got 2 vs. 1",
  "no_text": r"The model gives a class that is no UTF-8 text: b'\xff'",
}


@pytest.mark.parametrize("signature_name", CLASSIFY_ERRORS)
def test_signatures_that_cannot_classify(session, signature_name):
  code, message = error_of(classify, session, signature_name, TWO)
  assert code == INVALID
  expected = CLASSIFY_ERRORS[signature_name]
  assert message.startswith(expected) if expected.endswith("{") else message == expected


REGRESS_ERRORS = {
  "nothing": "No signature was found with the name: nothing",
  "two_inputs": "Expected one input Tensor.",
  "serving_default": "Expected one output Tensor.",
  "input_misnamed": "No regression inputs found in SignatureDef: inputs {",
  "only_scores": "No regression outputs found in SignatureDef: inputs {",
  "wide_outputs": ("Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [2,2]"),
  "too_many_outputs": "Input batch size did not match output batch size: 2 vs. 4",
  "double_outputs": "Expected output Tensor of DT_FLOAT.  Got: DT_DOUBLE",
}


@pytest.mark.parametrize("signature_name", REGRESS_ERRORS)
def test_signatures_that_cannot_regress(session, signature_name):
  code, message = error_of(regress, session, signature_name, TWO)
  assert code == INVALID
  expected = REGRESS_ERRORS[signature_name]
  assert message.startswith(expected) if expected.endswith("{") else message == expected


def test_the_method_name_is_checked_on_demand(session):
  expected = f"Expected classification signature method_name to be {CLASSIFY}. Was: {example_export.PREDICT}"
  assert error_of(classify, session, "as_predict", ONE, check_method_name=True) == (INVALID, expected)
  expected = f"Expected regression signature method_name to be {REGRESS}. Was: {example_export.PREDICT}"
  assert error_of(regress, session, "regress_as_predict", ONE, check_method_name=True) == (INVALID, expected)
  assert values_of(regress(session, "regress", ONE, check_method_name=True)) == [1.5]
  assert classes_of(classify(session, "", ONE, check_method_name=True)) == [[("up", 1.5), ("down", -1.5)]]


class CountingSession:
  """A real session whose runs are recorded."""

  def __init__(self, session):
    self.signatures = session.signatures
    self.runs = []
    self._session = session

  def run(self, feeds, fetches, timeout_ms=0):
    self.runs.append((list(feeds), list(fetches), timeout_ms))
    return self._session.run(feeds, fetches, timeout_ms)


def test_multi_inference_answers_every_task_in_one_run(session):
  counting = CountingSession(session)
  tasks = [task("regress", REGRESS), task("", CLASSIFY), task("only_scores", CLASSIFY)]
  first, second, third = multi_inference(counting, tasks, TWO, timeout_ms=60_000)
  assert values_of(first.regression_result) == [1.5, -1.5]
  assert classes_of(second.classification_result)[1] == [("up", -1.5), ("down", 1.5)]
  assert classes_of(third.classification_result)[0] == [("", 1.5), ("", -1.5)]
  assert [result.model_spec.signature_name for result in (first, second, third)] == [
    "regress",
    "serving_default",
    "only_scores",
  ]
  assert {result.model_spec.name for result in (first, second, third)} == {"m"}
  # Classes, scores and totals once each, though two tasks want the scores.
  ((feeds, fetches, timeout_ms),) = counting.runs
  assert (len(feeds), len(fetches), timeout_ms) == (1, 3, 60_000)


MULTI_INFERENCE_ERRORS = {
  "no tasks": ([], "ModelSpec has no name specified."),
  "no name": ([task("", CLASSIFY, name="")], "Found ModelSpec with an empty model name."),
  "two models": (
    [task("", CLASSIFY), task("regress", REGRESS, name="other")],
    "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
  ),
  "the same twice": (
    [task("", CLASSIFY), task("serving_default", CLASSIFY)],
    "Duplicate evaluation of signature: serving_default",
  ),
  "unknown": ([task("nothing", REGRESS)], "Requested signature not found in model graph: nothing"),
  "two inputs": (
    [task("regress", REGRESS), task("other_input", REGRESS)],
    "Input tensor must be the same for all Signatures.",
  ),
  "not for regression": ([task("serving_default", REGRESS)], "Expected one output Tensor."),
  "wrong values": (
    [task("regress", REGRESS), task("double_scores", CLASSIFY)],
    "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE",
  ),
}


@pytest.mark.parametrize("case", MULTI_INFERENCE_ERRORS)
def test_multi_inference_errors(session, case):
  tasks, message = MULTI_INFERENCE_ERRORS[case]
  assert error_of(multi_inference, session, tasks, TWO) == (INVALID, message)


def test_multi_inference_knows_no_other_methods(session):
  assert error_of(multi_inference, session, [task("predict", example_export.PREDICT)], TWO) == (
    grpc.StatusCode.UNIMPLEMENTED,
    f"Unsupported signature method_name: {example_export.PREDICT}",
  )


def test_multi_inference_checks_method_names_on_demand(session):
  tasks = [task("as_predict", CLASSIFY)]
  assert len(multi_inference(session, tasks, ONE)) == 1
  code, message = error_of(multi_inference, session, tasks, ONE, check_method_name=True)
  assert code == INVALID and message.startswith("Expected classification signature method_name to be")
