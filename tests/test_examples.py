"""The examples in docstrings give what stands below them."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import posneurons

MODULES = sorted(
    path.stem for path in Path(posneurons.__file__).parent.glob("*.py") if ">>> " in path.read_text("utf-8")
)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str) -> None:
    failed, tried = doctest.testmod(import_module(f"posneurons.{name}"))
    assert not failed
    assert tried
