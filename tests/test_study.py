"""The main job end to end on the embedded model: its files, its resumption, its errors."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import demo
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import posneurons as pn
from posneurons import cli as command_line
from posneurons import neuron_lists, passes, stages, study
from posneurons.config import Config
from posneurons.errors import NeuronError, PosNeuronsError, RunError, TreebankError
from posneurons.manifest import Manifest
from posneurons.neuron_pages import read_pages
from posneurons.verdicts import MEASURED, TESTED

QUICK = Config(
    methods=("correlation",), top=20, controls=3, ablations=("mean",), draws=500, probe_at=("last",), min_words=60
)


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A quick run on every sixth sentence of the embedded treebank."""
    return replace(QUICK, treebank=str(demo.write_treebank(tmp_path_factory.mktemp("little"), every=6)))


@pytest.fixture(scope="module")
def finished(little: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study.run(little, tmp_path_factory.mktemp("run") / "little", command="posneurons run", progress=False)


def test_a_run_writes_the_files_of_the_contract(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == [
        ".lock",
        "dissociations.parquet",
        "lesion_similarity.parquet",
        "lesions.parquet",
        "manifest.json",
        "neuron_pages.json",
        "neurons.json",
        "overlap.parquet",
        "probe.json",
        "ranking.parquet",
        "report.html",
        "similarity.parquet",
    ]
    lesions = pd.read_parquet(finished / "lesions.parquet")
    columns = (
        "method lesion ablation scope draw tag words loss_intact loss_lesioned delta ci_low ci_high p_value q_value"
        " z_control delta_category delta_lexical"
    )
    assert set(columns.split()) <= set(lesions.columns) == {*MEASURED, *TESTED}
    assert set(lesions["draw"]) == {0, 1, 2, 3}
    names = json.loads((finished / "neurons.json").read_text())
    assert set(names) == {"correlation", "correlation@last"}
    assert all(len(found) == 20 for found in names["correlation"].values())
    assert set(names["correlation"]) == set(lesions["lesion"])
    ranking = pd.read_parquet(finished / "ranking.parquet")
    nouns = ranking.query("tag == 'NOUN' and method == 'correlation' and at == 'predict' and rank <= 20")
    assert [f"L{la}N{u}" for la, u in zip(nouns["layer"], nouns["neuron"], strict=True)] == names["correlation"]["NOUN"]


def test_the_manifest_says_what_was_run(finished: Path) -> None:
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["command"] == "posneurons run"
    assert manifest["config"]["top"] == 20
    assert manifest["model"]["n_layers"] == 6
    assert len(manifest["treebank"]["sha256"]) == 64
    assert manifest["notes"]["lesions"] == {"clusters": "sentence"}  # 7 documents are too few
    assert set(manifest["stages"]) == {"rank", "probe", "lesion", "pages", "report"}
    assert {"split", "tag", "reason", "words"} == set(manifest["dropped"][0])
    assert any("fewer than 60 training words" in warning for warning in manifest["warnings"])


def test_the_tables_beside_the_rankings_agree_with_them(finished: Path) -> None:
    names = json.loads((finished / "neurons.json").read_text())["correlation"]
    overlap = pd.read_parquet(finished / "overlap.parquet")
    assert len(overlap) == len(names) * (len(names) - 1) / 2
    pair = overlap[(overlap["tag_a"] == "NOUN") & (overlap["tag_b"] == "VERB")].iloc[0]
    assert pair["shared"] == len(set(names["NOUN"]) & set(names["VERB"]))
    assert pair[["method_a", "method_b"]].tolist() == ["correlation", "correlation"]
    alike = pd.concat(pd.read_parquet(finished / f"{name}.parquet") for name in ("similarity", "lesion_similarity"))
    assert alike.groupby("source")["ablation"].unique().map(list).to_dict() == {"activation": [""], "lesion": ["mean"]}
    (same,) = alike[alike["tag_a"] == alike["tag_b"]]["dissimilarity"].unique()
    assert same == 0
    pages = {page.name: page for page in read_pages(finished / "neuron_pages.json")}
    assert set(pages) == {name for found in names.values() for name in found[:3]}
    first = pages[names["NOUN"][0]]
    assert ("NOUN", 1) in [(reason.tag, reason.rank) for reason in first.of]


def beyond_controls(run: Path) -> pd.Series:
    """By tag, what its own lesion raises its loss by, less the most that one of its random sets does."""
    own = pd.read_parquet(run / "lesions.parquet").query("lesion == tag and ablation == 'mean'")
    return own[own["draw"] == 0].set_index("tag")["delta"] - own[own["draw"] > 0].groupby("tag")["delta"].max()


def test_lesions_hit_their_own_tag_hardest(finished: Path) -> None:
    """What the project claims, at its smallest, of nouns and verbs."""
    assert (beyond_controls(finished)[["NOUN", "VERB"]] > 0.05).all()


@pytest.mark.slow
def test_lesions_hit_most_tags_hardest(tmp_path: Path) -> None:
    out = study.run(QUICK, tmp_path / "run", stages=("rank", "lesion"), progress=False)
    assert (beyond_controls(out) > 0).mean() > 0.5


def test_rankings_of_every_family_stand_side_by_side(little: Config, tmp_path: Path) -> None:
    methods = ("correlation", "lape", "auroc", "attribution", "attribution:contrast=no,baseline=mean")
    methods += ("logprob_increase:shortlist=3", "logit_attribution")
    config = replace(little, methods=methods, probe_at=("predict",), min_words=20)
    out = study.run(config, tmp_path / "run", stages=("rank",), progress=False)
    names = json.loads((out / "neurons.json").read_text())
    assert tuple(names) == methods
    frame = pd.read_parquet(out / "ranking.parquet")
    for method in methods:
        nouns = frame[(frame["method"] == method) & (frame["tag"] == "NOUN") & (frame["rank"] <= 20)]
        found = [f"L{la}N{u}" for la, u in zip(nouns["layer"], nouns["neuron"], strict=True)]
        assert found == names[method]["NOUN"]
    assert len({tuple(names[method]["NOUN"]) for method in methods}) == len(methods)
    warnings = " ".join(Manifest.load(out).warnings)
    assert "logprob_increase:shortlist=3 scores fewer than 20 neurons for ADJ (3)" in warnings


def test_verify_holds_rankings_against_exact_ablation(little: Config, tmp_path: Path) -> None:
    config = replace(little, methods=("attribution:contrast=no", "correlation"), listed=20, random=10, words=60)
    out = study.run(config, tmp_path / "run", stages=("verify",), progress=False)
    content = json.loads((out / "verify.json").read_text())
    assert {row["estimate"] for row in content["agreement"]} == {"attribution:contrast=no", "correlation"}
    assert content["random"] == 10
    best = [row["spearman"] for row in content["agreement"] if row["tag"] == "NOUN" and row["exact"] == "effect"]
    assert best[0] > best[1] + 0.3


@pytest.mark.slow
def test_with_its_defaults_the_main_job_finds_what_the_readme_says(tmp_path: Path) -> None:
    out = study.run(Config(), tmp_path / "run", progress=False)
    beyond = beyond_controls(out)
    assert len(beyond) == 17
    assert (beyond > 0).sum() >= 15  # 17 of 17 when it was logged; by chance 0.8


def test_a_finished_run_is_left_alone_and_a_lost_stage_is_made_again(
    little: Config, finished: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    before = {path.name: path.stat().st_mtime_ns for path in copy.iterdir()}
    wanted = (copy / "probe.json").read_text()
    (copy / "probe.json").unlink()
    study.run(little, copy, progress=False)
    assert (copy / "probe.json").read_text() == wanted
    assert (copy / "lesions.parquet").stat().st_mtime_ns == before["lesions.parquet"]
    assert (copy / "ranking.parquet").stat().st_mtime_ns == before["ranking.parquet"]


def test_a_stopped_run_goes_on_and_gives_the_numbers_of_one_that_was_not(
    little: Config, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "lesion_study", stop)
    with pytest.raises(KeyboardInterrupt):
        study.run(little, tmp_path / "run", stages=("rank", "lesion"), progress=False)
    monkeypatch.undo()
    assert set(json.loads((tmp_path / "run/manifest.json").read_text())["stages"]) == {"rank"}
    assert not list((tmp_path / "run").glob("*.part"))
    ranked = (tmp_path / "run/ranking.parquet").stat().st_mtime_ns
    study.run(little, tmp_path / "run", stages=("rank", "lesion"), progress=False)
    assert (tmp_path / "run/ranking.parquet").stat().st_mtime_ns == ranked
    a, b = (pd.read_parquet(folder / "lesions.parquet") for folder in (finished, tmp_path / "run"))
    np.testing.assert_array_equal(a["delta"], b["delta"])
    pd.testing.assert_frame_equal(a, b)


def test_out_of_memory_is_one_line_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill_up(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(passes, "tag_moments", fill_up)
    with pytest.raises(RunError, match=r"out of memory with batches of 2048 tokens; .* smaller --batch-tokens"):
        study.run(QUICK, tmp_path / "run", progress=False)


def test_neurons_from_a_file(little: Config, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text('{"NOUN": ["L0N1", "L3N7"], "VERB": ["L5N2"]}')
    config = replace(little, neurons=str(tmp_path / "mine.json"))
    out = study.run(config, tmp_path / "run", stages=("rank", "lesion"), progress=False)
    frame = pd.read_parquet(out / "lesions.parquet")
    assert set(frame["lesion"]) == {"NOUN", "VERB"}
    assert set(frame["method"]) == {"given"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[1]", r'mine.json: expected \{"TAG": \["L12N3456", ...\], ...\}, found list'),
        ("{", r"mine.json: damaged .* expected JSON"),
        ('{"NOUN": ["12.3"]}', r"mine.json: given, NOUN: neuron '12.3': expected a name such as 'L12N3456'"),
        ('{"NOUN": []}', r"mine.json: given, NOUN: expected a list of neuron names, found \[\]"),
        ('{"x": {"NOUN": "L1N1"}}', r"mine.json: x, NOUN: expected a list of neuron names, found 'L1N1'"),
        ("{}", r"mine.json: expected .* found dict"),
        ('{"correlation": {}}', r"mine.json: found no neurons; expected"),
        ('{"a@last": {"NOUN": ["L1N1"]}}', r"mine.json: found no neurons; expected"),
        ('{"NOUN": ["L1N1", "L1N1"]}', r"mine.json: given, NOUN: .*L1N1 is in it twice"),
    ],
)
def test_a_bad_neuron_file_is_an_error_with_its_place(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "mine.json").write_text(text)
    with pytest.raises((NeuronError, RunError), match=sentence):
        neuron_lists.read_neurons(tmp_path / "mine.json")


def test_another_configuration_in_the_same_place_is_an_error(little: Config, finished: Path) -> None:
    with pytest.raises(
        RunError,
        match=r"holds a run with top=20, and 21 was asked for; repeat its options \(.*\), or choose another --out",
    ):
        study.run(replace(little, top=21), finished)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"at": "middle"}, "--at middle: expected one of predict, first, last"),
        ({"per": "head"}, "--per head: expected one of model, layer"),
        ({"methods": ("guess",)}, "method 'guess': no such ranking; expected one of correlation, eta_squared"),
        ({"ablations": ("burn",)}, "ablation 'burn': no such ablation; expected one of zero, mean"),
        ({"top": 0}, "--top 0: expected at least 1"),
        ({"controls": -1}, "--controls -1: expected at least 0"),
        ({"draws": 0}, "--draws 0: expected at least 1"),
        ({"seed": -1}, "--seed -1: expected at least 0"),
        ({"batch_tokens": 0}, "--batch-tokens 0: expected at least 1"),
    ],
)
def test_a_bad_option_is_an_error_before_anything_is_made(tmp_path: Path, change: dict, sentence: str) -> None:
    with pytest.raises(PosNeuronsError, match=sentence):
        study.run(replace(QUICK, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_typo_does_not_spoil_the_run_directory(little: Config, tmp_path: Path) -> None:
    with pytest.raises(TreebankError, match=r"nowhere\.conllu: no such file or folder"):
        study.run(replace(QUICK, treebank="nowhere.conllu"), tmp_path / "run", progress=False)
    study.run(little, tmp_path / "run", stages=("rank",), progress=False)
    assert Manifest.load(tmp_path / "run").config["treebank"] == little.treebank


def test_another_treebank_under_the_same_name_is_an_error(little: Config, finished: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    manifest = Manifest.load(copy)
    manifest.treebank["sha256"] = "0" * 64
    manifest.save(copy)
    (copy / "probe.json").unlink()
    with pytest.raises(
        RunError, match=r"its finished stages used a treebank with sha256='0000.*; choose another --out"
    ):
        study.run(little, copy, progress=False)


@pytest.mark.parametrize("content", ["[]", "{", '{"a": 1}', '{"command": "", "config": []}'])
def test_a_damaged_manifest_is_an_error_with_its_place(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(RunError, match=r"manifest\.json: "):
        study.run(QUICK, tmp_path, progress=False)


def test_words_that_follow_bos_are_counted_as_left_out(little: Config, finished: Path) -> None:
    dropped = json.loads((finished / "manifest.json").read_text())["dropped"]
    openers = [row for row in dropped if row["reason"].startswith("first of its row")]
    corpus = pn.align(pn.load_treebank(little.treebank), demo.model().tokenizer, n_ctx=256)
    assert sum(row["words"] for row in openers) == (corpus.word_first == 1).sum() > 0.8 * corpus.n_rows > 100


def test_too_many_neurons_is_an_error_that_says_so(little: Config, tmp_path: Path) -> None:
    with pytest.raises(NeuronError, match=r"^top: k=5000, but the model has 4608 neurons; choose a smaller k$"):
        study.run(replace(little, top=5000), tmp_path / "run", stages=("rank",), progress=False)


def cli(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "posneurons", *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("run", "--treebank", "nowhere.conllu"), "nowhere.conllu"),
        (("run", "--model", "./no/such/folder"), "no/such/folder"),
        (("lesion", "--neurons", "nowhere.json"), "nowhere.json: no such file"),
        (("run", "--top", "0"), "--top 0: expected at least 1"),
        (("report", "no/such/run"), "no/such/run"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path: Path, words: tuple[str, ...], sentence: str) -> None:
    out = () if words[0] == "report" else ("--out", str(tmp_path / "run"))
    done = cli(*words, *out)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("posneurons: ")
    assert sentence in done.stderr
    assert done.stdout == ""


@pytest.mark.skipif(sys.platform == "win32", reason="signals differ")
def test_ctrl_c_says_how_to_go_on(little: Config, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "posneurons", "lesion", "--out", str(tmp_path / "run")]
    command += ["--treebank", little.treebank, "--method", "correlation"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in a shell's background
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    while not (tmp_path / "run" / "neurons.json").exists():  # the first stage is done, the long one begins
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said == "posneurons: stopped; the same command goes on from the last finished stage\n"


@pytest.mark.parametrize("command", ["steer", "tag", "doctor", "report"])
def test_ctrl_c_in_a_command_without_stages_is_one_line(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in ("steer_run.run", "tagging.run", "doctor.examine", "manifest.read_manifest"):
        monkeypatch.setattr(f"posneurons.{name}", stop)
    words = ("tag", "text.txt") if command == "tag" else (command,)
    done = CliRunner().invoke(command_line.app, words)
    assert (done.exit_code, done.output) == (130, "posneurons: stopped; the same command begins anew\n")


def test_help_names_every_command() -> None:
    done = cli("--help")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("run", "rank", "probe", "lesion", "report", "doctor"))


def test_doctor_names_what_is_at_hand() -> None:
    done = cli("doctor")
    assert done.returncode == 0
    assert "embedded model: " in done.stdout
    assert "missing" not in done.stdout
