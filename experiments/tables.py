"""Frames as Markdown tables, for the experiments and their log."""

from __future__ import annotations

import pandas as pd


def markdown(frame: pd.DataFrame, *, digits: str = ".3f") -> str:
    """A Markdown table, real numbers with so many digits, nothing for what is undefined.

    >>> print(markdown(pd.DataFrame({"tag": ["NOUN"], "r": [0.5], "n": [7]})))
    | tag | r | n |
    | --- | --- | --- |
    | NOUN | 0.500 | 7 |
    """

    def cell(value: object) -> str:
        return str(value) if not isinstance(value, float) else "" if value != value else format(value, digits)

    rows = [[cell(value) for value in row] for row in frame.astype(object).to_numpy()]
    lines = [[str(name) for name in frame.columns], ["---"] * len(frame.columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
