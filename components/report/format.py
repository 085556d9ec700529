"""Figures as people read them; None is a dash."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from components.evaluation import figure_text

_DASH = "–"
_THIN_SPACE = "\u202f"  # narrow, and no line ends there


def _or_dash(function: Callable[[Any], str]) -> Callable[[Any], str]:
  def formatted(value: Any) -> str:
    return _DASH if value is None else function(value)

  formatted.__doc__ = function.__doc__
  return formatted


@_or_dash
def figure(value: float) -> str:
  """A metric: 0.9125, 12.34, 1 234."""
  if isinstance(value, str):
    return value
  if math.isinf(value):
    return "∞" if value > 0 else "−∞"
  return count(value) if isinstance(value, int) or abs(value) >= 1000 else figure_text(value)


@_or_dash
def count(value: float) -> str:
  """A number of things, in groups of three digits."""
  return f"{value:,.0f}".replace(",", _THIN_SPACE)


@_or_dash
def size(value: float) -> str:
  """Bytes, in decimal units."""
  power = 0
  while value >= 999.5 and power < 3:
    value /= 1000
    power += 1
  unit = ("B", "kB", "MB", "GB")[power]
  return (
    f"{value:.0f}{_THIN_SPACE}{unit}" if power == 0 or value >= 100 else f"{value:.3g}{_THIN_SPACE}{unit}"
  )


@_or_dash
def duration(value: float) -> str:
  """Seconds as 0.4 s, 12 s, 3 min 05 s or 2 h 07 min."""
  if value < 10:
    return f"{value:.1f}{_THIN_SPACE}s"
  seconds = round(value)
  if seconds < 60:
    return f"{seconds}{_THIN_SPACE}s"
  minutes, seconds = divmod(seconds, 60)
  if minutes < 60:
    return f"{minutes}{_THIN_SPACE}min {seconds:02d}{_THIN_SPACE}s"
  hours, minutes = divmod(minutes, 60)
  return f"{hours}{_THIN_SPACE}h {minutes:02d}{_THIN_SPACE}min"


@_or_dash
def percent(value: float) -> str:
  """A share in [0, 1]; never 100 % for a little less."""
  shown = f"{value:.1%}"
  if shown == "100.0%" and value < 1:
    shown = "99.9%"
  return shown.replace(".0%", "%").replace("%", f"{_THIN_SPACE}%")


def probability(value: float) -> str:
  """A probability: 0.31, or one in how many where it is small."""
  return f"{value:.2f}" if value >= 0.01 else f"1 in {count(1 / value)}" if value > 0 else "0"


@_or_dash
def milliseconds(value: float) -> str:
  """A latency."""
  return f"{value:.3g}{_THIN_SPACE}ms"


def title(name: str) -> str:
  """A metric's or a feature's name as words."""
  return name.replace("_", " ")
