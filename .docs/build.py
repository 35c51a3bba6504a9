"""Build the API reference with pdoc: the names of `posneurons` first, and every module behind them.

Command:  python .docs/build.py [FOLDER], or make docs; the folder is build/docs by default
Cost:     about ten seconds.

The package gives its names when they are first asked for, which pdoc does not do: here they are asked for, and put in
order (functions, records, constants). Whatever pdoc warns about is an error.
"""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import pdoc

import posneurons
from posneurons import _HOME as HOME

HERE = Path(__file__).parent
COMMANDS = {"__init__", "__main__", "cli", "options", "tools"}
"""Modules without a page: their words are those of `posneurons --help`."""


def modules() -> list[str]:
    """Every module that has a page, the package itself first."""
    found = sorted(path.stem for path in Path(posneurons.__file__).parent.glob("*.py"))
    return ["posneurons", *(f"posneurons.{name}" for name in found if name not in COMMANDS)]


def public() -> dict[str, Any]:
    """Every public name and what it is: functions first, then records, then the rest, each by the alphabet."""
    names = {name: getattr(import_module(f"posneurons.{home}"), name) for home, some in HOME.items() for name in some}
    return dict(sorted(names.items(), key=lambda item: (_kind(item[1]), item[0].casefold())))


def _kind(thing: Any) -> int:
    return 1 if isinstance(thing, type) else 0 if callable(thing) else 2


def complete(names: list[str]) -> None:
    """Make the package as pdoc reads it: names that are there, types that are resolved, no empty words."""
    loaded = [import_module(name) for name in names]
    for name, thing in public().items():
        setattr(posneurons, name, thing)
    posneurons.__all__ = list(public())
    for module in loaded:
        for thing in list(vars(module).values()):
            if isinstance(thing, type) and issubclass(thing, tuple) and hasattr(thing, "_fields"):
                _complete_tuple(thing)


def _complete_tuple(kind: Any) -> None:
    """A NamedTuple keeps its types as text, and explains a field by its number."""
    if kind.__module__.startswith("posneurons."):
        kind.__new__.__annotations__ = get_type_hints(kind)
        kind.__new__.__doc__ = ""
        for field in kind._fields:
            described = getattr(kind, field)
            if str(described.__doc__).startswith("Alias for field number"):
                described.__doc__ = ""


def build(folder: Path) -> list[str]:
    """Write the pages, and give back what pdoc warned about."""
    names = modules()
    complete(names)
    pdoc.render.configure(
        docformat="google",
        show_source=False,
        template_directory=HERE,
        footer_text=f"posneurons {posneurons.__version__}",
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pdoc.pdoc(*names, output_directory=folder)
    return [f"{each.filename}:{each.lineno}: {each.message}" for each in caught]


def main() -> None:
    """Build, and say where; the status is 1 where pdoc warned."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else HERE.parent / "build" / "docs")
    told = build(folder)
    sys.stderr.writelines(f"{line}\n" for line in told)
    sys.stdout.write(f"{folder / 'index.html'}\n")
    sys.exit(1 if told else 0)


if __name__ == "__main__":
    main()
