"""The parts that a record's summary is put together from; `display` makes text or HTML of it.

Nothing is imported at import, so that whatever shows itself may know this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, SupportsFloat

ROWS = 17
"""Rows of a table that are shown at most: the tags of Universal Dependencies."""

Rows = Sequence[Sequence[str]]


class Card(NamedTuple):
    """A summary in one line, facts (name, value), and a table with its head; a note stands below.

    The rows of the table may be a function that gives them, so that a line alone costs next to nothing.
    """

    line: str
    facts: Sequence[tuple[str, str]] = ()
    head: Sequence[str] = ()
    rows: Rows | Callable[[], Rows] = ()
    note: str = ""


def number(value: SupportsFloat | None, form: str = ".3f") -> str:
    """A number for a reader as `theme.number` writes it, without a plus sign unless `form` asks for it.

    >>> number(-0.25), number(float("nan")), number(None)
    ('−0.250', '–', '–')
    """
    from posneurons import theme

    return theme.number(value, form)


def many(n: int, noun: str) -> str:
    """A number with its noun.

    >>> many(1, "tag"), many(1200, "word")
    ('1 tag', '1,200 words')
    """
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def by_tag(counts: Mapping[str, int]) -> list[list[str]]:
    """Rows of a table with a number for each tag, the largest first."""
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])
    return [[str(tag), f"{n:,}"] for tag, n in ordered[:ROWS]]


def rest(n: int) -> str:
    """A note on the rows that are not shown."""
    return f"and {n - ROWS} more" if n > ROWS else ""


def joined(names: Iterable[object], most: int = 8) -> str:
    """The first names in one line, and how many are left."""
    every = [str(name) for name in names]
    return ", ".join(every[:most]) + (f" and {len(every) - most} more" if len(every) > most else "")


def size_of(shape: Sequence[int]) -> str:
    """The size of an array [tag layer neuron] in words."""
    return f"{many(shape[0], 'tag')} × {many(shape[1], 'layer')} × {many(shape[2], 'neuron')}"


def words_of(record: Any) -> list[list[str]]:
    """Rows with the words of each tag, of a record with `tags` and `count`."""
    return by_tag({tag: int(n) for tag, n in zip(record.tags, record.count, strict=True)})


def facts_of(notes: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts from what a method noted of itself."""
    return [
        (str(name), number(value, ".4g") if isinstance(value, float) else str(value)) for name, value in notes.items()
    ]
