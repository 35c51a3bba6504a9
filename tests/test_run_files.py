"""The files of a run: what is read, what may be absent, and one clear line for whatever is missing or damaged."""

import json
from pathlib import Path

import pandas as pd
import pytest
from handmade import EVIL, build_run
from synthetic import write_run

from posneurons.errors import RunError
from posneurons.report import build_report, findings
from posneurons.run_files import read_run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("run"), n_pages=2)


def test_every_file_of_a_finished_run_is_read(whole):
    run = read_run(whole)
    assert run.tags == ["ADJ", "ADP", "ADV", "AUX", "CCONJ"]
    assert len(run.ranking) >= 2 * 2 * 5 * 40  # methods, positions, tags, kept
    assert list(run.keys) == [
        "correlation", "attribution(scope=local, contrast)", "correlation@last",
        "attribution(scope=local, contrast)@last",
    ]  # fmt: skip
    assert len(run.probe) == 4
    assert set(run.overlap["tag_a"]) == set(run.tags)
    assert set(run.similarity["source"]) == {"activation", "lesion"}
    assert [page.name for page in run.pages] == [f"L{page.layer}N{page.neuron}" for page in run.pages]
    assert len(run.pages) == 2
    for table in (run.lesions, run.dissociations, run.sweep, run.carriers):
        assert len(table)


def test_files_that_older_versions_did_not_write_may_be_absent(tmp_path):
    run = write_run(tmp_path, n_pages=1)
    for name in ("overlap.parquet", "similarity.parquet", "neuron_pages.json"):
        (run / name).unlink()
    found = read_run(run)
    assert (found.overlap, found.similarity, found.pages) == (None, None, None)


def test_files_of_stages_that_are_not_done_are_not_read(tmp_path):
    run = write_run(tmp_path, n_pages=1, stages=("rank",))
    (run / "lesions.parquet").write_bytes(b"not whole")
    found = read_run(run)
    assert found.done("rank")
    assert not found.done("lesion")
    assert (found.probe, found.lesions, found.sweep, found.pages) == (None, None, None, None)
    assert len(found.overlap)


@pytest.mark.parametrize("name", ["overlap", "similarity"])
def test_a_damaged_newer_table_is_one_clear_line(tmp_path, name):
    run = write_run(tmp_path, n_pages=1, stages=("rank",))
    path = run / f"{name}.parquet"
    pd.read_parquet(path).drop(columns="tag_a").to_parquet(path)
    with pytest.raises(RunError) as error:
        read_run(run)
    assert str(error.value).startswith(f"{path}: no column tag_a; expected columns ")
    path.write_bytes(b"PAR1")
    with pytest.raises(RunError, match="damaged"):
        read_run(run)


def test_damaged_pages_are_one_clear_line(tmp_path):
    run = write_run(tmp_path, n_pages=1)
    (run / "neuron_pages.json").write_text('{"pages": 3}')
    with pytest.raises(RunError) as error:
        read_run(run)
    assert str(error.value).startswith(f"{run / 'neuron_pages.json'}: ")
    assert "\n" not in str(error.value)


def test_names_with_dots_are_names(tmp_path):
    """A tag "a.b" and a method "m.n" are keys of neurons.json, not paths into it."""
    run = build_run(tmp_path, tags=("a.b", EVIL, "c"), own={"a.b": 0.5, EVIL: 0.2, "c": 0.1}, methods=("m.n",))
    assert read_run(run).tags == ["a.b", EVIL, "c"]


@pytest.mark.parametrize(
    "name",
    ["manifest.json", "ranking.parquet", "neurons.json", "probe.json", "lesions.parquet", "dissociations.parquet"],
)
@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe\x00"])
def test_a_missing_or_damaged_file_is_one_clear_line_and_the_old_page_stays(tmp_path, name, content):
    run = build_run(tmp_path)
    (run / "report.html").write_text("old")
    (run / name).unlink() if content is None else (run / name).write_bytes(content)
    with pytest.raises(RunError) as error:
        build_report(run)
    message = str(error.value)
    assert message.startswith(f"{run / name}: {'no such file' if content is None else 'damaged'}")
    assert "expected" in message
    assert "\n" not in message
    assert (run / "report.html").read_text() == "old"
    assert not [path for path in run.iterdir() if "part" in path.name]


def change(path: Path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "edit", "sentence"),
    [
        ("manifest.json", lambda m: m.pop("config"), "config is missing; expected dict"),
        ("manifest.json", lambda m: m.update(stages={"rank": "done"}), "stages: rank.state is missing; expected str"),
        ("manifest.json", lambda m: m.update(dropped=[{"tag": "X"}]), "dropped: reason is missing; expected str"),
        (
            "neurons.json",
            lambda k: k["correlation"].update(X=["12"]),
            "correlation, X: '12'; expected a name like L3N12",
        ),
        ("neurons.json", lambda k: k.update(correlation=3), "correlation: 3; expected a JSON object"),
        ("probe.json", lambda p: p["results"][0].pop("at"), "result 0: at is missing; expected str"),
        ("probe.json", lambda p: p["results"][0]["classes"].pop(), "result 0: the confusion is not 2 × 2"),
    ],
)
def test_a_file_with_other_content_is_one_clear_line(tmp_path, name, edit, sentence):
    run = build_run(tmp_path)
    change(run / name, edit)
    with pytest.raises(RunError) as error:
        build_report(run)
    assert str(error.value).startswith(f"{run / name}: {sentence}")
    assert str(error.value).endswith("; delete the file and repeat the command that made it")


def test_a_table_without_a_column_is_one_clear_line(tmp_path):
    run = build_run(tmp_path)
    pd.read_parquet(run / "lesions.parquet").drop(columns="delta").to_parquet(run / "lesions.parquet")
    with pytest.raises(RunError, match=r"lesions.parquet: no column delta; expected columns method, lesion"):
        build_report(run)


@pytest.mark.parametrize(
    ("name", "new", "sentence"),
    [
        ("lesions", ["set", "percent", "delta_category", "p_items", "p_controls"], "no column set, percent, delta_cat"),
        ("dissociations", ["measure", "p_sets", "equivalence_p", "margin"], "no column measure, p_sets, equivalence_p"),
    ],
)
def test_a_table_of_an_older_version_is_one_clear_line(tmp_path, name, new, sentence):
    path = build_run(tmp_path) / f"{name}.parquet"
    pd.read_parquet(path).drop(columns=new).to_parquet(path)
    with pytest.raises(RunError) as error:
        findings(tmp_path)
    assert str(error.value).startswith(f"{path}: {sentence}")
    assert str(error.value).endswith(
        " (an older version of posneurons wrote fewer); delete the file and repeat the command that made it"
    )
    assert "\n" not in str(error.value)
