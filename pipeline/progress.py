"""Shows how a run goes on: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.markup import escape

_MARKS = {"done": "[green]✓[/]", "cached": "[cyan]≡[/]", "failed": "[red]✗[/]"}


class StageDisplay:
  """Writes to standard error, so that standard output holds results only."""

  def __init__(self) -> None:
    # A copy of the stream: the runner sends the original, on which libraries write too, to a file.
    copy = os.fdopen(os.dup(sys.stderr.fileno()), "w", encoding="utf-8", buffering=1)
    self._console = Console(emoji=False, file=copy, highlight=False)

  @contextlib.contextmanager
  def note(self, text: str) -> Iterator[None]:
    """Shows a line while something that is no stage takes its time."""
    if not self._console.is_terminal:
      yield
      return
    with self._console.status(text):
      yield

  @contextlib.contextmanager
  def stage(self, name: str, number: int, count: int) -> Iterator[_ShownStage]:
    """Shows one stage; lines of progress from inside it appear under its name."""
    shown = _ShownStage(self._console, name, f"{number}/{count}")
    handler = _ProgressHandler(shown)
    logger = logging.getLogger("deepline.progress")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
      if self._console.is_terminal:
        with self._console.status(f"[bold]{name}[/] {number}/{count}") as status:
          shown.status = status
          yield shown
      else:
        yield shown
    finally:
      logger.removeHandler(handler)


class _ShownStage:
  """One stage on the screen."""

  def __init__(self, console: Console, name: str, position: str):
    self._console = console
    self._name = name
    self._position = position
    self.status = None

  def progress(self, text: str) -> None:
    """A line from inside the stage."""
    if self.status is not None:
      self.status.update(f"[bold]{self._name}[/] {self._position}  {escape(text)}")
    self._console.print(f"    [dim]{escape(text)}[/]", soft_wrap=True)

  def end(self, state: str, seconds: float) -> None:
    """The stage's last line."""
    mark = _MARKS[state] if self._console.is_terminal else f"{state:6}"
    taken = "cached" if state == "cached" else f"{seconds:.1f} s"
    self._console.print(f"{mark} {self._position:>5} [bold]{self._name}[/]  {taken}", soft_wrap=True)


class _ProgressHandler(logging.Handler):
  def __init__(self, shown: _ShownStage):
    super().__init__()
    self._shown = shown

  def emit(self, record: logging.LogRecord) -> None:
    self._shown.progress(record.getMessage())
