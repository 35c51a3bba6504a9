"""Real processes under torchrun: their results against those of one, their errors, and what if one is lost."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import demo
import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from posneurons import study
from posneurons.config import Config

TESTS = Path(__file__).parent
DRIVER = str(TESTS / "team_driver.py")
OPTIONS = ("--top", "8", "--controls", "2", "--draws", "100", "--min-words", "20", "--method", "correlation")
OPTIONS += ("--probe-at", "last", "--ablation", "mean", "--batch-tokens", "300")


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}


def torchrun(processes: int, *words: str) -> list[str]:
    how = ("--standalone", "--nproc-per-node", str(processes))
    return [sys.executable, "-m", "torch.distributed.run", *how, *words]


def done(command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, env=environment(), check=False, timeout=3000)


def driven(tmp_path: Path, task: str, processes: int) -> dict[str, Any]:
    """What the leader of a team writes of a task of `team_driver`."""
    found = done(torchrun(processes, DRIVER, task, str(tmp_path / "found.json")))
    assert found.returncode == 0, found.stderr
    return json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))


def own_lines(told: str) -> list[str]:
    return [line for line in told.splitlines() if line.startswith("posneurons:")]


def same(a: Path, b: Path) -> None:
    """Equal to float noise, every file that holds numbers."""
    names = sorted(path.name for path in a.iterdir() if path.suffix in (".parquet", ".json"))
    assert names == sorted(path.name for path in b.iterdir() if path.suffix in (".parquet", ".json"))
    assert (a / "neurons.json").read_bytes() == (b / "neurons.json").read_bytes()
    for name in names:
        if name.endswith(".parquet"):
            x, y = pd.read_parquet(a / name), pd.read_parquet(b / name)
            pd.testing.assert_frame_equal(x, y, check_exact=False, rtol=1e-7, atol=1e-6)
    if (a / "probe.json").exists():
        assert (a / "probe.json").read_bytes() == (b / "probe.json").read_bytes()


def check_alike(found: dict[str, Any], processes: int) -> None:
    assert found.pop("size") == processes
    assert len(found) > 20
    exact = {"tag_histograms", "cache_activations", "profiles", "word_losses", "resampled", "auroc:shortlist=3"}
    assert {name: found[name] for name in exact} == dict.fromkeys(exact, 0.0)
    wrong = {name: each for name, each in found.items() if isinstance(each, str) or not each <= 1e-6}
    assert wrong == {}
    assert max(found["tag_moments"], found["gate_moments"]) <= 1e-10


def test_errors_of_any_process_are_the_leaders(tmp_path: Path) -> None:
    found = driven(tmp_path, "errors", 2)
    assert found["on one device"] == [2, 2, 1]  # what is not shared has the device for itself
    shared = [0, 2, 4, 6, 1, 3, 5, 7]
    assert found["none"] == found["after"] == shared
    assert found["other"] == ["PosNeuronsError", "item 3 is wrong"]
    assert found["leader"] == ["PosNeuronsError", "item 4 is wrong"]
    assert found["all"] == ["PosNeuronsError", "item 0 is wrong"]
    assert found["fault"][:2] == ["ValueError", "item 1"]
    assert found["fault"][2].startswith("in process 1 of 2:\nTraceback")
    assert found["unsendable"][0] == "RuntimeError"
    assert "Unsendable: not to be sent" in found["unsendable"][1]
    assert found["nested"] == ["AssertionError", "items is shared, and was called inside of a shared call"]
    assert found["another model"] == list(range(8))
    assert found["model"][1].startswith("./no/such/folder: no such folder")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_what_is_shared_is_what_one_process_gives(tmp_path: Path, processes: int) -> None:
    check_alike(driven(tmp_path, "compare", processes), processes)


def test_a_lost_process_ends_the_run_with_a_line_and_the_same_command_resumes_it(tmp_path: Path) -> None:
    """Process 1 is killed in the lesion stage; the run goes on in one process, and ends as an unbroken one."""
    bank = demo.write_treebank(tmp_path, every=12)
    words = ("lesion", "--treebank", str(bank), *OPTIONS)
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    lost = done(torchrun(2, DRIVER, "die", "_word_losses", "2", *words, "--out", str(broken)))
    assert lost.returncode != 0
    (line,) = own_lines(lost.stderr)
    assert "of this run was lost" in line
    assert line.endswith("what is finished is kept: run the same command again")
    assert not re.search(r"posneurons/\w+\.py", lost.stderr)  # torchrun's own traceback there is, and none of ours
    assert set(json.loads((broken / "manifest.json").read_text())["stages"]) == {"rank"}
    assert not list(broken.glob("*.part"))
    config = Config(
        treebank=str(bank), top=8, controls=2, draws=100, min_words=20, methods=("correlation",), probe_at=("last",),
        ablations=("mean",), batch_tokens=300,
    )  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for out in (broken, whole):
        study.run(config, out, stages=("rank", "lesion"), progress=False)  # refused where options are not the same
    torch.set_num_threads(threads)
    same(whole, broken)
    assert json.loads((broken / "manifest.json").read_text())["notes"]["processes"] == {"count": 2}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [(("steer", "--neurons", "x.json"), "steer: many processes cannot share it; start it without torchrun")],
)
def test_a_command_that_cannot_be_shared_says_so_once(words: tuple[str, ...], sentence: str) -> None:
    found = done(torchrun(2, "-m", "posneurons", *words))
    assert found.returncode != 0
    assert own_lines(found.stderr) == [f"posneurons: {sentence}"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_a_run_by_many_processes_ends_as_that_of_one(tmp_path: Path, processes: int) -> None:
    bank = demo.write_treebank(tmp_path, every=8)
    methods = ("--method", "attribution:baseline=donor", "--ablation", "resample:draws=2", "--keep-losses")
    words = ("--treebank", str(bank), *OPTIONS, *methods)
    for out, launch in (("one", [sys.executable]), ("many", torchrun(processes))):
        found = done([*launch, "-m", "posneurons", "run", *words, "--out", str(tmp_path / out)])
        assert found.returncode == 0, found.stderr
    same(tmp_path / "one", tmp_path / "many")
    losses = [
        pd.read_parquet(path).sort_values(["lesion", "set", "draw", "word"], ignore_index=True)
        for out in ("one", "many")
        for path in sorted((tmp_path / out / "losses").iterdir())
    ]
    for x, y in zip(losses[: len(losses) // 2], losses[len(losses) // 2 :], strict=True):
        pd.testing.assert_frame_equal(x, y, check_exact=False, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_and_the_same_command_goes_on(tmp_path: Path) -> None:
    bank = demo.write_treebank(tmp_path, every=12)
    command = torchrun(
        2, "-m", "posneurons", "lesion", "--treebank", str(bank), *OPTIONS, "--out", str(tmp_path / "run")
    )
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(), start_new_session=True
    ) as running:
        manifest = tmp_path / "run" / "manifest.json"
        while not (manifest.exists() and "rank" in json.loads(manifest.read_text())["stages"]):
            assert running.poll() is None
            time.sleep(0.1)
        children = psutil.Process(running.pid).children(recursive=True)
        os.killpg(running.pid, signal.SIGINT)
        _, told = running.communicate(timeout=300)
    assert running.returncode != 0
    assert len(own_lines(told)) == 1
    assert not [each for each in children if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert done([*command]).returncode == 0
    assert np.isfinite(pd.read_parquet(tmp_path / "run" / "lesions.parquet")["delta"]).any()
