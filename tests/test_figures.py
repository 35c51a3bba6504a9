"""Figures: the numbers that they draw, what hovering says, and that names are shown letter by letter."""

import json

import numpy as np
import pandas as pd
import pytest

from posneurons import figures, run_rows, theme
from posneurons.errors import RunError

EVIL = "<b>&</b>"


def lesions(**changes):
    """Two tags, key sets and two controls; NOUN's own lesion +0.5 nats against controls of +0.1 and +0.3."""
    rows = [
        # lesion, tag, draw, delta, q
        ("NOUN", "NOUN", 0, 0.5, 0.01),
        ("NOUN", "VERB", 0, -0.2, 0.2),
        ("VERB", "NOUN", 0, 0.1, 0.05),
        ("VERB", "VERB", 0, 0.8, np.nan),
        ("NOUN", "NOUN", 1, 0.1, np.nan),
        ("NOUN", "NOUN", 2, 0.3, np.nan),
        ("NOUN", "NOUN", 1, 9.0, np.nan),
    ]
    frame = pd.DataFrame(rows, columns=["lesion", "tag", "draw", "delta", "q_value"])
    frame["set"] = ["key"] * 4 + ["matched"] * 2 + ["bottom"]
    rest = {"method": "m", "scope": "all", "ablation": "mean", "words": 1000, "loss_intact": 2.0, "z_control": 2.5}
    parts = {"percent": 50 * frame["delta"], "delta_category": frame["delta"] / 4}
    frame = frame.assign(**rest, **parts, ci_low=frame["delta"] - 0.1, ci_high=frame["delta"] + 0.2)
    return frame.assign(**changes)


def result(**changes):
    scores = {"accuracy": 0.9, "macro_f1": 0.8}
    baselines = {"majority": {"accuracy": 0.3, "macro_f1": 0.1}, "mine": {"accuracy": 0.5}}
    confusion = [[3, 1], [0, 0]]
    return {
        "at": "last",
        "classes": ["NOUN", EVIL],
        "confusion": confusion,
        **scores,
        "baselines": baselines,
        **changes,
    }


def test_controls_stand_beside_their_lesion():
    cells = run_rows.with_controls(lesions(), "mean").set_index(["lesion", "tag"])
    own = cells.loc[("NOUN", "NOUN")]
    assert own[["controls", "control_mean", "control_low", "control_high", "percent"]].tolist() == pytest.approx(
        [2, 0.2, 0.1, 0.3, 25.0]  # 0.5 of 2 nats
    )
    assert len(cells) == 4
    assert cells.loc[("VERB", "VERB"), "controls"] == 0
    assert np.isnan(cells.loc[("VERB", "VERB"), "control_mean"])


def test_another_ablation_and_mixed_methods_are_errors():
    with pytest.raises(RunError, match=r"^lesions: no ablation 'zero'; the frame has mean$"):
        figures.lesion_matrix(lesions(), "zero")
    with pytest.raises(RunError, match="method is a, b; expected one of them, choose its rows first"):
        figures.lesion_against_controls(lesions(method=["a", *"bababa"]), "mean")


def test_matrix_is_centred_marked_and_ordered():
    (trace,) = figures.lesion_matrix(lesions(), "mean", ["VERB", "NOUN"]).data
    assert list(trace.x) == list(trace.y) == ["VERB", "NOUN"]
    assert np.asarray(trace.z, dtype=float).tolist() == [[0.8, 0.1], [-0.2, 0.5]]
    assert (trace.zmin, trace.zmax) == (-0.8, 0.8)
    assert np.asarray(trace.text).tolist() == [["", "•"], ["", "•"]]  # q of 0.05 counts; no q, no mark
    assert trace.hovertext[1][1] == (
        "lesion of <b>NOUN</b>, measured on <b>NOUN</b><br>+0.500 nats (95 % interval +0.400 to +0.700)"
        "<br>+25.0 % of the intact loss"
        "<br>category part +0.125<br>2 controls: mean +0.200, +0.100 to +0.300; z 2.5<br>q 0.01; 1,000 words"
    )
    assert "no controls" in trace.hovertext[0][0]
    assert "−0.200 nats" in trace.hovertext[1][0]


def test_matrix_can_be_coloured_by_what_the_frame_has():
    figure = figures.lesion_matrix(lesions(), "mean", ["VERB", "NOUN"])
    whole, category, z, q = figure.layout.updatemenus[0].buttons
    assert [button.label[:8] for button in (whole, category, z, q)] == ["change (", "category", "z agains", "q-value"]
    change = category.args[0]
    assert np.asarray(change["z"][0], dtype=float).tolist() == [[0.2, 0.025], [-0.05, 0.125]]
    assert (change["zmin"], change["zmax"], change["colorbar.title.text"]) == (-0.2, 0.2, category.label)
    assert np.asarray(whole.args[0]["z"][0]).tolist() == np.asarray(figure.data[0].z).tolist()
    only = figures.lesion_matrix(lesions(delta_category=np.nan, z_control=np.nan, q_value=np.nan), "mean")
    assert not only.layout.updatemenus


def test_q_values_are_coloured_by_their_logarithm_and_gaps_stay_gaps():
    figure = figures.lesion_matrix(lesions(), "mean", ["NOUN", "VERB"])
    shade = figure.layout.updatemenus[0].buttons[-1].args[0]
    # 0.01, 0.2; 0.05 and undefined: -log10 is 2, 0.699; 1.301.
    np.testing.assert_allclose(shade["z"][0], [[2, -np.log10(0.2)], [-np.log10(0.05), np.nan]])
    assert (shade["zmin"], shade["zmax"]) == (0, 4)
    assert dict(zip(shade["colorbar.ticktext"][0], shade["colorbar.tickvals"][0], strict=True)) == pytest.approx(
        {"1": 0, "0.1": 1, "0.05": 1.30103, "0.01": 2, "0.001": 3, "≤ 0.0001": 4}
    )
    tiny = figures.lesion_matrix(lesions(q_value=1e-9), "mean").layout.updatemenus[0].buttons[-1].args[0]
    assert np.asarray(tiny["z"][0]).tolist() == [[4, 4], [4, 4]]
    back = figure.layout.updatemenus[0].buttons[0].args[0]
    assert list(back["colorbar.tickvals"]) == [None]  # the ticks of q go with it


@pytest.mark.parametrize(("largest", "end"), [(4.0, 4.0), (300.0, 10.0)])
def test_colours_of_z_end_at_ten(largest, end):
    buttons = figures.lesion_matrix(lesions(z_control=largest), "mean").layout.updatemenus[0].buttons
    shade = next(button.args[0] for button in buttons if button.label.startswith("z against"))
    assert (shade["zmin"], shade["zmax"]) == (-end, end)
    assert np.asarray(shade["z"][0]).max() == largest


def test_tags_without_words_are_not_columns():
    frame = lesions()
    (trace,) = figures.lesion_matrix(frame.assign(words=np.where(frame["tag"] == "VERB", 0, 5)), "mean").data
    assert list(trace.x) == ["NOUN"]
    assert list(trace.y) == ["NOUN", "VERB"]


def test_own_effects_stand_against_their_controls():
    figure = figures.lesion_against_controls(lesions(), "mean")
    own, dots = figure.data
    assert list(own.y) == ["NOUN", "VERB"]
    assert list(own.x) == [0.5, 0.8]
    assert list(own.error_x.array) == pytest.approx([0.2, 0.2])
    assert list(own.error_x.arrayminus) == pytest.approx([0.1, 0.1])
    assert list(dots.x) == [0.1, 0.3]
    assert list(figure.layout.yaxis.categoryarray) == ["NOUN", "VERB"]  # from the bottom: the largest is on top


def test_layer_profile_counts():
    top = pd.DataFrame({"tag": ["NOUN", "NOUN", "VERB"], "layer": [0, 0, 2]})
    (trace,) = figures.layer_profile(top, 3, ["VERB", "NOUN"]).data
    assert np.asarray(trace.z).tolist() == [[0, 2], [0, 0], [1, 0]]
    assert np.asarray(trace.text).tolist() == [["", "2"], ["", ""], ["1", ""]]
    assert trace.hovertext[0][1] == "<b>NOUN</b>, layer 0<br>2 key neurons"


def test_probe_bars_hold_every_baseline_at_every_position():
    bars = figures.probe_bars([result(), result(at="predict", accuracy=0.7)]).data
    assert [bar.name for bar in bars] == ["probe on key neurons", "most frequent tag of all", "mine"]
    assert [list(axis) for axis in bars[0].x] == [
        ["at last", "at last", "at predict", "at predict"],
        ["accuracy", "macro-F1", "accuracy", "macro-F1"],
    ]
    assert list(bars[0].y) == [0.9, 0.8, 0.7, 0.8]
    assert list(bars[2].y) == [0.5, None, 0.5, None]


def test_confusion_is_of_rows_and_undefined_without_words():
    (trace,) = figures.confusion(result()).data
    np.testing.assert_allclose(trace.z, [[0.75, 0.25], [np.nan, np.nan]])
    assert trace.hovertext[0][0] == "<b>NOUN</b> read as <b>NOUN</b><br>3 of 4 words (75.0 %)"
    assert (trace.zmin, trace.zmax) == (0, 1)


@pytest.mark.parametrize("dark", [False, True])
def test_heatmaps_take_their_scale_from_the_template(dark):
    scales = theme.template(dark=dark).layout.colorscale
    assert [place for place, _ in scales.diverging][3] == 0.5
    assert len(scales.sequential) == 5


def test_names_from_data_are_shown_letter_by_letter():
    shown = "&lt;b&gt;&amp;&lt;/b&gt;"
    frame = lesions().replace({"NOUN": EVIL})
    top = pd.DataFrame({"tag": [EVIL], "layer": [0]})
    drawn = [
        figures.lesion_matrix(frame, "mean"),
        figures.lesion_against_controls(frame, "mean"),
        figures.layer_profile(top, 1, [EVIL]),
        figures.probe_bars([result(at=EVIL, baselines={EVIL: {"accuracy": 0.5}})]),
        figures.confusion(result()),
    ]
    for figure in drawn:
        text = json.dumps(json.loads(figure.to_json()))
        assert shown in text
        assert EVIL not in text


def test_error_bars_reach_from_the_value_to_the_ends():
    bars = theme.error_bars(pd.Series([0.1, np.nan]), [0.3, 0.3], np.array([0.6, 0.6]), width=0)
    assert bars["array"] == pytest.approx([0.3, 0.3])
    assert bars["arrayminus"][0] == pytest.approx(0.2)
    assert np.isnan(bars["arrayminus"][1])
    assert (bars["symmetric"], bars["width"]) == (False, 0)
