"""What a run was: its configuration, model, data, software and stages, in `manifest.json`.

Also how files of a run directory are written: to a temporary name, then renamed, so that a file is whole or absent.
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from posneurons import __version__
from posneurons.errors import RunError

PACKAGES = (
    "torch",
    "transformer-lens",
    "transformers",
    "tokenizers",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "conllu",
    "stanza",
)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file under a temporary name, then give it its name; nothing is left behind if it fails."""
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Write JSON with indentation, whole or not at all. NaN becomes null."""
    text = json.dumps(_without_nan(content), indent=1, ensure_ascii=False) + "\n"
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Read JSON. Raises RunError where the file is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; expected a file of a run; check the path") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); expected a file of a finished run") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise damaged(str(path), f"damaged ({error})", "JSON") from None


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


def git_commit() -> str | None:
    """Commit of the checkout that this package runs from, with "+" where it has changes; None outside a checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != here.parent:
            return None  # installed inside some other project's checkout
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


@dataclass
class Manifest:
    """Everything needed to read a run's numbers and to make them again."""

    command: str
    config: dict[str, Any]
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    posneurons: str = __version__
    model: dict[str, Any] = field(default_factory=dict)
    treebank: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=lambda: {name: metadata.version(name) for name in PACKAGES})
    git: str | None = field(default_factory=git_commit)
    platform: str = field(
        default_factory=lambda: f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    )
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    dropped: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What a ranking measured of itself, by the name it has in neurons.json."""

    def save(self, folder: Path) -> None:
        """Write `manifest.json` into a run directory."""
        write_json(folder / "manifest.json", asdict(self))

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read `manifest.json`. Raises RunError where it is missing, damaged, or lacks a field."""
        path = folder / "manifest.json"
        content = read_json(path)
        try:
            manifest = cls(**content)
        except TypeError as error:
            raise RunError(f"{path}: not a manifest of this version ({error}); choose another --out") from None
        parts = {name: getattr(manifest, name) for name in ("config", "model", "treebank", "stages")}
        for name, part in parts.items():
            if not isinstance(part, dict):
                raise RunError(f"{path}: damaged: {name} is no object but {part!r}; choose another --out")
        return manifest
