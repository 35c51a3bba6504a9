"""Tables of lesions and probes, from a few words whose numbers are known."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from posneurons.neurons import NeuronSet
from posneurons.results import LesionResult, ProbeResult, Scores
from posneurons.significance import bootstrap_interval, cluster_sums, sign_flip_p

FRAME_COLUMNS = [  # architecture.md, lesions.parquet; delta_category and delta_lexical come with a later issue
    "method", "lesion", "ablation", "scope", "draw", "tag", "words", "loss_intact", "loss_lesioned", "delta",
    "ci_low", "ci_high", "p_value", "q_value", "z_control",
]  # fmt: skip
PAIR_COLUMNS = [
    "method", "ablation", "scope", "tag_a", "tag_b", "contrast_a", "contrast_b", "p_value", "q_value", "verdict",
]  # fmt: skip


def build_result(**overrides: Any) -> LesionResult:
    """Five words of NOUN NOUN VERB VERB VERB; X has none. Lesions of NOUN (with two controls) and of VERB."""
    intact = np.array([1.0, 3.0, 2.0, 2.0, 5.0])
    rise = np.array(
        [
            [0.5, 1.5, 0.0, 0.3, 0.0],  # NOUN: 1.0 on NOUN, 0.1 on VERB
            [0.1, 0.3, 0.3, 0.3, 0.3],  # its first control: 0.2, 0.3
            [0.5, 0.3, 0.3, 0.0, 0.0],  # its second control: 0.4, 0.1
            [0.0, 0.2, 1.0, 2.0, 3.0],  # VERB: 0.1 on NOUN, 2.0 on VERB
        ]
    )
    fields: dict[str, Any] = {
        "method": "correlation",
        "ablation": "mean",
        "scope": "all",
        "tags": ("NOUN", "VERB", "X"),
        "word_tag": np.array([0, 0, 1, 1, 1]),
        "word_cluster": np.array([0, 1, 0, 1, 1]),
        "lesion": ("NOUN", "NOUN", "NOUN", "VERB"),
        "draw": np.array([0, 1, 2, 0]),
        "loss_intact": intact,
        "losses": intact + rise,
        "draws": 500,
        "seed": 0,
        **overrides,
    }
    fields.setdefault("neurons", tuple(NeuronSet.parse([f"L0N{c}"]) for c in range(len(fields["lesion"]))))
    return LesionResult(**fields)


def build_study(own: float, *, other: float = 0.0, n_tags: int = 3, seed: int = 1) -> LesionResult:
    """60 sentences with two words of each tag; a lesion adds `own` to the loss of its tag and `other` to the rest."""
    rng = np.random.default_rng(seed)
    tags = tuple("ABCDEF"[:n_tags])
    word_tag = np.tile(np.arange(n_tags), 120)
    word_cluster = np.repeat(np.arange(60), 2 * n_tags)
    rise = np.where(np.arange(n_tags)[:, None] == word_tag, own, other) + rng.normal(size=(n_tags, len(word_tag)))
    intact = rng.uniform(1, 5, len(word_tag))
    return build_result(
        tags=tags,
        word_tag=word_tag,
        word_cluster=word_cluster,
        lesion=tags,
        draw=np.zeros(n_tags, dtype=np.int64),
        loss_intact=intact,
        losses=intact + rise,
        draws=2000,
    )


def cell(frame: pd.DataFrame, lesion: str, draw: int, tag: str) -> pd.Series:
    found = frame[(frame["lesion"] == lesion) & (frame["draw"] == draw) & (frame["tag"] == tag)]
    assert len(found) == 1
    return found.iloc[0]


def test_frame_has_a_row_per_condition_and_tag() -> None:
    frame = build_result().to_frame()
    assert frame.columns.tolist() == FRAME_COLUMNS
    assert frame["lesion"].tolist() == ["NOUN"] * 9 + ["VERB"] * 3
    assert frame["draw"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0]
    assert frame["tag"].tolist() == ["NOUN", "VERB", "X"] * 4
    assert frame["words"].tolist() == [2, 3, 0] * 4
    assert set(frame["method"]) == {"correlation"}
    assert set(frame["ablation"]) == {"mean"}
    assert set(frame["scope"]) == {"all"}


def test_numbers_by_hand() -> None:
    frame = build_result().to_frame()
    np.testing.assert_allclose(frame["loss_intact"], [2, 3, np.nan] * 4)
    deltas = [1, 0.1, np.nan, 0.2, 0.3, np.nan, 0.4, 0.1, np.nan, 0.1, 2, np.nan]
    np.testing.assert_allclose(frame["delta"], deltas, atol=1e-12)
    np.testing.assert_allclose(frame["loss_lesioned"], frame["loss_intact"] + frame["delta"])
    # Controls of NOUN: 0.2 and 0.4, mean 0.3, standard deviation sqrt(2 * 0.1**2 / 1).
    assert cell(frame, "NOUN", 0, "NOUN")["z_control"] == pytest.approx((1 - 0.3) / (0.02**0.5))
    assert cell(frame, "NOUN", 0, "VERB")["z_control"] == pytest.approx((0.1 - 0.2) / (0.02**0.5))
    assert np.isnan(cell(frame, "NOUN", 0, "X")["z_control"])
    assert frame[frame["lesion"] == "VERB"]["z_control"].isna().all()  # no controls


def test_intervals_and_p_are_those_of_the_clusters_and_of_real_lesions_only() -> None:
    result = build_result()
    frame = result.to_frame()
    columns = ["ci_low", "ci_high", "p_value", "q_value"]
    assert frame.loc[frame["draw"] > 0, [*columns, "z_control"]].isna().all(axis=None)
    real = frame[(frame["draw"] == 0) & (frame["tag"] != "X")]
    assert frame.loc[frame["tag"] == "X", columns].isna().all(axis=None)
    assert real[columns].notna().all(axis=None)
    change = (result.losses - result.loss_intact)[[0, 3]]
    sums = cluster_sums(change, result.word_tag, result.word_cluster, 3)
    counts = cluster_sums(np.ones((1, 5)), result.word_tag, result.word_cluster, 3)[:, 0]
    rng = np.random.default_rng(0)
    low, high = bootstrap_interval(sums, counts, draws=500, rng=rng)
    p = sign_flip_p(sums, draws=500, rng=rng)
    np.testing.assert_array_equal(real["ci_low"], low[:, :2].ravel())
    np.testing.assert_array_equal(real["ci_high"], high[:, :2].ravel())
    np.testing.assert_array_equal(real["p_value"], p[:, :2].ravel())
    np.testing.assert_allclose(real["q_value"], stats.false_discovery_control(real["p_value"]))
    # Two clusters: NOUN loses 0.5 in one and 1.5 in the other, so resamples have 0.5, 1 or 1.5 per word.
    assert (low[0, 0], high[0, 0]) == (0.5, 1.5)


def test_a_strong_effect_is_found_and_none_is_rarely() -> None:
    false = 0
    for seed in range(20):
        frame = build_study(1.0, seed=seed).to_frame()
        own = frame["lesion"] == frame["tag"]
        assert (frame[own]["q_value"] < 0.01).all()
        assert (frame[own]["ci_low"] > 0.5).all()
        assert ((frame["ci_low"] <= frame["delta"]) & (frame["delta"] <= frame["ci_high"])).all()
        false += int((frame[~own]["q_value"] <= 0.05).sum())
    # Beside 60 true discoveries, a rate of 5 % allows about three false ones; more than 8 have a chance of 0.1 %.
    assert false <= 8


def test_controls_that_never_differ_give_no_z() -> None:
    result = build_result()
    losses = result.losses.copy()
    losses[2] = losses[1]
    assert build_result(losses=losses).to_frame()["z_control"].isna().all()


def test_frame_of_float32_losses_is_the_same() -> None:
    result = build_result()
    single = build_result(
        loss_intact=result.loss_intact.astype(np.float32), losses=result.losses.astype(np.float32)
    ).to_frame()
    for name in ("delta", "ci_low", "ci_high", "z_control"):
        np.testing.assert_allclose(single[name], result.to_frame()[name], rtol=1e-5, atol=1e-5)


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


def test_matrix_keeps_the_order_of_lesions_and_of_tags() -> None:
    result = build_result()
    order = [3, 0, 1, 2]
    matrix = build_result(
        tags=("X", "VERB", "NOUN"),
        word_tag=2 - result.word_tag,
        lesion=tuple(result.lesion[c] for c in order),
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
    # NOUN suffers 1.0 from its own lesion and 0.1 from VERB's; VERB 2.0 from its own and 0.1 from NOUN's.
    np.testing.assert_allclose(pairs["contrast_a"], [0.9, 1.9])
    np.testing.assert_allclose(pairs["contrast_b"], [1.9, 0.9])
    # Two clusters cannot prove anything: one of four sign vectors reaches the sum.
    assert pairs["p_value"].between(0.2, 0.3).all()
    assert pairs["p_value"][0] == pairs["p_value"][1]
    assert set(pairs["verdict"]) == {"none"}


def test_a_planted_double_dissociation_is_strong_for_every_pair() -> None:
    pairs = build_study(1.0, other=0.3).dissociations()
    assert len(pairs) == 6
    assert set(pairs["verdict"]) == {"strong"}
    assert pairs["contrast_a"].between(0.4, 1.0).all()
    assert (pairs["q_value"] < 0.01).all()


def test_a_lesion_that_hurts_every_tag_alike_dissociates_nothing() -> None:
    """A general deficit, however large, is no dissociation, and noise is none either."""
    verdicts = [
        verdict
        for seed in range(20)
        for verdict in build_study(1.0, other=1.0, n_tags=4, seed=seed).dissociations()["verdict"]
    ]
    assert verdicts.count("strong") == 0
    assert verdicts.count("one-way") <= 0.05 * len(verdicts)


def test_one_sided_effects_are_one_way() -> None:
    """The lesion of A hurts A only, the lesion of B hurts both alike: c_A = 1 - 1 = 0 and c_B = 1 - 0."""
    result = build_study(1.0, n_tags=2, seed=3)
    losses = result.losses.copy()
    losses[1, result.word_tag == 0] += 1.0
    pairs = build_result(
        **{
            name: getattr(result, name)
            for name in ("tags", "word_tag", "word_cluster", "lesion", "draw", "loss_intact")
        },
        losses=losses,
        draws=2000,
    ).dissociations()
    assert pairs["verdict"].tolist() == ["one-way", "one-way"]
    assert pairs["contrast_a"][0] == pytest.approx(0, abs=0.3)
    assert pairs["contrast_b"][0] == pytest.approx(1, abs=0.3)
    assert pairs["p_value"][0] > 0.05


def test_p_of_a_pair_is_the_larger_one_and_pairs_are_corrected_once() -> None:
    pairs = build_study(0.15, n_tags=4, seed=1).dissociations()
    table = pairs.set_index(["tag_a", "tag_b"])
    once = [(a, b) for a, b in table.index if a < b]
    for column in ("p_value", "q_value", "verdict"):
        assert all(table.loc[(a, b), column] == table.loc[(b, a), column] for a, b in once)
    # Each pair stands in the table twice; the correction is the one over the six unordered pairs.
    q = stats.false_discovery_control([table.loc[pair, "p_value"] for pair in once])
    np.testing.assert_allclose([table.loc[pair, "q_value"] for pair in once], q)


def test_tags_without_words_and_names_that_are_no_tags_have_no_pair() -> None:
    result = build_result()
    names = ("NOUN", "X", "everything", "VERB")
    pairs = build_result(lesion=names, draw=np.zeros(4, dtype=np.int64)).dissociations()
    assert pairs[["tag_a", "tag_b"]].to_numpy().tolist() == [["NOUN", "VERB"], ["VERB", "NOUN"]]
    np.testing.assert_allclose(pairs["contrast_a"], [0.9, 1.9])
    frame = build_result(lesion=names, draw=np.zeros(4, dtype=np.int64)).to_frame()
    assert cell(frame, "everything", 0, "NOUN")["delta"] == pytest.approx(0.4)
    assert len(result.dissociations()) == 2


@pytest.mark.parametrize("lesion", ["NOUN", "X"])
def test_a_single_lesion_has_a_frame_and_no_pairs(lesion: str) -> None:
    result = build_result(lesion=(lesion,), draw=np.array([0]), losses=build_result().losses[:1])
    pairs = result.dissociations()
    assert pairs.empty
    assert pairs.columns.tolist() == PAIR_COLUMNS
    assert result.matrix().shape == (1, 3)
    assert cell(result.to_frame(), lesion, 0, "NOUN")["delta"] == pytest.approx(1)


def test_lesions_that_do_the_same_have_no_verdict() -> None:
    result = build_result(losses=build_result().losses[[0, 0]], lesion=("NOUN", "VERB"), draw=np.array([0, 0]))
    pairs = result.dissociations()
    assert pairs["contrast_a"].tolist() == [0, 0]
    assert pairs["p_value"].isna().all()
    assert pairs["verdict"].tolist() == ["none", "none"]


def build_scores(accuracy: float, confusion: list[list[int]]) -> Scores:
    return Scores(accuracy, accuracy - 0.1, {"A": accuracy, "B": accuracy - 0.2}, np.array(confusion))


def build_probe() -> ProbeResult:
    return ProbeResult(
        method="correlation",
        at="last",
        neurons=NeuronSet.parse(["L0N1", "L2N3"]),
        classes=("A", "B"),
        train_words=70,
        test_words=20,
        scores=build_scores(0.9, [[9, 1], [1, 9]]),
        baselines={
            "majority": build_scores(0.5, [[10, 0], [10, 0]]),
            "control_task": build_scores(0.65, [[6, 4], [3, 7]]),
        },
    )


def test_probe_as_json_values() -> None:
    found = json.loads(json.dumps(build_probe().to_dict()))
    baselines = found.pop("baselines")
    assert found.pop("selectivity") == pytest.approx(0.25)
    assert found.pop("macro_f1") == pytest.approx(0.8)
    assert found == {
        "method": "correlation",
        "at": "last",
        "probe": "linear",
        "n_neurons": 2,
        "classes": ["A", "B"],
        "train_words": 70,
        "test_words": 20,
        "accuracy": 0.9,
        "per_tag_f1": {"A": 0.9, "B": 0.7},
        "confusion": [[9, 1], [1, 9]],
    }
    assert list(baselines) == ["majority", "control_task"]
    assert baselines["majority"]["accuracy"] == 0.5
    assert baselines["majority"]["confusion"] == [[10, 0], [10, 0]]


def test_probe_as_a_table_beside_its_baselines() -> None:
    frame = build_probe().to_frame()
    assert frame.index.tolist() == ["probe", "majority", "control_task"]
    assert frame.columns.tolist() == ["accuracy", "macro_f1", "A", "B"]
    assert frame["accuracy"].tolist() == [0.9, 0.5, 0.65]
    np.testing.assert_allclose(frame.loc["control_task"], [0.65, 0.55, 0.65, 0.45])
    assert build_probe().selectivity == pytest.approx(0.25)
