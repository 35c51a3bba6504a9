"""Pairs of tags that dissociate, and the summary of a study, from numbers that are known."""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, permutations
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lesions_by_hand import INTACT, RISE, build_result, build_study, cell, diagonal
from scipy import stats

from posneurons import dissociation
from posneurons.errors import RunError
from posneurons.lesion_results import LesionResult, Losses

PAIR_COLUMNS = [
    "method", "ablation", "scope", "measure", "tag_a", "tag_b", "contrast_a", "contrast_b", "p_items", "p_sets", "p_a",
    "p_b", "p_value", "q_value", "cross_a", "cross_b", "equivalence_p", "margin", "verdict",
]  # fmt: skip


def build_keys(names: Sequence[str], rise: np.ndarray, **overrides: Any) -> LesionResult:
    """The five words under key sets only."""
    kinds = {"kind": ("key",) * len(names), "draw": np.zeros(len(names), dtype=np.int64)}
    return build_result(lesion=tuple(names), losses=INTACT + rise, **kinds, **overrides)


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
