"""A run that is killed, at any step on the disk, goes on by the same command and ends as one that was not.

`killing.py` does the killing. Here are also what a full disk says, and what a resumed run reads back and trusts.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import demo
import numpy as np
import pytest
import torch
from killing import content, damaged

from posneurons import passes, stages, study, sweep_run, tallies
from posneurons.config import Config
from posneurons.errors import RunError, TreebankError
from posneurons.files import PART, whole, write_json, write_whole
from posneurons.loss_table import LossTable
from posneurons.manifest import Manifest
from posneurons.memory import explained
from posneurons.sweep_plan import Plan

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    bank = str(demo.write_treebank(tmp_path_factory.mktemp("bank"), every=10))
    return Config(
        treebank=bank, methods=("correlation",), ablations=("mean",), probe_at=("predict",), top=3, controls=1,
        draws=50, min_words=60, lesion_words=60, pages=1, beside=(), keep_losses=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study.run(config, tmp_path_factory.mktemp("run") / "run", command="posneurons run --top 3", progress=False)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def killed(folder: Path, *words: str) -> dict[str, Any]:
    """What `killing.py` saw."""
    command = [sys.executable, str(Path(__file__).with_name("killing.py")), str(folder), *words]
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=alone)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_whatever_the_disk_has_lost_the_run_goes_on_to_the_same_end(tmp_path: Path) -> None:
    found = killed(tmp_path / "x", "stub", "power")
    assert found["wrong"] == []
    assert found["points"] > 50


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [("stub", "kill"), ("stub", "full"), ("run", "kill"), ("run", "full"), ("sweep", "power")], ids=" ".join
)
def test_killed_at_any_step_a_run_goes_on_to_the_same_end(
    words: tuple[str, ...], config: Config, tmp_path: Path
) -> None:
    found = killed(tmp_path / "x", *words, config.treebank)
    assert found["wrong"] == []
    assert found["points"] > 40


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_ended_at_random_times_a_run_goes_on_to_the_same_end(seed: int, config: Config, tmp_path: Path) -> None:
    words = "--method correlation --ablation mean --probe-at predict --top 3 --controls 1 --draws 50 --min-words 60"
    words += f" --lesion-words 60 --pages 1 --keep-losses --treebank {config.treebank} --out run"
    command = [sys.executable, "-m", "posneurons", "run", *words.split()]
    rng, ended = np.random.default_rng(seed), 0
    (tmp_path / "whole").mkdir()
    begin = time.perf_counter()
    subprocess.run(command, cwd=tmp_path / "whole", check=True, capture_output=True)
    usual = time.perf_counter() - begin
    while ended < 8:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where the tests run in a shell's background
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        signal.signal(signal.SIGINT, before)
        by = (signal.SIGKILL, signal.SIGINT)[rng.integers(2)]
        with suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.1, 1) * usual)
        process.send_signal(by)
        _, said = process.communicate()
        if process.returncode == 0:
            assert content(tmp_path / "run") == content(tmp_path / "whole/run")
            shutil.rmtree(tmp_path / "run")  # and begin anew
            continue
        ended += 1
        assert damaged(tmp_path / "run") == []
        if by == signal.SIGINT and "Traceback" not in said:  # before the command has begun, Python ends as it does
            assert process.returncode == 130
            assert said == "posneurons: stopped; the same command goes on from the last finished stage\n"
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert content(tmp_path / "run") == content(tmp_path / "whole/run")


def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[tuple[str, str]] = []
    sync, replace_file = os.fsync, os.replace

    def seen_sync(number: int) -> None:
        path = Path(f"/proc/self/fd/{number}").resolve()
        steps.append(("sync", path.name if path.is_file() else "its folder"))
        sync(number)

    def seen_replace(old: Path, new: Path) -> None:
        steps.append(("name", Path(new).name))
        replace_file(old, new)

    monkeypatch.setattr(os, "fsync", seen_sync)
    monkeypatch.setattr(os, "replace", seen_replace)
    write_json(tmp_path / "x.json", {"a": float("nan")})
    assert steps == [("sync", f"x.json{PART}"), ("name", "x.json"), ("sync", "its folder")]
    assert (tmp_path / "x.json").read_text() == '{\n "a": null\n}\n'


@needs_full
@pytest.mark.parametrize(
    "name",
    [
        "ranking.parquet", "similarity.parquet", "overlap.parquet", "neurons.json", "manifest.json", "probe.json",
        "lesions.parquet", "dissociations.parquet", "lesion_similarity.parquet", "neuron_pages.json", "report.html",
        "losses/correlation-mean.parquet",
    ],
)  # fmt: skip
def test_a_full_disk_is_one_line_and_leaves_what_was_there(name: str, config: Config, copy: Path) -> None:
    """/dev/full takes no byte; whoever writes to the temporary name writes there."""
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    manifest = Manifest.load(copy)
    manifest.stages = {} if name == "manifest.json" else manifest.stages
    stage = next(
        (stage for stage, files in study.FILES.items() if name in files or name[:6] == files[-1][:6]), "report"
    )
    manifest.stages.pop(stage, None)
    manifest.save(copy)
    (copy / f"{name}{PART}").symlink_to(FULL)
    with pytest.raises(RunError) as caught:
        study.run(config, copy, progress=False)
    message = r"No space left on device; make room and run the same command again"
    assert str(caught.value) == f"{copy / name}: the file cannot be written: {message}"
    kept = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file() and path.name != "manifest.json"}
    assert before[copy / "ranking.parquet"] == kept[copy / "ranking.parquet"]
    assert name not in {path.name for path in kept} or before[copy / name] == kept[copy / name]
    assert not list(copy.rglob("*.part"))


@needs_full
def test_a_full_disk_is_one_line_for_other_files_as_well(tmp_path: Path) -> None:
    import posneurons as pn

    bank = pn.load_treebank().split("dev")
    (tmp_path / f"x.conllu{PART}").symlink_to(FULL)
    with pytest.raises(
        TreebankError, match=r"x.conllu: the file cannot be written: No space left on device; make room"
    ):
        pn.write_conllu(bank, tmp_path / "x.conllu")
    corpus = demo.small()
    labels: list[dict[str, str | int]] = [{"lesion": "NOUN", "set": "key", "draw": 0}]
    intact: dict[str, str | int] = {"lesion": "", "set": "intact", "draw": 0}
    (tmp_path / f"losses.parquet{PART}").symlink_to(FULL)
    words = np.repeat(corpus.readable("predict"), 50)
    with (
        pytest.raises(RunError, match=r"losses.parquet: the file cannot be written: No space left on device"),
        LossTable(tmp_path / "losses.parquet", corpus, labels, intact, ("first",)) as table,
    ):
        table.add(words, [0], np.random.default_rng(0).normal(size=(1, 1, len(words))).astype(np.float32))
    assert list(tmp_path.iterdir()) == []


def test_what_fails_while_a_file_is_written_leaves_the_older_one(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", 1)
    for error in (KeyboardInterrupt(), MemoryError(), ValueError("x")):
        with suppress(type(error)), whole(tmp_path / "x.json") as part:
            part.write_text("half")
            raise error
    with pytest.raises(
        RunError, match=r"y.json: the file cannot be written: No such file or directory; choose another"
    ):
        write_whole(tmp_path / "none/y.json", lambda part: part.write_text(""))
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert (tmp_path / "x.json").read_text() == "1\n"


def failing(error: Exception) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
    ids=lambda error: f"{type(error).__name__} {error}"[:30],
)
def test_an_end_of_memory_is_one_line_whatever_says_so(error: Exception) -> None:
    with (
        pytest.raises(RunError, match=r"^out of memory with batches of 64 tokens; run the same with a smaller --batch"),
        explained(64),
    ):
        raise error


@pytest.mark.parametrize("error", [RuntimeError("shapes cannot be multiplied"), OSError(2, "No such file")])
def test_another_error_is_our_own(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, explained(64):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("module", "name", "stage", "done"),
    [
        (study.models, "load_model", "rank", []),
        (study, "read_corpus", "rank", []),
        (passes, "tag_moments", "rank", []),
        (stages, "fit_probe", "probe", ["rank"]),
        (stages, "lesion_study", "lesion", ["rank"]),
        (stages, "make_pages", "pages", ["rank"]),
    ],
)
def test_an_end_of_memory_is_one_line_wherever_it_comes(
    module: Any, name: str, stage: str, done: list[str], config: Config, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = Manifest.load(copy)
    manifest.stages = {each: state for each, state in manifest.stages.items() if each in done}
    manifest.save(copy)
    monkeypatch.setattr(module, name, failing(MemoryError()))
    with pytest.raises(
        RunError, match=r"^out of memory with batches of 2048 tokens; finished stages are kept: run the"
    ):
        study.run(config, copy, stages=("rank", stage), progress=False)
    assert list(Manifest.load(copy).stages) == done


@pytest.mark.parametrize(("module", "name"), [(passes, "tag_moments"), (tallies, "tally")])
def test_an_end_of_memory_in_a_sweep_is_one_line(
    module: Any, name: str, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, failing(MemoryError()))
    plan = Plan(ks=(1,), top=3, arms=("k",), ablations=("mean",), controls=1)
    with pytest.raises(
        RunError, match=r"^out of memory with batches of 2048 tokens; finished shards are kept: run the"
    ):
        sweep_run.run(config, plan, tmp_path / "run", progress=False)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def edit(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"L", b"M", 1))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("name", "stage"),
    [(name, stage) for stage in stages.STAGES if stage != "verify" for name in study.FILES[stage] if "*" not in name]
    + [("losses/correlation-mean.parquet", "lesion")],
)
@pytest.mark.parametrize(
    ("change", "sentence"), [(cut, "changed since the stage"), (folder, r"cannot be read \(Is a dir")]
)
def test_a_file_that_is_not_what_its_stage_wrote_is_one_line(
    name: str, stage: str, change: Callable[[Path], None], sentence: str, config: Config, copy: Path
) -> None:
    change(copy / name)
    with pytest.raises(RunError, match=rf"^{copy / name}: {sentence}") as caught:
        study.run(config, copy, progress=False)
    assert "\n" not in str(caught.value)
    if change is cut:
        size = (copy / name).stat().st_size
        assert f"the stage {stage} wrote it ({size} bytes, sha256 " in str(caught.value)
        assert str(caught.value).endswith("; delete the file and repeat the command that made it")


def test_of_an_edited_file_nothing_is_made(config: Config, copy: Path) -> None:
    """Names of neurons that the user has changed by hand, of the same length."""
    edit(copy / "neurons.json")
    with pytest.raises(RunError, match=r"neurons.json: changed since the stage rank wrote it"):
        study.run(config, copy, stages=("rank", "lesion"), progress=False)


@pytest.mark.parametrize("name", ["overlap.parquet", "lesion_similarity.parquet", "losses/correlation-mean.parquet"])
def test_a_file_that_is_gone_is_made_again(name: str, config: Config, finished: Path, copy: Path) -> None:
    (copy / name).unlink()
    study.run(config, copy, progress=False)
    assert (copy / name).read_bytes() == (finished / name).read_bytes()


def test_what_a_stopped_run_of_other_options_left_does_not_stay(config: Config, copy: Path, tmp_path: Path) -> None:
    manifest = Manifest.load(copy)
    manifest.stages = {}
    manifest.save(copy)
    (tmp_path / "mine.json").write_text('{"NOUN": ["L0N1"]}')
    given = replace(config, neurons=str(tmp_path / "mine.json"), keep_losses=False)
    study.run(given, copy, stages=("rank", "lesion"), progress=False)
    assert not (copy / "similarity.parquet").exists()
    assert list((copy / "losses").iterdir()) == []
    assert set(Manifest.load(copy).stages["rank"]["files"]) == {"ranking.parquet", "neurons.json", "overlap.parquet"}


ODD = [
    ({"stages": {"rank": "done"}}, "stages: rank.state is missing; expected str"),
    ({"stages": {"rank": {"state": "done", "files": []}}}, r"stages: rank.files: \[\]; expected a JSON object"),
    ({"stages": {"rank": {"state": "done", "files": {"a": 3}}}}, "stages: rank.files: a is 3; expected str"),
    ({"warnings": None}, "warnings is missing; expected list"),
    ({"warnings": [3]}, "warnings: 3; expected str"),
    ({"notes": []}, r"notes: \[\]; expected a JSON object"),
    ({"dropped": [3]}, "dropped: 3; expected a JSON object"),
    ({"command": 3}, "command is 3; expected str"),
    ({"model": "demo"}, "model is 'demo'; expected dict"),
    ({"new": 1}, "not a manifest of this version"),
]


@pytest.mark.parametrize(("change", "sentence"), ODD)
def test_an_odd_manifest_is_one_line(change: dict[str, Any], sentence: str, config: Config, copy: Path) -> None:
    path = copy / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    for work in (lambda: study.run(config, copy, progress=False), lambda: sweep_run.run(config, Plan(top=3), copy)):
        with pytest.raises(RunError, match=rf"^{path}: {sentence}"):
            work()


@pytest.mark.parametrize("content", [b"", b"\x00" * 500, b"{", b"\xff", b"[" * 10**5])
def test_a_manifest_that_is_no_json_is_one_line(content: bytes, config: Config, copy: Path) -> None:
    (copy / "manifest.json").write_bytes(content)
    with pytest.raises(RunError, match=r"manifest.json: damaged \(.*\); expected JSON; delete the file and repeat the"):
        study.run(config, copy, progress=False)
