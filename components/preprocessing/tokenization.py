"""How text is cut into tokens. The command line reads this module: no TensorFlow here."""

from __future__ import annotations

from typing import Literal

from components.config import Positive, Section

# Asset of the Transform graph: the learned entries, of which the first one has the id 3.
VOCABULARY_NAME = "tokens"


class TokenizationConfig(Section):
  """How lines of text become tokens, and what the vocabulary holds."""

  # "wordpiece" and "sentencepiece" are pieces of words, learned from the training split.
  kind: Literal["words", "wordpiece", "sentencepiece", "characters"] = "words"
  lowercase: bool = True
  # Most entries that the vocabulary may have. None: 8,000 pieces, and no limit for words and characters.
  vocabulary_size: Positive | None = None
  # Words and characters seen less often in the training split are unknown.
  min_count: Positive = 2
  # Filled in for ngram.arpa: the file whose words are the vocabulary, and its digest, so that another file of the same
  # name is another configuration.
  vocabulary: str | None = None
  vocabulary_sha256: str | None = None
