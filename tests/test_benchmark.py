"""The benchmark: what its rows say, that parts survive failures and kills, and that both ways give the same numbers."""

import importlib
import json
import math
import os
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import demo
import numpy as np
import pytest

import posneurons as pn
from posneurons.files import read_json, write_json

FOLDER = Path(__file__).parents[1] / "experiments"
NAN = float("nan")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.fixture
def row(load: Any) -> Any:
    return load("benchmarks.rows").Row


@pytest.mark.parametrize(
    ("kind", "ours", "rival", "aim", "ratio", "met"),
    [
        ("cost", 5.0, 4.0, 1.25, 1.25, True),
        ("cost", 5.1, 4.0, 1.25, 1.275, False),
        ("gain", 4.0, 32.0, 8.0, 8.0, True),
        ("gain", 4.0, 31.0, 8.0, 7.75, False),
        ("value", 0.9, NAN, 0.8, 0.9, True),
        ("gain", 4.0, 31.0, NAN, 7.75, None),
        ("gain", 0.0, 31.0, 8.0, NAN, False),
        ("line", NAN, NAN, NAN, NAN, None),
    ],
)
def test_a_ratio_is_what_its_kind_says(
    kind: str, ours: float, rival: float, aim: float, ratio: float, met: bool | None, row: Any
) -> None:
    found = row("sweep", "demo", "x", "y", kind, ours, rival, aim=aim)
    assert found.ratio == pytest.approx(ratio, nan_ok=True)
    assert found.met is met


def test_a_row_comes_back_from_json_as_it_was(row: Any, tmp_path: Path) -> None:
    found = row("ig", "1b", "a", "b", "gain", 2.0, NAN, spread=(0.1, NAN), details={"ours": [2.0, 2.2]})
    write_json(tmp_path / "x.json", found.to_dict())
    again = read_json(tmp_path / "x.json")
    assert list(again)[:2] == ["ratio", "met"]
    assert repr(row.from_dict(again)) == repr(found)


def test_a_line_says_how_far_points_lie_off(load: Any) -> None:
    """y = 2x + 1 moved by +1, -2, +1 at x = 1, 2, 3: no change of the fit; around the mean of 5 they lie 2²+2²+0..."""
    straight = load("benchmarks.rows").straight
    exact = straight([1, 2, 3], [3, 5, 7])
    assert exact == pytest.approx({"slope": 2, "intercept": 1, "from": 1, "to": 3, "r2": 1, "off": 0}, abs=1e-9)
    # the means are (2, 5): total squares (4-5)² + (3-5)² + (8-5)² = 14, residuals 1 + 4 + 1 = 6
    found = straight([1, 2, 3], [4, 3, 8])
    assert (found["slope"], found["intercept"]) == (pytest.approx(2), pytest.approx(1))
    assert found["r2"] == pytest.approx(1 - 6 / 14)
    assert found["off"] == pytest.approx(2 / 8)
    assert math.isnan(straight([1, 2, 3], [4, 4, 4])["r2"])


def test_tables_have_ratios_first_and_lines_by_themselves(load: Any, row: Any) -> None:
    rows = load("benchmarks.rows")
    line = rows.straight([1000, 2000], [1.5, 2.5]) | {"r2": None}
    found = rows.table(
        [
            row("load", "1b", "peak", "the weights", "cost", 900.0, 770.0, "MB", aim=1.25, note="n"),
            row("sweep", "demo", "a sweep", "the loop", "gain", 2.0, 14.0, aim=8),
            row("exact", "demo", "correlation", kind="value", ours=0.9, unit=""),
            rows.failed("ig", "demo", ValueError("no such thing\nat all")),
            row("growth", "demo", "time", kind="line", unit="s per word", details={"over": "words", "line": line}),
        ]
    )
    assert found.splitlines() == [
        "| ratio | aim | part | model | of what | ours | the other | note |",
        "| ---: | --- | --- | --- | --- | ---: | ---: | --- |",
        "| **1.17** | ≤ 1.25, met | load | 1b | peak: ours / the weights | 900 MB | 770 MB | n |",
        "| **7.00** | ≥ 8, not | sweep | demo | a sweep: the loop / ours | 2 s | 14 s |  |",
        "| **0.90** |  | exact | demo | correlation |  |  |  |",
        "| – |  | ig | demo | not measured | – | – | ValueError: no such thing |",
        "",
        "| over | from | to | what | slope | at 0 | R² | furthest off the line |",
        "| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |",
        "| words | 1,000 | 2,000 | time (demo) | 0.001 s per word | 0.5 s | – | 0.0% |",
    ]


def test_ways_take_turns(load: Any) -> None:
    done: list[str] = []
    found = load("benchmarks.timing").turns({"a": lambda: done.append("a"), "b": lambda: len(done)}, 3)
    assert done == ["a"] * 3
    assert found["b"].found == 3
    assert len(found["a"].seconds) == 3
    spent = load("benchmarks.timing").Spent((2.0, 3.0))
    assert (spent.least, spent.spread) == (2.0, 0.5)
    assert math.isnan(load("benchmarks.timing").Spent((2.0,)).spread)


def held_for_a_while() -> int:
    """Peak bytes while 160 MB are held."""
    from benchmarks.timing import Peak

    with Peak() as peak:
        held = np.ones(20_000_000)
        for _ in range(5):
            held += 1
        time.sleep(0.2)  # long enough for many looks at it, on a busy machine too
        del held
    return int(peak.bytes)


def test_a_peak_is_what_was_held_in_between(load: Any) -> None:
    """In a fresh process: one that has run for long has memory to give away, which hides what is taken."""
    assert 150e6 < load("benchmarks.timing").alone(held_for_a_while) < 400e6


def test_a_process_of_its_own_hands_on_results_errors_and_its_death(load: Any) -> None:
    alone = load("benchmarks.timing").alone
    assert alone(os.getpid) != os.getpid()
    with pytest.raises(ValueError, match="invalid literal"):
        alone(int, "x")
    with pytest.raises(BrokenProcessPool):
        alone(os._exit, 9)


def subject(load: Any, name: str = "demo", source: str = "demo") -> Any:
    return load("benchmarks.subjects").Subject(name, source, "demo")


def test_a_part_is_kept_and_not_measured_again_with_the_same_settings(
    load: Any, row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark, calls = load("benchmark"), list[str]()
    found = [row("ig", "demo", "x", "y", "gain", 1.0, 30.0, spread=(0.5, 0.25), details={"of": [1, 2]})]

    def measured(part: Any, *_: Any) -> list[Any]:
        calls.append(part.__name__)
        if len(calls) == 1:
            raise RuntimeError("out of luck")
        return found

    monkeypatch.setattr(benchmark, "alone", measured)
    sizes = load("benchmarks.subjects").sizes_of("demo", quick=True)

    def rows(**here: Any) -> list[Any]:
        return benchmark.rows_of("ig", subject(load), sizes, here, tmp_path)

    (lost,) = rows(threads=1)
    assert (lost.what, lost.note) == ("not measured", "RuntimeError: out of luck")
    assert not list(tmp_path.rglob("*.json"))
    assert rows(threads=1) == found
    assert repr(rows(threads=1)) == repr(found)
    assert calls == ["ig", "ig"]
    rows(threads=2)
    assert calls == ["ig"] * 3


def test_words_are_drawn_and_drawn_again_where_they_are_few(load: Any) -> None:
    mine = subject(load)
    few = mine.sentences("train", 300)
    longest = max(len(each.words) for each in pn.load_treebank())
    assert 300 <= few.size()["words"] < 300 + longest
    assert few.sentences == mine.sentences("train", 300).sentences
    whole = pn.load_treebank().split("test")
    total = whole.size()["words"]
    twice = mine.sentences("test", 2 * total - 1)
    assert len(twice.sentences) == 2 * len(whole.sentences)
    assert twice.splits == ("test",)


def test_parts_are_chosen_by_name_in_their_order(load: Any) -> None:
    chosen = load("benchmarks.subjects").chosen
    assert chosen(["load", "ig", "sweep"], "sweep,load") == ["load", "sweep"]
    with pytest.raises(SystemExit, match="'lode' is none of load, ig, sweep"):
        chosen(["load", "ig", "sweep"], "lode")


@pytest.fixture
def small(load: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The embedded model and a part of its treebank, as little as a part can do with."""
    model = demo.model()
    monkeypatch.setattr("posneurons.load_model", lambda *_, **__: model)
    few = {"repeats": 2, "ranking_words": 200, "ig_rows": 3, "ig_words": 2, "ig_steps": 4, "sweep_words": 60}
    few |= {"sweep_singles": 3, "sweep_plain": 2, "exact_words": 120, "exact_neurons": 12}
    return subject(load), load("benchmarks.subjects").Sizes(**few)


@pytest.mark.parametrize(
    ("part", "against", "off"),
    [
        ("ranking", ["the bare forward pass", "run_with_cache into a list, numpy", ""], 1e-5),
        ("ig", ["Knowledge Neurons' loop"], 1e-4),
        ("sweep", ["the plain TransformerLens loop"] * 4, 1e-4),
    ],
)
def test_both_ways_give_the_same(part: str, against: list[str], off: float, load: Any, small: Any) -> None:
    rows = load("benchmark").PARTS[part](*small)
    assert [row.against for row in rows] == against
    for row in rows:
        if row.against:
            assert math.isfinite(row.ratio)
            assert row.ratio > 0
            assert row.details["difference"] < off or "bare" in row.against
            assert len(row.details["ours"]) == 2


def test_attribution_stands_beside_a_sample_of_exact_effects(load: Any, small: Any) -> None:
    time, *agreement = load("benchmark").PARTS["exact"](*small)
    assert math.isfinite(time.ratio)
    assert "4,608 neurons, measured on 12 neurons and scaled to all" in time.note
    assert [row.what.partition(": ")[2] for row in agreement] == ["correlation", "rank correlation"]
    assert all(-1 <= row.ratio <= 1 for row in agreement)


def test_a_quick_run_prints_the_table_and_keeps_it(
    load: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    benchmark, model = load("benchmark"), demo.model()
    monkeypatch.setattr(benchmark, "alone", lambda function, *given: function(*given))
    monkeypatch.setattr("posneurons.load_model", lambda *_, **__: model)
    words = ["--quick", "--only", "ranking", "--model", "demo", "--treebank", "demo", "--out", str(tmp_path / "new")]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *words])
    benchmark.main()
    said = capsys.readouterr().out
    assert said == (tmp_path / "new" / "benchmark.md").read_text("utf-8")
    assert "| ratio | aim | part |" in said
    assert "NeuroX: not asked for; give --neurox" in said
    found = json.loads((tmp_path / "new" / "benchmark.json").read_text("utf-8"))
    assert [row["part"] for row in found["rows"]] == ["ranking"] * 3
    assert all(row["ratio"] > 0 for row in found["rows"][:2])
    assert found["machine"]["threads"] >= 1
    assert found["seed"] == 0
    assert found["sizes"]["demo"]["ranking_words"] == 1000


@pytest.mark.slow
@pytest.mark.parametrize("part", ["load", "whole", "growth"])
def test_parts_in_processes_of_their_own(part: str, load: Any) -> None:
    sizes = load("benchmarks.subjects").sizes_of("demo", quick=True)
    rows = load("benchmark").PARTS[part](subject(load), sizes)
    assert len(rows) == {"load": 5, "whole": 4, "growth": 8}[part]
    assert all(math.isfinite(row.ratio) or row.kind == "line" for row in rows)
    for row in rows:
        if row.kind == "line":
            assert row.details["line"]["slope"] == pytest.approx(row.ours)
