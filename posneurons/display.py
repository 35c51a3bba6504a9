"""How records show themselves: one line at a prompt, a small card in a notebook.

What a record says of itself stands in `model_cards` and `result_cards`; here it becomes text or HTML. The HTML holds no
script and no style sheet, takes its colours from the page around it, so that it is read in light and dark notebooks,
and escapes whatever comes from data. Nothing heavy is imported, and no array is printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from posneurons.cards import Card

_LINE = "1px solid rgba(128,128,128,.35)"
_BOX = f"display:inline-block;border:{_LINE};border-radius:6px;padding:8px 12px;max-width:100%;overflow-x:auto"
_CELL = "padding:2px 10px 2px 0;text-align:left;vertical-align:top;background:transparent;border:none"
_TABLE = "border-collapse:collapse;margin-top:6px;color:inherit;font:inherit"
_QUIET = "opacity:.7"


class Shown:
    """A record with a short line and a card of its own. Its dataclass is made with `repr=False`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return line(type(self).__name__, card_of(self))

    def _repr_html_(self) -> str:
        return html(type(self).__name__, card_of(self))


def card_of(record: Any) -> Card:
    """What a record says of itself, by the name of its class or of one that it extends; any other says nothing."""
    from posneurons import model_cards, result_cards

    known = model_cards.CARDS | result_cards.CARDS
    return next((known[kind.__name__](record) for kind in type(record).__mro__ if kind.__name__ in known), Card(""))


def line(name: str, card: Card) -> str:
    """Name and summary of a record on one line, as `repr` gives it."""
    return f"{name}({' '.join(card.line.split())})"


def html(name: str, card: Card) -> str:
    """A card: title, facts and a short table, as a self-contained piece of HTML."""
    parts = [f'<div style="font-weight:600">{escape(name)}</div><div>{escape(card.line)}</div>']
    if card.facts:
        facts = "".join(
            f'<tr style="background:transparent"><td style="{_CELL};{_QUIET}">{escape(key)}</td>'
            f'<td style="{_CELL}">{escape(value)}</td></tr>'
            for key, value in card.facts
        )
        parts.append(f'<table style="{_TABLE}">{facts}</table>')
    if rows := card.rows() if callable(card.rows) else card.rows:
        parts.append(_table(card.head, rows))
    if card.note:
        parts.append(f'<div style="margin-top:4px;{_QUIET}">{escape(card.note)}</div>')
    return f'<div style="{_BOX}">{"".join(parts)}</div>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    names = "".join(f'<th style="{_CELL};border-bottom:{_LINE};font-weight:600">{escape(name)}</th>' for name in head)
    body = "".join(
        '<tr style="background:transparent">'
        + "".join(f'<td style="{_CELL}">{escape(cell)}</td>' for cell in row)
        + "</tr>"
        for row in rows
    )
    return f'<table style="{_TABLE}"><thead><tr>{names}</tr></thead>{body}</table>'
