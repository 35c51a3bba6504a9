"""Tables of the page: cells by hand, what they are sorted by, and dashes for what is undefined."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from posneurons import run_tables
from posneurons.run_files import Run
from posneurons.run_tables import Cell


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


def ranking():
    rows = [
        # method, tag, layer, neuron, score, rank
        ("m", "NOUN", 0, 1, 0.9, 1), ("m", "NOUN", 2, 3, -0.8, 2), ("m", "VERB", 0, 1, 0.5, 1),
        ("n", "NOUN", 2, 3, 0.07, 1), ("n", "NOUN", 0, 1, 0.001, 1234), ("n", "NOUN", 5, 5, 0.06, 2),
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["method", "tag", "layer", "neuron", "score", "rank"]).assign(at="last")


def test_a_cell_is_a_text_and_what_it_is_sorted_by():
    assert run_tables.cell(-0.25) == Cell("−0.250", -0.25)
    assert run_tables.cell(1234567, ",.0f") == Cell("1,234,567", 1234570.0)  # six digits are enough to sort by
    for undefined in (None, float("nan"), float("inf")):
        text, value, _ = run_tables.cell(undefined)
        assert text == "–"
        assert np.isnan(value)


def test_the_best_neurons_stand_with_their_rank_under_every_method():
    run = Run({}, ranking=ranking(), pages=[SimpleNamespace(name="L2N3")])
    table = run_tables.best_neurons(run, "m", "last")
    assert table.head == ["tag", "neuron", "rank", "score", "n: rank", "n: score"]
    assert texts(table) == [
        ["NOUN", "L0N1", "1", "+0.9", "1,234", "+0.001"],
        ["NOUN", "L2N3", "2", "−0.8", "1", "+0.07"],
        ["VERB", "L0N1", "1", "+0.5", "–", "–"],
    ]
    assert [row[1].link for row in table.rows] == [None, "L2N3", None]
    values = [row[1].value for row in table.rows]
    assert values[0] < values[1]  # by layer, then by unit, and not as words


def test_only_the_ten_best_are_listed():
    many = pd.DataFrame({"method": "m", "at": "last", "tag": "X", "layer": 0, "neuron": range(30), "score": 1.0})
    table = run_tables.best_neurons(Run({}, ranking=many.assign(rank=range(1, 31))), "m", "last")
    assert [row[2].text for row in table.rows] == [str(rank) for rank in range(1, 11)]


def test_layers_are_counted():
    rows = pd.DataFrame({"tag": ["B", "B", "A"], "layer": [2, 2, 0]})
    table = run_tables.layer_counts(rows, 3, "m")
    assert table.head == ["layer", "B", "A"]
    assert texts(table) == [["0", "0", "1"], ["1", "0", "0"], ["2", "2", "0"]]


def test_effects_with_and_without_controls():
    known = {"lesion": "A", "tag": "B", "delta": 0.5, "ci_low": 0.4, "ci_high": 0.6, "percent": 12.5, "words": 1200}
    known |= {"delta_category": 0.25, "control_mean": 0.1, "control_low": 0.0, "control_high": 0.2, "controls": 5}
    known |= {"z_control": 3.0, "p_items": 0.001, "p_controls": 0.002, "p_others": np.nan, "q_value": 0.01}
    bare = {**known, "controls": 0, "control_mean": np.nan, "control_low": np.nan, "control_high": np.nan}
    table = run_tables.effects([known, bare], "caption", lesion=True)
    assert texts(table)[0] == [
        "A", "B", "+0.500", "+0.400 to +0.600", "+0.250", "+0.000 to +0.200", "+3.0", "0.001", "0.002", "–", "0.01",
        "1,200", "+12.5", "+0.100",
    ]  # fmt: skip
    assert [texts(table)[1][place] for place in (5, -1)] == ["–", "–"]
    assert table.rows[0][3].value == 0.4  # an interval is sorted by its lower end
    assert len(table.head) == len(table.rows[0])
    assert len(run_tables.effects([known], "caption").rows[0]) == len(table.head) - 3


def test_shared_neurons_of_one_method_and_of_two():
    row = {"method_a": "m", "tag_a": "A", "method_b": "m", "tag_b": "B", "size_a": 50, "size_b": 40, "shared": 5}
    row |= {"jaccard": 5 / 85, "overlap_coefficient": 0.125, "expected": 0.5, "p_value": 0.001, "q_value": 0.002}
    rows = pd.DataFrame([row, {**row, "tag_b": "C", "jaccard": 0.5}])
    table = run_tables.shared_neurons(rows)
    assert texts(table)[1] == ["A", "B", "50", "40", "5", "0.50", "0.059", "0.125", "0.001", "0.002"]
    assert texts(table)[0][1] == "C"  # the most alike first
    assert len(table.head) == 10
    between = run_tables.shared_neurons(rows.assign(method_b="n", tag_b="A"), between=True)
    assert between.head[:4] == ["tag", "by m", "by n", "shared"]
    assert texts(between)[1][:4] == ["A", "50", "40", "5"]
    assert len(between.head) == len(between.rows[0])


def test_words_left_out_are_summed_over_splits():
    rows = [
        {"split": "train", "tag": "A", "reason": "x", "words": 3},
        {"split": "test", "tag": "A", "reason": "x", "words": 4},
        {"split": "test", "tag": "B", "reason": "y", "words": 9},
    ]
    table = run_tables.dropped(rows)
    assert table.head == ["tag", "x", "y", "together"]
    assert texts(table) == [["B", "0", "9", "9"], ["A", "7", "0", "7"]]
    assert run_tables.dropped([]) is None


def test_options_are_words():
    table = run_tables.configuration({"methods": ["a", "b"], "seed": 0, "cache": None})
    assert texts(table) == [["methods", "a, b"], ["seed", "0"], ["cache", "None"]]


@pytest.mark.parametrize(
    ("caption", "name"),
    [("F1 of each tag.", "F1 of each tag"), ("Pairs by verdict; a note. Margin: 0.05.", "Pairs by verdict")],
)
def test_a_table_is_called_by_the_first_clause_of_its_caption(caption, name):
    assert run_tables.Table(caption, [], []).name == name
