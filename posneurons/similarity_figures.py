"""Which tags are alike: matrices of dissimilarity ordered by a tree, with the tree above, and trees alone.

Nothing is computed here; the tree comes as `similarity.cluster` makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from numpy import ndarray

from posneurons.theme import LIGHT, figure_of, heatmap, label, number, ordered

UNIT = "dissimilarity (1 − r)"
_TREE = 0.2
"""Share of the height of a figure that the tree above a matrix takes."""


def tag_tree(
    values: Float[ndarray, "tag tag"], tags: Sequence[str], leaves: Sequence[str], merges: pd.DataFrame
) -> go.Figure:
    """Dissimilarity of each two tags, like ones side by side, with the tree that orders them above.

    Args:
        values: dissimilarities, 0 (the same) to 2; NaN is a gap.
        tags: names of rows and columns.
        leaves: the tags in the order of the tree; those that it lacks come last.
        merges: as `similarity.Tree` has them: columns left, right, height, size. Without a row there is no tree.
    """
    order = ordered(tags, leaves)
    place = [list(tags).index(tag) for tag in order]
    table = values[np.ix_(place, place)].astype(np.float64)
    hover = [
        [
            f"<b>{label(a)}</b> and <b>{label(b)}</b><br>dissimilarity {number(table[i, j], '.3f')}"
            for j, b in enumerate(order)
        ]
        for i, a in enumerate(order)
    ]
    trace = heatmap(table, order, list(range(len(order))), hover, None, UNIT)
    trace.x = list(range(len(order)))
    trace.update(zmin=0, zmax=max(1.0, float(np.nanmax(table)) if np.isfinite(table).any() else 1.0), reversescale=True)
    trace.update(colorbar={"len": 1 - _TREE, "y": 0, "yanchor": "bottom"})
    branches = _branches(leaves, merges)
    for branch in branches:
        branch.update(yaxis="y2")
    figure = figure_of(trace, *branches, height=max(380, 220 + 24 * len(order)), x="tag", y="tag")
    names = {"tickvals": list(range(len(order))), "ticktext": [label(tag) for tag in order]}
    edges = [-0.5, len(order) - 0.5]
    figure.update_xaxes(type="linear", range=edges, showgrid=False, zeroline=False, **names)
    top = 1 - _TREE if branches else 1
    figure.update_layout(
        yaxis={"range": edges[::-1], "domain": [0, top], "showgrid": False, "zeroline": False, **names},
        yaxis2={"domain": [1 - _TREE + 0.02, 1], "rangemode": "tozero", "title": "height", "zeroline": False},
    )
    return figure.update_layout(showlegend=False)


def tree(leaves: Sequence[str], merges: pd.DataFrame, fit: float | None = None) -> go.Figure:
    """Tags joined step by step, by the dissimilarity at which they meet (average linkage).

    Args:
        leaves: the tags, like ones side by side.
        merges: as `similarity.Tree` has them: columns left, right, height, size.
        fit: the cophenetic correlation, for the title of the axis.
    """
    branches = _branches(leaves, merges, upright=False)
    said = "" if fit is None else f"; cophenetic correlation {number(fit, '.2f')}"
    figure = figure_of(*branches, height=140 + 24 * len(leaves), x=f"{UNIT} at which they meet{said}", y="tag")
    names = {"tickvals": list(range(len(leaves))), "ticktext": [label(tag) for tag in leaves]}
    top = 1.04 * float(merges["height"].max()) if len(merges) else 1.0
    figure.update_xaxes(type="linear", range=[0, top or 1.0])
    figure.update_yaxes(type="linear", range=[len(leaves) - 0.5, -0.5], showgrid=False, zeroline=False, **names)
    return figure.update_layout(showlegend=False)


def _branches(leaves: Sequence[str], merges: pd.DataFrame, *, upright: bool = True) -> list[Any]:
    """One line for each merge, from the one group up, across and down to the other, with a hover text on top."""
    middle = {tag: float(number) for number, tag in enumerate(leaves)}
    height = dict.fromkeys(middle, 0.0)
    found = []
    for row in merges.to_dict("records"):
        left, right, top = row["left"], row["right"], float(row["height"])
        both = f"{left} {right}"
        middle[both], height[both] = (middle[left] + middle[right]) / 2, top
        across = [middle[left], middle[left], middle[both], middle[right], middle[right]]
        up = [height[left], top, top, top, height[right]]
        text = f"<b>{label(left)}</b><br>meets <b>{label(right)}</b><br>at {number(top, '.3f')}"
        x, y = (across, up) if upright else (up, across)
        branch = go.Scatter(x=x, y=y, mode="lines", hovertext=text, hoverinfo="text", showlegend=False)
        found.append(branch.update(line={"color": LIGHT["base"][3], "width": 2}))
    return found
