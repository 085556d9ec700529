"""Lines of progress from inside a stage, shown by whoever runs the pipeline."""

from __future__ import annotations

import logging

_LOGGER = logging.getLogger("deepline.progress")


def report_progress(text: str) -> None:
  """Tells the user one line about the stage that is running."""
  _LOGGER.info(text)
