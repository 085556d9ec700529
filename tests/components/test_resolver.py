"""Which model a candidate has to beat."""

import pytest
from tfx.types import standard_artifacts

from components.resolver import LastBlessedStrategy


def model(number):
  artifact = standard_artifacts.Model()
  artifact.id = number
  return artifact


def blessing(number, model_id, blessed=1):
  artifact = standard_artifacts.InfraBlessing()
  artifact.id = number
  artifact.set_int_custom_property("blessed", blessed)
  artifact.set_int_custom_property("current_model_id", model_id)
  return artifact


def resolve(candidates, models, blessings):
  """(model id, blessing id) that was chosen, None if there is none."""
  inputs = {
    "candidate": [model(number) for number in candidates],
    "model": [model(number) for number in models],
    "blessing": blessings,
  }
  found = LastBlessedStrategy().resolve_artifacts(None, inputs)
  assert found["candidate"] == inputs["candidate"]
  if not found["model"]:
    assert not found["blessing"]
    return None
  (chosen,), (reason,) = found["model"], found["blessing"]
  return chosen.id, reason.id


@pytest.mark.parametrize(
  "candidates, models, blessings, expected",
  [
    ([9], [9], [], None),
    ([9], [2, 5, 9], [], None),
    # The newest of the blessed ones, in whatever order they come.
    ([9], [5, 2, 9], [(3, 2), (6, 5)], (5, 6)),
    ([9], [2, 5, 9], [(6, 5), (3, 2)], (5, 6)),
    # A refused one is left out.
    ([9], [2, 5, 9], [(3, 2), (6, 5, 0)], (2, 3)),
    # So are the candidate itself, and what came after it: the same run again finds the same baseline.
    ([9], [2, 9, 12], [(3, 2), (10, 9), (13, 12)], (2, 3)),
    ([2], [2, 9], [(3, 2), (10, 9)], None),
    ([], [2, 5], [(3, 2)], None),
    # A blessing without its model.
    ([9], [9], [(3, 2)], None),
  ],
)
def test_the_newest_blessed_model_before_the_candidate(candidates, models, blessings, expected):
  assert resolve(candidates, models, [blessing(*each) for each in blessings]) == expected
