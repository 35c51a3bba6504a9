"""What the README says: its examples run, its commands are understood and (most of them slow) run, its links lead."""

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import demo
import numpy as np
import pytest
import synthetic
import typer

from posneurons.cli import STAGES, app
from posneurons.config import Config
from posneurons.methods import METHODS
from posneurons.options import made

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS: list[tuple[str, str]] = re.findall(r"```(\w*)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.partition("  #")[0].strip()
    for kind, text in BLOCKS
    if kind == "sh"
    for line in text.splitlines()
    if line.strip()
]


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+\.\d+", text)]


def run(code: str, names: dict[str, Any]) -> None:
    exec(compile(code, "README.md", "exec"), names)  # noqa: S102


def test_the_examples_run_and_the_first_prints_what_stands_below_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, as a reader would; all but the first on every twelfth row of the corpus."""
    monkeypatch.chdir(tmp_path)
    first, *others = [text for kind, text in BLOCKS if kind == "python"]
    names: dict[str, Any] = {}
    run(first, names)
    printed, shown = capsys.readouterr().out, BLOCKS[1][1]
    assert re.findall("[A-Z]+", printed) == re.findall("[A-Z]+", shown)
    assert numbers(printed) == pytest.approx(numbers(shown), abs=0.03)  # bfloat16 rounds differently elsewhere
    names["corpus"] = names["corpus"].select(np.arange(names["corpus"].n_rows) % 12 == 0)
    for code in others:
        run(code, names)
    assert names["page"].ranks[0].method == "attribution"
    assert (tmp_path / f"{names['page'].name}.html").stat().st_size > 1e6
    assert names["found"].rises().shape[0] == len(names["keys"]["NOUN"])


def test_there_are_commands() -> None:
    assert {words.split()[0] for words in COMMANDS} == {"make", "posneurons", "torchrun"}
    assert {words.split()[1] for words in COMMANDS if words.startswith("posneurons")} >= {
        "run", "rank", "lesion", "sweep", "steer", "verify", "tag", "report", "doctor",
    }  # fmt: skip


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("posneurons")])
def test_commands_are_understood(line: str) -> None:
    _, name, *words = shlex.split(line)
    group = typer.main.get_command(app)
    command = group.commands[name]  # type: ignore[attr-defined]
    options = command.make_context(name, list(words)).params
    if name in (*STAGES, "verify", "sweep"):
        config = made(Config, options)
        (replace(config, ablations=(options["ablation"],)) if name == "verify" else config).check()


def test_an_option_that_is_not_there_would_be_noticed() -> None:
    with pytest.raises(Exception, match="No such option"):
        test_commands_are_understood("posneurons run --no-such-thing 3")


def test_make_knows_its_targets() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([\w-]+)", README, re.MULTILINE)) <= targets


def test_what_it_points_to_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith(("http", "#"))]
    named = re.findall(r"\b(?:experiments|notebooks|posneurons|tests)/[\w/]+\.\w+", README)
    assert links
    assert [path for path in {*links, *named} if not (ROOT / path).exists()] == []


def test_its_pictures_are_drawings() -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert pictures
    assert {ET.parse(ROOT / path).getroot().tag for path in pictures} == {"{http://www.w3.org/2000/svg}svg"}  # noqa: S314


def test_nothing_is_left_open_and_methods_are_counted() -> None:
    assert "@@" not in README
    assert f"| rankings | {len(METHODS)}, one interface" in README


def test_the_first_picture_is_of_the_command_below_it() -> None:
    shown = " ".join(ET.parse(ROOT / "experiments/figures/readme.svg").getroot().itertext())  # noqa: S314
    sets = re.search(r"with (\d+) neurons each and (\d+) matched random sets", README)
    assert sets
    assert sets.groups() == (str(Config().top), str(Config().controls))
    assert re.search(rf"{sets[1]} best neurons .*{sets[2]} random", shown)


def test_it_names_every_method_module_and_notebook() -> None:
    tree = next(text for _, text in BLOCKS if text.startswith("posneurons/"))
    modules = {path.stem for path in (ROOT / "posneurons").glob("[!_]*.py")}
    told = set(re.findall(r"\w+", tree))
    plain = {name for name in modules if not name.endswith(("_figures", "_cards")) and name != "views"}
    helpers = {
        "errors", "words", "records", "sentences", "results", "effects", "memory", "writing", "quadrature",
        "loss_table", "sweep_plan", "neuron_lists", "doctor", "fluency", "verdicts", "conll_writing", "products",
    }  # fmt: skip
    assert plain - told <= helpers
    assert [name for name in METHODS if f"`{name}`" not in README] == []
    assert [path.stem for path in (ROOT / "notebooks").glob("*.ipynb") if path.stem not in README] == []


FEW = {
    "rank": ["--top", "3", "--min-words", "1"],
    "verify": ["--listed", "20", "--random", "5", "--words", "20"],
    "lesion": ["--top", "3", "--controls", "2", "--min-words", "1", "--draws", "50", "--lesion-words", "60"],
    "sweep": ["--top", "3", "--controls", "2", "--min-words", "1"],
    "steer": ["--controls", "2", "--tokens", "8", "--continuations", "1"],
}
"""What makes a command of the README small; options that are given twice count as given last."""


def done(words: list[str], folder: Path) -> str:
    """Run a command as a shell would, and give what it says."""
    command = [sys.executable, "-m", "posneurons", *words]
    found = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, timeout=600)
    assert found.returncode == 0, found.stderr
    return found.stdout


def test_doctor_and_report_do_what_the_readme_says(tmp_path: Path) -> None:
    synthetic.write_run(tmp_path / "runs" / "demo")
    assert "en_ewt" in done(["doctor"], tmp_path)
    assert f"Page: {Path('runs/demo/report.html')}" in done(["report", "runs/demo"], tmp_path)
    assert (tmp_path / "runs/demo/report.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.slow
def test_the_other_commands_do_their_work_on_a_small_treebank(tmp_path: Path) -> None:
    (tmp_path / "bank").mkdir()
    bank = str(demo.write_treebank(tmp_path / "bank", every=40))
    first = ["--top", "3", "--controls", "2", "--min-words", "1", "--draws", "50", "--pages", "1"]
    assert "Page:" in done(["run", "--treebank", bank, *first], tmp_path)  # the run that others go on from
    for line in COMMANDS:
        _, name, *words = shlex.split(line)
        if name in FEW and "letters.conllu" not in words:
            given = [] if "--neurons" in words or name == "sweep" else ["--out", f"runs/{name}"]
            told = done([name, *words, *given, "--treebank", bank, *FEW[name]], tmp_path)
            assert "runs/" in told, name
