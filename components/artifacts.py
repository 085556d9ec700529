"""Artifact types of Deepline's own.

Kubeflow takes type names of the form namespace.Title and no declared properties: what describes an artifact
is kept as custom properties.
"""

from tfx.types.artifact import Artifact


class Rejects(Artifact):
  """What the reader refused: rejects.jsonl ({"path", "reason"} a line) and counts.json.

  Custom properties: read, written and rejected, numbers of items.
  """

  TYPE_NAME = "deepline.Rejects"


class CompressionReport(Artifact):
  """report.json: the base model and each step of the recipe, measured."""

  TYPE_NAME = "deepline.CompressionReport"


class RunReport(Artifact):
  """report.html and report.json of one run."""

  TYPE_NAME = "deepline.RunReport"
