"""What of the counts makes the probability of an n-gram, and what is taken off for the words that did not follow.

Every smoothing here is an interpolation, P(w | h) = (count(hw) - taken(hw)) / total(h) + backoff(h) P(w | h'), where h'
is h without its first word, and differs in four things only: which counts, what is taken off them, what is added to
the total of a history, and which n-grams are left out. `trainers.ngram.interpolation` does the rest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from trainers.ngram import kneser_ney
from trainers.ngram.counting import SENTENCE_START, Level

KINDS = ("kneser_ney", "add_k", "maximum_likelihood")


@dataclasses.dataclass(frozen=True)
class Discounted:
  """The n-grams of one length, as a smoothing sees them.

  `count` int64 [n-grams]; `taken` float64 [n-grams]: how much of the count the shorter history distributes.
  """

  count: np.ndarray
  taken: np.ndarray


@dataclasses.dataclass(frozen=True)
class Smoothing:
  """How counts become probabilities, which sum to one after every history over all words but the sentence start.

  - "kneser_ney": interpolated modified Kneser-Ney, of adjusted counts; see `trainers.ngram.kneser_ney`.
  - "maximum_likelihood": count(hw) / count(h). A word never seen after a seen history has a probability of 0; a history
    never seen leaves the answer to the shorter one. Unseen words have 0 as well, the unknown word among them.
  - "add_k": (count(hw) + k) / (count(h) + k V), V the words that can follow: the textbook's, for every history h of
    order - 1 words, or fewer where the sentence begins. So a history never seen says 1 / V, as the formula has it,
    and no shorter history is asked: n-grams shorter than the order, but for those that begin a sentence, are all at
    1 / V, and are in the model as histories and as what backing off ends in. Source: Lidstone 1920; Jurafsky and
    Martin, "Speech and Language Processing", section 3.5

  The last two are of occurrences. N-grams left out by `cutoffs` give their whole count to the shorter history (which
  makes even maximum likelihood back off); what they tell about the counts of others, such as the discounts, stays.

  Args:
    kind: one of `KINDS`.
    k: added to every count, with "add_k" alone.
    cutoffs: for n-grams of 1, 2, ... words: those that occur this often or less are left out, the last number for all
      longer ones, as of KenLM's --prune. The first is 0: which words there are is the vocabulary's matter.

  Raises:
    ValueError: an unknown kind, a k that is not above 0, or cut-offs that are no such numbers or decrease, as a
      longer n-gram would then be kept where its end or its history is not.
  """

  kind: str = "kneser_ney"
  k: float = 1.0
  cutoffs: Sequence[int] = ()

  def __post_init__(self):
    if self.kind not in KINDS:
      raise ValueError(f"no smoothing {self.kind!r}: it is one of {', '.join(KINDS)}")
    if not 0 < self.k < np.inf:
      raise ValueError(f"k is {self.k}, which is not above 0")
    cutoffs = tuple(self.cutoffs)
    if cutoffs and (cutoffs[0] != 0 or list(cutoffs) != sorted(cutoffs)):
      raise ValueError(f"cut-offs begin with 0 and do not decrease, which {list(cutoffs)} do not fulfil")
    # What a configuration gives is a list.
    object.__setattr__(self, "cutoffs", cutoffs)

  def is_kept(self, level: Level, number: int) -> np.ndarray:
    """bool [n-grams of `number` + 1 words]: what is not left out."""
    if not number or not self.cutoffs:
      return np.ones(len(level), bool)
    return level.occurrences > self.cutoffs[min(number, len(self.cutoffs) - 1)]

  def prior(self, num_words: int) -> float:
    """What is added to the total of a history, to be distributed by the shorter one among `num_words`."""
    return self.k * num_words if self.kind == "add_k" else 0.0

  def counts(self, level: Level, number: int, order: int) -> np.ndarray:
    """int64 [n-grams of `number` + 1 words], in a model of `order`."""
    if self.kind == "kneser_ney":
      return level.lefts
    if self.kind == "maximum_likelihood" or number + 1 == order:
      return level.occurrences
    # What add-k knows of shorter n-grams is that they begin sentences: there is no longer history there.
    return np.where(level.word == SENTENCE_START, level.occurrences, 0)

  def discounted(self, levels: Sequence[Level], taken: Sequence[np.ndarray]) -> list[Discounted]:
    """Of each level; `taken` float64 [4] each is from `kneser_ney.discounts`, and of Kneser-Ney's interest alone."""
    found = []
    for number, (level, discounts) in enumerate(zip(levels, taken, strict=True)):
      count = self.counts(level, number, len(levels))
      off = kneser_ney.taken_off(level, discounts) if self.kind == "kneser_ney" else np.zeros(len(level))
      found.append(Discounted(count, np.where(self.is_kept(level, number), off, count)))
    return found
