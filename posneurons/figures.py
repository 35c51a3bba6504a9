"""Frames and records to plotly figures, in one template.

Colours are Okabe and Ito's, which the colour-blind tell apart (https://jfly.uni-koeln.de/color/); heatmaps take their
scale from the template, so a page can swap `template(dark=False)` for `template(dark=True)` without touching a figure.
Plotly reads a part of HTML in every label and hover text: each name that comes from data passes through `label`.
Nothing is computed here beyond shares, means and ranges of what is drawn; no file is read.
"""

from __future__ import annotations

import html
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, SupportsFloat

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from posneurons.errors import RunError
from posneurons.words import ALPHA

BASELINES = {
    "random_neurons": "random neurons",
    "most_frequent_tag": "most frequent tag of the word",
    "majority": "most frequent tag of all",
    "control_task": "control task (random tags of what was read)",
    "control_task_next_word": "control task (random tags of the next word)",
}
"""What the baselines of a probe are called, in the order in which they are shown."""

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


def template(*, dark: bool = False) -> go.layout.Template:
    """The look of every figure: fonts, colours, axes, scales of heatmaps. Figures come with the light one."""
    look = DARK if dark else LIGHT
    ink, paper, grid, line = look["base"]
    scales = {
        kind: [[i / (len(look[kind]) - 1), colour] for i, colour in enumerate(look[kind])]
        for kind in ("sequential", "diverging")
    }
    axis: dict[str, Any] = {"gridcolor": grid, "linecolor": line, "zerolinecolor": line}
    axis |= {"automargin": True, "title_standoff": 12}
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
    bar = {"outlinewidth": 0, "thickness": 12, "title": {"side": "right"}}
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


def with_controls(lesions: pd.DataFrame, ablation: str) -> pd.DataFrame:
    """Each tag's key set under one ablation beside its matched controls.

    Returns the rows of the sets "key" with `controls` (how many), `control_mean`, `control_low` and `control_high`
    (nats, NaN without controls). Raises RunError where the frame holds no such ablation, or several methods or scopes.
    """
    for column in ("method", "scope"):
        if len(found := [str(value) for value in lesions[column].unique()]) > 1:
            raise RunError(f"lesions: {column} is {', '.join(found)}; expected one of them, choose its rows first")
    chosen = lesions[lesions["ablation"] == ablation]
    if chosen.empty:
        found = [str(value) for value in lesions["ablation"].unique()]
        raise RunError(f"lesions: no ablation {ablation!r}; the frame has {', '.join(found) or 'no lesion'}")
    keys = ["lesion", "tag"]
    groups = chosen[chosen["set"] == "matched"].groupby(keys, observed=True, sort=False)["delta"]
    ranges = groups.agg(controls="count", control_mean="mean", control_low="min", control_high="max").reset_index()
    real = chosen[chosen["set"] == "key"].merge(ranges, on=keys, how="left")
    return real.assign(controls=real["controls"].fillna(0).astype(int))


def layer_profile(ranking_top: pd.DataFrame, n_layers: int, tag_order: Sequence[str]) -> go.Figure:
    """How many of each tag's key neurons lie in each layer. `ranking_top` has a row (tag, layer) for each of them."""
    counts = pd.crosstab(ranking_top["layer"], ranking_top["tag"])
    counts = counts.reindex(index=range(n_layers), columns=list(tag_order), fill_value=0)
    hover = [
        [f"<b>{label(tag)}</b>, layer {layer}<br>{count} key neurons" for tag, count in row.items()]
        for layer, row in counts.iterrows()
    ]
    shown = counts.astype(str).replace("0", "").to_numpy()
    trace = _heatmap(counts.to_numpy(), tag_order, list(range(n_layers)), hover, shown, "neurons")
    trace.update(zmin=0, zmax=max(1, counts.to_numpy().max()))
    figure = _figure(trace, height=170 + 20 * n_layers, x="tag", y="layer")
    return figure.update_layout(yaxis={"dtick": 1 if n_layers <= 16 else 4, "showgrid": False})


SHADES = {
    "delta": "change (nats per word)",
    "delta_category": "category part (nats per word)",
    "z_control": "z against matched controls",
}
"""Columns that a lesion matrix can be coloured by, and the names of their scales."""


def lesion_matrix(lesions: pd.DataFrame, ablation: str, tag_order: Sequence[str] | None = None) -> go.Figure:
    """Lesioned tag × measured tag: change of loss in nats per word, white (dark: black) at 0; a dot marks q <= 0.05.

    Buttons choose what the cells are coloured by: that change, its category part, or z against the matched controls;
    what the frame does not have has no button. `lesions` holds one method and one scope, in the columns of
    lesions.parquet. Tags come in `tag_order`, or else in the order of the frame.
    """
    cells = with_controls(lesions, ablation)
    cells = cells[cells["words"] > 0]
    measured = _ordered(cells["tag"], tag_order)
    lesioned = _ordered(cells["lesion"], tag_order)
    cells = cells.assign(hover=[_cell_text(cell) for cell in cells.to_dict("records")])
    cells = cells.assign(mark=np.where(cells["q_value"] <= ALPHA, "•", ""))
    shades = [name for name in SHADES if name == "delta" or cells[name].notna().any()]
    tables = {
        column: cells.pivot_table(index="lesion", columns="tag", values=column, aggfunc="first", dropna=False)
        .reindex(index=lesioned, columns=measured)
        .to_numpy(dtype=object)
        for column in (*shades, "hover", "mark")
    }
    rows = [label(tag) for tag in lesioned]
    trace = _heatmap(tables["delta"], measured, rows, tables["hover"], tables["mark"], SHADES["delta"])
    limits = {name: float(cells[name].abs().max()) or 1.0 for name in shades}
    trace.update(zmin=-limits["delta"], zmax=limits["delta"])
    figure = _figure(trace, height=max(340, 150 + 24 * len(lesioned)), x="measured tag", y="lesioned tag")
    if len(shades) > 1:
        looks = [
            {"z": [tables[name]], "zmin": -limits[name], "zmax": limits[name], "colorbar.title.text": SHADES[name]}
            for name in shades
        ]
        figure.update_layout(updatemenus=[_buttons([SHADES[name] for name in shades], looks)], margin={"t": 64})
    return figure.update_yaxes(type="category", autorange="reversed", showgrid=False)


def _buttons(names: Sequence[str], changes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row of buttons above a figure; each changes its traces. Light in both looks: plotly fixes the active colour."""
    buttons = [
        {"label": name, "method": "restyle", "args": [change]} for name, change in zip(names, changes, strict=True)
    ]
    place = {"x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "pad": {"b": 4}}
    ink, grid = LIGHT["base"][0], LIGHT["base"][2]
    look = {"bgcolor": grid, "bordercolor": LIGHT["base"][3], "font": {"color": ink, "size": 12}}
    return {"type": "buttons", "direction": "right", "buttons": buttons, **place, **look}


def lesion_against_controls(lesions: pd.DataFrame, ablation: str) -> go.Figure:
    """The effect of each tag's own lesion on that tag (diamond, 95 % interval) against every matched control (dots).

    Tags come by the size of the effect, the largest on top.
    """
    cells = with_controls(lesions, ablation)
    own = cells[cells["lesion"] == cells["tag"]].sort_values("delta", ascending=True, kind="stable")
    draws = lesions[(lesions["ablation"] == ablation) & (lesions["set"] == "matched")]
    draws = draws[draws["lesion"] == draws["tag"]]
    dots = _points(draws, "matched controls", marker={"symbol": "circle", "size": 7, "opacity": 0.55})
    triples = zip(draws["tag"], draws["draw"], draws["delta"], strict=True)
    dots.hovertext = [f"<b>{label(tag)}</b>, control {draw}<br>{number(delta)} nats" for tag, draw, delta in triples]
    diamonds = _points(own, "the tag’s own neurons, 95 % interval", marker={"symbol": "diamond", "size": 11})
    diamonds.hovertext = [_cell_text(cell) for cell in own.to_dict("records")]
    above, below = own["ci_high"] - own["delta"], own["delta"] - own["ci_low"]
    diamonds.error_x = {"array": above.tolist(), "arrayminus": below.tolist(), "thickness": 1.5, "width": 4}
    diamonds.zorder = 1
    height = 150 + 24 * len(own)
    figure = _figure(diamonds, dots, height=height, x="change of the tag’s own loss (nats per word)", y="tag")
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=diamonds.y)
    return figure.update_layout(xaxis={"type": "linear", "zeroline": True, "zerolinewidth": 2}, margin={"t": 84})


def probe_bars(probe: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Accuracy and macro-F1 of a probe beside each of its baselines. `probe` has a result for each position."""
    groups = [(result, measure) for result in probe for measure in ("accuracy", "macro_f1")]
    places = [label(f"at {result['at']}") for result, _ in groups]
    measures = [{"accuracy": "accuracy", "macro_f1": "macro-F1"}[measure] for _, measure in groups]
    bars = [go.Bar(name="probe on key neurons", y=[result.get(measure) for result, measure in groups])]
    for name in _ordered((name for result in probe for name in result["baselines"]), list(BASELINES)):
        scores = [result["baselines"].get(name, {}).get(measure) for result, measure in groups]
        bars.append(go.Bar(name=label(BASELINES.get(name, name)), y=scores))
    for bar in bars:
        bar.update(x=[places, measures], texttemplate="%{y:.2f}", textangle=0, hovertemplate="%{y:.4f}")
    figure = _figure(*bars, height=420, x="position read, measure", y="score on test words (0 to 1)")
    figure.update_xaxes(type="multicategory").update_yaxes(range=[0, 1])
    return figure.update_layout(barmode="group", bargap=0.15, margin={"t": 110})


def confusion(result: Mapping[str, Any]) -> go.Figure:
    """The probe's confusion on test words: of each true tag (row), the share that was read as each tag (column)."""
    tags = [str(tag) for tag in result["classes"]]
    counts = np.asarray(result["confusion"], dtype=np.float64).reshape(len(tags), len(tags))
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    hover = [
        [
            f"<b>{label(true)}</b> read as <b>{label(read)}</b><br>{counts[i, j]:.0f} of {totals[i, 0]:.0f} words"
            f" ({number(100 * shares[i, j], '.1f')} %)"
            for j, read in enumerate(tags)
        ]
        for i, true in enumerate(tags)
    ]
    trace = _heatmap(shares, tags, [label(tag) for tag in tags], hover, None, "share of the true tag")
    figure = _figure(trace.update(zmin=0, zmax=1), height=150 + 24 * len(tags), x="tag read by the probe", y="true tag")
    return figure.update_yaxes(type="category", autorange="reversed", showgrid=False)


def _figure(*traces: object, height: int, x: str, y: str) -> go.Figure:
    """A figure in the template, with both axes named."""
    figure = go.Figure(data=list(traces))
    figure.update_layout(template=template(), height=max(height, 300), xaxis_title=x, yaxis_title=y)
    return figure.update_xaxes(type="category", showgrid=True)


def _points(rows: pd.DataFrame, name: str, marker: dict[str, Any]) -> go.Scatter:
    """Markers at the delta of each row, on the line of its tag."""
    tags = [label(tag) for tag in rows["tag"]]
    return go.Scatter(x=rows["delta"].tolist(), y=tags, name=name, mode="markers", marker=marker, hoverinfo="text")


def _heatmap(values: Any, columns: Iterable[str], rows: list[Any], hover: Any, text: Any, unit: str) -> go.Heatmap:
    """A heatmap whose columns are tags; `text` stands in the cells, `hover` is shown as it is."""
    trace = go.Heatmap(z=values, x=[label(tag) for tag in columns], y=rows, hovertext=hover, hoverinfo="text")
    trace.update(colorbar_title_text=unit)
    return trace if text is None else trace.update(text=text, texttemplate="%{text}")


def _ordered(tags: Iterable[str], order: Sequence[str] | None) -> list[str]:
    """The tags that occur, in the given order; those that it lacks come last, as they appear."""
    found = list(dict.fromkeys(tags))
    return [tag for tag in order or () if tag in found] + [tag for tag in found if tag not in (order or ())]


def _cell_text(cell: Mapping[Hashable, Any]) -> str:
    """All that is known of one lesion and one measured tag, in a few lines."""
    controls = f"{cell['controls']} controls: mean {number(cell['control_mean'])}, "
    controls += f"{number(cell['control_low'])} to {number(cell['control_high'])}; z {number(cell['z_control'], '.1f')}"
    return "<br>".join(
        [
            f"lesion of <b>{label(cell['lesion'])}</b>, measured on <b>{label(cell['tag'])}</b>",
            f"{number(cell['delta'])} nats (95 % interval {number(cell['ci_low'])} to {number(cell['ci_high'])})",
            f"{number(cell['percent'], '+.1f')} % of the intact loss",
            f"category part {number(cell['delta_category'])}",
            controls if cell["controls"] else "no controls",
            f"q {number(cell['q_value'], '.3g')}; {cell['words']:,} words",
        ]
    )
