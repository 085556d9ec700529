"""Runs one stage in a pod of Kubeflow: TFX's own entry point, told what Kubeflow's launcher leaves out.

TFX's entry point was made for Vertex AI. The open-source launcher differs: it hands input artifacts over
without their types, and it copies artifacts between the object store and local directories itself,
/minio/BUCKET/... for minio://BUCKET/..., while TFX opens the URI, which TensorFlow can only for some stores.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from typing import Any

from absl import app, logging
from absl.flags import argparse_flags
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2
from tfx.dsl.io import fileio
from tfx.orchestration.kubeflow.v2 import compiler_utils
from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor
from tfx.utils import name_utils

from components import artifacts

# The launcher's directories of each kind of object store.
_STORES = {"gs://": "/gcs/", "minio://": "/minio/", "s3://": "/s3/"}
_OWN_TYPES = (artifacts.Rejects, artifacts.CompressionReport, artifacts.RunReport)


def run_stage(options: argparse.Namespace, beam_arguments: list[str]) -> None:
  """Runs an executor and writes what it made of its artifacts to the launcher's output file.

  Args:
    options: executor_class_path; json_serialized_invocation_args, Kubeflow's ExecutorInput; and
      json_serialized_inputs_spec_args, the stage's ComponentInputsSpec.
    beam_arguments: the command line of Beam.
  """
  given = pipeline_spec_pb2.ExecutorInput()
  json_format.Parse(options.json_serialized_invocation_args, given, ignore_unknown_fields=True)
  spec = pipeline_spec_pb2.ComponentInputsSpec()
  json_format.Parse(options.json_serialized_inputs_spec_args, spec, ignore_unknown_fields=True)
  uris = complete(given, spec)
  for artifact in _each(given.outputs.artifacts):
    if "://" not in artifact.uri:
      os.makedirs(artifact.uri, exist_ok=True)
  for kind in _OWN_TYPES:
    compiler_utils.TITLE_TO_CLASS_PATH[kind.TYPE_NAME] = name_utils.get_full_name(kind)
  options.json_serialized_invocation_args = json_format.MessageToJson(given)
  kubeflow_v2_run_executor.main((options, beam_arguments))
  _restore_uris(given.outputs.output_file, uris)


def complete(given: Any, spec: Any) -> dict[str, str]:
  """Fills in types and names that are missing, and puts local directories in the place of object stores.

  Args:
    given: ExecutorInput, changed in place.
    spec: ComponentInputsSpec of the stage.

  Returns:
    {local directory: URI} of the output artifacts.
  """
  for key, artifact_list in given.inputs.artifacts.items():
    for artifact in artifact_list.artifacts:
      if not artifact.type.schema_title and not artifact.type.instance_schema:
        artifact.type.CopyFrom(spec.artifacts[key].artifact_type)
      # TFX tells artifacts apart by their names.
      artifact.name = artifact.name or artifact.uri
      artifact.uri = local_path(artifact.uri)
  # The launcher keeps this one itself: what the executor prints.
  given.outputs.artifacts.pop("executor-logs", None)
  uris = {}
  for artifact in _each(given.outputs.artifacts):
    path = local_path(artifact.uri)
    uris[path] = artifact.uri
    artifact.uri = path
  return uris


def local_path(uri: str) -> str:
  """The directory in which Kubeflow's launcher keeps an artifact; any other URI as it is."""
  for scheme, directory in _STORES.items():
    if uri.startswith(scheme):
      return directory + uri.removeprefix(scheme)
  return uri


def _restore_uris(output_file: str, uris: dict[str, str]) -> None:
  """The launcher uploads by URI."""
  made = pipeline_spec_pb2.ExecutorOutput()
  with fileio.open(output_file) as file:
    json_format.Parse(file.read(), made)
  for artifact in _each(made.artifacts):
    artifact.uri = uris.get(artifact.uri, artifact.uri)
  with fileio.open(output_file, "w") as file:
    file.write(json_format.MessageToJson(made))


def _each(artifact_lists: Any) -> Iterable[Any]:
  for artifact_list in artifact_lists.values():
    yield from artifact_list.artifacts


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
  parser = argparse_flags.ArgumentParser(allow_abbrev=False)
  for name in ("executor_class_path", "json_serialized_invocation_args", "json_serialized_inputs_spec_args"):
    parser.add_argument(f"--{name}", required=True)
  return parser.parse_known_args(arguments[1:])


def _main(parsed: tuple[argparse.Namespace, list[str]]) -> None:
  logging.set_verbosity(logging.INFO)
  run_stage(*parsed)


if __name__ == "__main__":
  app.run(_main, argv=sys.argv, flags_parser=_parse)
