"""Processes that die at their n-th step on the disk. A program: it prints as JSON what it saw.

    python tests/killing.py FOLDER stub|run|sweep kill|power|full [TREEBANK [EVERY]]

The job "stub" is a run whose stages compute nothing. A step is a file or folder brought to the disk, a file that gets
its name, or one that is removed. In the mode "kill" a process dies at a step; in "power" the disk keeps only what was
brought to it: a file that was not is cut in half when it gets its name, and a name that was not is lost; in "full" the
disk is full from that step on.
"""

import errno
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd

from posneurons import files, manifest, stages, study, sweep_run
from posneurons.config import Config
from posneurons.errors import RunError
from posneurons.sweep_plan import Plan

KILLED, FULL, WRONG = -signal.SIGKILL, 3, 4


class Disk:
    """Counts the steps and ends the process at one of them."""

    def __init__(self, last: int, mode: str) -> None:
        self.last, self.mode, self.steps = last, mode, 0
        self.synced: set[int] = set()
        self.unsynced: list[tuple[Path, bytes | None]] = []
        self.real = {name: getattr(os, name) for name in ("fsync", "replace", "unlink")}
        os.fsync, os.replace, os.unlink = self.fsync, self.replace, self.unlink

    def step(self) -> None:
        self.steps += 1
        if self.steps < self.last:
            return
        if self.mode == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.mode == "power":
            for path, before in reversed(self.unsynced):
                self.real["unlink"](path) if before is None else path.write_bytes(before)
        os.kill(os.getpid(), signal.SIGKILL)

    def fsync(self, number: int) -> None:
        self.step()
        self.real["fsync"](number)
        self.synced.add(os.fstat(number).st_ino)
        here = Path(f"/proc/self/fd/{number}").resolve()
        self.unsynced = [each for each in self.unsynced if each[0].parent != here]

    def replace(self, source: Any, target: Any) -> None:
        self.step()
        path = Path(target)
        state = Path(source).stat()
        if self.mode == "power" and state.st_ino not in self.synced:
            os.truncate(source, state.st_size // 2)
        self.unsynced.append((path, path.read_bytes() if path.exists() else None))
        self.real["replace"](source, target)

    def unlink(self, *path: Any, **how: Any) -> None:
        if self.mode != "full":  # which needs no room
            self.step()
        self.real["unlink"](*path, **how)


def forked(work: Callable[[], None]) -> int:
    """Do something in a process of its own; its exit status, or minus the signal that ended it."""
    sys.stdout.flush()
    child = os.fork()
    if not child:
        try:
            work()
        except RunError as error:
            os._exit(FULL if "No space left on device; make room and run the same" in str(error) else WRONG)
        except BaseException as error:  # noqa: BLE001
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(WRONG)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dying(step: int, mode: str, work: Callable[[], None]) -> None:
    """Do something on a disk that ends it."""
    Disk(step, mode)
    work()


def damaged(folder: Path) -> list[str]:
    """The files that have their own names and are not whole."""
    found = []
    for path in folder.rglob("*"):
        try:
            if path.suffix == ".parquet":
                pd.read_parquet(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".html" and not path.read_text().rstrip().endswith("</html>"):
                found.append(str(path))
        except (ValueError, OSError):
            found.append(str(path))
    return found


def content(folder: Path) -> dict[str, Any]:
    """What the files of a finished run hold, without times."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name == "manifest.json":
            held = json.loads(path.read_text())
            del held["created"]
            for state in held["stages"].values():
                del state["seconds"]
            found[name] = json.dumps(held, sort_keys=True)
        elif name == "report.html":
            found[name] = "a page"
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def stub() -> None:
    """Put in the place of the stages what computes nothing, and writes the same files of those of earlier stages."""

    def frame(this: Any, name: str, *of: str) -> None:
        text = "".join(files.sha256_of(this.out / each) for each in of) + str(this.config.seed) + name
        stages._write_frame(this.out / name, pd.DataFrame({"x": list(text)}))

    def rank(this: Any) -> None:
        for name in ("similarity", "ranking", "overlap"):
            frame(this, f"{name}.parquet")
        this.warn("few words")
        files.write_json(this.out / "neurons.json", {"correlation": {"NOUN": ["L0N1"]}})

    def lesion(this: Any) -> None:
        (this.out / "losses").mkdir(exist_ok=True)
        for name in ("losses/a.parquet", "lesions.parquet", "dissociations.parquet", "lesion_similarity.parquet"):
            frame(this, name, "neurons.json", "ranking.parquet")
        this.manifest.notes["lesions"] = {"clusters": "sentence"}

    def probe(this: Any) -> None:
        files.write_json(this.out / "probe.json", files.sha256_of(this.out / "neurons.json"))

    def pages(this: Any) -> None:
        files.write_json(this.out / "neuron_pages.json", files.sha256_of(this.out / "ranking.parquet"))

    def page(out: Path) -> None:
        files.write_whole(out / "report.html", lambda part: part.write_text("<html></html>"))

    def no_git(*_: Any, **__: Any) -> None:
        raise OSError

    # What takes time and is not looked at here: the commit, the versions, and waiting for the disk.
    manifest.subprocess.run, manifest.metadata.version, os.fsync = no_git, str, lambda _: None
    stages.STAGES.update(rank=rank, probe=probe, lesion=lesion, pages=pages)
    study.report.write_page = page


def attempts(work: Callable[[Path], None], folder: Path, mode: str, every: int) -> dict[str, Any]:
    """Let a job die at its first step, at a later one, and so on, and go on each time; what went wrong."""
    wrong: list[str] = []
    whole, out = folder / "whole", folder / "run"
    if forked(lambda: work(whole)):
        return {"points": 0, "wrong": ["the unbroken job failed"]}
    expected, begin = content(whole), time.perf_counter()
    for tried in count():
        number = 1 + tried * every
        shutil.rmtree(out, ignore_errors=True)
        status = forked(partial(dying, number, mode, partial(work, out)))
        if status == 0:
            break
        where = f"{mode}, step {number}"
        if status != (FULL if mode == "full" else KILLED):
            wrong.append(f"{where}: ended with {status}")
            break  # without having met the step, perhaps, so that no later one would be met either
        if mode == "full" and list(out.rglob("*.part")):
            wrong.append(f"{where}: leaves a part")
        wrong += [f"{where}: {each} is not whole" for each in damaged(out)]
        if status := forked(lambda: work(out)):
            wrong.append(f"{where}: the same job ended with {status}")
        elif (found := content(out)) != expected:
            other = [name for name in {*expected, *found} if expected.get(name) != found.get(name)]
            wrong.append(f"{where}: other content of {', '.join(sorted(other))}")
    shutil.rmtree(folder)
    return {"points": tried, "seconds": round(time.perf_counter() - begin, 1), "wrong": wrong}


def main() -> None:
    folder, job, mode, *more = Path(sys.argv[1]), *sys.argv[2:]
    few = Config(
        treebank=more[0] if more else "demo", methods=("correlation",), ablations=("mean",), probe_at=("predict",),
        top=3, controls=1, draws=50, min_words=60, lesion_words=60, pages=1, beside=(), keep_losses=True,
    )  # fmt: skip
    plan = Plan(ks=(1, 3), top=3, arms=("k",), ablations=("mean",), controls=1)
    if job == "stub":
        stub()
    else:
        model = study.models.load_model(device="cpu")
        study.models.load_model = lambda *_, **__: model

    def work(out: Path) -> None:
        if job == "sweep":
            sweep_run.run(few, plan, out, progress=False)
        else:
            study.run(few, out, progress=False)

    sys.stdout.write(json.dumps(attempts(work, folder, mode, int(more[1]) if len(more) > 1 else 1)) + "\n")


if __name__ == "__main__":
    main()
