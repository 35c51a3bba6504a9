"""A neuron's page as one figure: on the left how its activation is distributed for each tag, on the right what it does.

Both panels share the axis of tags, sorted by mean activation, the highest on top; the tags that the page is there for
are coloured, the others grey, in colours that serve the light and the dark look. The height of a density is the square
root of the share of the tag's words, so that rare values are seen beside the peak, and each is scaled to its own peak:
shapes can be compared, heights cannot. Numbers are rounded, and what hovering says of a density is said once, so that a
report with a hundred of these stays small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from posneurons.theme import DARK, LIGHT, label, number, template

OWN, OTHER = DARK["colorway"][6], LIGHT["base"][3]
"""Colours of the page's tags and of the others."""

TALL = 0.86
"""Height of the peak of a density; rows are 1 apart."""


def neuron_figure(page: Mapping[str, Any]) -> go.Figure:
    """Densities of the activation by tag, and the effect of ablating the neuron alone on each tag.

    Args:
        page: as `NeuronPage.to_dict` gives it. Tags without a word, neither here nor there, are not drawn.
    """
    tags = _order(page)
    own = {each["tag"] for each in page["of"]}
    figure = make_subplots(cols=2, shared_yaxes=True, column_widths=[0.6, 0.4], horizontal_spacing=0.04)
    densities = [_density(page, tag, row, own) for row, tag in enumerate(tags) if page["words"][tag]]
    effects = []
    for mine in (False, True):
        rows = [(row, tag) for row, tag in enumerate(tags) if (page["tags"][tag] in own) == mine]
        effects.append(_effects(page, rows, OWN if mine else OTHER))
    columns = [1] * len(densities) + [2] * len(effects)
    figure.add_traces([*densities, *effects], rows=[1] * len(columns), cols=columns)
    names = [label(page["tags"][tag]) for tag in tags]
    axis: dict[str, Any] = {"tickvals": list(range(len(tags))), "ticktext": names, "range": [-0.6, len(tags) - 0.35]}
    look = {"showgrid": False, "zeroline": False, "ticklabelstandoff": 4}
    figure.update_yaxes(**axis, **look, fixedrange=True).update_yaxes(col=2, showgrid=True)
    figure.update_xaxes(zeroline=True, nticks=5, tickangle=0, tickformat="~g", title_font_size=12, showgrid=True)
    figure.update_xaxes(col=1, title_text="activation", range=[_short(page["edges"][0]), _short(page["edges"][-1])])
    figure.update_xaxes(col=2, title_text="rise of loss (nats)", nticks=4, zerolinewidth=2)
    return figure.update_layout(template=template(), height=110 + 24 * max(len(tags), 3), showlegend=False)


def _order(page: Mapping[str, Any]) -> list[int]:
    """Numbers of the tags that have a word, by mean activation, the lowest first; those without one come before."""
    drawn = [tag for tag, words in enumerate(page["words"]) if words or page["effects"][tag]["words"]]
    means = page["means"]
    return sorted(drawn, key=lambda tag: (means[tag] is not None, means[tag] or 0.0, -tag))


def _density(page: Mapping[str, Any], tag: int, row: int, own: set[str]) -> go.Scatter:
    """The density of a tag as a polygon over the line of its row; what it says is the same everywhere on it."""
    counts = np.array(page["counts"][tag], dtype=np.float64)
    first, last = page["edges"][0], page["edges"][-1]
    step = (last - first) / len(counts)
    heights = TALL * np.sqrt(counts / max(counts.max(), 1.0))
    outline = np.concatenate([[0.0], heights, [0.0]]) + row - TALL / 2
    mine = page["tags"][tag] in own
    colour = OWN if mine else OTHER
    text = (
        f"<b>{label(page['tags'][tag])}</b>, {page['words'][tag]:,} words<br>mean {number(page['means'][tag], '.3g')}"
        f"<br>half of them below {number(_median(counts, first, step), '.3g')}"
    )
    return go.Scatter(
        x0=_short(first - step / 2), dx=_short(step), y=[round(float(y), 2) for y in outline], mode="lines",
        fill="toself", line={"color": colour, "width": 1.5 if mine else 1}, text=text, hoverinfo="text",
    )  # fmt: skip


def _median(counts: np.ndarray, first: float, step: float) -> float:
    """Where half of the words lie below, to the width of a bin."""
    below = np.cumsum(counts)
    place = int(np.searchsorted(below, below[-1] / 2))
    share = (below[-1] / 2 - (below[place] - counts[place])) / max(counts[place], 1.0)
    return float(first + step * (place + share))


def _effects(page: Mapping[str, Any], rows: Sequence[tuple[int, int]], colour: str) -> go.Scatter:
    """The effects on some tags with their intervals; tags without a scored word have none."""
    found = [(row, page["tags"][tag], page["effects"][tag]) for row, tag in rows if page["effects"][tag]["words"]]
    text = [
        f"<b>{label(tag)}</b>: {number(each['rise'], '+.5f')} nats<br>95 % interval {number(each['low'], '+.5f')} to "
        f"{number(each['high'], '+.5f')}<br>{each['words']:,} words"
        for _, tag, each in found
    ]
    above, below = ([_gap(each, end) for _, _, each in found] for end in ("high", "low"))
    return go.Scatter(
        x=[_short(each["rise"]) for _, _, each in found], y=[row for row, _, _ in found], mode="markers",
        marker={"color": colour, "size": 8 if colour == OWN else 6, "symbol": "diamond" if colour == OWN else "circle"},
        error_x={"type": "data", "array": above, "arrayminus": below, "thickness": 1.5, "width": 0, "color": colour},
        text=text, hoverinfo="text",
    )  # fmt: skip


def _gap(effect: Mapping[str, Any], end: str) -> float:
    """Distance of an end of the interval; nothing is drawn where it is undefined."""
    return 0.0 if effect[end] is None else _short(abs(effect[end] - effect["rise"]))


def _short(value: float) -> float:
    """Five significant digits: more than can be seen."""
    return float(f"{value:.5g}") + 0.0
