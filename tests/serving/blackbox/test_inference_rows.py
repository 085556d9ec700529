"""Classify, Regress and MultiInference on tf.Examples.

Source: tensorflow_serving/servables/tensorflow/{classifier,regressor,multi_inference,util}.cc
"""

import pytest
import tensorflow as tf
from tensorflow_serving.apis import classification_pb2, inference_pb2, input_pb2, regression_pb2

TIMEOUT_S = 60
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
METHODS = {"Classify": classification_pb2.ClassificationRequest, "Regress": regression_pb2.RegressionRequest}


def example(**features):
  """tf.Example of floats."""
  result = tf.train.Example()
  for name, value in features.items():
    result.features.feature[name].float_list.value.append(value)
  return result


def examples(*values):
  """Input: one example for each a."""
  result = input_pb2.Input()
  result.example_list.examples.extend(example(a=value) for value in values)
  return result


@pytest.fixture
def ask(server, client):
  """(method, signature, input, version or label) -> its response."""

  def call(method, signature, given, name="m", **version_or_label):
    request = METHODS[method](input=given)
    client.fill_spec(request.model_spec, name, signature, **version_or_label)
    return getattr(server.prediction, method)(request, timeout=TIMEOUT_S)

  return call


@pytest.mark.parametrize("signature", ["classify", "classify_as_predict"])
def test_classify(ask, signature):
  """The method_name is not checked by default."""
  response = ask("Classify", signature, examples(3.0, -2.0))
  assert [[(c.label, c.score) for c in row.classes] for row in response.result.classifications] == [
    [("up", 3.0), ("down", -3.0)],
    [("up", -2.0), ("down", 2.0)],
  ]
  assert (response.model_spec.name, response.model_spec.signature_name) == ("m", signature)
  assert response.model_spec.version.value == 2
  assert ask("Classify", signature, examples(1.0), label="stable").model_spec.version.value == 1


def test_classify_with_scores_alone(ask):
  (row,) = ask("Classify", "only_scores", examples(4.0)).result.classifications
  assert [(c.label, c.score) for c in row.classes] == [("", 4.0), ("", -4.0)]


@pytest.mark.parametrize("signature", ["regress", "regress_as_predict"])
def test_regress(ask, signature):
  response = ask("Regress", signature, examples(3.0, -2.0, 0.5))
  assert [regression.value for regression in response.result.regressions] == [3.0, -2.0, 0.5]
  assert response.model_spec.signature_name == signature and response.model_spec.version.value == 2


def test_a_context_belongs_to_every_example(ask):
  given = input_pb2.Input()
  given.example_list_with_context.context.CopyFrom(example(b=10.0))
  given.example_list_with_context.examples.extend([example(a=1.0), example(a=2.0), example(a=3.0, b=1.0)])
  values = [regression.value for regression in ask("Regress", "regress", given).result.regressions]
  # An example's own feature wins over the context's.
  assert values == [11.0, 12.0, 4.0]


@pytest.mark.parametrize("method", METHODS)
def test_unknown_signature(ask, refused, method):
  expected = ("INVALID_ARGUMENT", "No signature was found with the name: nothing")
  assert refused(ask, method, "nothing", examples(1.0)) == expected


@pytest.mark.parametrize("method", METHODS)
def test_unknown_model_version_label_and_empty_name(ask, refused, method):
  signature = method.lower()
  given = examples(1.0)
  missing = "Servable not found for request: "
  assert refused(ask, method, signature, given, "no") == ("NOT_FOUND", f"{missing}Latest(no)")
  assert refused(ask, method, signature, given, version=9) == ("NOT_FOUND", f"{missing}Specific(m, 9)")
  expected = ("INVALID_ARGUMENT", "ModelSpec has no name specified.")
  assert refused(ask, method, signature, given, "") == expected
  expected = ("INVALID_ARGUMENT", "Unrecognized servable version label: x")
  assert refused(ask, method, signature, given, label="x") == expected


@pytest.mark.parametrize("method", METHODS)
def test_input_is_empty(ask, refused, method):
  for given in (input_pb2.Input(), examples()):
    assert refused(ask, method, method.lower(), given) == ("INVALID_ARGUMENT", "Input is empty.")


def test_signatures_of_another_form(ask, refused):
  code, message = refused(ask, "Classify", "misnamed", examples(1.0))
  assert code == "INVALID_ARGUMENT"
  assert message.startswith("Expected classification signature outputs to contain at least one of")
  assert refused(ask, "Classify", "two", examples(1.0)) == ("INVALID_ARGUMENT", "Expected one input Tensor.")
  assert refused(ask, "Regress", "two", examples(1.0)) == ("INVALID_ARGUMENT", "Expected one input Tensor.")
  code, message = refused(ask, "Regress", "classify", examples(1.0))
  assert (code, message) == ("INVALID_ARGUMENT", "Expected one output Tensor.")
  code, message = refused(ask, "Regress", "serving_default", examples(1.0))
  assert code == "INVALID_ARGUMENT" and message.startswith("No regression inputs found in SignatureDef")


def test_an_example_without_its_feature(ask, refused):
  code, message = refused(ask, "Regress", "regress", input_pb2.Input(example_list=_without_a()))
  assert (
    code == "INVALID_ARGUMENT"
    and "Feature: a (data type: float) is required but could not be found" in message
  )


def _without_a():
  return input_pb2.ExampleList(examples=[example(b=1.0)])


def _inference(client, server, given, *tasks):
  """MultiInference of (model name, signature, method)."""
  request = inference_pb2.MultiInferenceRequest(input=given)
  for name, signature, method in tasks:
    task = request.tasks.add(method_name=method)
    client.fill_spec(task.model_spec, name, signature)
  return server.prediction.MultiInference(request, timeout=TIMEOUT_S)


def test_multi_inference(client, server):
  tasks = [("m", "regress", REGRESS), ("m", "classify", CLASSIFY)]
  first, second = _inference(client, server, examples(3.0, 4.0), *tasks).results
  assert [regression.value for regression in first.regression_result.regressions] == [3.0, 4.0]
  rows = second.classification_result.classifications
  assert [[(c.label, c.score) for c in row.classes] for row in rows] == [
    [("up", 3.0), ("down", -3.0)],
    [("up", 4.0), ("down", -4.0)],
  ]
  assert [first.model_spec.signature_name, second.model_spec.signature_name] == ["regress", "classify"]
  assert first.model_spec.version.value == second.model_spec.version.value == 2


@pytest.mark.parametrize(
  "tasks, code, message",
  [
    (
      [("m", "classify", CLASSIFY), ("m", "classify", CLASSIFY)],
      "INVALID_ARGUMENT",
      "Duplicate evaluation of signature: classify",
    ),
    (
      [("m", "classify", CLASSIFY), ("other", "regress", REGRESS)],
      "INVALID_ARGUMENT",
      "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
    ),
    (
      [("m", "classify", CLASSIFY), ("", "regress", REGRESS)],
      "INVALID_ARGUMENT",
      "Found ModelSpec with an empty model name.",
    ),
    (
      [("m", "nothing", CLASSIFY)],
      "INVALID_ARGUMENT",
      "Requested signature not found in model graph: nothing",
    ),
    (
      [("m", "serving_default", "tensorflow/serving/predict")],
      "UNIMPLEMENTED",
      "Unsupported signature method_name: tensorflow/serving/predict",
    ),
    ([("nobody", "classify", CLASSIFY)], "NOT_FOUND", "Servable not found for request: Latest(nobody)"),
  ],
)
def test_multi_inference_refuses(client, server, refused, tasks, code, message):
  assert refused(_inference, client, server, examples(1.0), *tasks) == (code, message)


def test_multi_inference_of_nothing(client, server, refused):
  expected = ("INVALID_ARGUMENT", "ModelSpec has no name specified.")
  assert refused(_inference, client, server, examples(1.0)) == expected
  expected = ("INVALID_ARGUMENT", "Input is empty.")
  assert refused(_inference, client, server, input_pb2.Input(), ("m", "classify", CLASSIFY)) == expected
