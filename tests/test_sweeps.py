"""Sweeps: what is lesioned, sums against word losses, resumption, planted answers, the command."""

import inspect
import json
import re
import shutil
from collections.abc import Callable
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
from typer.testing import CliRunner

import posneurons as pn
from posneurons import cli, curves, study, sweep_run, tallies
from posneurons.config import Config
from posneurons.controls import remaining
from posneurons.errors import NeuronError, PosNeuronsError, RunError
from posneurons.fills import Condition
from posneurons.lesion_study import MEASURES, Workbench
from posneurons.neurons import NeuronSet
from posneurons.planted import Planted, markov_model
from posneurons.records import Corpus
from posneurons.sweep_plan import EVERYWHERE, KS, Best, Plan, best_of, parts_of
from posneurons.sweeps import claim, partners, sweep
from posneurons.tallies import Tally, shards, tallied

TWO = ("NOUN", "VERB")
PLAN = Plan(ks=(1, 3, 9), top=4, ablations=("zero",), controls=3)


@cache
def few() -> Corpus:
    return demo.small().select(np.arange(demo.small().n_rows) % 3 == 0)


@cache
def best(tags: tuple[str, ...] = TWO) -> dict[str, Best]:
    return best_of(pn.rank(demo.model(), few()), tags, replace(PLAN, ks=(12,)))


@cache
def planted() -> Planted:
    return markov_model(sentences=160, length=20)


@cache
def bench() -> Workbench:
    return Workbench(demo.model(), few())


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
    assert curves.carriers(frame)["k_beyond"].isna().all()


def counted(monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> list[int]:
    """How many conditions each call of `tally` has; the call after `stop_after` is interrupted."""
    calls: list[int] = []
    real: Callable[..., Any] = tallies.tally

    def count(model: Any, corpus: Any, cluster: Any, conditions: Any, *rest: Any, **how: Any) -> Any:
        if stop_after is not None and len(calls) == stop_after:
            raise KeyboardInterrupt
        calls.append(len(conditions))
        return real(model, corpus, cluster, conditions, *rest, **how)

    monkeypatch.setattr(tallies, "tally", count)
    return calls


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
    with pytest.raises(RunError, match="holds a sweep of another train"):
        sweep(demo.model(), few().shuffled(1), {"correlation": best()}, plan, folder)
    path = next(folder.glob("*.parquet"))
    path.write_bytes(b"PAR1")
    with pytest.raises(RunError, match=rf"{path.name}: damaged .*; delete the file and repeat"):
        swept(folder, plan)
    path.unlink()
    assert len(swept(folder, plan)) == 2 * 2 * len(few().tags)


def test_a_folder_without_results_is_free(tmp_path: Path) -> None:
    assert not claim(tmp_path / "new", PLAN)
    assert claim(tmp_path / "new", PLAN)
    assert not claim(tmp_path / "new", PLAN, model="a")
    assert not claim(tmp_path / "new", replace(PLAN, seed=3))
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
    found = curves.carriers(frame).set_index("lesion")
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


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of a small sweep of two tags, from a user's list."""
    path = tmp_path_factory.mktemp("given") / "mine.json"
    path.write_text(json.dumps({tag: each.model.names for tag, each in best().items()}))
    numbers, arms = ["--k", "1", "--k", "5", "--k", "50"], ["--arm", "k", "--arm", "layer", "--arm", "cumulative"]
    options = [*numbers, *arms, "--top", "6", "--controls", "2", "--ablation", "zero"]
    return ["sweep", "--neurons", str(path), *options]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few words, and outliers looked for only once, which is what takes long."""
    monkeypatch.setattr(sweep_run.Study, "corpus", property(lambda _: few()))
    monkeypatch.setattr(Workbench, "flags", property(lambda _: bench_flags()))


FLAGS = Workbench.flags


@cache
def bench_flags() -> Any:
    return FLAGS.func(bench())


@pytest.mark.usefixtures("quick")
def test_the_command_is_resumed_where_it_was_stopped(
    little: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        counted(patch, stop_after=0)
        stopped = CliRunner().invoke(cli.app, [*little, "--out", str(out)])
    assert stopped.exit_code == 130
    assert "stopped; the same command goes on from the last finished shard" in stopped.output
    assert not (out / "sweep.parquet").exists()
    done = CliRunner().invoke(cli.app, [*little, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "given, zero ablation: " in done.output
    frame = pd.read_parquet(out / "sweep.parquet")
    assert set(frame["arm"]) == {"k", "cumulative"}  # a list does not say what is best in a layer
    assert set(frame[frame["arm"] == "k"]["k"]) == {1, 5}
    assert set(frame["draw"]) == {0, 1, 2}
    assert list(pd.read_parquet(out / "carriers.parquet")["lesion"]) == list(TWO)
    warnings = json.loads((out / "manifest.json").read_text())["warnings"]
    assert any("no curve over single layers" in warning for warning in warnings)
    calls = counted(monkeypatch)
    assert CliRunner().invoke(cli.app, [*little, "--out", str(out)]).exit_code == 0
    assert calls == []
    other = CliRunner().invoke(cli.app, [*little, "--out", str(out), "--seed", "3"])
    assert isinstance(other.exception, RunError)
    assert "holds a run with seed=0, and 3 was asked for" in str(other.exception)
    more = CliRunner().invoke(cli.app, [*little, "--out", str(out), "--k", "7"])
    assert "holds a sweep with ks=[1, 5, 50], and [1, 5, 50, 7] was asked for" in str(more.exception)


@pytest.mark.usefixtures("quick")
def test_a_sweep_stands_beside_a_run_and_leaves_its_options(tmp_path: Path) -> None:
    config = Config(methods=("correlation",), top=5, min_words=20, probe_at=("last",), controls=3)
    study.run(config, tmp_path / "run", stages=("rank",), progress=False)
    plan = Plan(ks=(1, 5), top=5, ablations=("mean",), controls=2)
    asked = replace(Config(), methods=("correlation",), top=5, min_words=20)
    said = sweep_run.run(asked, plan, tmp_path / "run", progress=False)
    assert said[0].startswith("correlation, mean ablation: ")
    content = json.loads((tmp_path / "run/manifest.json").read_text())
    assert content["config"]["controls"] == 3
    assert content["config"]["probe_at"] == ["last"]
    assert content["stages"]["sweep"]["state"] == "done"
    frame = pd.read_parquet(tmp_path / "run/sweep.parquet")
    page = (tmp_path / "run/report.html").read_text()
    assert page.count("How many neurons, and where") == 1
    assert all(
        f"Rise of a tag’s own loss by {over}" in page for over in ("the number of neurons", "layer, the best of")
    )
    keys = json.loads((tmp_path / "run/neurons.json").read_text())["correlation"]
    sets = json.loads((tmp_path / "run/sweep/sets.json").read_text())["correlation"]
    assert set(frame["lesion"]) == set(keys)
    assert all(sets[tag][0] == keys[tag] for tag in keys)
    moved = Path(shutil.copytree(tmp_path / "run", tmp_path / "copy"))
    (moved / "sweep.parquet").unlink()
    (moved / "sweep/sets.json").write_text('{"correlation": 3}')
    with pytest.raises(RunError, match=r"sets.json: damaged; expected neurons by method and tag; delete the file"):
        sweep_run.run(asked, plan, moved, progress=False)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--arm", "up"], "--arm up: expected one of k, layer, cumulative"),
        (["--k", "0"], "--k 0: expected at least 1"),
        (["--neurons", "nowhere.json"], "--neurons nowhere.json: cannot be read"),
        (["--scope", "all", "--scope", "far"], "--scope far: expected one of"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, words: list[str], sentence: str) -> None:
    done = CliRunner().invoke(cli.app, ["sweep", *words, "--out", str(tmp_path / "run")])
    assert isinstance(done.exception, PosNeuronsError)
    assert sentence in str(done.exception)


def test_the_command_has_the_defaults_of_the_plan() -> None:
    options = inspect.signature(cli.sweep).parameters
    assert tuple(options["arms"].default) == Plan().arms
    assert tuple(options["scopes"].default) == Plan().scopes
    assert tuple(options["ks"].default) == KS == Plan().ks
    assert options["controls"].default == Plan().controls
