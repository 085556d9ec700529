"""Sections that a task adds to the report."""

import json
import math

import numpy as np
import pytest

from components.report.task_sections import MAX_TABLE_ROWS, check_sections, drawn_sections

SECTION = {
  "title": "Orders",
  "text": "One.\n\nTwo.",
  "charts": [{"title": "Perplexity", "log_y": True, "series": [{"name": "a", "x": [1, 2], "y": [700.5, 1]}]}],
  "tables": [{"columns": ["word", "count"], "rows": [["다람쥐", 3], ["a", None]]}],
  "texts": [{"lines": ["plain", {"tokens": ["a"], "log_probs": [-1.0, -2.0]}]}],
}


def test_numbers_stay_numbers_and_what_is_not_finite_is_null():
  chart = {"title": "c", "series": [{"x": [1, 2.5], "y": [math.nan, np.float64(2.0)]}]}
  table = {"columns": ["a"] * 5, "rows": [["1", 1, 1.5, True, math.inf]]}
  (checked,) = check_sections([{"title": "t", "charts": [chart], "tables": [table]}])
  assert json.dumps(checked["charts"][0]["series"][0]["x"]) == "[1, 2.5]"
  assert checked["charts"][0]["series"][0]["y"] == [None, 2.0]
  assert json.dumps(checked["tables"][0]["rows"]) == '[["1", 1, 1.5, true, null]]'
  assert check_sections([checked]) == [checked]
  assert checked["text"] == "" and checked["texts"] == []


@pytest.mark.parametrize(
  "change, message",
  [
    ({"titel": "x"}, r"titel: Extra inputs are not permitted"),
    (
      {"charts": [{"title": "c", "series": [{"x": [1, 2], "y": [1]}]}]},
      r"charts\.0\.series\.0: .*2 values of x and 1",
    ),
    (
      {"charts": [{"title": "c", "series": [{"x": [1], "y": [1]}, {"x": ["a"], "y": [1]}]}]},
      r"charts\.0: .*some x are numbers and some are names",
    ),
    (
      {"tables": [{"columns": ["a", "b"], "rows": [[1, 2], [1]]}]},
      r"tables\.0: .*row 1 has 1 cells for 2 columns",
    ),
    ({"texts": [{"lines": [{"tokens": ["a"], "log_probs": [-1.0] * 3}]}]}, r"texts\.0\.lines\.0"),
  ],
)
def test_a_wrong_section_is_named_in_one_line(change, message):
  with pytest.raises(ValueError, match=r"^section 2 of the task's report \('Orders'\): " + message) as caught:
    check_sections([{"title": "fine"}, {**SECTION, **change}])
  assert "\n" not in str(caught.value)


def test_what_the_page_shows():
  (drawn,) = drawn_sections(check_sections([SECTION]))
  assert drawn["paragraphs"] == ["One.", "Two."]
  (table,) = drawn["tables"]
  assert [column["is_number"] for column in table["columns"]] == [False, True]
  assert table["rows"] == [["다람쥐", "3"], ["a", "–"]] and table["left_out"] == 0
  plain, shaded = drawn["texts"][0]["lines"]
  assert plain == {"text": "plain", "note": ""}
  assert [token["text"] for token in shaded["tokens"]["tokens"]] == ["a", "¶"]
  svg = drawn["charts"][0]["svg"]
  assert svg.startswith("<svg") and 'aria-label="Perplexity"' in svg
  assert [label in svg for label in (">1<", ">10<", ">100<", ">150<")] == [True, True, True, False]


def test_numbers_in_words_are_flush_right_and_long_tables_are_cut():
  table = {
    "columns": ["share", "name"],
    "rows": [["12.5%", "a"], ["−3", "4a"], ["1,000", ""]] * MAX_TABLE_ROWS,
  }
  (drawn,) = drawn_sections(check_sections([{"title": "t", "tables": [table]}]))
  assert [column["is_number"] for column in drawn["tables"][0]["columns"]] == [True, False]
  assert len(drawn["tables"][0]["rows"]) == MAX_TABLE_ROWS
  assert drawn["tables"][0]["left_out"] == 2 * MAX_TABLE_ROWS


def test_charts_of_all_kinds():
  bars = {
    "title": "b",
    "series": [{"name": n, "x": [f"{i}번" for i in range(9)], "y": [1.0] * 9} for n in "ab"],
  }
  curves = {
    "title": "c",
    "log_x": True,
    "lower_is_better": True,
    "series": [{"name": str(i), "x": [1, 10, 100], "y": [3.0 + i, None, 1.25 + i]} for i in range(9)],
  }
  nothing = {"title": "n", "lower_is_better": False, "series": [{"x": [], "y": []}]}
  below_zero = {
    "title": "z",
    "log_y": True,
    "lower_is_better": True,
    "series": [{"x": [1, 2], "y": [None, -1.0]}],
  }
  (drawn,) = drawn_sections(check_sections([{"title": "t", "charts": [bars, curves, nothing, below_zero]}]))
  assert [chart["title"] for chart in drawn["charts"]] == ["b", "c", "z"]
  svgs = [chart["svg"] for chart in drawn["charts"]]
  assert ">8번<" in svgs[0] and ">1.2500<" in svgs[1] and ">9.2500<" in svgs[1] and ">-1.0000<" in svgs[2]
  assert all("var(--fourth)" in svg for svg in svgs[1:2])
