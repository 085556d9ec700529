"""Tokens as the page shades them."""

import math

import pytest

from components.report.shading import MAX_TOKENS, shade


def text_of(line):
  return "".join(token["space"] + token["text"] for token in line["tokens"])


@pytest.mark.parametrize(
  "tokens, shown",
  [
    (["the", "cat", "sleeps"], "the cat sleeps\u00a0¶"),
    (["play", "##ing", "cards"], "playing cards\u00a0¶"),
    (["▁un", "like", "ly", "▁", "words"], "unlikely words\u00a0¶"),
    (["▁", "다", "람쥐", "▁헌"], " 다람쥐 헌\u00a0¶"),
    (["a", "▁", "b", "c", "<unk>"], "a bc<unk>\u00a0¶"),
    (["다람쥐", "a", "."], "다람쥐 a .\u00a0¶"),
    ([], "¶"),
  ],
)
def test_the_tokens_read_as_the_text_does(tokens, shown):
  assert text_of(shade(tokens, [-1.0] * (len(tokens) + 1))) == shown
  # The end of the sentence may be among the tokens as well.
  assert text_of(shade([*tokens, "</s>"], [-1.0] * (len(tokens) + 1))) == shown


def test_shade_and_hint_are_those_of_the_surprisal():
  bits = [0.0, 4.0, 16.0, 40.0]
  line = shade(["a", "b", "c", "d", "e", "f"], [-b * math.log(2) for b in bits] + [None, -math.inf])
  assert [token["shade"] for token in line["tokens"]] == pytest.approx([0.0, 0.25, 1.0, 1.0, 1.0, 1.0])
  hints = [token["hint"].replace("\u202f", " ") for token in line["tokens"]]
  assert hints[:3] == [
    "a: 0.0 bits, probability 1.00",
    "b: 4.0 bits, probability 0.06",
    "c: 16.0 bits, probability 1 in 65 536",
  ]
  assert hints[4:] == ["e: probability 0", "f: probability 0"]


def test_unknown_words_and_long_sentences():
  assert shade(["a", "<unk>"], [-1.0, -1.0])["has_unknown"] is True
  assert shade([], []) == {"tokens": [], "left_out": 0, "has_unknown": False}
  line = shade(["a"] * MAX_TOKENS, [-1.0] * (MAX_TOKENS + 1))
  assert line["has_unknown"] is False
  assert len(line["tokens"]) == MAX_TOKENS and line["left_out"] == 1
