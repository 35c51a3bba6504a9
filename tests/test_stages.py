"""What the stages leave behind where the options are unusual, and when a run is taken up again."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import demo
import pandas as pd
import pytest

from posneurons import stages, study
from posneurons.config import Config
from posneurons.errors import RunError
from posneurons.neuron_pages import read_pages
from posneurons.run_files import read_run
from posneurons.words import BEST

RANKED = ("rank", "pages")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The statistics of every tenth sentence of the embedded treebank."""
    bank = str(demo.write_treebank(tmp_path_factory.mktemp("bank"), every=10))
    few = {"controls": 1, "draws": 50, "min_words": 60, "lesion_words": 150, "pages": 1}
    return Config(
        treebank=bank,
        methods=("correlation",),
        ablations=("mean",),
        probe_at=("predict", "last"),
        top=3,
        beside=(),
        **few,
    )


@pytest.fixture(scope="module")
def finished(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    return study.run(config, out, stages=("rank", "lesion", "pages"), progress=False)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def tags(run: Path) -> list[str]:
    return list(json.loads((run / "neurons.json").read_text())["correlation"])


def test_every_page_says_why_it_is_there(finished: Path) -> None:
    sets = json.loads((finished / "neurons.json").read_text())["correlation"]
    found = {
        (reason.tag, reason.rank, page.name)
        for page in read_pages(finished / "neuron_pages.json")
        for reason in page.of
    }
    assert found == {(tag, 1, names[0]) for tag, names in sets.items()}


def test_with_key_neurons_of_each_layer_pages_go_to_the_best_of_all(config: Config, tmp_path: Path) -> None:
    out = study.run(replace(config, per="layer", top=2), tmp_path / "run", stages=RANKED, progress=False)
    pages = read_pages(out / "neuron_pages.json")
    frame = pd.read_parquet(out / "ranking.parquet").query("rank == 1 and at == 'predict'")
    best = {
        f"L{layer}N{unit}"
        for layer, unit, tag in zip(frame["layer"], frame["neuron"], frame["tag"], strict=True)
        if tag in tags(out)
    }
    assert {page.name for page in pages} == best
    assert len({page.layer for page in pages}) > 1
    assert all(page.of for page in pages)


def test_given_neurons_are_listed_under_their_tag(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "neurons.json"
    path.write_text('{"NOUN": ["L5N7", "L0N5", "L2N2"]}')
    out = study.run(replace(config, neurons=str(path), pages=2), tmp_path / "run", stages=RANKED, progress=False)
    found = [(page.name, *(vars(reason) for reason in page.of)) for page in read_pages(out / "neuron_pages.json")]
    assert found == [
        ("L5N7", {"method": "given", "tag": "NOUN", "rank": 1}),
        ("L0N5", {"method": "given", "tag": "NOUN", "rank": 2}),
    ]


def test_no_page_is_made_where_none_is_wanted(config: Config, tmp_path: Path) -> None:
    out = study.run(replace(config, pages=0), tmp_path / "run", stages=RANKED, progress=False)
    assert read_pages(out / "neuron_pages.json") == []


def test_another_number_of_pages_makes_the_pages_again_and_nothing_else(config: Config, copy: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in copy.iterdir()}
    study.run(replace(config, pages=2), copy, stages=("rank", "lesion", "pages"), progress=False)
    after = {path.name: path.stat().st_mtime_ns for path in copy.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"manifest.json", "neuron_pages.json"}
    assert {reason.rank for page in read_pages(copy / "neuron_pages.json") for reason in page.of} == {1, 2}
    assert json.loads((copy / "manifest.json").read_text())["config"]["pages"] == 2


def test_a_run_of_an_older_version_goes_on(config: Config, copy: Path) -> None:
    """It had no such option, no pages, and fewer tables."""
    content = json.loads((copy / "manifest.json").read_text())
    del content["config"]["pages"], content["config"]["units"], content["stages"]["pages"]
    for state in content["stages"].values():
        del state["files"]
    (copy / "manifest.json").write_text(json.dumps(content))
    for name in ("overlap.parquet", "similarity.parquet", "neuron_pages.json"):
        (copy / name).unlink()
    lesions = (copy / "lesions.parquet").stat().st_mtime_ns
    study.run(config, copy, stages=("rank", "lesion", "pages"), progress=False)
    assert (copy / "lesions.parquet").stat().st_mtime_ns == lesions
    assert read_pages(copy / "neuron_pages.json")
    with pytest.raises(RunError, match="holds a run with units='word', and 'token' was asked for"):
        study.run(replace(config, units="token"), copy, stages=("rank",), progress=False)


def test_ranking_again_keeps_what_the_lesions_told_of_the_tags(config: Config, copy: Path) -> None:
    before = read_run(copy).similarity
    (copy / "ranking.parquet").unlink()
    study.run(config, copy, stages=("rank",), progress=False)
    after = read_run(copy).similarity
    pd.testing.assert_frame_equal(before, after)
    assert set(after["source"]) == {"activation", "lesion"}


def test_an_option_may_change_while_no_finished_stage_has_used_it(config: Config, tmp_path: Path) -> None:
    """And where the ranking alone has used the positions of the probe, it is made again for the others."""
    once = replace(config, probe_at=("predict",))
    run = study.run(once, tmp_path / "run", stages=("rank",), command="posneurons rank", progress=False)
    before = pd.read_parquet(run / "ranking.parquet")
    more = replace(config, controls=2, draws=60)
    study.run(more, run, stages=("rank", "lesion"), command="posneurons lesion", progress=False)
    after = pd.read_parquet(run / "ranking.parquet")
    assert set(after["at"]) == {"predict", "last"}
    pd.testing.assert_frame_equal(after[after["at"] == "predict"].reset_index(drop=True), before)
    made = json.loads((run / "manifest.json").read_text())
    assert (made["config"]["controls"], made["config"]["probe_at"]) == (2, ["predict", "last"])
    with pytest.raises(RunError) as caught:
        study.run(replace(more, controls=1, margin=0.1, top=4, pages=2), run, progress=False)
    assert str(caught.value) == (
        f"{run}: holds a run with top=3, and 4 was asked for; controls=2, and 1 was asked for; margin=0.05, and 0.1 "
        "was asked for; repeat its options (posneurons lesion), or choose another --out"
    )


def test_pages_alone_rank_at_their_own_position_only(
    config: Config, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copy / "neuron_pages.json").unlink()
    asked: list[tuple[str, str]] = []
    whole = study.Evidence.ranking
    monkeypatch.setattr(
        study.Evidence,
        "ranking",
        lambda self, spec, at, **how: asked.append((str(spec), at)) or whole(self, spec, at, **how),
    )
    study.run(config, copy, stages=("rank", "pages"), progress=False)
    assert asked == [("correlation", "predict")]


def test_a_neuron_that_is_best_by_one_method_has_its_rank_under_all(config: Config, tmp_path: Path) -> None:
    both = replace(config, methods=("correlation", "logit_attribution"))
    frame = pd.read_parquet(study.run(both, tmp_path / "run", stages=("rank",), progress=False) / "ranking.parquet")
    frame = frame[frame["at"] == "predict"]
    best = frame[frame["rank"] <= BEST]
    merged = best.merge(frame, on=["tag", "layer", "neuron"], suffixes=("", "_other"))
    assert merged.groupby(["method", "tag", "layer", "neuron"])["method_other"].nunique().eq(2).all()
    assert merged["rank_other"].max() > stages.KEPT + both.top  # some would not be there otherwise
    between = pd.read_parquet(tmp_path / "run/overlap.parquet").query("method_a != method_b")
    assert (between["tag_a"] == between["tag_b"]).all()
    assert set(between["tag_a"]) == set(json.loads((tmp_path / "run/neurons.json").read_text())["correlation"])
