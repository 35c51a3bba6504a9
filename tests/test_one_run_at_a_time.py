"""Two processes and one run directory: the second is refused, readers and the dead hinder nobody."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from synthetic import write_run

from posneurons import cli, steer_run, study, sweep_run
from posneurons.config import Config
from posneurons.errors import RunError
from posneurons.files import PART
from posneurons.lock import alone
from posneurons.report import build_report
from posneurons.run_files import read_run
from posneurons.sweep_plan import Plan

HOLD = """
import sys, time
from pathlib import Path
from posneurons.lock import alone
with alone(Path(sys.argv[1]), "posneurons run --top 5"):
    (Path(sys.argv[1]) / "x.json.posneurons.part").write_text("half")
    print("here", flush=True)
    time.sleep(600)
"""


def hold(folder: Path) -> subprocess.Popen:
    """A process that works in a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    return process


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, subprocess.Popen]]:
    folder = write_run(tmp_path_factory.mktemp("taken"), n_pages=1)
    process = hold(folder)
    yield folder, process
    process.kill()
    process.wait()


def attempts(folder: Path, mine: Path) -> dict[str, Callable[[], object]]:
    """What every command that writes to a run directory does there."""
    config = Config()
    stages = {**cli.STAGES, "verify": ("verify",)}
    return {
        **{name: partial(study.run, config, folder, stages=each) for name, each in stages.items()},
        "sweep": partial(sweep_run.run, config, Plan(), folder),
        "steer": partial(steer_run.run, steer_run.SteerConfig(neurons=str(mine)), folder),
        "report": partial(cli.report, folder),
        "build_report": partial(build_report, folder),
    }


@pytest.mark.parametrize(
    "command", ["run", "rank", "probe", "lesion", "verify", "sweep", "steer", "report", "build_report"]
)
def test_the_second_is_refused_with_who_and_since_when(command: str, taken: tuple[Path, subprocess.Popen]) -> None:
    folder, process = taken
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    mine = folder.parent / "mine.json"
    mine.write_text('{"NOUN": ["L0N1"]}')
    with pytest.raises(RunError) as caught:
        attempts(folder, mine)[command]()
    said = str(caught.value)
    assert said.startswith(f"{folder}: process {process.pid} on ")
    assert " has worked in it since 20" in said
    assert said.endswith(" (posneurons run --top 5); wait until it has ended, or choose another --out")
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_readers_are_not_hindered(taken: tuple[Path, subprocess.Popen]) -> None:
    assert read_run(taken[0]).tags


def test_a_killed_process_blocks_nobody_and_its_parts_are_removed(tmp_path: Path) -> None:
    process = hold(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert json.loads((tmp_path / "running.json").read_text())["process"] == process.pid
    (tmp_path / "losses").mkdir()
    (tmp_path / f"losses/a.parquet{PART}").write_text("half")
    (tmp_path / "film.part").write_text("half")  # of somebody else: a folder may hold more than our run
    with alone(tmp_path, "me"):
        assert json.loads((tmp_path / "running.json").read_text())["process"] == os.getpid()
        assert list(tmp_path.rglob(f"*{PART}")) == []
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "losses", "film.part"}


def test_threads_of_one_process_are_two_as_well(tmp_path: Path) -> None:
    with (
        alone(tmp_path),
        pytest.raises(RunError, match=rf"process {os.getpid()} on .* \(called in Python\); wait"),
        alone(tmp_path),
    ):
        pass
    with alone(tmp_path):  # and the first has let go
        pass


def test_a_holder_that_cannot_be_read_is_another_process(tmp_path: Path) -> None:
    with alone(tmp_path):
        for content in ("", "[]", "{}"):
            (tmp_path / "running.json").write_text(content)
            with (
                pytest.raises(RunError, match=r": another process works in it; wait until it has ended"),
                alone(tmp_path),
            ):
                pass


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"^--out .*/file: cannot be made or written \(File exists\); choose another$"):
        study.run(Config(), tmp_path / "file")
    (tmp_path / "run/.lock").mkdir(parents=True)
    with pytest.raises(RunError, match=r"^--out .*/run: cannot be made or written \(Is a directory\); choose another$"):
        study.run(Config(), tmp_path / "run")


def test_a_name_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    out = tmp_path / "run\udcff"
    with pytest.raises(RunError, match=r"^--out .*/run\udcff: this name is not UTF-8; choose another$"):
        study.run(Config(), out)
    assert not out.exists()


def test_what_went_wrong_is_said_where_the_folder_is_lost_too(tmp_path: Path) -> None:
    def work() -> None:
        with alone(tmp_path):
            (tmp_path / "running.json").unlink()
            (tmp_path / "running.json").mkdir()  # which cannot be removed as a file
            raise RunError("no room")

    with pytest.raises(RunError, match=r"^no room$"):
        work()
