"""What sets of neurons share, pair by pair: neurons, and the directions in which they write.

Tables of pairs become symmetric matrices; the diagonal, each set with itself, is left open. Nothing is computed here
beyond the ratio of what is shared to what chance gives.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy import ndarray

from posneurons.errors import RunError
from posneurons.theme import as_matrix, buttons, figure_of, heatmap, label, number, ordered, reach
from posneurons.words import ALPHA

Row = Mapping[Hashable, Any]


def overlap_matrix(frame: pd.DataFrame, tag_order: Sequence[str] | None = None) -> go.Figure:
    """How many neurons each two tags' sets share; a dot marks more than chance gives (q <= 0.05).

    Colour is the Jaccard index, or by the button how many times the shared neurons exceed what random sets share (log2,
    0 is chance; a gap where nothing is shared or expected).

    Args:
        frame: as `overlap.overlaps` gives it.
        tag_order: of rows and columns; else as they come.

    Raises:
        RunError: where there is no pair.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        times = np.log2(frame["shared"].to_numpy(dtype=np.float64) / frame["expected"].to_numpy(dtype=np.float64))
    frame = frame.assign(times=np.where(np.isfinite(times), times, np.nan))
    figure, tags = _pairs(frame, tag_order, "jaccard", "Jaccard index", _shared_mark, _shared_text)
    tables = {name: _matrix(frame, tags, name) for name in ("jaccard", "times")}
    limits = {name: reach(table) for name, table in tables.items()}
    looks = [
        {"z": [tables["jaccard"]], "zmin": 0, "zmax": limits["jaccard"], "colorbar.title.text": "Jaccard index"},
        {"z": [tables["times"]], "zmin": -limits["times"], "zmax": limits["times"],
         "colorbar.title.text": "shared / chance (log2)"},
    ]  # fmt: skip
    menu = buttons(["Jaccard index", "shared against chance"], looks)
    return figure.update_traces(zmin=0, zmax=limits["jaccard"]).update_layout(updatemenus=[menu], margin={"t": 64})


def angle_matrix(frame: pd.DataFrame, tag_order: Sequence[str] | None = None) -> go.Figure:
    """How far the spans of what two sets write overlap (mean squared cosine, 0 to 1); a dot marks q <= 0.05.

    Args:
        frame: as `subspace.principal_angles` gives it.
        tag_order: of rows and columns; else as they come.

    Raises:
        RunError: where there is no pair.
    """
    figure, _ = _pairs(frame, tag_order, "overlap", "overlap of spans (mean cos²)", _dot, _angle_text)
    return figure.update_traces(zmin=0, zmax=1)


def cosine_matrix(frame: pd.DataFrame, tag_order: Sequence[str] | None = None) -> go.Figure:
    """Cosine of what two tags' neurons write together, -1 to 1; a dot marks q <= 0.05 against control sets.

    Args:
        frame: as `subspace.Directions.to_frame` gives it.
        tag_order: of rows and columns; else as they come.

    Raises:
        RunError: where there is no pair.
    """
    figure, _ = _pairs(frame, tag_order, "cosine", "cosine", _cosine_mark, _cosine_text)
    return figure.update_traces(zmin=-1, zmax=1)


def _pairs(
    frame: pd.DataFrame,
    tag_order: Sequence[str] | None,
    value: str,
    unit: str,
    mark: Callable[[Row], str],
    text: Callable[[Row], str],
) -> tuple[go.Figure, list[str]]:
    """A symmetric matrix of one column of a table of unordered pairs, and its tags."""
    if frame.empty:
        raise RunError(f"{value} of pairs: the table has no row; expected the sets of at least two tags")
    tags = ordered([*frame["tag_a"], *frame["tag_b"]], tag_order)
    rows = frame.to_dict("records")
    marks = _matrix(frame.assign(mark=[mark(row) for row in rows]), tags, "mark", "")
    hover = _matrix(frame.assign(text=[text(row) for row in rows]), tags, "text", "")
    trace = heatmap(_matrix(frame, tags, value), tags, [label(tag) for tag in tags], hover, marks, unit)
    figure = figure_of(trace, height=max(340, 150 + 24 * len(tags)), x="tag", y="tag")
    return as_matrix(figure), tags


def _matrix(frame: pd.DataFrame, tags: Sequence[str], column: str, empty: object = np.nan) -> ndarray:
    place = {tag: number for number, tag in enumerate(tags)}
    table = np.full((len(tags), len(tags)), empty, dtype=object if isinstance(empty, str) else np.float64)
    a, b = ([place[tag] for tag in frame[name]] for name in ("tag_a", "tag_b"))
    table[a, b] = table[b, a] = frame[column]
    return table


def _dot(row: Row) -> str:
    return "•" if row["q_value"] <= ALPHA else ""


def _shared_mark(row: Row) -> str:
    return f"{row['shared']}{_dot(row)}"


def _cosine_mark(row: Row) -> str:
    return f"{number(row['cosine'], '.2f')}{_dot(row)}"


def _names(row: Row) -> str:
    return f"<b>{label(row['tag_a'])}</b> and <b>{label(row['tag_b'])}</b>"


def _tested(row: Row) -> str:
    return f"p {number(row['p_value'], '.3g')}, q {number(row['q_value'], '.3g')}"


def _shared_text(row: Row) -> str:
    return (
        f"{_names(row)}<br>{row['shared']} neurons shared, of {row['size_a']} and {row['size_b']}"
        f"<br>{number(row['expected'], '.2f')} expected of random sets; {_tested(row)}"
        f"<br>Jaccard index {number(row['jaccard'], '.3f')},"
        f" of the smaller set {number(row['overlap_coefficient'], '.3f')}"
    )


def _angle_text(row: Row) -> str:
    return (
        f"{_names(row)}<br>overlap {number(row['overlap'], '.3f')} (random position"
        f" {number(row['random_overlap'], '.3f')}, controls {number(row['control_overlap'], '.3f')}); {_tested(row)}"
        f"<br>angles {number(row['smallest_angle'], '.1f')}° (smallest), {number(row['mean_angle'], '.1f')}° (mean)"
        f"<br>spans of {row['dim_a']} and {row['dim_b']} dimensions, {row['shared']} neurons shared"
    )


def _cosine_text(row: Row) -> str:
    return (
        f"{_names(row)}<br>cosine {number(row['cosine'])}"
        f"<br>size in random directions {number(row['random_cosine'], '.3f')},"
        f" of control sets {number(row['control_cosine'], '.3f')}<br>{_tested(row)}"
    )
