"""Leaving out the n-grams of a backoff model whose absence changes its distribution least.

Removing an n-gram leaves its word to the shorter history. What that costs is the relative entropy of the distributions
after the n-gram's history h before and after, times the probability of h:

    D = P(h) (P(w|h) (ln P(w|h) - ln a' P(w|h')) + (1 - sum of P(v|h) over the n-grams hv) (ln a - ln a'))

with h' for h without its first word, and a, a' for the backoff of h with the n-gram and without it. P(h) is the model's
own, the product of its words' probabilities, a sentence start counting as a sentence end. Under Kneser-Ney smoothing
probabilities after short histories are not those of the text (words after few different others are made rare), and so
P(h) is less than exact: more is lost for each n-gram that goes than with other smoothings (Chelba, Brants, Neveitt and
Xu 2010, "Study on Interaction between Entropy Pruning and Kneser-Ney Smoothing"); count cut-offs do not have this.

Each n-gram is judged by the model as it was. One that a longer one begins or ends with stays as long as that does, and
words always: so every remaining n-gram keeps its probability, and only the backoffs of histories that lost some change.

Source: Stolcke 1998, "Entropy-based Pruning of Backoff Language Models", arXiv:cs/0006025
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from trainers.ngram.arpa import BackoffModel, Section, keep, log10
from trainers.ngram.counting import SENTENCE_END, SENTENCE_START, context_rows


def prune(model: BackoffModel, threshold: float) -> BackoffModel:
  """Removes what raises the perplexity by less than a share of it, for each n-gram by itself.

  Args:
    model: with the beginning of each n-gram among its n-grams.
    threshold: 1e-9 leaves out little, 1e-6 most of a model; 0 nothing.

  Raises:
    ValueError: an n-gram is there without the one that it begins with.
  """
  contexts = context_rows(model.sections, len(model.vocabulary))
  costs = _costs(model.sections, contexts)
  return _without(model, contexts, [np.expm1(cost) < threshold for cost in costs])


def prune_to(model: BackoffModel, num_ngrams: int) -> BackoffModel:
  """Removes what raises the perplexity least until no more n-grams are left than asked for, words among them.

  Raises:
    ValueError: there are more words than `num_ngrams`, or an n-gram without the one that it begins with.
  """
  num_words = len(model.sections[0])
  if num_ngrams < num_words:
    raise ValueError(f"{num_ngrams} n-grams are fewer than the {num_words} words, which all stay")
  contexts = context_rows(model.sections, len(model.vocabulary))
  # The longest first where costs are equal, as they are where an n-gram stays for a longer one's sake.
  costs = _costs(model.sections, contexts)[::-1]
  order = np.argsort(np.concatenate(costs), kind="stable")
  is_removed = np.zeros(len(order), bool)
  is_removed[order[: max(0, len(order) - num_ngrams)]] = True
  removed = np.split(is_removed, np.cumsum([len(cost) for cost in costs[:-1]]))
  return _without(model, contexts, removed[::-1])


def _costs(sections: Sequence[Section], contexts: Sequence[np.ndarray]) -> list[np.ndarray]:
  """float64 [n-grams] of each length: the largest D of an n-gram and those that go before it; infinity for words."""
  probabilities = [_exp10(section.log10_probability) for section in sections]
  of_history = probabilities[0].copy()
  of_history[SENTENCE_START] = of_history[SENTENCE_END]
  costs = [np.full(len(of_history), np.inf)]
  for number in range(1, len(sections)):
    context, longer = contexts[number], probabilities[number]
    shorter = probabilities[number - 1][sections[number].parent]
    backoff = _exp10(sections[number - 1].log10_backoff)
    left, left_shorter = _left(backoff, shorter, context)
    new_backoff = (left[context] + longer) / (left_shorter[context] + shorter)
    moved = longer * np.log(longer / (new_backoff * shorter))
    others = left[context] * np.log(backoff[context] / new_backoff)
    # Rounding must not make an n-gram better gone than there.
    costs.append(of_history[context] * np.maximum(moved + others, 0.0))
    of_history = of_history[context] * longer
  for number in range(len(sections) - 1, 1, -1):
    for rows in (sections[number].parent, contexts[number]):
      np.maximum.at(costs[number - 1], rows, costs[number])
  return costs


def _without(
  model: BackoffModel, contexts: Sequence[np.ndarray], removed: Sequence[np.ndarray]
) -> BackoffModel:
  """The model without some n-grams, bool [n-grams] of each length, and with the backoffs that go with it."""
  sections = list(model.sections)
  for number in range(1, len(sections)):
    before, context, gone = sections[number - 1], contexts[number], removed[number]
    shorter = _exp10(before.log10_probability)[sections[number].parent]
    left, left_shorter = _left(_exp10(before.log10_backoff), shorter, context)
    count = len(before)
    left += np.bincount(context[gone], _exp10(sections[number].log10_probability[gone]), count)
    left_shorter += np.bincount(context[gone], shorter[gone], count)
    is_changed = np.bincount(context[gone], minlength=count) > 0
    log10_backoff = before.log10_backoff.copy()
    log10_backoff[is_changed] = log10(left[is_changed] / left_shorter[is_changed])
    sections[number - 1] = dataclasses.replace(before, log10_backoff=log10_backoff)
  return BackoffModel(model.vocabulary, keep(sections, [~gone for gone in removed]))


def _left(backoff: np.ndarray, shorter: np.ndarray, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """What is there, after each history, for the words that no n-gram goes on with.

  Args:
    backoff: float64 [histories].
    shorter: float64 [n-grams], the probability of each one's last word after the shorter history.
    context: int64 [n-grams], each one's history.

  Returns:
    float64 [histories] each, the probability of all those words together after the history and after the shorter one.
  """
  left_shorter = np.maximum(1 - np.bincount(context, shorter, len(backoff)), 0.0)
  return backoff * left_shorter, left_shorter


def _exp10(values: np.ndarray) -> np.ndarray:
  """float64. `LOG10_OF_ZERO` is not quite 0 then, and no logarithm here is of 0."""
  return 10.0 ** values.astype(np.float64)
