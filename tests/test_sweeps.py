"""Sweeps: what is lesioned, sums against word losses, resumption, planted answers, the command."""

import json
import re
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import demo
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sweeps import PLAN, bench, best, counted, few

from posneurons import carriers, tallies
from posneurons.controls import remaining
from posneurons.errors import NeuronError, PosNeuronsError, RunError
from posneurons.fills import Condition
from posneurons.lesion_study import MEASURES, Workbench
from posneurons.neurons import NeuronSet
from posneurons.planted import Planted, markov_model
from posneurons.sweep_plan import EVERYWHERE, Best, Plan, parts_of
from posneurons.sweeps import claim, partners, sweep
from posneurons.tallies import Tally, shards, tallied


@cache
def planted() -> Planted:
    return markov_model(sentences=160, length=20)


def swept(folder: Path, plan: Plan = PLAN, **options: Any) -> pd.DataFrame:
    return sweep(demo.model(), few(), {"correlation": best()}, plan, folder, workbench=bench(), **options)


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.parquet")}


def test_parts_by_hand() -> None:
    mine = Best(NeuronSet.parse(["L2N5", "L0N1", "L2N6", "L1N0"]), NeuronSet.parse(["L0N1", "L0N7", "L2N5", "L2N6"]))
    plan = Plan(arms=("k", "layer", "cumulative"), ks=(3, 1, 9), top=2)
    whole, parts = parts_of(mine, plan)
    assert whole.names == ("L2N5", "L0N1", "L2N6", "L0N7")  # the 3 best, for 9 are not known, and what layers add
    assert [(part.arm, part.k, part.layer, part.places.tolist()) for part in parts] == [
        ("k", 1, EVERYWHERE, [0]),
        ("k", 3, EVERYWHERE, [0, 1, 2]),
        ("layer", 2, 0, [1, 3]),
        ("layer", 2, 2, [0, 2]),
        ("cumulative", 2, 0, [1]),  # of the 2 best, L2N5 and L0N1, those up to layer 0
        ("cumulative", 2, 2, [0, 1]),
    ]
    only, curve = parts_of(Best(mine.model), replace(plan, arms=("layer", "cumulative")))
    assert only.names == ("L2N5", "L0N1")
    assert [part.arm for part in curve] == ["cumulative", "cumulative"]


@given(st.integers(1, 40), st.sets(st.integers(1, 60), min_size=1), st.integers(1, 8), st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_prefixes_are_nested_and_parts_lie_where_they_say(size: int, ks: set[int], top: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    order = NeuronSet.from_flat(rng.permutation(60)[:size], 20)
    layers = NeuronSet.parse([]).union(
        *(NeuronSet(order.layers[order.layers == la][:top], order.units[order.layers == la][:top]) for la in range(3))
    )
    plan = Plan(arms=("k", "layer", "cumulative"), ks=tuple(ks), top=top)
    whole, parts = parts_of(Best(order, layers), plan)
    prefixes = [part.places for part in parts if part.arm == "k"]
    assert [len(each) for each in prefixes] == sorted(k for k in ks if k <= size)
    for place in (each for part in parts if part.arm == "k" for each in [part.places]):
        assert [whole.names[i] for i in place] == list(order.names[: len(place)])
    for part in parts:
        inside = whole.layers[part.places]
        assert part.arm != "layer" or (inside == part.layer).all()
        assert part.arm != "cumulative" or (inside <= part.layer).all()
    growing = [set(part.places.tolist()) for part in parts if part.arm == "cumulative"]
    assert all(a < b for a, b in pairwise(growing))


def test_controls_are_partners_of_their_part_and_leave_out_what_they_can() -> None:
    work = bench()
    wholes = {tag: parts_of(each, PLAN)[0] for tag, each in best().items()}
    found = partners(work, wholes, "zero", PLAN)
    taken = {name for whole in wholes.values() for name in whole.names}
    for tag, draws in found.items():
        assert len(draws) == 3
        for draw in draws:
            np.testing.assert_array_equal(draw.layers, wholes[tag].layers)
            assert not taken & set(draw.names)
    assert not [note for note in work.notes if note.startswith("sweep")]
    crowd = {f"T{i}": NeuronSet.from_pairs((0, 100 * i + unit) for unit in range(100)) for i in range(7)}
    tight = partners(work, crowd, "zero", PLAN, "rank")
    assert not any(set(draw.names) & set(crowd[tag].names) for tag, draws in tight.items() for draw in draws)
    (note,) = [note for note in work.notes if note.startswith("sweep")]
    kept = int(re.search(r"of the other tags' up to 100 the best (\d+) only: the layers have no more room", note)[1])
    others = {name for each in crowd.values() for name in each.names[:kept]}
    assert kept == 50  # 7 x 50 and 50 more are gone, and 768 - 400 is at least twice 100
    assert not any(others & set(draw.names) for draws in tight.values() for draw in draws)
    with pytest.raises(NeuronError, match="are needed; choose a smaller k"):
        partners(work, {"T": remaining(1, 500)}, "zero", PLAN)


@pytest.mark.parametrize("kind", ["sentence", "document"])
def test_sums_equal_those_of_word_losses(kind: str, tmp_path: Path) -> None:
    work, corpus = bench(), few().split("test")
    _, unit = work.clusters(kind)
    sets = [best()["NOUN"].model, best()["VERB"].layers, best()["VERB"].model]
    fills = work.fills("resample:draws=2", NeuronSet.parse([]).union(*sets))
    how = {"shard_words": 100, "chunk": 2, "cluster": kind, "tokens": 80}
    found = tallied(work, tmp_path, sets, fills, "resample:draws=2", "all", **how)
    assert len(files(tmp_path)) == 2 * len(shards(corpus, unit, 100)) >= 4
    direct = work.losses([Condition(each, fills) for each in sets])
    tags, cluster = corpus.word_tag[direct.words], unit[direct.words]
    rises = np.stack([direct.rises(measure) for measure in MEASURES])
    for tag in range(len(corpus.tags)):
        here = tags == tag
        assert found.words[tag] == here.sum()
        if not here.any():
            assert np.isnan(found.rises()[:, :, tag]).all()
            assert np.isnan(found.standard_errors()[:, tag]).all()
            continue
        np.testing.assert_allclose(found.rises()[:, :, tag], rises[:, :, here].mean(2), atol=2e-6)
        for condition in range(len(sets)):
            expected = slow_error(rises[0, condition, here], cluster[here])
            np.testing.assert_allclose(found.standard_errors()[condition, tag], expected, rtol=1e-3, atol=2e-6)
    assert np.nanmax(found.standard_errors()[0]) > 0.005


def slow_error(rises: np.ndarray, cluster: np.ndarray) -> float:
    """Of a mean over words in clusters: Cochran's, cluster by cluster."""
    groups = [rises[cluster == each] for each in set(cluster.tolist())]
    if len(groups) < 2:
        return float("nan")
    squares = sum((group.sum() - rises.mean() * len(group)) ** 2 for group in groups)
    return float(np.sqrt(len(groups) / (len(groups) - 1) * squares) / len(rises))


def test_standard_error_by_hand() -> None:
    # Clusters of 2 and 1 words with rises (1, 3) and (2): mean 2, deviations 4 - 4 and 2 - 2, so 0; then (1, 3), (5).
    # Of the second, mean 3, deviations 4 - 6 and 5 - 3, squares 8, times 2 / 1, root 4, over 3 words.
    def of(second: float) -> Tally:
        return Tally(
            words=np.array([3]), clusters=np.array([2]), squared_counts=np.array([5.0]), intact=np.zeros((3, 1)),
            lesioned=np.full((3, 1, 1), 4 + second), squares=np.array([[16 + second**2]]),
            products=np.array([[8 + second]]),
        )  # fmt: skip

    np.testing.assert_allclose(of(2.0).standard_errors(), 0, atol=1e-12)
    np.testing.assert_allclose(of(5.0).standard_errors(), 4 / 3)
    assert np.isnan(replace(of(5.0), clusters=np.array([1])).standard_errors()).all()
    back = Tally.from_frame(of(5.0).to_frame(), 1, 1)
    np.testing.assert_array_equal(back.lesioned, of(5.0).lesioned)
    np.testing.assert_array_equal((back + of(5.0)).words, [6])


@given(st.integers(1, 300), st.integers(0, 99))
@settings(deadline=None, max_examples=30)
def test_shards_keep_clusters_together_and_lose_no_row(words: int, seed: int) -> None:
    corpus = few()
    cluster = np.random.default_rng(seed).integers(0, 20, corpus.n_rows)
    found = shards(corpus, cluster[corpus.word_row], words)
    np.testing.assert_array_equal(np.sum(found, axis=0), 1)
    homes = [set(cluster[keep].tolist()) for keep in found]
    assert sum(map(len, homes)) == len(set(cluster.tolist()))


def test_the_table_has_a_row_for_each_set_and_tag_and_keys_stand_against_controls(tmp_path: Path) -> None:
    frame = swept(tmp_path / "sweep")
    tags = few().tags
    assert len(frame) == 2 * (3 + 6) * (1 + 3) * len(tags)  # lesions, sets of each, controls, measured tags
    assert not frame.duplicated(
        ["method", "lesion", "arm", "k", "layer", "ablation", "scope", "set", "draw", "tag"]
    ).any()
    keys = frame[(frame["set"] == "key") & (frame["words"] > 0)]
    assert frame.loc[frame["set"] == "matched", "z_control"].isna().all()
    row = keys[(keys["arm"] == "layer") & (keys["layer"] == 3) & (keys["lesion"] == "VERB") & (keys["tag"] == "NOUN")]
    where = (frame["arm"] == "layer") & (frame["layer"] == 3) & (frame["lesion"] == "VERB") & (frame["tag"] == "NOUN")
    deltas = frame.loc[where & (frame["set"] == "matched"), "delta"].to_numpy()
    (one,) = row.to_dict("records")
    assert one["neurons"] == 4
    assert len(deltas) == 3
    np.testing.assert_allclose(
        [one["control_mean"], one["control_sd"], one["control_low"], one["control_high"]],
        [deltas.mean(), deltas.std(ddof=1), deltas.min(), deltas.max()],
    )
    np.testing.assert_allclose(one["z_control"], (one["delta"] - deltas.mean()) / deltas.std(ddof=1))
    assert one["p_rank"] == (1 + (deltas >= one["delta"]).sum()) / 4
    np.testing.assert_allclose(frame["loss_lesioned"] - frame["loss_intact"], frame["delta"], atol=1e-9)
    direct = bench().losses([Condition(NeuronSet(best()["NOUN"].model.layers[:9], best()["NOUN"].model.units[:9]))])
    mine = few().split("test").word_tag[direct.words] == tags.index("NOUN")
    chosen = keys[(keys["arm"] == "k") & (keys["k"] == 9) & (keys["lesion"] == "NOUN") & (keys["tag"] == "NOUN")]
    for column, measure in (("delta", "first"), ("delta_word", "word"), ("delta_category", "category")):
        np.testing.assert_allclose(chosen[column], direct.rises(measure)[0, mine].mean(), atol=2e-6)


def test_without_controls_nothing_is_held_against_them(tmp_path: Path) -> None:
    frame = swept(tmp_path / "sweep", replace(PLAN, controls=0, arms=("k",), ks=(2,)))
    assert set(frame["set"]) == {"key"}
    assert frame[["control_mean", "control_sd", "z_control", "p_controls", "p_rank"]].isna().all(axis=None)
    assert carriers.carriers(frame)["k_beyond"].isna().all()


def test_a_stopped_sweep_computes_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = replace(PLAN, scopes=("all", "local"), arms=("k",), ks=(1, 3), controls=1)

    def go_on(folder: str, stop_after: int | None = None) -> tuple[pd.DataFrame | None, int]:
        with monkeypatch.context() as patch:
            calls = counted(patch, stop_after)
            try:
                return swept(tmp_path / folder, plan, chunk=4, shard_words=100), len(calls)
            except KeyboardInterrupt:
                return None, len(calls)

    whole, needed = go_on("whole")
    assert needed >= 8  # two chunks, two scopes, two shards
    assert go_on("stopped", stop_after=3) == (None, 3)
    assert len(files(tmp_path / "stopped")) == 3
    assert not list((tmp_path / "stopped").glob("*.part"))
    again, missing = go_on("stopped")
    assert missing == needed - 3
    pd.testing.assert_frame_equal(again, whole)
    once_more, none = go_on("stopped")
    assert none == 0
    pd.testing.assert_frame_equal(once_more, whole)
    assert files(tmp_path / "whole") == files(tmp_path / "stopped")


def test_another_sweep_in_the_same_folder_and_damage_are_errors(tmp_path: Path) -> None:
    folder, plan = tmp_path / "sweep", replace(PLAN, arms=("k",), ks=(1,), controls=1)
    swept(folder, plan)
    with pytest.raises(RunError, match=r"sweep: holds a sweep with seed=0, and 1 was asked for; repeat its options"):
        swept(folder, replace(plan, seed=1))
    with pytest.raises(RunError, match=r"holds a sweep with ks=\[1\], and \[1, 2\] was asked for"):
        swept(folder, replace(plan, ks=(1, 2)))
    with pytest.raises(RunError, match="holds a sweep of another neurons; repeat its options, or choose another --out"):
        sweep(demo.model(), few(), {"correlation": best(("ADJ",))}, plan, folder)
    with pytest.raises(
        RunError, match=r"with ks=\[1\], and \[1, 2\] was asked for; with seed=0, and 1 was asked for; rep"
    ):
        swept(folder, replace(plan, ks=(1, 2), seed=1))
    with pytest.raises(RunError, match="holds a sweep of another train"):
        sweep(demo.model(), few().shuffled(1), {"correlation": best()}, plan, folder)
    path = next(folder.glob("*.parquet"))
    path.write_bytes(b"PAR1")
    with pytest.raises(RunError, match=rf"{path.name}: damaged .*; delete the file and repeat"):
        swept(folder, plan)
    path.unlink()
    assert len(swept(folder, plan)) == 2 * 2 * len(few().tags)


def test_a_folder_without_results_is_free(tmp_path: Path) -> None:
    for plan, more in ((PLAN, {}), (PLAN, {"model": "a"}), (replace(PLAN, seed=3), {})):
        claim(tmp_path / "new", plan, **more)
        settings = json.loads((tmp_path / "new/settings.json").read_text())
        assert (settings["seed"], settings.get("model")) == (plan.seed, more.get("model"))
    (tmp_path / "new" / "settings.json").write_text("[]")
    with pytest.raises(RunError, match=r"settings.json: damaged; expected the settings of a sweep"):
        claim(tmp_path / "new", PLAN)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="file: cannot be made or written"):
        claim(tmp_path / "file", PLAN)


def test_another_model_has_another_digest() -> None:
    found = markov_model(sentences=8, length=6)
    before = tallies.identity(found.model)
    assert before == tallies.identity(markov_model(sentences=8, length=6).model)
    assert before != tallies.identity(markov_model(sentences=8, length=6, seed=1).model)


def test_a_planted_tag_is_carried_by_as_many_neurons_as_were_planted(tmp_path: Path) -> None:
    """Behind two neurons that do nothing stand a tag's two halves: nothing, nothing, half of the lift, all of it."""
    mine = planted()
    halves, idle = mine.redundant["halves"], mine.decoys["word"]
    order = NeuronSet.parse([]).union(NeuronSet(idle.layers[:2], idle.units[:2]), halves)
    late = NeuronSet.parse([]).union(NeuronSet(idle.layers[2:3], idle.units[2:3]))
    tag, other = mine.corpus.tags[:2]
    plan = Plan(arms=("k",), ablations=("zero",), controls=4, control="layer")
    sets = {"truth": {tag: Best(order), other: Best(late)}}
    work = Workbench(mine.model, mine.corpus)
    # Random sets must do nothing: what works is swept too, as one more tag, and so kept out of them.
    works = NeuronSet.parse([]).union(*mine.truth.values(), mine.decoys["frequency"])
    sets["truth"]["all that works"] = Best(works)
    frame = sweep(mine.model, mine.corpus, sets, replace(plan, ks=(1, 2, 3, 4, len(works))), tmp_path, workbench=work)
    own = frame[(frame["lesion"] == tag) & (frame["tag"] == tag) & (frame["set"] == "key")].set_index("k")["delta"]
    full = mine.effect[0, 0]
    np.testing.assert_allclose(own[[1, 2]], 0, atol=1e-6)
    np.testing.assert_allclose(own[4], full, atol=1e-5)
    test, gone = mine.corpus.split("test"), 0.5 * mine.source.lift[:, 0]
    words = np.flatnonzero((test.word_first > 1) & (test.word_tag == 0))
    before = test.word_tag[words - 1]  # words are tokens, and rows stand end to end
    half = (gone + np.log(1 + mine.source.transition[:, 0] * np.expm1(-gone)))[before].mean()
    np.testing.assert_allclose(own[3], half, atol=1e-5)
    found = carriers.carriers(frame).set_index("lesion")
    at_3 = own[3] / full  # half of the full rise lies between k = 3 and 4, or 2 and 3
    low, share = (3, (0.5 - at_3) / (1 - at_3)) if at_3 < 0.5 else (2, 0.5 / at_3)
    np.testing.assert_allclose(found.loc[tag, "k_half"], low * ((low + 1) / low) ** share, rtol=1e-4)
    assert found.loc[tag, "k_beyond"] == 3
    assert found.loc[tag, "k_max"] == 4
    assert list(found.index) == [tag, other]
    assert found.loc[other, "k_max"] == 1
    assert np.isnan(found.loc[other, "k_beyond"])
    assert any(f"left out for tags with fewer ranked neurons: {tag} (4), {other} (1)" in note for note in work.notes)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"arms": ("height",)}, "--arm height: expected one of k, layer, cumulative"),
        ({"scopes": ("near",)}, "--scope near: expected one of local, all"),
        ({"control": "age"}, "--control age: expected one of size, layer"),
        ({"cluster": "word"}, "--cluster word: expected one of auto, document, sentence"),
        ({"ablations": ("burn",)}, "ablation 'burn': no such ablation"),
        ({"ks": (5, 0)}, "--k 0: expected at least 1"),
        ({"ks": ()}, "--k: none was given"),
        ({"arms": ()}, "--arm: none was given; expected at least one"),
        ({"controls": -1}, "--controls -1: expected at least 0"),
    ],
)
def test_a_plan_without_meaning_is_an_error(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PosNeuronsError, match=re.escape(sentence)):
        replace(Plan(), **change).check()


def test_nothing_to_lesion_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no set to lesion: every k is above the number of ranked neurons"):
        swept(tmp_path, replace(PLAN, arms=("k",), ks=(500,)))
