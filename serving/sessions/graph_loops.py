"""Whether a graph can run for longer than its inputs are large: whether there is a loop in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

# Ops that repeat a part of the graph, or run what the graph does not show.
_LOOPS = frozenset(
  {
    "While",
    "StatelessWhile",
    "For",
    "Enter",
    "RefEnter",
    "MapDefun",
    "RemoteCall",
    "PyFunc",
    "PyFuncStateless",
    "EagerPyFunc",
  }
)


def loop_free(graph_def: Any, tensor_names: Iterable[str]) -> set[str]:
  """The tensors that are computed without a loop, functions and what they call included.

  Args:
    graph_def: tensorflow.GraphDef.
    tensor_names: "node:0" and so on.
  """
  nodes = {node.name: node for node in graph_def.node}
  functions = {function.signature.name: function.node_def for function in graph_def.library.function}
  looping = _functions_with_loops(functions)
  return {name for name in tensor_names if not _reaches_a_loop(name.split(":")[0], nodes, looping)}


def _functions_with_loops(functions: Mapping[str, Iterable[Any]]) -> set[str]:
  """Names of the functions with a loop in them or in a function that they call."""
  looping = {name for name, body in functions.items() if any(node.op in _LOOPS for node in body)}
  grown = True
  while grown:
    callers = {
      name
      for name, body in functions.items()
      if name not in looping and any(_called(node) & looping for node in body)
    }
    looping |= callers
    grown = bool(callers)
  return looping


def _reaches_a_loop(name: str, nodes: Mapping[str, Any], looping: set[str]) -> bool:
  seen, waiting = set(), [name]
  while waiting:
    node = nodes.get(waiting.pop())
    if node is None or node.name in seen:
      continue
    seen.add(node.name)
    if node.op in _LOOPS or node.op in looping or _called(node) & looping:
      return True
    waiting += [source.lstrip("^").split(":")[0] for source in node.input]
  return False


def _called(node: Any) -> set[str]:
  """Names of the functions that a node calls."""
  found = {node.op}
  for value in node.attr.values():
    if value.HasField("func"):
      found.add(value.func.name)
    elif value.HasField("list"):
      found.update(function.name for function in value.list.func)
  return found
