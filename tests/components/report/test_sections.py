"""The page of a language model's run: lower is better, the examples are text, and the task has sections of its own."""

import importlib.util
import json
import math
import pathlib
import re

import pytest

from components.report.content import collect
from components.report.page import write_report
from components.report.pictures import collect_pictures


def load(name, folder):
  spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


HERE = pathlib.Path(__file__).parent
given = load("language_artifacts", HERE)
Page = load("report_artifacts", HERE.parent).Page


@pytest.fixture(scope="module")
def report(tmp_path_factory):
  """(pictures, report.json, report.html)."""
  root = tmp_path_factory.mktemp("language")
  inputs = given.make_artifacts(root)
  config = given.make_config()
  pictures = collect_pictures(given.TASK, config, inputs)
  write_report(str(root / "report"), collect(given.TASK, config, inputs, pictures), pictures)
  document = json.loads((root / "report" / "report.json").read_text(encoding="utf-8"))
  return pictures, document, (root / "report" / "report.html").read_text(encoding="utf-8")


def words(html):
  return "".join(Page(html).text).replace("\u202f", " ").replace("\u00a0", " ")


def model(name):
  return given.WordModel(given.TRAIN, given.BIGRAM_SHARE[name])


def perplexity(word_model, sentences):
  log_probs = [value for sentence in sentences for value in word_model.log_probs(sentence)]
  return math.exp(-sum(log_probs) / len(log_probs))


def test_the_refusal_in_words(report):
  _, document, html = report
  sentences = [text for text, _ in given.TEST]
  base, compressed = (perplexity(model(name), sentences) for name in ("base_model", "model"))
  assert document["metrics"]["base"]["perplexity"] == pytest.approx(base, rel=1e-5)
  assert document["metrics"]["compressed"]["perplexity"] == pytest.approx(compressed, rel=1e-5)
  assert document["lower_is_better"] is True and document["blessed"] is False
  assert document["failures"] == document["evaluation"]["failures"] and len(document["failures"]) == 2
  assert f"{compressed:.2f}at most 2.0000" in words(html).replace("\n", "")
  assert f"at most 1.5000 above the uncompressed model, which has {base:.4f}" in words(html)
  assert f"uncompressed {base:.4f}; lower is better" in words(html)


def test_best_epoch_is_the_one_of_the_lowest_perplexity(report):
  assert "best validation perplexity 60.34 after epoch 2" in words(report[2])
  assert "perplexity (lower is better)" in words(report[2])


def test_slices_have_the_highest_perplexity_first_and_bars_relative_to_it(report):
  _, document, html = report
  values = {name: row["perplexity"] for name, row in document["evaluation"]["slices"]["source"].items()}
  assert values["한국어"] > values["animals"]
  rows = re.findall(r'<td class="name">([^<]+)</td>.*?width:([\d.]+)%', html.split('class="slices"')[1])
  assert [name for name, _ in rows[:2]] == ["한국어", "animals"]
  assert float(rows[0][1]) == 100
  assert float(rows[1][1]) == pytest.approx(100 * values["animals"] / values["한국어"], abs=0.06)


def test_the_least_likely_sentences_come_first_and_only_once(report):
  pictures, document, html = report
  word_model = model("model")
  sentences = sorted({text for text, _ in given.TEST}, key=lambda text: -perplexity(word_model, [text]))
  found = document["surprises"]
  assert found["scored"] == len(given.TEST) and len(found["worst"]) == len(sentences)
  assert {row["text"] for row in found["worst"]} == set(sentences)
  expected = [perplexity(word_model, [text]) for text in sentences]
  assert [row["perplexity"] for row in found["worst"]] == pytest.approx(expected, rel=1e-5)
  assert found["worst"][-1] == {
    "text": sentences[-1],
    "perplexity": pytest.approx(expected[-1], rel=1e-5),
    "num_tokens": len(sentences[-1].split()) + 1,
  }
  assert pictures.answers.typical == []  # all seven are among the most surprising
  assert "mistakes" not in document and "surprises" in Page(html).ids


def test_tokens_are_shaded_by_their_own_log_probability(report):
  html = report[2]
  word_model = model("model")
  shades = [min(-value / math.log(2) / 16, 1) for value in word_model.log_probs("the zebra sleeps")]
  spans = re.findall(r'<span style="--a:([\d.]+)" title="([^"]+)">([^<]+)</span>', html)
  at = next(i for i, span in enumerate(spans) if span[2] == "&lt;unk&gt;")
  shown = spans[at - 1 : at + 3]
  assert [span[2] for span in shown] == ["the", "&lt;unk&gt;", "sleeps", "¶"]
  assert [float(span[0]) for span in shown] == pytest.approx(shades, abs=0.006)
  assert shown[3][1].startswith("end of the sentence: ")
  # Where a word is unknown the sentence is there as it was read.
  assert "· the zebra sleeps" in words(html)


def test_samples_are_lines_of_text(report):
  html = report[2]
  assert '<p class="line">the cat sleeps</p>' in html
  assert "<b>나무</b>" not in html and "&lt;b&gt;나무&lt;/b&gt;" in html


def test_the_tasks_own_sections(report):
  _, document, html = report
  first, second = document["sections"]
  assert second == {"title": "Nothing but a title", "text": "", "charts": [], "tables": [], "texts": []}
  assert first["tables"][0]["rows"][1] == ["다람쥐", "토끼", None, None]
  page = Page(html)
  assert page.tags.count("svg") == 2 + 2 + 1  # learning curves, its own charts, compression
  assert len(page.ids) == len(set(page.ids))
  text = words(html)
  for shown in (
    "What more words of history <i>bring</i>.",
    "queen, prince",
    "0.7123",
    "temperature 0.8",
    "add-k",
  ):
    assert shown in text
  assert "unlikely words ¶" in text and "146.20" in text


def test_the_page_is_self_contained(report):
  page = Page(report[2])
  assert not {"script", "link", "iframe", "object", "base", "img"} & set(page.tags)
  assert all(address.startswith("#") for address in page.addresses)
