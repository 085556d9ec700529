"""Questions to a real server about sentences, and texts that it generates."""

import pytest
import tensorflow as tf

from components.language import language_task
from components.sentences import language_signatures, parse_sentences, score_sentences
from pipeline.prediction import Generation, ServingError, predict_inputs, read_lines
from pipeline.tasks.image_classification import TASK as PICTURES
from pipeline.tasks.language_model import LanguageModelConfig
from serving.export import export_saved_model
from serving.options import ServerOptions
from serving.server import ModelServer
from trainers.models.ngram import NgramModel
from trainers.ngram.arpa_reader import read_arpa

ARPA = """\\data\\
ngram 1=5
ngram 2=4

\\1-grams:
-1.0\t<unk>\t0
-99\t<s>\t-9
-9\t</s>
-9\the\t-9
-9\tsleeps\t-9

\\2-grams:
-0.1\t<s> he
-0.1\the sleeps
-0.1\tsleeps </s>
-0.5\t<s> sleeps

\\end\\
"""
WORDS = ["<unk>", "<s>", "</s>", "he", "sleeps"]
TASK = language_task(name="two_words", config_class=LanguageModelConfig, build_model=None)
GREEDY = Generation(max_length=5, temperature=0.0, top_k=0, top_p=1.0, seed=1)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
  """A model of two words with the signatures of the language tasks."""
  folder = tmp_path_factory.mktemp("served")
  (folder / "small.arpa").write_text(ARPA)
  model = NgramModel.from_backoff_model(read_arpa(str(folder / "small.arpa")))

  def to_inputs(text):
    words = tf.strings.split(text)
    ids = sum(tf.cast(words == word, tf.int64) * number for number, word in enumerate(WORDS))
    return parse_sentences({"token_ids": ids}), {}

  def score(text):
    return score_sentences(model, to_inputs(text)[0], {}, WORDS)

  settings = LanguageModelConfig().answers
  endpoints = {
    "serving_default": (score, {"text": tf.TensorSpec([None], tf.string)}),
    **language_signatures(model, to_inputs, WORDS, "words", settings),
  }
  export_saved_model(str(folder / "models" / "1"), [], endpoints)
  server = ModelServer(ServerOptions(port=0), {"words": str(folder / "models")})
  server.start()
  assert server.wait_until_available(240)
  yield server
  server.stop()


def ask(server, inputs, task=TASK, **settings):
  arguments = {"server": server.address, "model_name": "words", "timeout_s": 60, **settings}
  return list(predict_inputs(task, inputs, **arguments))


def test_scores_are_those_of_the_table(server):
  (answer,) = ask(server, [" he sleeps "])
  outputs = answer["outputs"]
  assert outputs["tokens"] == ["he", "sleeps"]
  assert outputs["token_log_probs"] == pytest.approx([-0.2302585] * 3, rel=1e-5)
  assert outputs["log_prob"] == pytest.approx(-0.6907755, rel=1e-5)
  assert outputs["perplexity"] == pytest.approx(10**0.1, rel=1e-5)


def test_generated_text_goes_on_from_the_input(server):
  answers = ask(server, ["", "he", "he sleeps"], generation=GREEDY)
  assert [answer["outputs"]["text"] for answer in answers] == ["he sleeps", "sleeps", ""]
  (answer,) = ask(server, [""], generation=Generation(1, 0.0, 0, 1.0, 1))
  assert answer["outputs"]["text"] == "he"


def test_the_same_seed_generates_the_same_text(server):
  def texts(seeds):
    settings = [Generation(3, 5.0, 0, 1.0, seed) for seed in seeds]
    return [ask(server, [""], generation=generation)[0]["outputs"]["text"] for generation in settings]

  assert texts(range(8)) == texts(range(8))
  assert len(set(texts(range(8)))) > 1


def test_texts_are_saved(server, tmp_path):
  answers = ask(server, ["he sleeps", "a/b"], save_dir=str(tmp_path))
  assert [answer["saved"] for answer in answers] == [
    str(tmp_path / "0000_text.txt"),
    str(tmp_path / "0001_text.txt"),
  ]
  assert (tmp_path / "0000_text.txt").read_text() == "he sleeps\nperplexity 1.3\n"


def test_a_task_that_generates_nothing(server):
  with pytest.raises(ServingError, match="^--generate: image_classification generates no text$"):
    ask(server, ["a.png"], PICTURES, generation=GREEDY)


def test_lines_of_a_file(tmp_path):
  (tmp_path / "a.txt").write_bytes("\ufeffone\n\n 가 나\r\n".encode())
  assert [line.strip() for line in read_lines(str(tmp_path / "a.txt"))] == ["one", "가 나"]
  (tmp_path / "b.txt").write_bytes(b"\xff")
  for name in ("b.txt", "missing.txt"):
    with pytest.raises(ServingError, match=f"^--file .*{name}: "):
      read_lines(str(tmp_path / name))
