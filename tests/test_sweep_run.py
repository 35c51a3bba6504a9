"""The command that sweeps: resumed, beside a run, and what it says of bad input."""

import inspect
import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_sweeps import TWO, bench, best, counted, few
from typer.testing import CliRunner

from posneurons import cli, study, sweep_run
from posneurons.config import Config
from posneurons.errors import PosNeuronsError, RunError
from posneurons.lesion_study import Workbench
from posneurons.sweep_plan import KS, Plan


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
    sets = json.loads((tmp_path / "run/sweep/sets.json").read_text())["best"]["correlation"]
    assert set(frame["lesion"]) == set(keys)
    assert all(sets[tag][0] == keys[tag] for tag in keys)
    moved = Path(shutil.copytree(tmp_path / "run", tmp_path / "copy"))
    (moved / "sweep.parquet").unlink()
    kept = json.loads((moved / "sweep/sets.json").read_text())
    (moved / "sweep/sets.json").write_text(json.dumps({**kept, "best": 3}))
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


@pytest.mark.usefixtures("quick")
def test_a_run_may_follow_a_sweep_and_the_reverse(tmp_path: Path) -> None:
    """A sweep ranks for its own position only; the run asks for more, and nothing of the sweep is in its way."""
    asked = Config(methods=("correlation",), top=5, min_words=20)
    plan = Plan(arms=("k",), ks=(1,), top=5, ablations=("mean",), controls=1)
    sweep_run.run(asked, plan, tmp_path / "run", command="posneurons sweep", progress=False)
    table = (tmp_path / "run/sweep.parquet").stat().st_mtime_ns
    full = replace(asked, controls=2, probe_at=("last",), ablations=("zero",))
    study.run(full, tmp_path / "run", stages=("rank",), command="posneurons run", progress=False)
    made = json.loads((tmp_path / "run/manifest.json").read_text())
    assert set(made["stages"]) == {"rank", "sweep"}
    assert (made["command"], made["config"]["probe_at"]) == ("posneurons run", ["last"])
    sweep_run.run(asked, plan, tmp_path / "run", command="posneurons sweep", progress=False)
    assert (tmp_path / "run/sweep.parquet").stat().st_mtime_ns == table
    assert json.loads((tmp_path / "run/manifest.json").read_text())["command"] == "posneurons run"


@pytest.mark.usefixtures("quick")
def test_a_sweep_stopped_over_an_older_one_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Config(methods=("correlation",), top=5, min_words=20)
    plan = Plan(arms=("k",), ks=(1,), top=5, ablations=("mean",), controls=1)
    sweep_run.run(asked, plan, tmp_path / "run", progress=False)
    for shard in (tmp_path / "run/sweep").glob("*.parquet"):
        shard.unlink()
    other = replace(plan, ks=(2,))
    with monkeypatch.context() as patch:
        counted(patch, stop_after=0)
        with pytest.raises(KeyboardInterrupt):
            sweep_run.run(asked, other, tmp_path / "run", progress=False)
    sweep_run.run(asked, other, tmp_path / "run", progress=False)
    assert set(pd.read_parquet(tmp_path / "run/sweep.parquet")["k"]) == {2}
