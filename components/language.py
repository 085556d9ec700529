"""What the language tasks have in common, as the callables of a Task.

The command line reads this module: TensorFlow and Keras are imported inside functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.config import Positive, RunConfig, Section, TextDataConfig
from components.preprocessing.tokenization import VOCABULARY_NAME
from components.task import Feature, Task, TransformOutputs

# The feature of the materialised examples: sentences without start and end.
TOKEN_IDS = "token_ids"


class AnswersConfig(Section):
  """What the signatures of a served language model answer."""

  # Tokens that `next_token` returns.
  next_tokens: Positive = 10
  # The k of top-k accuracy, in the place of evaluation.top_k: the exported model counts the hits.
  top_k: Positive = 5


def language_task(**fields: Any) -> Task:
  """A Task on lines of text: what all language models share, and `fields` of its own."""
  shared = {
    "raw_features": {"text": Feature("bytes")},
    "labels": {},
    "read": read,
    "resolve": resolve,
    "preprocess": preprocess,
    "parse": parse,
    "augment": augment,
    "loss": loss,
    "training_metrics": training_metrics,
    "quality_metric": "perplexity",
    "lower_is_better": True,
    "predict": predict,
    "signatures": signatures,
    "tensor_inputs": tensor_inputs,
    "eval_config": eval_config,
    "encode_input": encode_input,
    "decode_output": decode_output,
    "decode_generated": decode_generated,
    "render": render,
    "report": report,
  }
  return Task(**{**shared, **fields})


def vocabulary(outputs: TransformOutputs) -> list[str]:
  """All words in the order of their ids."""
  from trainers.ngram.arpa import SPECIAL_WORDS

  return [*SPECIAL_WORDS, *outputs.vocabulary(VOCABULARY_NAME)]


def read(data: TextDataConfig) -> Any:
  """Reader of text files, one sentence or passage a line."""
  from components.example_gen.text import TextReader

  return TextReader(
    data.path,
    lines_per_group=data.lines_per_group,
    max_line_bytes=data.max_line_bytes,
    drop_duplicates=data.drop_duplicates,
  )


def resolve(config: RunConfig) -> RunConfig:
  """Nothing is "auto"; settings that do not go together are found before anything runs."""
  if config.ngram is not None:
    from trainers.ngram.smoothing import Smoothing

    Smoothing(config.ngram.smoothing, config.ngram.add_k, config.ngram.cutoffs)
    if config.ngram.arpa:
      return _with_arpa(config)
  elif any(step.step == "interpolate" for step in config.compression.recipe):
    raise ValueError(
      "compression.recipe: interpolate mixes in n-grams; set ngram.order=5, or leave the step out"
    )
  return config


def _with_arpa(config: RunConfig) -> RunConfig:
  """The configuration with what the ARPA file says: its order, and its words as the vocabulary."""
  import hashlib
  import os

  from trainers.ngram.arpa_reader import read_arpa_words

  path, kind = os.path.abspath(config.ngram.arpa), config.preprocessing.kind
  if kind not in ("words", "characters"):
    raise ValueError(f"preprocessing.kind={kind}: ngram.arpa brings whole words; use words or characters")
  digest = hashlib.sha256()
  try:
    order, _ = read_arpa_words(path)
    with open(path, "rb") as file:
      while block := file.read(1 << 20):
        digest.update(block)
  except OSError as error:
    raise ValueError(f"ngram.arpa={config.ngram.arpa}: {error.strerror or error}") from None
  # Validated again: what the file says may be out of a setting's range.
  ngram = {**config.ngram.model_dump(), "arpa": path, "order": order, "compare_orders": False}
  try:
    changed = type(config.ngram).model_validate(ngram)
  except ValueError:
    raise ValueError(f"{path} has n-grams of {order} words; at most 6 can be read") from None
  words = config.preprocessing.model_copy(
    update={"vocabulary": path, "vocabulary_sha256": digest.hexdigest()}
  )
  return config.model_copy(update={"ngram": changed, "preprocessing": words})


def preprocess(inputs: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
  """Token ids and the number of characters."""
  from components.sentences import preprocess_text

  return preprocess_text(inputs["text"], config.preprocessing)


def parse(features: Mapping[str, Any], config: RunConfig, outputs: Any) -> tuple[Any, Any]:
  """Sentences as token ids, int64 [batch, length], twice: each token is the target of those before it."""
  from components.sentences import parse_sentences

  token_ids = parse_sentences(features)
  return token_ids, token_ids


def augment(config: RunConfig, outputs: Any) -> None:
  """Text is taken as it is."""
  return


def loss(config: RunConfig) -> Any:
  """Cross-entropy, in nats per token."""
  from trainers.losses import TokenLoss

  return TokenLoss()


def training_metrics(config: RunConfig) -> list[Any]:
  """Perplexity, the sentences' ends counted."""
  from trainers.losses import Perplexity

  return [Perplexity()]


def predict(model: Any, inputs: Any, features: Any, config: RunConfig, outputs: Any) -> dict[str, Any]:
  """Log probability of each sentence and of its tokens."""
  from components.sentences import score_sentences

  return score_sentences(model, inputs, features, vocabulary(outputs))


def signatures(model: Any, to_inputs: Any, config: RunConfig, outputs: Any) -> dict[str, Any]:
  """The next token's distribution, generation, what the Evaluator adds up; the embedding of a text."""
  from components.sentences import embed_signature, language_signatures

  found = language_signatures(
    model, to_inputs, vocabulary(outputs), config.preprocessing.kind, config.answers
  )
  # An n-gram model has no word vectors.
  vectors = getattr(model, "embeddings", None)
  return found if vectors is None else {**found, "embed": embed_signature(vectors, to_inputs)}


def tensor_inputs(config: RunConfig, outputs: Any) -> dict[str, Any]:
  """Token ids of sentences: </s> at the end of each, and <s> where nothing is left."""
  import tensorflow as tf

  return {"token_ids": tf.TensorSpec([None, None], tf.int64, name="token_ids")}


def eval_config(config: RunConfig) -> Any:
  """Perplexity with and without unknown words, bits per character; slices; thresholds."""
  from components.evaluation import language_eval_config

  return language_eval_config(config.evaluation, config.answers.top_k)


def encode_input(text: str) -> dict[str, Any]:
  """A line of text as the reader would read it.

  Raises:
    ValueError: the line is no text.
  """
  from components.example_gen.text import clean_line

  return {"text": clean_line(text.encode("utf-8", "surrogateescape")).encode("utf-8")}


def decode_output(outputs: Mapping[str, Any]) -> dict[str, Any]:
  """The answer to one sentence; `token_log_probs` has one value more than `tokens`, that of the sentence's end."""
  count = int(outputs["num_tokens"])
  return {
    "tokens": [token.decode("utf-8") for token in outputs["tokens"][: count - 1]],
    "token_log_probs": [float(value) for value in outputs["token_log_probs"][:count]],
    "log_prob": float(outputs["log_prob"]),
    "perplexity": float(outputs["perplexity"]),
  }


def decode_generated(outputs: Mapping[str, Any]) -> dict[str, Any]:
  """The generated text."""
  return {"text": outputs["text"].decode("utf-8", "replace")}


def render(features: Mapping[str, Any], outputs: Mapping[str, Any] | None) -> str:
  """The sentence, with its perplexity where it is known."""
  text = features["text"]
  text = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
  return f"{text}\nperplexity {outputs['perplexity']:.1f}" if outputs else text


def report(config: RunConfig, inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
  """The vocabulary, the n-grams by order, word vectors, and generated sentences: what there is of them."""
  from components.language_report import (
    generated_section,
    orders_section,
    vectors_section,
    vocabulary_section,
  )

  sections = [
    vocabulary_section(config, inputs),
    orders_section(inputs),
    vectors_section(inputs),
    generated_section(config, inputs),
  ]
  return [section for section in sections if section]
