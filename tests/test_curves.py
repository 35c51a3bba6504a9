"""How many neurons carry a tag, read off curves by hand; and what the figures of curves hold."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posneurons import carriers, curves
from posneurons.errors import RunError

EVIL = "<b>&</b>"


def row(**changes: Any) -> dict[str, Any]:
    base = {
        "method": "correlation", "lesion": "NOUN", "arm": "k", "k": 1, "layer": -1, "ablation": "zero", "scope": "all",
        "set": "key", "draw": 0, "tag": "NOUN", "neurons": 1, "words": 90, "delta": 0.1, "se": 0.01,
        "control_mean": 0.02, "control_sd": 0.01, "control_low": 0.01, "control_high": 0.03, "z_control": 8.0,
        "p_controls": 0.01, "p_rank": 1 / 6,
    }  # fmt: skip
    return base | changes


def table() -> pd.DataFrame:
    """NOUN rises 0.1, 0.1, 0.3, 1.0 at k = 1, 2, 4, 16, beyond controls at all but k = 2; VERB never; ADV is no tag."""
    noun = [
        row(k=k, neurons=k, delta=delta, p_controls=p)
        for k, delta, p in ((4, 0.3, 0.05), (1, 0.1, 0.01), (16, 1.0, 0.001), (2, 0.1, 0.06))
    ]
    noun += [row(k=k, tag=tag, delta=k / 100) for k in (1, 2, 4, 16) for tag in ("VERB", "ADJ")]
    noun += [row(k=1, tag="X", words=0, delta=np.nan), row(set="matched", draw=1, k=16, delta=5.0)]
    verb = [row(lesion="VERB", tag="VERB", k=k, delta=-0.1 / k, p_controls=0.9) for k in (1, 2)]
    other = [row(lesion="ADV", tag="NOUN"), row(lesion="X", tag="X", words=0, delta=np.nan)]
    layers = [
        row(arm=arm, k=4, layer=layer, neurons=4, delta=0.1 * layer)
        for arm in ("layer", "cumulative")
        for layer in (2, 0, 1)
    ]
    return pd.DataFrame([*noun, *verb, *other, *layers])


def test_carriers_by_hand() -> None:
    found = carriers.carriers(table()).set_index("lesion")
    assert list(found.index) == ["NOUN", "VERB"]  # of ADV and X no own words are measured
    noun, verb = found.loc["NOUN"], found.loc["VERB"]
    assert (noun["k_max"], noun["rise"], noun["se"], noun["k_measured"]) == (16, 1.0, 0.01, 4)
    assert noun["k_beyond"] == 4  # 1 is beyond, but 2 is not
    # Half is 0.5: from 0.3 at 4 to 1.0 at 16 the share is 2/7, and 4 * (16 / 4) ** (2 / 7) = 5.944.
    np.testing.assert_allclose(noun["k_half"], 4 * 4 ** (2 / 7))
    assert (verb["k_max"], verb["rise"]) == (2, -0.05)
    assert np.isnan(verb["k_beyond"])
    assert np.isnan(verb["k_half"])


@pytest.mark.parametrize(
    ("change", "beyond"),
    [
        ({"p_controls": 0.05}, 1),
        ({"p_controls": 0.051}, np.nan),
        ({"control_high": 0.1}, np.nan),  # one of the controls does as much
        ({"p_controls": np.nan, "control_sd": np.nan}, np.nan),  # a single control
        ({"p_controls": np.nan, "control_sd": 0.0, "control_mean": 0.0, "control_high": 0.0}, 1),  # all do nothing
        ({"p_controls": np.nan, "control_sd": 0.0}, np.nan),  # all hold the same neurons, which says nothing
        ({"p_controls": np.nan, "control_sd": np.nan, "control_high": np.nan}, np.nan),  # no control
    ],
)
def test_beyond_the_controls_is_beyond_each_and_unlike_all(change: dict[str, float], beyond: float) -> None:
    found = carriers.carriers(pd.DataFrame([row(**change)]))
    np.testing.assert_array_equal(found["k_beyond"], [beyond])
    assert found["k_half"].tolist() == [1]  # already reached by the first k


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=8))
@settings(deadline=None, max_examples=100)
def test_half_lies_between_the_points_that_enclose_it(rise: list[float]) -> None:
    ks, values = 2 ** np.arange(len(rise)), np.array(rise)
    half = carriers.k_half(ks, values)
    if not values[-1] / 2 > 0:
        assert np.isnan(half)
        return
    reached = int(np.flatnonzero(values >= values[-1] / 2)[0])
    assert ks[max(reached - 1, 0)] * (1 - 1e-9) <= half <= ks[reached] * (1 + 1e-9)
    assert half <= ks[-1] * (1 + 1e-9)


def test_half_is_of_the_end_and_not_of_the_highest_point() -> None:
    # Half of the end is 1, a quarter of the way from 0 to 4: 1 * 4 ** (1 / 4).
    np.testing.assert_allclose(carriers.k_half(np.array([1, 4, 16]), np.array([0.0, 4.0, 2.0])), 4**0.25)


@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_beyond_is_the_first_of_the_last_run(beyond: list[bool]) -> None:
    ks = np.arange(1, len(beyond) + 1)
    slow = [int(k) for k in ks if all(beyond[k - 1 :])]
    found = carriers.k_beyond(ks, np.array(beyond))
    assert found == slow[0] if slow else np.isnan(found)


def test_lines_say_which_tags_and_where_half_is() -> None:
    found = carriers.carriers(pd.concat([table(), table().assign(scope="local")]))
    assert carriers.lines(found) == [
        f"correlation, zero ablation{where}: 1 of 2 tags lose more than under matched random sets from some k on"
        " (p <= 0.05 at each k, not corrected; by chance about 0.1)"
        " (NOUN 4); half of the full rise is reached at k = 5.94 (median of the tags)"
        for where in ("", ", scope local")
    ]
    assert carriers.lines(carriers.carriers(table().query("lesion == 'VERB'"))) == [
        (
            "correlation, zero ablation: 0 of 1 tags lose more than under matched random sets from some k on"
            " (p <= 0.05 at each k, not corrected; by chance about 0.1)"
        )
    ]


def test_a_k_curve_holds_the_tag_its_controls_and_the_other_tags() -> None:
    figure = curves.k_curve(table(), "NOUN")
    band, mean, others, own = figure.data
    assert list(own.x) == [1, 2, 4, 16]
    assert list(own.y) == [0.1, 0.1, 0.3, 1.0]
    assert list(own.error_y.array) == [0.02] * 4
    assert "16 neurons" in own.hovertext[-1]
    assert list(others.y) == [0.01, 0.02, 0.04, 0.16]
    assert list(band.x) == [1, 2, 4, 16, 16, 4, 2, 1]
    assert list(band.y) == [0.03] * 4 + [0.01] * 4
    assert list(mean.y) == [0.02] * 4
    assert figure.layout.xaxis.type == "log"
    assert list(figure.layout.xaxis.tickvals) == [1, 2, 4, 16]
    bare = table().assign(control_mean=np.nan, control_low=np.nan, control_high=np.nan)
    assert [trace.name for trace in curves.k_curve(bare, "VERB").data] == ["VERB, own neurons (± 2 standard errors)"]


def test_layers_are_bars_and_growing_layers_a_line() -> None:
    alone, growing = curves.layer_curve(table(), "NOUN"), curves.layer_curve(table(), "NOUN", "cumulative")
    assert [trace.type for trace in alone.data] == ["scatter", "scatter", "bar"]
    assert [trace.type for trace in growing.data] == ["scatter", "scatter", "scatter"]
    for figure in (alone, growing):
        assert list(figure.data[-1].x) == [0, 1, 2]
        np.testing.assert_allclose(figure.data[-1].y, [0, 0.1, 0.2])
        assert (figure.layout.xaxis.type, figure.layout.xaxis.dtick) == ("linear", 1)
    deep = pd.DataFrame([row(arm="layer", layer=layer) for layer in range(32)])
    assert curves.layer_curve(deep, "NOUN").layout.xaxis.dtick == 4


def test_a_menu_shows_one_tag_at_a_time() -> None:
    single = {tag: curves.k_curve(table(), tag) for tag in ("NOUN", "VERB")}
    whole = curves.by_tag(single)
    assert [trace.visible for trace in whole.data] == [True] * 4 + [False] * 3
    first, second = whole.layout.updatemenus[0].buttons
    assert whole.layout.updatemenus[0].name == "tag"
    assert (first.label, second.label) == ("NOUN", "VERB")
    assert first.args[0]["visible"] == [True] * 4 + [False] * 3
    assert second.args[0]["visible"] == [False] * 4 + [True] * 3
    assert single["VERB"].data[0].visible is None
    with pytest.raises(RunError, match="curves: no figure was given; expected one for each tag"):
        curves.by_tag({})


def test_names_from_data_are_shown_letter_by_letter() -> None:
    frame = table().replace({"NOUN": EVIL})
    text = json.dumps(json.loads(curves.by_tag({EVIL: curves.k_curve(frame, EVIL)}).to_json()))
    assert "&lt;b&gt;&amp;&lt;/b&gt;" in text
    assert EVIL not in text


def test_errors_say_what_to_do() -> None:
    mixed = pd.concat([table(), table().assign(ablation="mean")])
    with pytest.raises(RunError, match="curves: ablation is zero, mean; expected one of them, choose its rows first"):
        curves.k_curve(mixed, "NOUN")
    with pytest.raises(RunError, match=r"no lesion of VERB in the arm 'layer' .* sweep it with --arm layer"):
        curves.layer_curve(table(), "VERB")
