"""The README's table of licences: the runtime dependencies of pyproject.toml, each with what its package says."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DEPENDENCIES = [
    re.split(r"[^\w.-]", each, maxsplit=1)[0]
    for each in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
]
TABLE = dict(
    re.findall(
        r"^\| ([a-z][\w.-]*) \| ([^|]+) \|$",
        (ROOT / "README.md").read_text(encoding="utf-8").partition("## Licences")[2],
        re.MULTILINE,
    )
)
FREE = ("MIT", "BSD", "Apache", "MPL")


def test_the_table_lists_what_is_needed_and_no_more() -> None:
    assert [name for name in TABLE if name != "package"] == sorted(DEPENDENCIES)


@pytest.mark.parametrize("name", DEPENDENCIES)
def test_a_licence_is_what_the_package_says(name: str) -> None:
    about = metadata.metadata(name)
    said = " ".join(
        [about.get("License-Expression") or "", about.get("License") or "", *about.get_all("Classifier", [])]
    )
    families = [family for family in FREE if family in TABLE[name]]
    assert families
    assert all(family in said or (family, "Redistribution and use") == ("BSD", said[:22]) for family in families)
