"""Predict's JSON: requests in row format ("instances") or column format ("inputs"), and their answers.

Source: tensorflow_serving/util/json_tensor.cc
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from pydantic_core import PydanticSerializationError, from_json, to_json

from serving.errors import RequestError, invalid_argument
from serving.rest.json_tensors import DT_BOOL, is_base64, json_text, json_values, read_exactly, read_quickly

SIGNATURE_KEY = "signature_name"
INSTANCES_KEY, INPUTS_KEY = "instances", "inputs"
PREDICTIONS_KEY, OUTPUTS_KEY = "predictions", "outputs"

# What RapidJSON says where Python's parser says the other.
_PARSE_ERRORS = {
  "Expecting value": "Invalid value.",
  "Extra data": "The document root must not be followed by other values.",
  "Expecting property name enclosed in double quotes": "Missing a name for object member.",
  "Expecting ':' delimiter": "Missing a colon after a name of object member.",
  "Expecting ',' delimiter": "Missing a comma or closing bracket after an element.",
  "Unterminated string starting at": "Missing a closing quotation mark in string.",
  "Invalid \\escape": "Invalid escape character in string.",
  "Invalid \\uXXXX escape": "Incorrect hex digit after \\u escape in string.",
}


class Document(NamedTuple):
  """A request's JSON object; `has_booleans` is False only where it surely holds no true or false."""

  fields: dict[str, Any]
  has_booleans: bool


class PredictInputs(NamedTuple):
  """The tensors of a Predict request: arrays by input name; `is_row` tells how the answer is to be written."""

  signature_name: str
  arrays: dict[str, np.ndarray]
  is_row: bool


def parse_document(body: bytes) -> Document:
  """The JSON object in a request's body. NaN, Infinity and -Infinity are numbers.

  Raises:
    RequestError: the body is no JSON, or no object.
  """
  if not body.strip():
    raise invalid_argument("JSON Parse error: The document is empty")
  try:
    document = from_json(body, allow_inf_nan=True)
  except ValueError as error:
    raise _parse_error(body, error) from error
  if not isinstance(document, dict):
    raise invalid_argument(f"JSON Value: {json_text(document)} Is not object")
  return Document(document, b"true" in body or b"false" in body)


def _parse_error(body: bytes, error: ValueError) -> RequestError:
  try:
    json.loads(body)
  except json.JSONDecodeError as known:
    reason = _PARSE_ERRORS.get(known.msg, f"{known.msg}.")
    return invalid_argument(f"JSON Parse error: {reason} at offset: {known.pos}")
  except (ValueError, RecursionError):
    pass  # bytes that are no text, or lists nested without end: the first parser says it well
  return invalid_argument(f"JSON Parse error: {error}")


def signature_name(document: Document) -> str:
  """The signature that a request names; empty for the default one.

  Raises:
    RequestError: it is no string.
  """
  name = document.fields.get(SIGNATURE_KEY, "")
  if not isinstance(name, str):
    raise invalid_argument(
      f"JSON Value: {json_text(document.fields)} not formatted correctly. 'signature_name' key must be a string value."
    )
  return name


def read_predict_inputs(body: bytes, input_types: Callable[[str], Mapping[str, int]]) -> PredictInputs:
  """The tensors of a Predict request.

  Args:
    input_types: from a signature's name, "" for the default one, to {input name: tensorflow.DataType}.

  Raises:
    RequestError: with TF Serving's text, what is wrong with the request.
  """
  document = parse_document(body)
  name = signature_name(document)
  types = input_types(name)
  if not types:
    raise invalid_argument(f"Failed to get input map for signature: {name or 'DEFAULT'}")
  fields = document.fields
  if INSTANCES_KEY in fields and INPUTS_KEY in fields:
    raise _wrong_format(
      fields,
      f"Not formatted correctly expecting only one of '{INPUTS_KEY}' or '{INSTANCES_KEY}' keys to exist ",
    )
  if INSTANCES_KEY in fields:
    return PredictInputs(name, _read_instances(document, types), is_row=True)
  if INPUTS_KEY in fields:
    return PredictInputs(name, _read_inputs(document, types), is_row=False)
  raise invalid_argument(f"Missing '{INPUTS_KEY}' or '{INSTANCES_KEY}' key")


def _wrong_format(fields: dict[str, Any], reason: str) -> RequestError:
  return invalid_argument(f"JSON Value: {json_text(fields)} {reason}")


def _read_inputs(document: Document, types: Mapping[str, int]) -> dict[str, np.ndarray]:
  """Column format: a value for each input, or a bare one where there is one input."""
  inputs = document.fields[INPUTS_KEY]
  if not isinstance(inputs, dict) or is_base64(inputs):
    if len(types) > 1:
      raise invalid_argument(
        "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
        "tensorinfo_map"
      )
    inputs = dict.fromkeys(types, inputs)
  arrays = {}
  for name, enum in types.items():
    if name not in inputs:
      raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
    array = _quickly(document, inputs[name], enum)
    arrays[name] = read_exactly(inputs[name], enum) if array is None else array
  return arrays


def _quickly(document: Document, value: Any, enum: int) -> np.ndarray | None:
  if document.has_booleans and enum != DT_BOOL:
    return None
  return read_quickly(value, enum)


def _read_instances(document: Document, types: Mapping[str, int]) -> dict[str, np.ndarray]:
  """Row format: a list with an element for each example, which holds a value for each input."""
  instances = document.fields[INSTANCES_KEY]
  if not isinstance(instances, list):
    raise _wrong_format(document.fields, f"Excepting '{INSTANCES_KEY}' to be an list/array")
  if not instances:
    raise _wrong_format(document.fields, f"No values in '{INSTANCES_KEY}' array")
  if not isinstance(instances[0], dict) and len(types) > 1:
    raise invalid_argument(
      "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
      "tensorinfo_map"
    )
  arrays = {}
  for name, values in _columns(instances, types).items():
    array = _quickly(document, values, types[name])
    if array is not None:
      arrays[name] = array
  return arrays if len(arrays) == len(types) else _stack_instances(instances, types)


def _is_named(element: Any) -> bool:
  return isinstance(element, dict) and not is_base64(element)


def _columns(instances: list[Any], types: Mapping[str, int]) -> dict[str, list[Any]]:
  """{input name: its value in each element}; empty where the elements are not alike."""
  if not _is_named(instances[0]):
    return dict.fromkeys(types, instances)
  if not all(_is_named(element) and element.keys() == types.keys() for element in instances):
    return {}
  return {name: [element[name] for element in instances] for name in types}


def _stack_instances(instances: list[Any], types: Mapping[str, int]) -> dict[str, np.ndarray]:
  """The elements read one by one, so that an error tells which element it is in."""
  rows: dict[str, list[np.ndarray]] = {name: [] for name in types}
  are_named = _is_named(instances[0])
  only_name = next(iter(types))
  for index, element in enumerate(instances):
    if are_named and not _is_named(element):
      raise invalid_argument(f"Expecting object but got list at item {index} of input list")
    if not are_named and _is_named(element):
      raise invalid_argument(f"Expecting value/list but got object at item {index} of input list")
    for name, value in element.items() if are_named else [(only_name, element)]:
      try:
        _append_row(rows, types, name, value)
      except RequestError as error:
        key = f" key: {name}" if are_named else ""
        raise RequestError(
          error.code,
          f"Failed to process element: {index}{key} of 'instances' list. Error: {error.code.name}: {error.message}",
        ) from error
    if are_named and element.keys() != types.keys():
      raise invalid_argument(
        f"Failed to process element: {index} of 'instances' list. JSON object: {json_text(element)} keys must be "
        f"equal to: {','.join(types)}"
      )
  return {name: np.stack(arrays) for name, arrays in rows.items()}


def _append_row(rows: dict[str, list[np.ndarray]], types: Mapping[str, int], name: str, value: Any) -> None:
  if name not in types:
    raise invalid_argument(f"JSON object: does not have named input: {name}")
  array = read_exactly(value, types[name])
  if rows[name]:
    first = rows[name][0]
    if first.size != array.size:
      raise invalid_argument(f"Expecting tensor size: {first.size} but got: {array.size}")
    if first.shape != array.shape:
      raise invalid_argument(f"Expecting shape {_shape_text(first)} but got: {_shape_text(array)}")
  rows[name].append(array)


def _shape_text(array: np.ndarray) -> str:
  return f"[{','.join(map(str, array.shape))}]"


def write_predict_outputs(outputs: Mapping[str, np.ndarray], is_row: bool) -> bytes:
  """The JSON answer to a Predict request; an only output stands without its name.

  Args:
    is_row: one element for each example ("predictions"), not one array for each output ("outputs").

  Raises:
    RequestError: the outputs do not fit the format.
  """
  if not outputs:
    raise invalid_argument("Cannot convert empty tensor map to JSON")
  if is_row:
    _check_batch_sizes(outputs)
  values = {name: json_values(name, outputs[name]) for name in sorted(outputs)}
  if not is_row:
    return write_json({OUTPUTS_KEY: values if len(values) > 1 else next(iter(values.values()))})
  if len(values) == 1:
    return write_json({PREDICTIONS_KEY: next(iter(values.values()))})
  rows = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
  return write_json({PREDICTIONS_KEY: rows})


def _check_batch_sizes(outputs: Mapping[str, np.ndarray]) -> None:
  batch_size = None
  for name in sorted(outputs):
    shape = outputs[name].shape
    if not shape:
      raise invalid_argument(f"Tensor name: {name} has no shape information ")
    if batch_size is not None and shape[0] != batch_size:
      raise invalid_argument(
        f"Tensor name: {name} has inconsistent batch size: {shape[0]} expecting: {batch_size}"
      )
    batch_size = shape[0]


def write_json(value: Any, indent: int | None = None) -> bytes:
  """JSON text with NaN, Infinity and -Infinity as TF Serving writes them, and escaped surrogates as their bytes."""
  try:
    return to_json(value, indent=indent, inf_nan_mode="constants")
  except PydanticSerializationError:  # strings that are no UTF-8
    return json.dumps(value, indent=indent, ensure_ascii=False).encode("utf-8", "surrogateescape")
