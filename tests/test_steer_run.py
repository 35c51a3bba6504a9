"""The command that steers: its files, and what it says of bad input."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import demo
import numpy as np
import pandas as pd
import pytest
import torch
from steered import SOME
from typer.testing import CliRunner

import posneurons as pn
from posneurons import cli, steer_run
from posneurons.activations import token_statistics
from posneurons.errors import PosNeuronsError
from posneurons.neurons import NeuronSet
from posneurons.steering import steer


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "neurons.json"
    path.write_text(json.dumps({"correlation": {"NOUN": list(SOME)[:30], "VERB": ["L0N1", "L3N2"]}}))
    return path


def test_the_command_writes_tables_and_texts(tmp_path: Path, keys: Path) -> None:
    out, bank = tmp_path / "out", pn.load_treebank(demo.write_treebank(tmp_path, every=8))
    words = ["steer", "--neurons", str(keys), "--tag-set", "NOUN", "--prompt", "The", "--prompt", "It was", "--change"]
    words += ["add", "--value", "2", "--tokens", "5", "--continuations", "2", "--controls", "2", "--device", "cpu"]
    words += ["--out", str(out), "--dtype", "float32", "--treebank", str(tmp_path)]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0] == (
        "30 neurons of NOUN (correlation): add 2 standard deviations; "
        f"tagger: simple (LinearSVC, {tmp_path.name}, {sum(len(each.words) for each in bank)} words)"
    )
    assert lines[1].split()[:3] == ["tag", "intact", "changed"]
    assert {path.name for path in out.iterdir()} == {".lock", "manifest.json", "steer.json", "steer.parquet"}
    frame = pd.read_parquet(out / "steer.parquet")
    assert frame.columns.tolist() == [
        "method", "tag_set", "change", "value", "set", "draw", "tag", "words", "share", "difference", "loss_per_token",
        "controls_as_far", "p_value",
    ]  # fmt: skip
    np.testing.assert_allclose(frame.groupby(["set", "draw"])["share"].sum(), 1)
    content = json.loads((out / "steer.json").read_text())
    assert content["neurons"] == list(SOME)[:30]
    assert len(content["texts"]) == (1 + 1 + 2) * 2 * 2
    train = pn.align(bank, demo.model().tokenizer, n_ctx=256).split("train")
    spread = token_statistics(demo.model(), train).sd
    again = steer(demo.model(), ["The", "It was"], NeuronSet.parse(list(SOME)[:30]), change="add", value=2.0,
                  spread=spread, tokens=5, continuations=2)  # fmt: skip
    assert [row["text"] for row in content["texts"] if row["set"] == "key"] == [
        text for each in again.continuations for text in each
    ]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["config"]["prompts"] == ["The", "It was"]
    assert manifest["model"]["n_layers"] == 6
    before = (out / "steer.parquet").read_bytes()
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    assert (out / "steer.parquet").read_bytes() == before
    other = CliRunner().invoke(cli.app, [*words, "--seed", "1"])
    assert isinstance(other.exception, PosNeuronsError)
    assert "holds a run with seed=0, and 1 was asked for; repeat its options (posneurons" in str(other.exception)


def test_added_values_count_standard_deviations_of_the_training_split() -> None:
    bank = replace(pn.load_treebank(), sentences=pn.load_treebank().sentences[::8])
    corpus = pn.align(bank, demo.model().tokenizer, n_ctx=256)
    found = steer_run._spread(demo.model(), bank, steer_run.SteerConfig())
    torch.testing.assert_close(found, token_statistics(demo.model(), corpus.split("train")).sd)
    assert not torch.allclose(found, token_statistics(demo.model(), corpus).sd)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "--neurons: no file was given; expected key neurons such as runs/demo/neurons.json: make one with"),
        (["--neurons", "nowhere.json"], "nowhere.json: no such file"),
        (["--neurons", "KEYS"], "--tag-set: none was given; expected one of those in KEYS: NOUN, VERB"),
        (["--neurons", "KEYS", "--tag-set", "DET"], "--tag-set DET: not in KEYS (correlation); it has NOUN, VERB"),
        (["--neurons", "KEYS", "--method", "lda"], "--method lda: not in KEYS; it has correlation"),
        (["--neurons", "KEYS", "--change", "burn"], "--change burn: expected one of scale, clamp, add"),
        (["--neurons", "KEYS", "--tagger", "me"], "--tagger me: expected one of simple, stanza"),
        (["--neurons", "KEYS", "--controls", "-1"], "--controls -1: expected at least 0"),
        (["--neurons", "KEYS", "--tokens", "0"], "--tokens 0: expected at least 1"),
        (["--neurons", "KEYS", "--tag-set", "NOUN", "--treebank", "no.conllu"], "no.conllu: no such file or folder"),
        (
            ["--neurons", "KEYS", "--tag-set", "NOUN", "--tagger", "stanza", "--language", "xx"],
            "Stanza's models for 'xx'",
        ),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    tmp_path: Path,
    keys: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    sentence: str,
) -> None:
    words = [each.replace("KEYS", str(keys)) for each in options]
    monkeypatch.setattr(sys, "argv", ["posneurons", "steer", *words, "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    said = capsys.readouterr()
    assert caught.value.code == 2
    assert said.err.startswith("posneurons: ")
    assert said.err.count("\n") == 1
    assert sentence.replace("KEYS", str(keys)) in said.err
    assert said.out == ""
    assert not (tmp_path / "out" / "steer.parquet").exists()
