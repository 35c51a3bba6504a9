"""Experiments: each says what it asks without loading a model, and those with a figure run on little and draw it."""

import re
import runpy
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import demo
import numpy as np
import pandas as pd
import pytest

import posneurons as pn

FOLDER = Path(__file__).parents[1] / "experiments"
SCRIPTS = sorted(
    path.stem
    for path in FOLDER.glob("*.py")
    if "argparse" in path.read_text("utf-8") or "parser(" in path.read_text("utf-8")
)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
needs_browser = pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chrome or Chromium to draw with")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a script of the folder with some words after its name."""
    monkeypatch.syspath_prepend(str(FOLDER))

    def run(name: str, *words: str) -> None:
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, words)])
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")

    return run


@pytest.fixture
def helper(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return lambda name: runpy.run_path(str(FOLDER / f"{name}.py"), run_name="imported")


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in ("setting", "tables")])
def test_help_says_what_is_asked_without_a_model(
    name: str, alone: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("--help must not load a model")

    monkeypatch.setattr("posneurons.models.load_model", never)
    with pytest.raises(SystemExit) as end:
        alone(name, "--help")
    said = capsys.readouterr().out
    assert end.value.code == 0
    assert "usage:" in said
    assert len(re.sub(r"\s+", " ", said)) > 300


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every third sentence of the embedded treebank."""
    return demo.write_treebank(tmp_path_factory.mktemp("bank"), 3)


def texts(path: Path) -> str:
    """All that is written in a figure. Raises where it is no XML."""
    root = ET.fromstring(path.read_text("utf-8"))  # noqa: S314
    return " | ".join("".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text"))


def titles(path: Path) -> str:
    """What stands above a figure in large print."""
    root = ET.fromstring(path.read_text("utf-8"))  # noqa: S314
    found = [each for each in root.iter("{http://www.w3.org/2000/svg}text") if each.get("class") == "gtitle"]
    return "".join(found[0].itertext())


SMALL = ["--words", "150", "--controls", "2", "--tags", "NOUN", "VERB"]
FEW = [
    ("noun_verb", [], ["words measured", "nats per word", "lesion of NOUN neurons", "VERB words"]),
    ("which_layer", ["--top", "5"], ["layer", "nats per word", "neuronsin the layer", "VERB (n ="]),
    ("how_many_neurons", ["--k", "1", "10"], ["neurons lesioned (k, log scale)", "nats per word", "NOUN (n ="]),
    ("encoded_or_used", [], ["encodes: |correlation| with the tag", "used: attribution", "tag (test words)"]),
    ("position", [], ["where the word is read", "accuracy on test words (0 to 1)", "nats per word"]),
    ("ablation_kind", ["--kinds", "zero", "mean"], ["ablation", "nats per word", "correlation of matrices"]),
    ("languages", ["--train-words", "500"], ["nats per character (log scale)", "treebank", "nats per word"]),
    ("lexical_confound", [], ["how the effect is measured", "nats per word", "frequency matched"]),
]


@needs_browser
@pytest.mark.parametrize(("name", "more", "written"), FEW, ids=[name for name, *_ in FEW])
def test_an_experiment_prints_a_table_and_draws_its_figure(
    name: str, more: list[str], written: list[str], alone: Any, bank: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    model = demo.model()
    monkeypatch.setattr("posneurons.models.load_model", lambda *_, **__: model)
    figure = tmp_path / "new" / "figure.svg"
    alone(name, "--treebank", str(bank), "--figure", str(figure), *SMALL, *more)
    said = capsys.readouterr().out
    assert said.count("\n| ") >= 3
    assert re.search(r"[+−-]?\d+\.\d+", said)
    assert str(figure) in said
    shown = texts(figure)
    assert all(each in shown for each in written), shown
    assert figure.stat().st_size < 150_000


def test_committed_figures_are_small_and_whole() -> None:
    found = sorted(path.stem for path in (FOLDER / "figures").glob("*.svg"))
    assert found == sorted([*(name for name, *_ in FEW), "readme"])
    for path in (FOLDER / "figures").glob("*.svg"):
        assert texts(path)
        assert path.stat().st_size < 150_000, path
        assert len(titles(path)) < 72, "wider than the figure"


def run_directory(folder: Path) -> Path:
    """A run of two tags: VERB's own lesion does 0.5 nats, NOUN's 0.25, two random sets of each 0.01 and 0.02."""
    rows = []
    for lesion, own in (("NOUN", 0.25), ("VERB", 0.5)):
        for tag in ("NOUN", "VERB"):
            for draw, delta in enumerate((own if tag == lesion else 0.0, 0.01, 0.02)):
                cell = {"lesion": lesion, "tag": tag, "draw": draw, "delta": delta, "words": 70}
                cell |= {"set": "matched" if draw else "key", "q_value": 0.01 if own == delta else 0.5}
                rows.append(cell | {"ci_low": delta - 0.1, "ci_high": delta + 0.1})
    frame = pd.DataFrame(rows).assign(method="attribution", ablation="mean", scope="all")
    frame.to_parquet(folder / "lesions.parquet")
    (folder / "manifest.json").write_text('{"config": {"top": 7}, "treebank": {"name": "mine"}}', encoding="utf-8")
    return folder


@needs_browser
def test_the_readme_picture_is_made_from_a_run(alone: Any, tmp_path: Path) -> None:
    figure = tmp_path / "x.svg"
    alone("readme_picture", "--run", str(run_directory(tmp_path)), "--figure", str(figure))
    shown = texts(figure)
    assert (
        "Treebank mine; 7 best neurons of each of 2 tags by attribution, under mean ablation; 140 test words" in shown
    )
    assert "2 random sets for each tag" in shown
    assert shown.count("•") == 2
    assert shown.index("VERB (70)") < shown.index("NOUN (70)")


def test_the_readme_picture_says_what_a_run_has(alone: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no lesions of lape, mean; expected one of attribution, mean"):
        alone("readme_picture", "--run", str(run_directory(tmp_path)), "--method", "lape")


def test_own_effects_stand_beside_the_range_of_their_random_sets(helper: Any, tmp_path: Path) -> None:
    own = helper("setting")["own"](pd.read_parquet(run_directory(tmp_path) / "lesions.parquet"))
    assert own["delta"].to_dict() == {"NOUN": 0.25, "VERB": 0.5}
    assert own.loc["NOUN", ["control_low", "control_high", "control_mean"]].tolist() == [0.01, 0.02, 0.015]


def test_a_lesion_that_helps_is_no_harm_even_above_its_random_sets(helper: Any) -> None:
    cells = pd.DataFrame({"delta": [0.2, -0.1, 0.2], "control_high": [0.1, -0.2, 0.3], "q_value": [0.05, 0.06, np.nan]})
    assert helper("setting")["passed"](cells) == {"tags": 3, "above all random sets": 1, "q <= 0.05": 1}


def test_what_is_undefined_is_a_dash(helper: Any) -> None:
    interval = helper("setting")["interval"]
    assert interval(float("nan"), 0.0, 1.0) == "–"
    assert interval(0.25, -0.5, 1.0) == "+0.250 (−0.500 to +1.000)"


def test_a_shortened_corpus_keeps_the_other_splits(helper: Any) -> None:
    whole = demo.small()
    cut = helper("setting")["shortened"](whole, 50, 0, split="train")
    assert cut.split("test").tag_counts() == whole.split("test").tag_counts()
    longest = np.bincount(whole.word_row).max()
    assert 50 <= len(cut.split("train")) < 50 + longest < len(whole.split("train"))


def test_a_contrast_is_the_mean_difference_of_two_lesions_on_the_tags_words(helper: Any) -> None:
    """NOUN words lose 3 and 1 under NOUN's lesion, 1 and 1 under VERB's: (2 + 0) / 2; VERB's word 0.5 less."""
    nobody = pn.NeuronSet.parse([])
    result = pn.LesionResult(
        method="m", ablation="mean", scope="all", tags=("NOUN", "VERB"), word_tag=np.array([0, 0, 1]),
        word_cluster=np.array([0, 1, 1]), word_type=np.array([0, 1, 2]), lesion=("NOUN", "VERB"), kind=("key", "key"),
        draw=np.array([0, 0]), neurons=(nobody, nobody), loss_intact=np.zeros(3),
        losses=np.array([[3.0, 1.0, 1.0], [1.0, 1.0, 0.5]]), draws=200, seed=0,
    )  # fmt: skip
    contrast = helper("noun_verb")["contrast"]
    assert contrast(result, "NOUN", "VERB", category=False) == pytest.approx((1.0, 0.0, 2.0))
    assert contrast(result, "VERB", "NOUN", category=False)[0] == pytest.approx(-0.5)
