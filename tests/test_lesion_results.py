"""Tables of lesions, from a few words whose numbers are known, and from studies where it is known what is there."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from posneurons import dissociation, significance
from posneurons.errors import RunError
from posneurons.lesion_results import LesionResult, Losses
from posneurons.neurons import NeuronSet

FRAME_COLUMNS = [  # of lesions.parquet
    "method", "lesion", "ablation", "scope", "set", "draw", "tag", "words", "loss_intact", "loss_lesioned", "delta",
    "percent", "perplexity_ratio", "delta_word", "delta_category", "delta_lexical", "ci_low", "ci_high",
    "ci_low_two_way", "ci_high_two_way", "category_ci_low", "category_ci_high", "p_items", "p_rank", "p_controls",
    "p_others", "p_value", "q_value", "z_control", "delta_types", "delta_without_top5", "effective_types",
]  # fmt: skip
KEY_ONLY = FRAME_COLUMNS[FRAME_COLUMNS.index("ci_low") :]
PAIR_COLUMNS = [
    "method", "ablation", "scope", "measure", "tag_a", "tag_b", "contrast_a", "contrast_b", "p_items", "p_sets", "p_a",
    "p_b", "p_value", "q_value", "cross_a", "cross_b", "equivalence_p", "margin", "verdict",
]  # fmt: skip
INTACT = np.array([1.0, 3.0, 2.0, 2.0, 5.0])
RISE = np.array(
    [
        [0.5, 1.5, 0.0, 0.3, 0.0],  # NOUN: 1.0 on NOUN, 0.1 on VERB
        [0.1, 0.3, 0.3, 0.3, 0.3],  # its first control: 0.2, 0.3
        [0.5, 0.3, 0.3, 0.0, 0.0],  # its second control: 0.4, 0.1
        [0.0, 0.2, 1.0, 2.0, 3.0],  # VERB: 0.1 on NOUN, 2.0 on VERB
    ]
)


def build_result(**overrides: Any) -> LesionResult:
    """Five words of NOUN NOUN VERB VERB VERB; X has none. Lesions of NOUN (with two controls) and of VERB."""
    fields: dict[str, Any] = {
        "method": "correlation",
        "ablation": "mean",
        "scope": "all",
        "tags": ("NOUN", "VERB", "X"),
        "word_tag": np.array([0, 0, 1, 1, 1]),
        "word_cluster": np.array([0, 1, 0, 1, 1]),
        "word_type": np.array([0, 1, 2, 2, 3]),
        "lesion": ("NOUN", "NOUN", "NOUN", "VERB"),
        "kind": ("key", "matched", "matched", "key"),
        "draw": np.array([0, 1, 2, 0]),
        "loss_intact": INTACT,
        "losses": INTACT + RISE,
        "draws": 500,
        "seed": 0,
        **overrides,
    }
    fields.setdefault("neurons", tuple(NeuronSet.parse([f"L0N{c}"]) for c in range(len(fields["lesion"]))))
    return LesionResult(**fields)


def build_keys(names: Sequence[str], rise: np.ndarray, **overrides: Any) -> LesionResult:
    """The five words under key sets only."""
    kinds = {"kind": ("key",) * len(names), "draw": np.zeros(len(names), dtype=np.int64)}
    return build_result(lesion=tuple(names), losses=INTACT + rise, **kinds, **overrides)


def build_study(
    effects: Sequence[Sequence[float]], *, controls: int = 0, spread: float = 0.02, seed: int = 1, **overrides: Any
) -> LesionResult:
    """60 sentences with two words of each tag; `effects` is the expected matrix, noise has a standard deviation of 1.

    Matched sets raise every tag's loss by nothing but noise of their own: `spread` for each set and tag. What a word
    would suffer under any lesion (its sensitivity) is the same under all sets, as with real words.
    """
    rng = np.random.default_rng(seed)
    n_tags = len(effects)
    tags = tuple("ABCDEFGH"[:n_tags])
    word_tag = np.tile(np.arange(n_tags), 120)
    sets = np.repeat(np.arange(n_tags), controls + 1)
    draw = np.tile(np.arange(controls + 1), n_tags)
    table = np.where(draw[:, None] == 0, np.array(effects)[sets], rng.normal(size=(len(sets), n_tags)) * spread)
    rise = table[:, word_tag] + rng.normal(size=len(word_tag)) + 0.1 * rng.normal(size=(len(sets), len(word_tag)))
    intact = rng.uniform(1, 5, len(word_tag))
    fields = {
        "tags": tags,
        "word_tag": word_tag,
        "word_cluster": np.repeat(np.arange(60), 2 * n_tags),
        "word_type": np.arange(len(word_tag)) // 3,
        "lesion": tuple(tags[i] for i in sets),
        "kind": tuple("matched" if number else "key" for number in draw),
        "draw": draw,
        "loss_intact": intact,
        "losses": intact + rise,
        "draws": 2000,
    }
    return build_result(**{**fields, **overrides})


def diagonal(own: float, other: float, n_tags: int) -> list[list[float]]:
    """`own` on the diagonal, `other` around it, with small fixed differences between the others' sets."""
    ripple = 0.01 * np.cos(np.arange(n_tags * n_tags)).reshape(n_tags, n_tags)
    return (np.where(np.eye(n_tags, dtype=bool), own, other) + ripple).tolist()


def cell(frame: pd.DataFrame, lesion: str, draw: int, tag: str) -> pd.Series:
    found = frame[(frame["lesion"] == lesion) & (frame["draw"] == draw) & (frame["tag"] == tag)]
    assert len(found) == 1
    return found.iloc[0]


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


def test_dissociations_by_hand() -> None:
    pairs = build_result().dissociations()
    assert pairs.columns.tolist() == PAIR_COLUMNS
    assert pairs[["tag_a", "tag_b"]].to_numpy().tolist() == [["NOUN", "VERB"], ["VERB", "NOUN"]]
    assert set(pairs["measure"]) == {"first"}
    # NOUN suffers 1.0 from its own lesion and 0.1 from VERB's; VERB 2.0 from its own and 0.1 from NOUN's.
    np.testing.assert_allclose(pairs["contrast_a"], [0.9, 1.9])
    np.testing.assert_allclose(pairs["contrast_b"], [1.9, 0.9])
    # Two clusters cannot prove anything: one of four sign vectors reaches the sum.
    assert pairs["p_value"].between(0.2, 0.3).all()
    assert pairs["p_value"][0] == pairs["p_value"][1]
    assert pairs["p_sets"].isna().all()  # VERB has no controls, and there are no other tags
    # On VERB, the lesion of NOUN does 0.1 and its controls 0.2 in the mean; VERB has none.
    np.testing.assert_allclose(pairs["cross_a"], [-0.1, np.nan])
    np.testing.assert_allclose(pairs["cross_b"], [np.nan, -0.1])
    assert pairs["equivalence_p"].isna().all()
    assert set(pairs["verdict"]) == {"none"}


def test_parts_of_a_pair_by_slow_loops() -> None:
    result = build_study(diagonal(0.3, 0.1, 5), controls=4, spread=0.1)
    pairs = result.dissociations().set_index(["tag_a", "tag_b"])
    rise = result.losses - result.loss_intact
    mean = {
        (name, int(draw), tag): rise[c, result.word_tag == j].mean()
        for c, (name, draw) in enumerate(zip(result.lesion, result.draw, strict=True))
        for j, tag in enumerate(result.tags)
    }

    def sets(a: str, b: str) -> float:
        """The larger p of the contrast on a, against matched sets and against the other tags' sets."""
        contrast = mean[a, 0, a] - mean[b, 0, a]
        null = [mean[a, r, a] - mean[b, r, a] for r in range(1, 5)]
        t = (contrast - np.mean(null)) / (np.std(null, ddof=1) * np.sqrt(5 / 4))
        spread = np.std([mean[c, 0, a] for c in result.tags if c not in (a, b)], ddof=1)
        return float(max(stats.t.sf(t, 3), stats.t.sf(contrast / (spread * np.sqrt(2)), 2)))

    for a, b in permutations(result.tags, 2):
        row = pairs.loc[(a, b)]
        assert row["contrast_a"] == pytest.approx(mean[a, 0, a] - mean[b, 0, a])
        assert row["cross_a"] == pytest.approx(mean[a, 0, b] - np.mean([mean[a, r, b] for r in range(1, 5)]))
        assert row["cross_b"] == pytest.approx(pairs.loc[(b, a), "cross_a"])
        assert row["p_sets"] == pytest.approx(max(sets(a, b), sets(b, a)))
        assert row["p_a"] >= sets(a, b) - 1e-12
        assert row["p_value"] == max(row["p_a"], row["p_b"]) == pytest.approx(max(row["p_items"], row["p_sets"]))


def test_equivalence_is_paired_within_clusters() -> None:
    """Words differ by 1 nat in how they suffer, the same under all sets: only the difference of sets counts."""
    result = build_study(diagonal(0.5, 0.0, 3), controls=5, spread=0.01)
    pairs = result.dissociations().set_index(["tag_a", "tag_b"])
    rise = result.losses - result.loss_intact

    def p(a: str, b: str) -> float:
        mine = [name == a and kind == "matched" for name, kind in zip(result.lesion, result.kind, strict=True)]
        key = result.lesion.index(a)
        gap = rise[key] - rise[mine].mean(0)
        of_b = result.word_tag == result.tags.index(b)
        sums = np.bincount(result.word_cluster[of_b], weights=gap[of_b]) / 2  # two words in every cluster
        return float(
            max(
                stats.ttest_1samp(sums, -0.05, alternative="greater").pvalue,
                stats.ttest_1samp(sums, 0.05, alternative="less").pvalue,
            )
        )

    for a, b in permutations(result.tags, 2):
        assert pairs.loc[(a, b), "equivalence_p"] == pytest.approx(max(p(a, b), p(b, a)), rel=1e-6)
    assert (pairs["equivalence_p"] < 0.05).all()


@pytest.mark.parametrize(
    ("other", "margin", "verdict"),
    [(0.0, 0.05, "classical"), (0.3, 0.05, "strong"), (0.3, 0.5, "classical"), (0.0, 0.001, "strong")],
)
def test_a_planted_double_dissociation(other: float, margin: float, verdict: str) -> None:
    """Classical where the other tag is spared as by random sets, within the margin; strong where both are impaired."""
    pairs = build_study(diagonal(1, other, 3), controls=10, margin=margin).dissociations()
    assert len(pairs) == 6
    assert set(pairs["verdict"]) == {verdict}
    assert set(pairs["margin"]) == {margin}
    np.testing.assert_allclose(pairs["contrast_a"], 1 - other, atol=0.1)
    assert (pairs["q_value"] < 0.01).all()


def test_without_controls_two_tags_are_judged_by_words_only() -> None:
    pairs = build_study(diagonal(1, 0, 2)).dissociations()
    assert pairs["p_sets"].isna().all()
    assert pairs["equivalence_p"].isna().all()  # so never classical
    assert (pairs["p_value"] == pairs["p_items"]).all()
    assert pairs["verdict"].tolist() == ["strong", "strong"]


def test_two_tags_with_controls_are_judged_by_both() -> None:
    pairs = build_study(diagonal(1, 0, 2), controls=10).dissociations()
    assert (pairs["p_sets"] < 0.01).all()
    assert pairs["verdict"].tolist() == ["classical", "classical"]
    wild = build_study(diagonal(1, 0, 2), controls=10, spread=2).dissociations()
    assert (wild["p_items"] < 0.01).all()
    assert (wild["p_sets"] > 0.05).all()
    assert wild["verdict"].tolist() == ["none", "none"]  # random sets do as much


def test_without_controls_the_other_tags_sets_are_the_judge() -> None:
    pairs = build_study(diagonal(1, 0, 6)).dissociations()
    assert (pairs["p_sets"] < 0.05).all()
    assert set(pairs["verdict"]) == {"strong"}
    effects = (
        np.random.default_rng(0).normal(size=(6, 6)).tolist()
    )  # sets of the same kind, whoever they are named after
    wild = build_study(effects).dissociations()
    assert ((wild["p_items"] < 0.01).sum()) > 0
    assert "strong" not in set(wild["verdict"])


def test_controls_of_one_tag_only_test_no_pair_and_uneven_ones_are_cut() -> None:
    full = build_study(diagonal(1, 0, 3), controls=6)
    keep = [c for c in range(len(full.lesion)) if not (full.lesion[c] == "A" and full.draw[c] > 4)]
    keep = [c for c in keep if not (full.lesion[c] == "C" and full.draw[c] > 0)]
    names = ("tags", "word_tag", "word_cluster", "word_type", "loss_intact", "draws")
    cut = build_result(
        **{name: getattr(full, name) for name in names},
        lesion=tuple(full.lesion[c] for c in keep), kind=tuple(full.kind[c] for c in keep), draw=full.draw[keep],
        losses=full.losses[keep],
    ).dissociations().set_index(["tag_a", "tag_b"])  # fmt: skip
    assert cut["p_sets"].notna().tolist() == [set(pair) == {"A", "B"} for pair in cut.index]
    four = build_study(diagonal(1, 0, 3), controls=6)
    keep = np.flatnonzero(four.draw <= 4)
    same = build_result(
        **{name: getattr(four, name) for name in names},
        lesion=tuple(four.lesion[c] for c in keep), kind=tuple(four.kind[c] for c in keep), draw=four.draw[keep],
        losses=four.losses[keep],
    ).dissociations().set_index(["tag_a", "tag_b"])  # fmt: skip
    assert cut.loc[("A", "B"), "p_sets"] == pytest.approx(same.loc[("A", "B"), "p_sets"])


def test_a_lesion_that_hurts_every_tag_alike_dissociates_nothing() -> None:
    """A general deficit, however large, is no dissociation, and noise is none either."""
    verdicts = [
        verdict
        for seed in range(10)
        for verdict in build_study(np.ones((4, 4)).tolist(), controls=6, seed=seed, draws=500).dissociations()[
            "verdict"
        ]
    ]
    assert verdicts.count("strong") + verdicts.count("classical") == 0
    assert verdicts.count("one-way") <= 0.05 * len(verdicts)


def test_one_sided_effects_are_one_way() -> None:
    """The lesion of A hurts A only, the lesion of B hurts both alike: c_A = 1 - 1 = 0 and c_B = 1 - 0."""
    pairs = build_study([[1, 0], [1, 1]], controls=10).dissociations()
    assert pairs["verdict"].tolist() == ["one-way", "one-way"]
    assert pairs["contrast_a"][0] == pytest.approx(0, abs=0.1)
    assert pairs["contrast_b"][0] == pytest.approx(1, abs=0.1)
    assert pairs["p_a"][0] > 0.05 > pairs["p_b"][0]
    assert pairs["p_a"].tolist() == pairs["p_b"].tolist()[::-1]
    wild = build_study([[1, 0], [1, 1]], controls=10, spread=2).dissociations()
    assert set(wild["verdict"]) == {"none"}  # a single contrast needs both kinds of test as well


def test_pairs_are_corrected_once() -> None:
    pairs = build_study(diagonal(0.03, 0, 4), controls=10, seed=1).dissociations()
    table = pairs.set_index(["tag_a", "tag_b"])
    once = list(combinations("ABCD", 2))
    for column in ("p_items", "p_sets", "p_value", "q_value", "equivalence_p", "verdict"):
        assert all(table.loc[(a, b), column] == table.loc[(b, a), column] for a, b in once)
    # Each pair stands in the table twice; the correction is the one over the six unordered pairs.
    q = stats.false_discovery_control([table.loc[pair, "p_value"] for pair in once])
    np.testing.assert_allclose([table.loc[pair, "q_value"] for pair in once], q)


def test_the_category_part_is_judged_by_itself() -> None:
    whole = build_study(diagonal(1, 0, 3), controls=6)
    none = np.zeros_like(whole.losses)
    lexical = build_study(diagonal(1, 0, 3), controls=6, more={"category": Losses(whole.loss_intact * 0, none)})
    assert set(lexical.dissociations()["verdict"]) == {"classical"}
    category = lexical.dissociations(category=True)
    assert set(category["measure"]) == {"category"}
    assert set(category["verdict"]) == {"none"}
    assert (category["contrast_a"] == 0).all()
    assert lexical.summary(category=True).difference == 0
    moved = build_study(diagonal(1, 0, 3), controls=6, more={"category": Losses(whole.loss_intact, whole.losses)})
    same = moved.dissociations(category=True).drop(columns="measure")
    pd.testing.assert_frame_equal(same, moved.dissociations().drop(columns="measure"))


def test_category_losses_that_were_not_measured_are_one_clear_line() -> None:
    sentence = (
        r"^lesion of correlation: its category losses were not measured; expected 'category' beside first; "
        r"lesion again with this measure$"
    )
    with pytest.raises(RunError, match=sentence):
        build_result().dissociations(category=True)
    with pytest.raises(RunError, match=sentence):
        build_keys(["NOUN"], RISE[:1]).summary(category=True)


def test_summary_counts_pairs_and_tests_the_matrix() -> None:
    result = build_study(diagonal(1, 0.3, 5), controls=6)
    summary = result.summary()
    matrix = result.matrix().to_numpy()
    off = matrix[~np.eye(5, dtype=bool)].mean()
    assert summary.difference == pytest.approx(np.diag(matrix).mean() - off)
    rng = np.random.default_rng(0)
    assert summary.p_value == dissociation.matrix_test(matrix, draws=2000, rng=rng).p_value <= 0.05
    assert (summary.pairs, summary.strong, summary.classical, summary.one_way, summary.none) == (10, 10, 0, 0, 0)
    json.dumps(vars(summary))


def test_summary_of_one_tag_is_undefined() -> None:
    summary = build_keys(["NOUN"], RISE[:1]).summary()
    assert np.isnan([summary.difference, summary.p_value]).all()
    assert summary.pairs == 0


def test_tags_without_words_and_names_that_are_no_tags_have_no_pair() -> None:
    result = build_keys(["NOUN", "X", "everything", "VERB"], RISE)
    pairs = result.dissociations()
    assert pairs[["tag_a", "tag_b"]].to_numpy().tolist() == [["NOUN", "VERB"], ["VERB", "NOUN"]]
    np.testing.assert_allclose(pairs["contrast_a"], [0.9, 1.9])
    assert cell(result.to_frame(), "everything", 0, "NOUN")["delta"] == pytest.approx(0.4)
    assert result.summary().difference == pytest.approx((1 + 2) / 2 - (0.1 + 0.1) / 2)


@pytest.mark.parametrize("lesion", ["NOUN", "X"])
def test_a_single_lesion_has_a_frame_and_no_pairs(lesion: str) -> None:
    result = build_keys([lesion], RISE[:1])
    pairs = result.dissociations()
    assert pairs.empty
    assert pairs.columns.tolist() == PAIR_COLUMNS
    assert result.matrix().shape == (1, 3)
    assert cell(result.to_frame(), lesion, 0, "NOUN")["delta"] == pytest.approx(1)


@pytest.mark.parametrize("controls", [0, 6])
def test_lesions_that_do_the_same_have_no_verdict(controls: int) -> None:
    study = build_study(diagonal(1, 0, 2), controls=controls)
    losses = study.losses.copy()
    losses[study.lesion.index("B")] = losses[0]
    pairs = replace(study, losses=losses).dissociations()
    assert pairs["p_sets"].isna().all() == (controls == 0)
    assert pairs["contrast_a"].tolist() == [0, 0]
    assert pairs["p_value"].isna().all()
    assert pairs["verdict"].tolist() == ["none", "none"]


def test_a_set_that_does_less_than_its_controls_is_no_finding() -> None:
    """The claim is a rise above random sets: being far below them is none, however sure."""
    result = build_study(diagonal(0.05, 0, 5), controls=8, spread=0.001)
    losses = result.losses.copy()
    matched = np.array(result.kind) == "matched"
    losses[matched] += 0.2
    own = replace(result, losses=losses).to_frame().query("set == 'key' and lesion == tag")
    assert (own["z_control"] < -3).all()
    assert (own["p_controls"] > 0.99).all()
    assert (own["q_value"] > 0.5).all()
