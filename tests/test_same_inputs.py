"""A run goes on with the inputs that it was begun with: what lies behind a name is compared, not the name alone."""

import shutil
from dataclasses import replace
from pathlib import Path

import demo
import pytest
from safetensors.torch import load_file, save_file

from posneurons import study
from posneurons.checkpoints import DEMO
from posneurons.config import Config
from posneurons.errors import RunError
from posneurons.manifest import Manifest


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Of files that a test may change: they are put back after it."""
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copytree(DEMO, folder / "model")
    (folder / "bank").mkdir()
    (folder / "classes.json").write_text('{"open": ["NOUN", "VERB"], "other": ["ADP", "DET"]}')
    return Config(
        model=str(folder / "model"), treebank=str(demo.write_treebank(folder / "bank", every=12)),
        classes=str(folder / "classes.json"), methods=("correlation",), probe_at=("predict",), top=3, min_words=30,
    )  # fmt: skip


@pytest.fixture(scope="module")
def ranked(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study.run(config, tmp_path_factory.mktemp("run") / "run", stages=("rank",), progress=False)


@pytest.fixture
def copy(ranked: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ranked, tmp_path / "copy"))


def probe(config: Config, out: Path) -> Manifest:
    study.run(config, out, stages=("rank", "probe"), progress=False)
    return Manifest.load(out)


def test_the_same_inputs_go_on_without_a_word(config: Config, copy: Path) -> None:
    before = Manifest.load(copy).warnings
    found = probe(config, copy)
    assert set(found.stages) == {"rank", "probe"}
    assert found.warnings == before


def test_other_weights_under_the_same_name_are_refused(config: Config, copy: Path, tmp_path: Path) -> None:
    path = Path(config.model) / "model.safetensors"
    kept = shutil.copy(path, tmp_path / "kept")
    trained = {name: weight * 1.5 for name, weight in load_file(path).items()}
    path.unlink()  # models that are loaded read it still
    save_file(trained, path, metadata={"format": "pt"})
    try:
        with pytest.raises(
            RunError, match=r"its finished stages used a model with weights='\w{32}', and now it is '\w{32}'; choose an"
        ):
            probe(config, copy)
    finally:
        shutil.move(kept, path)


def test_other_classes_of_the_same_names_are_refused(config: Config, copy: Path) -> None:
    path = Path(str(config.classes))
    kept = path.read_text()
    path.write_text(kept.replace("NOUN", "PROPN"))
    try:
        with pytest.raises(RunError, match=r"its finished stages used a treebank with .*corpus='\w{32}', and now"):
            probe(config, copy)
    finally:
        path.write_text(kept)


def test_a_run_of_an_older_version_which_knew_less_goes_on(config: Config, copy: Path) -> None:
    old = Manifest.load(copy)
    del old.model["weights"], old.treebank["corpus"]
    old.save(copy)
    assert set(probe(config, copy).stages) == {"rank", "probe"}


def test_a_list_that_has_changed_since_it_was_used_is_refused(config: Config, tmp_path: Path) -> None:
    mine, out = tmp_path / "mine.json", tmp_path / "run"
    mine.write_text('{"open": ["L0N1", "L3N7"]}')
    given = replace(config, neurons=str(mine))
    study.run(given, out, stages=("rank",), progress=False)
    mine.write_text('{"given": {"open": ["L0N1", "L3N7"]}}')  # the same, written in the other way
    study.run(given, out, stages=("rank",), progress=False)
    mine.write_text('{"open": ["L0N1", "L3N8"]}')
    with pytest.raises(
        RunError,
        match=rf"^--neurons {mine}: changed since the finished stages of {out} used it; expected what is in "
        rf"{out}/neurons.json; choose another --out$",
    ):
        study.run(given, out, stages=("rank",), progress=False)


def test_stages_of_other_software_are_named(config: Config, copy: Path) -> None:
    old = Manifest.load(copy)
    now = dict(old.software)
    old.posneurons, old.git, old.versions["torch"] = "0.0.1", "abc", "1.0"
    old.save(copy)
    (told,) = [each for each in probe(config, copy).warnings if "software" in each]
    other = f"posneurons {now['posneurons']} (before: 0.0.1), commit {now['commit']} (before: abc)"
    assert told == (
        "the stage probe was made with other software than this run was begun with: "
        f"{other}, torch {now['torch']} (before: 1.0)"
    )
