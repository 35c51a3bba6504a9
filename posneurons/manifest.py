"""What a run was: its configuration, model, data, software and stages, in `manifest.json`."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from posneurons import __version__
from posneurons.errors import RunError
from posneurons.files import check_fields, damaged, read_json, write_json

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


FIELDS: dict[str, type] = {
    **dict.fromkeys(("posneurons", "command", "created", "platform"), str),
    **dict.fromkeys(("config", "model", "treebank", "versions", "stages"), dict),
    **dict.fromkeys(("dropped", "warnings"), list),
}
"""What every version has written."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of `manifest.json` of a run directory. Raises RunError where it is missing, damaged or odd."""
    path = folder / "manifest.json"
    content = check_fields(str(path), read_json(path), FIELDS)
    check_fields(f"{path}: notes", content.get("notes", {}), {})
    for stage, state in content["stages"].items():
        if not isinstance(state, dict) or not isinstance(state.get("state"), str):
            raise damaged(str(path), f"stages: {stage}.state is missing", "str")
        files = check_fields(f"{path}: stages: {stage}.files", state.get("files", {}), {})
        check_fields(f"{path}: stages: {stage}.files", files, dict.fromkeys(files, str))
    for row in content["dropped"]:
        check_fields(f"{path}: dropped", row, {"tag": str, "reason": str, "words": int})
    for warning in content["warnings"]:
        if not isinstance(warning, str):
            raise damaged(str(path), f"warnings: {warning!r:.40}", "str")
    return content


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

    @property
    def software(self) -> dict[str, str]:
        """What the run was begun with: this package, its commit, and the packages below it, by name."""
        return {"posneurons": self.posneurons, "commit": str(self.git), **self.versions}

    def refusal(self, folder: Path, wanted: Mapping[str, Any], names: Iterable[str]) -> RunError:
        """The error of a folder that holds this run, where options of these names are other than those wanted."""
        told = "; ".join(f"{name}={self.config.get(name)!r}, and {wanted[name]!r} was asked for" for name in names)
        return RunError(
            f"{folder}: holds a run with {told}; repeat its options ({self.command or 'called in Python'}), or choose "
            "another --out"
        )

    def save(self, folder: Path) -> None:
        """Write `manifest.json` into a run directory."""
        write_json(folder / "manifest.json", asdict(self))

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read `manifest.json`. Raises RunError where it is missing, damaged, or has other fields."""
        content = read_manifest(folder)
        try:
            return cls(**content)
        except TypeError as error:
            path = folder / "manifest.json"
            raise RunError(f"{path}: not a manifest of this version ({error}); choose another --out") from None
