"""A sentence's tokens shaded by how much each of them surprised the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from components.report import format as fmt

# A token of this surprisal has the full shade: a choice among 65,536.
FULL_SHADE_BITS = 16.0
MAX_TOKENS = 150
_END = "¶"
_END_TOKENS = ("</s>", "<eos>", "[SEP]")
_UNKNOWN_TOKENS = ("<unk>", "[UNK]")
_NO_BREAK_SPACE = "\u00a0"
_WORD_START, _CONTINUATION = "▁", "##"


def shade(tokens: Sequence[str], log_probs: Sequence[float | None]) -> dict[str, Any]:
  """What the page shows of one sentence.

  Args:
    tokens: as the vocabulary has them: words, pieces of them in SentencePiece's or WordPiece's way, or
      characters with "▁" for a space.
    log_probs: natural log probability of each, None where it is not finite; one more for the sentence's end.

  Returns:
    {"tokens": [{"space": what comes before it, "text", "shade" in [0, 1], "hint"}], "left_out": tokens beyond
    `MAX_TOKENS`, "has_unknown": whether a token stands for a word that the vocabulary lacks}.
  """
  words = [None if token in _END_TOKENS else token for token in tokens]
  if len(log_probs) == len(words) + 1:
    words.append(None)
  rows = [
    {
      "space": space,
      "text": _END if word is None else _visible(word),
      "shade": min(_bits(log_prob) / FULL_SHADE_BITS, 1.0),
      "hint": f"{'end of the sentence' if word is None else word}: {_hint(log_prob)}",
    }
    for word, space, log_prob in zip(words, _spaces(words), log_probs, strict=True)
  ]
  shown = rows[:MAX_TOKENS]
  has_unknown = any(token in _UNKNOWN_TOKENS for token in tokens)
  return {"tokens": shown, "left_out": len(rows) - len(shown), "has_unknown": has_unknown}


def _visible(word: str) -> str:
  """Without the marks of pieces; a space that is a token of its own is one here too."""
  if word == _WORD_START:
    return " "
  return word.removeprefix(_CONTINUATION).replace(_WORD_START, " ").strip() or word


def _spaces(words: Sequence[str | None]) -> list[str]:
  """The white space before each token; None is the end of a sentence, which keeps to the word before it."""
  # Pieces and characters carry their spaces with them; words, and pieces in WordPiece's way, do not.
  are_marked = any(word is not None and word.startswith(_WORD_START) for word in words)
  spaces = []
  for word in words:
    if word is None:
      spaces.append(_NO_BREAK_SPACE)
    elif are_marked:
      spaces.append(" " if word.startswith(_WORD_START) and word != _WORD_START else "")
    else:
      spaces.append("" if word.startswith(_CONTINUATION) else " ")
  return ["", *spaces[1:]] if spaces else []


def _bits(log_prob: float | None) -> float:
  return math.inf if log_prob is None or not math.isfinite(log_prob) else max(-log_prob / math.log(2), 0.0)


def _hint(log_prob: float | None) -> str:
  bits = _bits(log_prob)
  return "probability 0" if math.isinf(bits) else f"{bits:.1f} bits, probability {fmt.probability(2**-bits)}"
