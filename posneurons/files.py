"""Files that are there whole or not at all, and what is said of those that are neither.

A file is written under a temporary name, brought to the disk and only then given its own name, and its folder is
brought to the disk too: neither a killed process nor a full disk nor a loss of power leaves a file that looks whole and
is not. This module does not know what is in a file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from posneurons.errors import RunError

PART = ".posneurons.part"
"""What the temporary name of a file ends in; nobody else's does, as what a killed process leaves of it is removed."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to; the file gets its own where the context ends without an exception.

    Raises:
        RunError: where the disk is full or the file cannot be written; an older file of that name stays as it was.
    """
    part = path.with_name(path.name + PART)
    try:
        try:
            yield part
            sync(part)
            part.replace(path)
            sync(path.parent)
        except BaseException:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise unwritable(path, error) from None


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under a temporary name, then give it its name; nothing is left behind if it fails.

    Raises RunError as `whole` does.
    """
    with whole(path) as part:
        write(part)


def sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk, as far as the system can tell."""
    if os.name != "posix" and path.is_dir():
        return  # no other system opens a folder
    number = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that knows no such thing
            raise
    finally:
        os.close(number)


def unwritable(path: Path, error: OSError) -> RunError:
    """The error of a file that cannot be written: where, why, and what to do."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "make room and run the same command again" if full else "choose another place, or allow it to be written"
    why = os.strerror(error.errno) if error.errno else str(error)
    return RunError(f"{path}: the file cannot be written: {why}; {advice}")


def write_json(path: Path, content: object) -> None:
    """Write JSON with indentation, whole or not at all. NaN becomes null, and what is no UTF-8 in a path an escape."""
    text = json.dumps(_without_nan(content), indent=1, ensure_ascii=False) + "\n"
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8", errors="backslashreplace"))


def read_json(path: Path) -> Any:
    """Read JSON. Raises RunError where the file is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; expected a file of a run; check the path") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); expected a file of a finished run") from None
    except (ValueError, RecursionError) as error:
        raise damaged(str(path), f"damaged ({error})", "JSON") from None


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal. Raises RunError where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); expected a file of a finished run") from None


def damaged(where: str, found: str, expected: str) -> RunError:
    """The error of a file of a run that is not what a run writes: where, what was found, what was expected."""
    return RunError(f"{where}: {found}; expected {expected}; delete the file and repeat the command that made it")


def check_fields(where: str, value: Any, fields: Mapping[str, type]) -> dict[str, Any]:
    """The JSON object itself. Raises RunError where a name of `fields` is not in it, or is of another type."""
    if not isinstance(value, dict):
        raise damaged(where, f"{value!r:.40}", "a JSON object")
    for name, kind in fields.items():
        found = value.get(name)
        if not isinstance(found, kind):
            raise damaged(where, f"{name} is {'missing' if found is None else repr(found)[:40]}", kind.__name__)
    return value


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and content != content else content
