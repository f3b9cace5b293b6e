"""Rows: means against NumPy's, files against their readers, tables against text."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from khuvcm_tf.results import rows

ROWS = [
  {"name": "a", "bytes": 100, "ap": 30.0, "aps": math.nan},
  {"name": "inf", "bytes": 201, "ap": math.inf, "aps": 0.1},
]


@settings(deadline=None)
@given(st.lists(st.floats(0, 100) | st.just(math.nan), min_size=1))
def test_the_mean_leaves_nan_out_and_counts_the_rest(values):
  means, counts = rows.mean([{"name": "x", "ap": value} for value in values], ["ap"])
  assert counts == {"ap": np.count_nonzero(~np.isnan(values))}
  expected = np.nanmean(values) if counts["ap"] else math.nan
  assert means["ap"] == pytest.approx(expected, nan_ok=True)


def test_an_infinite_value_makes_the_mean_infinite():
  assert rows.mean(ROWS, ["bytes", "ap"])[0] == {"bytes": 150.5, "ap": math.inf}


def test_groups_come_in_the_order_of_their_first_rows():
  found = [{"a": a, "b": b, "c": i} for i, (a, b) in enumerate(["yx", "xx", "yx", "yz"])]
  groups = rows.grouped(found, "a", "b")
  assert list(groups) == [("y", "x"), ("x", "x"), ("y", "z")]
  assert [row["c"] for row in groups["y", "x"]] == [0, 2]


def test_csv_has_every_digit_and_an_empty_cell_for_nan(tmp_path):
  found = [
    {"name": "é,", "x": 0.1 + 0.2},
    {"name": "b", "x": math.nan},
    {"name": "c", "x": math.inf},
  ]
  rows.write_csv(str(tmp_path / "r.csv"), found)
  with (tmp_path / "r.csv").open(newline="", encoding="utf-8") as file:
    cells = list(csv.DictReader(file))
  assert float(cells[0]["x"]) == 0.1 + 0.2 and cells[0]["name"] == "é,"
  assert [row["x"] for row in cells[1:]] == ["", "inf"]


def test_json_is_strict_with_null_for_nan_and_a_text_for_infinity(tmp_path):
  rows.write_json(str(tmp_path / "r.json"), {"rows": ROWS, "pair": (1, -math.inf)})
  text = (tmp_path / "r.json").read_text(encoding="utf-8")
  content = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
  assert content["rows"][0] == {"name": "a", "bytes": 100, "ap": 30.0, "aps": None}
  assert content["rows"][1] == {"name": "inf", "bytes": 201, "ap": "inf", "aps": 0.1}
  assert content["pair"] == [1, "-inf"]


@given(st.floats() | st.integers())
def test_numbers_come_back_from_json(value):
  back = rows.number(json.loads(json.dumps(rows.to_json(value), allow_nan=False)))
  assert (back == value or (math.isnan(back) and math.isnan(value))) and type(back) is type(value)


def test_a_table_aligns_text_left_and_numbers_right():
  lines = [["name", "at", "bytes"], None, ["long name", "q5", "7"], ["b", "", "1234567"]]
  assert rows.table(lines, texts=2).splitlines() == [
    "name       at    bytes",
    "----------------------",
    "long name  q5        7",
    "b              1234567",
  ]


def test_quantities_have_a_title_and_format_values():
  psnr = rows.Quantity("psnr", "PSNR", "dB")
  assert (psnr.title, psnr.format(30.126), psnr.format(math.inf)) == ("PSNR (dB)", "30.13", "inf")
  name = rows.Quantity("name", "Name", decimals=None)
  assert (name.title, name.format("x")) == ("Name", "x")
