"""What the language tasks make of their configuration."""

import hashlib
import pathlib

import pytest

from components.language import resolve
from pipeline.tasks.language_model import LanguageModelConfig
from pipeline.tasks.ngram_language_model import NgramLanguageModelConfig

ARPA = pathlib.Path(__file__).parents[1] / "data" / "genesis.arpa"


def config(arpa, kind="words", **ngram):
  return NgramLanguageModelConfig(ngram={"arpa": str(arpa), **ngram}, preprocessing={"kind": kind})


def test_an_arpa_file_brings_its_order_and_its_words():
  resolved = resolve(config(ARPA, order=6))
  assert (resolved.ngram.order, resolved.ngram.compare_orders, resolved.ngram.arpa) == (3, False, str(ARPA))
  assert resolved.preprocessing.vocabulary == str(ARPA)
  assert resolved.preprocessing.vocabulary_sha256 == hashlib.sha256(ARPA.read_bytes()).hexdigest()


def test_what_is_wrong_with_an_arpa_file_is_told_in_one_line(tmp_path):
  with pytest.raises(ValueError, match=r"^ngram\.arpa=.*missing\.arpa: No such file or directory$"):
    resolve(config(tmp_path / "missing.arpa"))
  with pytest.raises(
    ValueError, match=r"^preprocessing\.kind=wordpiece: ngram\.arpa brings whole words; use words"
  ):
    resolve(config(ARPA, "wordpiece"))
  (tmp_path / "binary.arpa").write_bytes(bytes(range(256)))
  with pytest.raises(ValueError, match=r"binary\.arpa, line \d+: "):
    resolve(config(tmp_path / "binary.arpa"))
  long = "\\data\\\n" + "".join(f"ngram {length}=1\n" for length in range(1, 8)) + "\n\\1-grams:\n-1\ta\n"
  (tmp_path / "long.arpa").write_text(long)
  with pytest.raises(ValueError, match=r"long\.arpa has n-grams of 7 words; at most 6 can be read$"):
    resolve(config(tmp_path / "long.arpa"))


def test_without_one_nothing_changes():
  plain = NgramLanguageModelConfig()
  assert resolve(plain) is plain


def test_nothing_can_be_mixed_with_n_grams_that_there_are_not():
  recipe = {"recipe": [{"step": "interpolate"}]}
  assert resolve(LanguageModelConfig(ngram={"order": 2}, compression=recipe)).ngram.order == 2
  with pytest.raises(
    ValueError, match=r"^compression\.recipe: interpolate mixes in n-grams; set ngram\.order=5"
  ):
    resolve(LanguageModelConfig(compression=recipe))
