"""Double dissociations to one picture: which tags their own neurons serve more than the other's neurons do.

Nothing is computed here; contrasts, p-values and verdicts stand in the table (`verdicts`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from posneurons.errors import RunError
from posneurons.run_rows import check_single
from posneurons.theme import as_matrix, figure_of, heatmap, label, number, ordered, reach

MARKS = {"classical": "C", "strong": "S", "one-way": "o", "none": ""}
"""What stands in the cells of a pair."""

MEANING = "C both ways, the other tag unharmed (classical) · S both ways (strong) · o one way · empty: not shown"


def verdict_matrix(rows: pd.DataFrame, tag_order: Sequence[str] | None = None) -> go.Figure:
    """Row: the tag that suffers; column: the other tag; colour: how much more its own lesion hurts it than the other's.

    The colour is the within-tag contrast in nats per word, and a letter is the verdict of the pair (`MARKS`), the same
    in both of its cells. A pair that was not tested is a gap.

    Args:
        rows: of dissociations.parquet, those of one method, ablation, scope and measure; a pair in one order or both.
        tag_order: of rows and columns; else as they come.

    Raises:
        RunError: where there is no row, or they are of several methods, ablations, scopes or measures.
    """
    if rows.empty:
        raise RunError("dissociations: no pair of tags; expected the key sets of at least two tags that have words")
    check_single(rows, "dissociations", ("method", "ablation", "scope", "measure"))
    tags = ordered([*rows["tag_a"], *rows["tag_b"]], tag_order)
    place = {tag: number for number, tag in enumerate(tags)}
    values = np.full((len(tags), len(tags)), np.nan)
    marks, hover = np.full(values.shape, "", dtype=object), np.full(values.shape, "", dtype=object)
    for row in rows.to_dict("records"):
        for one, other in (("b", "a"), ("a", "b")):  # where both orders are given, the row's own a comes last
            cell = place[row[f"tag_{one}"]], place[row[f"tag_{other}"]]
            values[cell] = row[f"contrast_{one}"]
            marks[cell] = MARKS.get(row["verdict"], label(row["verdict"]))
            hover[cell] = _text(row, one, other)
    limit = reach(values)
    unit = "contrast (nats per word)"
    trace = heatmap(values, tags, [label(tag) for tag in tags], hover, marks, unit)
    trace.update(zmin=-limit, zmax=limit)
    height = max(340, 160 + 24 * len(tags))
    figure = figure_of(trace, height=height, x="other tag, whose lesion is held against it", y="tag that suffers")
    figure.add_annotation(text=MEANING, xref="paper", yref="paper", x=0, y=1, yanchor="bottom", showarrow=False)
    figure.update_layout(margin={"t": 40})
    return as_matrix(figure)


def _text(row: Mapping[Any, Any], one: str, other: str) -> str:
    """Contrast and tests of one direction of a pair, and the verdict of the pair."""
    a, b = label(row[f"tag_{one}"]), label(row[f"tag_{other}"])
    return "<br>".join(
        [
            f"<b>{a}</b>: its own lesion raises its loss by {number(row[f'contrast_{one}'])} nats per word more",
            f"than that of <b>{b}</b> does (p {number(row[f'p_{one}'], '.3g')})",
            f"the other way round {number(row[f'contrast_{other}'])} (p {number(row[f'p_{other}'], '.3g')})",
            f"lesion of {a} on {b}, beyond its random sets: {number(row[f'cross_{one}'])}",
            f"pair: q {number(row['q_value'], '.3g')}, verdict: {label(row['verdict'])}",
            f"equivalence p {number(row['equivalence_p'], '.3g')}, margin {number(row['margin'], '.3g')} nats",
        ]
    )
