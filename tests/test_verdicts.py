"""Verdicts from columns of p-values, and one correction over several tables put together."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from posneurons.verdicts import correct, judge, summarise, with_sets

NAN = np.nan


def row(a: str, b: str, p_a: float, p_b: float, **changes: object) -> dict[str, object]:
    return {
        "method": "m", "ablation": "mean", "scope": "all", "measure": "first", "tag_a": a, "tag_b": b,
        "contrast_a": 1.0, "contrast_b": 1.0, "p_a": p_a, "p_b": p_b, "p_value": np.maximum(p_a, p_b),
        "equivalence_p": NAN, **changes,
    }  # fmt: skip


def both_orders(*rows: dict[str, object]) -> pd.DataFrame:
    swapped = {
        "tag_a": "tag_b",
        "tag_b": "tag_a",
        "contrast_a": "contrast_b",
        "contrast_b": "contrast_a",
        "p_a": "p_b",
        "p_b": "p_a",
    }
    return pd.DataFrame([*rows, *({swapped.get(name, name): value for name, value in each.items()} for each in rows)])


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"equivalence_p": 0.05}, "classical"),
        ({"equivalence_p": 0.06}, "strong"),
        ({"equivalence_p": NAN}, "strong"),
        ({"p_value": 0.05}, "strong"),  # q of a single test is its p
        ({"contrast_a": -1.0, "equivalence_p": 0.01}, "one-way"),  # b's contrast is left
        ({"contrast_a": 0.0, "contrast_b": -1.0}, "none"),
        ({"p_b": 0.5, "p_value": 0.5, "equivalence_p": 0.01}, "one-way"),
        ({"p_b": NAN, "p_value": NAN}, "one-way"),
        ({"p_b": 0.5, "p_value": 0.5, "contrast_a": -1.0}, "none"),
        ({"p_a": 0.5, "p_b": 0.5, "p_value": 0.5}, "none"),
        ({"p_a": NAN, "p_b": NAN, "p_value": NAN}, "none"),
    ],
)
def test_verdicts_by_hand(changes: dict[str, float], verdict: str) -> None:
    frame = both_orders({**row("A", "B", 0.01, 0.01), **changes})
    assert judge(frame, "bh")["verdict"].tolist() == [verdict, verdict]


def test_single_contrasts_are_a_family_of_their_own() -> None:
    # Pairs: p 0.5 and 0.6. Contrasts: 0.02, 0.5, 0.04, 0.6; the second smallest becomes 0.04 * 4 / 2 = 0.08.
    frame = both_orders(row("A", "B", 0.02, 0.5), row("A", "C", 0.04, 0.6))
    found = judge(frame, "bh")
    np.testing.assert_allclose(found["q_value"], [0.6, 0.6, 0.6, 0.6])
    assert found["verdict"].tolist() == ["none", "none", "none", "none"]  # 0.02 * 4 = 0.08
    found = judge(frame.assign(p_a=frame["p_a"] / 2, p_b=frame["p_b"] / 2), "bh")
    assert found["verdict"].tolist() == ["one-way"] * 4  # 0.01 * 4 and 0.02 * 4 / 2 are 0.04
    found = judge(frame.assign(p_a=frame["p_a"] / 2, p_b=frame["p_b"] / 2), "by")
    assert set(found["verdict"]) == {"none"}  # times 1 + 1/2 + 1/3 + 1/4


@pytest.mark.parametrize("method", ["bh", "by"])
def test_the_family_is_what_is_put_together(method: str) -> None:
    p = [0.001, 0.02, 0.03, 0.2, 0.04]
    first = both_orders(row("A", "B", p[0], p[0]), row("A", "C", p[1], p[1]), row("B", "C", p[2], p[2]))
    other = both_orders(row("A", "B", p[3], p[3], ablation="zero"), row("A", "C", p[4], p[4], ablation="zero"))
    alone = judge(first, method)
    found = judge(pd.concat([alone, judge(other, method)], ignore_index=True), method)
    q = stats.false_discovery_control(p, method=method)
    np.testing.assert_allclose(found["q_value"], [*q[:3], *q[:3], *q[3:], *q[3:]])
    assert not np.allclose(found["q_value"][:6], alone["q_value"])


def test_a_column_of_another_sweep_tells_pairs_apart() -> None:
    small, large = (both_orders(row("A", "B", p, p)).assign(k=k) for k, p in ((10, 0.01), (100, 0.03)))
    np.testing.assert_allclose(judge(pd.concat([small, large]), "bh")["q_value"], [0.02, 0.02, 0.03, 0.03])
    merged = judge(pd.concat([small, large]).drop(columns="k"), "bh")
    np.testing.assert_allclose(merged["q_value"], 0.01)  # without it they are one pair


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1) | st.just(NAN), min_size=6, max_size=6), st.permutations(range(6)))
def test_order_of_rows_and_of_the_pair_does_not_matter(p: list[float], order: list[int]) -> None:
    rows = [row(a, b, p[i], p[i + 3]) for i, (a, b) in enumerate(("AB", "AC", "BC"))]
    frame = both_orders(*rows)
    found = judge(frame, "bh")
    mixed = judge(frame.iloc[order], "bh").sort_index()
    pd.testing.assert_frame_equal(found, mixed)
    once = judge(pd.DataFrame(rows), "bh")
    assert once["verdict"].tolist() == found["verdict"][:3].tolist() == found["verdict"][3:].tolist()
    np.testing.assert_array_equal(once["q_value"], found["q_value"][:3])


def test_judging_leaves_its_argument_and_takes_an_empty_table() -> None:
    frame = both_orders(row("A", "B", 0.01, 0.01))
    before = frame.copy()
    judge(frame, "bh")
    pd.testing.assert_frame_equal(frame, before)
    empty = judge(frame.iloc[:0], "bh")
    assert empty.empty
    assert {"q_value", "verdict"} <= set(empty)


def test_judging_again_gives_the_same() -> None:
    frame = judge(both_orders(row("A", "B", 0.01, 0.04), row("A", "C", 0.2, 0.01)), "bh")
    pd.testing.assert_frame_equal(judge(frame, "bh"), frame)


@pytest.mark.parametrize("method", ["bh", "by"])
def test_cells_are_corrected_over_all_key_sets(method: str) -> None:
    frame = pd.DataFrame({"set": ["key", "matched", "key", "key", "key"], "p_value": [0.01, 0.001, NAN, 0.04, 0.2]})
    found = correct(frame, method)["q_value"]
    q = stats.false_discovery_control([0.01, 0.04, 0.2], method=method)
    np.testing.assert_allclose(found, [q[0], NAN, NAN, q[1], q[2]])
    assert "q_value" not in frame


def test_words_and_sets_are_joined() -> None:
    found = with_sets(np.array([0.1, 0.3, 0.2, NAN, NAN]), np.array([0.2, 0.1, NAN, 0.1, NAN]))
    np.testing.assert_array_equal(found, [0.2, 0.3, 0.2, NAN, NAN])


def test_summary_counts_each_pair_once() -> None:
    frame = judge(both_orders(row("A", "B", 0.001, 0.001), row("C", "A", 0.001, 0.9), row("B", "C", 0.9, 0.9)), "bh")
    found = summarise(frame, 0.5, 0.01)
    assert vars(found) == {
        "difference": 0.5, "p_value": 0.01, "pairs": 3, "classical": 0, "strong": 1, "one_way": 1, "none": 1,
    }  # fmt: skip
