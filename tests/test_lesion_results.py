"""Tables of lesions, from a few words whose numbers are known, and from studies where it is known what is there."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from lesions_by_hand import INTACT, RISE, build_result, build_study, cell, diagonal
from scipy import stats

from posneurons import significance
from posneurons.errors import RunError
from posneurons.lesion_results import Losses

FRAME_COLUMNS = [  # of lesions.parquet
    "method", "lesion", "ablation", "scope", "set", "draw", "tag", "words", "loss_intact", "loss_lesioned", "delta",
    "percent", "perplexity_ratio", "delta_word", "delta_category", "delta_lexical", "ci_low", "ci_high",
    "ci_low_two_way", "ci_high_two_way", "category_ci_low", "category_ci_high", "p_items", "p_rank", "p_controls",
    "p_others", "p_value", "q_value", "z_control", "delta_types", "delta_without_top5", "effective_types",
]  # fmt: skip
KEY_ONLY = FRAME_COLUMNS[FRAME_COLUMNS.index("ci_low") :]


def test_frame_has_a_row_per_condition_and_tag() -> None:
    frame = build_result().to_frame()
    assert frame.columns.tolist() == FRAME_COLUMNS
    assert frame["lesion"].tolist() == ["NOUN"] * 9 + ["VERB"] * 3
    assert frame["set"].tolist() == ["key"] * 3 + ["matched"] * 6 + ["key"] * 3
    assert frame["draw"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0]
    assert frame["tag"].tolist() == ["NOUN", "VERB", "X"] * 4
    assert frame["words"].tolist() == [2, 3, 0] * 4
    for name, value in (("method", "correlation"), ("ablation", "mean"), ("scope", "all")):
        assert set(frame[name]) == {value}


def test_numbers_by_hand() -> None:
    frame = build_result().to_frame()
    np.testing.assert_allclose(frame["loss_intact"], [2, 3, np.nan] * 4)
    deltas = [1, 0.1, np.nan, 0.2, 0.3, np.nan, 0.4, 0.1, np.nan, 0.1, 2, np.nan]
    np.testing.assert_allclose(frame["delta"], deltas, atol=1e-12)
    np.testing.assert_allclose(frame["loss_lesioned"], frame["loss_intact"] + frame["delta"])
    np.testing.assert_allclose(frame["percent"][:5], [50, 10 / 3, np.nan, 10, 10])
    np.testing.assert_allclose(frame["perplexity_ratio"], np.exp(deltas))
    assert frame[["delta_word", "delta_category", "delta_lexical"]].isna().all(axis=None)


def test_tests_against_controls_by_hand() -> None:
    frame = build_result().to_frame()
    own, other = cell(frame, "NOUN", 0, "NOUN"), cell(frame, "NOUN", 0, "VERB")
    # Controls on NOUN: 0.2 and 0.4, mean 0.3, standard deviation sqrt(2 * 0.1**2 / 1); on VERB 0.3 and 0.1.
    assert own["z_control"] == pytest.approx((1 - 0.3) / 0.02**0.5)
    assert other["z_control"] == pytest.approx((0.1 - 0.2) / 0.02**0.5)
    assert own["p_controls"] == pytest.approx(stats.t.sf((1 - 0.3) / (0.02 * 3 / 2) ** 0.5, 1))
    assert other["p_controls"] == pytest.approx(2 * stats.t.sf((0.2 - 0.1) / (0.02 * 3 / 2) ** 0.5, 1))
    assert own["p_rank"] == pytest.approx(1 / 3)  # no control reaches 1
    assert other["p_rank"] == pytest.approx(3 / 3)  # 0.3 and 0.1 both do
    names = ["z_control", "p_controls", "p_rank"]
    assert frame[(frame["lesion"] == "VERB") | (frame["tag"] == "X")][names].isna().all(axis=None)  # none, no words
    assert frame["p_others"].isna().all()  # fewer than three other tags


def test_word_types_by_hand() -> None:
    frame = build_result().to_frame()
    own = cell(frame, "VERB", 0, "VERB")
    # Types of VERB: one with 1 and 2, one with 3: means 1.5 and 3. Shares 2/3 and 1/3.
    assert own["delta_types"] == pytest.approx(2.25)
    assert own["effective_types"] == pytest.approx(np.exp(-2 / 3 * np.log(2 / 3) - 1 / 3 * np.log(1 / 3)))
    assert np.isnan(own["delta_without_top5"])  # no sixth type
    assert np.isnan(cell(frame, "VERB", 0, "X")["effective_types"])
    many = build_study(diagonal(1, 0, 3))
    rest = many.to_frame().query("lesion == 'A' and tag == 'B'").iloc[0]
    rises = (many.losses - many.loss_intact)[0]
    forms = many.word_type[many.word_tag == 1]
    top = sorted(set(forms.tolist()), key=lambda form: (-(forms == form).sum(), form))[:5]
    assert rest["delta_without_top5"] == pytest.approx(rises[many.word_tag == 1][~np.isin(forms, top)].mean())


def test_what_is_for_key_sets_stands_at_key_sets_only() -> None:
    frame = build_result(kind=("key", "matched", "bottom", "key"), draw=np.array([0, 1, 1, 0])).to_frame()
    assert frame.loc[frame["set"] != "key", KEY_ONLY].isna().all(axis=None)
    assert frame.loc[frame["tag"] == "X", KEY_ONLY].isna().all(axis=None)
    keys = frame[(frame["set"] == "key") & (frame["tag"] != "X")]
    always = ["ci_low", "ci_high", "ci_low_two_way", "ci_high_two_way", "p_items", "p_value", "q_value", "delta_types"]
    assert keys[always].notna().all(axis=None)
    own = cell(frame, "NOUN", 0, "NOUN")
    assert np.isnan(own["z_control"])  # the bottom set is no matched one
    assert np.isnan(own["p_controls"])
    assert own["p_rank"] == pytest.approx(1 / 2)


def test_intervals_and_p_are_those_of_significance() -> None:
    result = build_result()
    frame = result.to_frame()
    sums = significance.cluster_sums(RISE[[0, 3]], result.word_tag, result.word_cluster, 3)
    counts = significance.cluster_sums(np.ones((1, 5)), result.word_tag, result.word_cluster, 3)[:, 0]
    rng = np.random.default_rng(0)
    low, high = significance.bootstrap_interval(sums, counts, draws=500, rng=rng)
    p = significance.sign_flip_p(sums, draws=500, rng=rng, one_sided=True)
    low2, high2 = significance.two_way_interval(
        result.losses[[0, 3]] - result.loss_intact, result.word_tag, result.word_cluster, result.word_type, 3,
        draws=500, rng=rng,
    )  # fmt: skip
    keys = frame[frame["set"] == "key"]
    for name, values in zip(
        ["ci_low", "ci_high", "p_items", "ci_low_two_way", "ci_high_two_way"], [low, high, p, low2, high2], strict=True
    ):
        np.testing.assert_allclose(keys[name], values.ravel(), atol=1e-12)
    # NOUN has 0.5 in one cluster and 1.5 in the other, so resamples have 0.5, 1 or 1.5 per word.
    assert (low[0, 0], high[0, 0]) == pytest.approx((0.5, 1.5))
    expected = np.fmax(keys["p_items"], keys["p_controls"])
    np.testing.assert_allclose(keys["p_value"], expected)
    tested = keys["p_value"].dropna()
    np.testing.assert_allclose(keys["q_value"].dropna(), stats.false_discovery_control(tested))


def test_two_way_draws_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = significance.two_way_interval

    def spy(*args: Any, draws: int, **options: Any) -> Any:
        asked.append(draws)
        return real(*args, draws=10, **options)

    monkeypatch.setattr(significance, "two_way_interval", spy)
    build_result(draws=300).to_frame()
    build_result(draws=3000).to_frame()
    assert asked == [300, 2000]


def test_by_is_stricter_than_bh() -> None:
    lenient, strict = (build_study(diagonal(1, 0, 3), correction=name).to_frame() for name in ("bh", "by"))
    ratio = (strict["q_value"] / lenient["q_value"])[lenient["q_value"] < 0.1]
    np.testing.assert_allclose(ratio, sum(1 / i for i in range(1, 10)))  # nine cells


def test_other_tags_sets_by_a_slow_loop() -> None:
    result = build_study(diagonal(1, 0.2, 5))
    frame = result.to_frame().set_index(["lesion", "tag"])
    delta = frame["delta"]
    for lesion, tag in frame.index:
        others = [delta[name, tag] for name in result.tags if name not in (lesion, tag)]
        n = len(others)
        t = (delta[lesion, tag] - np.mean(others)) / (np.std(others, ddof=1) * np.sqrt((n + 1) / n))
        assert frame["p_others"][lesion, tag] == pytest.approx(stats.t.sf(t, n - 1))
    three = frame[["p_items", "p_controls", "p_others"]]
    assert frame["p_value"].to_numpy() == pytest.approx(three.max(axis=1).to_numpy(), nan_ok=True)
    assert (three["p_others"] == frame["p_value"]).any()
    four = build_study(diagonal(1, 0.2, 4)).to_frame()
    assert (four["p_others"].notna() == (four["lesion"] == four["tag"])).all()  # off the diagonal, two others are left


def test_a_set_that_changes_nothing_has_no_p_however_its_controls_differ() -> None:
    losses = build_result().losses.copy()
    losses[0] = INTACT
    frame = build_result(losses=losses).to_frame()
    own = cell(frame, "NOUN", 0, "NOUN")
    assert own["delta"] == 0
    assert own["p_controls"] > 0.5  # below its controls, and still tested
    assert own[["p_items", "p_value", "q_value"]].isna().all()


def test_a_rise_that_random_sets_do_as_well_is_none() -> None:
    frame = build_study(diagonal(1, 0, 3), controls=8, spread=2).to_frame()
    own = frame[(frame["set"] == "key") & (frame["lesion"] == frame["tag"])]
    assert (own["p_items"] < 0.01).all()
    assert (own["p_controls"] > 0.05).all()
    assert own["p_value"].tolist() == own["p_controls"].tolist()
    assert (own["q_value"] > 0.05).all()


def test_a_strong_effect_is_found_and_none_is_rarely() -> None:
    false = 0
    for seed in range(10):
        frame = build_study(diagonal(1, 0, 3), controls=8, spread=0.1, seed=seed, draws=500).to_frame()
        frame = frame[frame["set"] == "key"]
        own = frame["lesion"] == frame["tag"]
        assert (frame[own]["q_value"] < 0.05).all()
        assert (frame[own]["ci_low"] > 0.5).all()
        assert ((frame["ci_low"] <= frame["delta"]) & (frame["delta"] <= frame["ci_high"])).all()
        false += int((frame[~own]["q_value"] <= 0.05).sum())
    # Beside 30 true discoveries, a rate of 5 % allows about two false ones; more than 6 have a chance below 1 %.
    assert false <= 6


def test_controls_that_never_differ_give_no_z() -> None:
    losses = build_result().losses.copy()
    losses[2] = losses[1]
    assert build_result(losses=losses).to_frame()[["z_control", "p_controls"]].isna().all(axis=None)


def test_frame_of_float32_losses_is_the_same() -> None:
    result = build_result()
    single = build_result(
        loss_intact=result.loss_intact.astype(np.float32), losses=result.losses.astype(np.float32)
    ).to_frame()
    for name in ("delta", "ci_low", "ci_high", "z_control", "p_controls"):
        np.testing.assert_allclose(single[name], result.to_frame()[name], rtol=1e-5, atol=1e-5)


def test_the_split_adds_up_and_the_word_loss_stands_beside() -> None:
    rng = np.random.default_rng(3)
    more = {
        name: Losses(rng.uniform(size=5).astype(np.float32), rng.uniform(size=(4, 5)).astype(np.float32))
        for name in ("category", "word")
    }
    result = build_result(more=more)
    frame = result.to_frame()
    np.testing.assert_allclose(frame["delta_category"] + frame["delta_lexical"], frame["delta"], rtol=0, atol=1e-15)
    for name in ("category", "word"):
        rises = more[name].lesioned.astype(float) - more[name].intact
        expected = [[rise[:2].mean(), rise[2:].mean(), np.nan] for rise in rises]
        np.testing.assert_allclose(frame[f"delta_{name}"], np.ravel(expected), atol=1e-12)
    keys = frame[(frame["set"] == "key") & (frame["tag"] != "X")]
    assert (keys["category_ci_low"] <= keys["delta_category"]).all()
    assert (keys["delta_category"] <= keys["category_ci_high"]).all()
    assert build_result().to_frame()["category_ci_low"].isna().all()


def test_tables_are_copies_and_the_same_each_time() -> None:
    result = build_result()
    frame = result.to_frame()
    pd.testing.assert_frame_equal(frame, build_result().to_frame())
    frame["delta"] = 0.0
    assert result.to_frame()["delta"].abs().max() > 1
    pd.testing.assert_frame_equal(result.dissociations(), build_result().dissociations())


def test_matrix_has_lesions_as_rows_and_tags_as_columns() -> None:
    matrix = build_result().matrix()
    assert matrix.index.tolist() == ["NOUN", "VERB"]
    assert matrix.columns.tolist() == ["NOUN", "VERB", "X"]
    np.testing.assert_allclose(matrix, [[1, 0.1, np.nan], [0.1, 2, np.nan]], atol=1e-12)


def test_matrix_of_any_column_and_of_what_is_tested() -> None:
    result = build_result()
    np.testing.assert_allclose(result.matrix("percent").to_numpy()[:, :2], [[50, 10 / 3], [5, 200 / 3]])
    assert result.matrix("delta_category").shape == (2, 3)
    assert result.matrix("z_control").notna().to_numpy().tolist() == [[True, True, False], [False] * 3]
    study = build_study(diagonal(1, 0, 3), controls=8)
    table, q = study.matrix(tested=True), study.matrix("q_value")
    assert (table.notna() == (q <= 0.05)).all(axis=None)
    pd.testing.assert_frame_equal(table, study.matrix().where(q <= 0.05))
    assert 3 <= table.notna().to_numpy().sum() < 9
    with pytest.raises(RunError, match=r"^matrix: no column 'lesion'; expected one of words, loss_intact"):
        study.matrix("lesion")


def test_the_matrix_of_effects_needs_no_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    result = build_result()
    monkeypatch.delattr(significance, "bootstrap_interval")
    assert result.matrix().shape == (2, 3)
    with pytest.raises(AttributeError):
        result.matrix("ci_low")


def test_matrix_keeps_the_order_of_lesions_and_of_tags() -> None:
    result = build_result()
    order = [3, 0, 1, 2]
    matrix = build_result(
        tags=("X", "VERB", "NOUN"),
        word_tag=2 - result.word_tag,
        lesion=tuple(result.lesion[c] for c in order),
        kind=tuple(result.kind[c] for c in order),
        draw=result.draw[order],
        losses=result.losses[order],
    ).matrix()
    assert matrix.index.tolist() == ["VERB", "NOUN"]
    assert matrix.columns.tolist() == ["X", "VERB", "NOUN"]
    np.testing.assert_allclose(matrix, [[np.nan, 2, 0.1], [np.nan, 0.1, 1]], atol=1e-12)
