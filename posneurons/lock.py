"""One process at a time in a run directory.

The operating system holds the lock (`.lock`) and takes it back from a process that ends in whatever way, so a killed
run blocks nobody. Who holds it stands in `running.json` for others to see; what a killed process was writing is removed
by the next that comes. Whoever only reads a run directory needs no lock: its files are whole at any time.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from posneurons.errors import RunError
from posneurons.files import PART, read_json, write_json

LOCK = ".lock"
HOLDER = "running.json"


@contextmanager
def alone(folder: Path, command: str = "") -> Iterator[None]:
    """Be the only one to write into a folder; it is made where it does not exist.

    Args:
        folder: the run directory.
        command: how the user called, for others to see.

    Raises:
        RunError: where another process writes there, or the folder cannot be made, written or locked.
    """
    try:
        str(folder).encode()  # Arrow writes no file where a name is no text
        folder.mkdir(parents=True, exist_ok=True)
        held = FileLock(folder / LOCK, timeout=0).acquire()
    except UnicodeEncodeError:
        raise RunError(f"--out {folder}: this name is not UTF-8; choose another") from None
    except Timeout:
        raise RunError(f"{folder}: {_holder(folder)}; wait until it has ended, or choose another --out") from None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RunError(f"--out {folder}: cannot be made or written ({reason}); choose another") from None
    with held:
        if (folder / HOLDER).exists():
            _tidy(folder)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        known = {"process": os.getpid(), "machine": socket.gethostname(), "since": now, "command": command}
        write_json(folder / HOLDER, known)
        try:
            yield
        finally:
            with suppress(OSError):  # what went wrong inside matters more
                (folder / HOLDER).unlink(missing_ok=True)


def _holder(folder: Path) -> str:
    """Who works in a folder, in words."""
    try:
        known = read_json(folder / HOLDER)
        who, since = f"process {known['process']} on {known['machine']}", known["since"]
        return f"{who} has worked in it since {since} ({known['command'] or 'called in Python'})"
    except (RunError, KeyError, TypeError):
        return "another process works in it"


def _tidy(folder: Path) -> None:
    """Remove what a killed process was writing."""
    for part in folder.rglob(f"*{PART}"):
        with suppress(OSError):
            part.unlink()
