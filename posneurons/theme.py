"""The look of every figure: one template in light and dark, and the parts that figures are put together from.

Colours are Okabe and Ito's, which the colour-blind tell apart (https://jfly.uni-koeln.de/color/); heatmaps take their
scale from the template, so a page can swap `template(dark=False)` for `template(dark=True)` without touching a figure.
Plotly reads a part of HTML in every label and hover text: each name that comes from data passes through `label`.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsFloat

import numpy as np
import plotly.graph_objects as go

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', sans-serif"
LIGHT = {
    "base": ["#1c2024", "#ffffff", "#e3e6ea", "#8b939c"],  # ink, paper, grid, lines
    "colorway": ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#949ca6", "#d55e00", "#56b4e9"],
    "sequential": ["#f4f7fa", "#c3dcef", "#6fb1dc", "#0072b2", "#00304d"],
    "diverging": ["#08406b", "#4a94c8", "#b9d7ea", "#f5f5f5", "#f8cfa0", "#dd7a1f", "#7f3400"],
}
DARK = {
    "base": ["#e6e9ec", "#1a1d21", "#30353b", "#7d868f"],
    "colorway": ["#56b4e9", "#e69f00", "#2cc295", "#dd93bb", "#8a929b", "#f0803c", "#3d8fd1"],
    "sequential": ["#22272d", "#1d4663", "#1f78ae", "#56b4e9", "#d9f0ff"],
    "diverging": ["#bfe3fa", "#56b4e9", "#27587a", "#24282d", "#7d4a14", "#e8963a", "#ffe0b5"],
}


BAND = "rgba(139, 147, 156, 0.25)"
"""Fill of a control band: grey, seen in the light and in the dark look."""
SYMBOLS = ("diamond", "circle", "square", "triangle-up", "cross", "x", "star", "triangle-down")
"""Markers that tell kinds of points apart without colour."""
MENU: dict[str, Any] = {
    "bgcolor": LIGHT["base"][2],
    "bordercolor": LIGHT["base"][3],
    "font": {"color": LIGHT["base"][0], "size": 12},
}
"""The look of buttons and menus, light in both looks: plotly fixes the colour of what is chosen."""


def template(*, dark: bool = False) -> go.layout.Template:
    """The look of every figure: fonts, colours, axes, scales of heatmaps. Figures come with the light one."""
    look = DARK if dark else LIGHT
    ink, paper, grid, line = look["base"]
    scales = {
        kind: [[i / (len(look[kind]) - 1), colour] for i, colour in enumerate(look[kind])]
        for kind in ("sequential", "diverging")
    }
    axis: dict[str, Any] = {"gridcolor": grid, "linecolor": line, "zerolinecolor": line}
    axis |= {"automargin": True, "title_standoff": 12, "title_font_size": 13}
    hover = {"bgcolor": paper, "bordercolor": line, "font_color": ink, "align": "left"}
    layout = {
        "font": {"family": FONT, "size": 13, "color": ink},
        "paper_bgcolor": paper,
        "plot_bgcolor": paper,
        "colorway": look["colorway"],
        "colorscale": scales,
        "xaxis": axis,
        "yaxis": axis,
        "margin": {"l": 8, "r": 8, "t": 24, "b": 8},
        "legend": {"orientation": "h", "y": 1.01, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        "hoverlabel": hover,
    }
    bar = {"outlinewidth": 0, "thickness": 12, "title": {"side": "right", "font": {"size": 12}}}
    heatmap = {"autocolorscale": True, "xgap": 1, "ygap": 1, "colorbar": bar}
    return go.layout.Template(layout=layout, data={"heatmap": [heatmap]})


def label(text: object) -> str:
    """Text from data as plotly shall show it, letter by letter.

    >>> label("<b>R&D</b>")
    '&lt;b&gt;R&amp;D&lt;/b&gt;'
    """
    return html.escape(str(text), quote=False)


def number(value: SupportsFloat | None, form: str = "+.3f") -> str:
    """A number for a reader: with a true minus sign, and a dash where it is undefined.

    >>> number(-0.25), number(float("nan"))
    ('−0.250', '–')
    """
    return "–" if value is None or not np.isfinite(float(value)) else format(float(value), form).replace("-", "−")


def buttons(names: Sequence[str], changes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row of buttons above a figure; each changes its traces."""
    choices = [
        {"label": name, "method": "restyle", "args": [change]} for name, change in zip(names, changes, strict=True)
    ]
    place = {"x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "pad": {"b": 4}}
    return {"type": "buttons", "direction": "right", "buttons": choices, **place, **MENU}


def figure_of(*traces: object, height: int, x: str, y: str) -> go.Figure:
    """A figure in the template, with both axes named."""
    figure = go.Figure(data=list(traces))
    figure.update_layout(template=template(), height=max(height, 300), xaxis_title=x, yaxis_title=y)
    return figure.update_xaxes(type="category", showgrid=True)


def error_bars(low: Any, value: Any, high: Any, **more: Any) -> dict[str, Any]:
    """From each value to the ends of its interval; all three are arrays, or what numpy makes one of.

    >>> error_bars([0.0], [1.0], [3.0], width=0)["arrayminus"]
    [1.0]
    """
    middle = np.asarray(value)
    up, down = (np.asarray(high) - middle).tolist(), (middle - np.asarray(low)).tolist()
    return {"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.5, "width": 4} | more


def gaps(values: Iterable[SupportsFloat]) -> list[float | None]:
    """Values as plotly takes them, None where undefined.

    >>> gaps([0.5, float("nan")])
    [0.5, None]
    """
    return [float(value) if np.isfinite(float(value)) else None for value in values]


def boxes(names: Sequence[str], quantiles: np.ndarray) -> go.Box:
    """Boxes from five quantiles of each name (columns: whisker, quartile, median, quartile, whisker)."""
    low, first, median, third, high = quantiles.T.tolist()
    box = go.Box(x=[label(name) for name in names], q1=first, median=median, q3=third)
    return box.update(lowerfence=low, upperfence=high, showlegend=False)


def layer_step(n_layers: int) -> int:
    """Every how many layers an axis names one."""
    return 1 if n_layers <= 16 else 4


def with_layers(figure: go.Figure, n_layers: int) -> go.Figure:
    """The same figure, a heatmap whose rows are layers."""
    return figure.update_layout(yaxis={"dtick": layer_step(n_layers), "showgrid": False, "zeroline": False})


def reach(values: Any) -> float:
    """The largest absolute value that is finite, as the end of a scale of colours; 1 where there is none but 0.

    >>> reach([-2.0, 1.0, float("nan")]), reach([0.0])
    (2.0, 1.0)
    """
    table = np.asarray(values, dtype=np.float64)
    return float(np.abs(table[np.isfinite(table)]).max(initial=0)) or 1.0


def as_matrix(figure: go.Figure) -> go.Figure:
    """The same figure, its categories from the top down, without lines between its cells."""
    return figure.update_xaxes(showgrid=False).update_yaxes(type="category", autorange="reversed", showgrid=False)


def heatmap(values: Any, columns: Iterable[str], rows: list[Any], hover: Any, text: Any, unit: str) -> go.Heatmap:
    """A heatmap whose columns are tags; `text` stands in the cells, `hover` is shown as it is."""
    trace = go.Heatmap(z=values, x=[label(tag) for tag in columns], y=rows, hovertext=hover, hoverinfo="text")
    trace.update(colorbar_title_text=unit)
    return trace if text is None else trace.update(text=text, texttemplate="%{text}")


def ordered(tags: Iterable[str], order: Sequence[str] | None) -> list[str]:
    """The tags that occur, each once, in the given order; those that it lacks come last, as they appear.

    >>> ordered(["VERB", "X", "NOUN", "VERB"], ["NOUN", "VERB", "ADJ"])
    ['NOUN', 'VERB', 'X']
    """
    found = list(dict.fromkeys(tags))
    return [tag for tag in order or () if tag in found] + [tag for tag in found if tag not in (order or ())]
