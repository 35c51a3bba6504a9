"""The frames of a run to plotly figures, in the template of `theme`.

Nothing is computed here beyond shares, means and ranges of what is drawn; no file is read.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from posneurons.run_rows import BASELINES, own_effects, with_controls
from posneurons.theme import (
    BAND,
    as_matrix,
    buttons,
    error_bars,
    figure_of,
    heatmap,
    label,
    number,
    ordered,
    reach,
    with_layers,
)
from posneurons.words import ALPHA


def layer_profile(ranking_top: pd.DataFrame, n_layers: int, tag_order: Sequence[str]) -> go.Figure:
    """How many of each tag's key neurons lie in each layer. `ranking_top` has a row (tag, layer) for each of them."""
    counts = pd.crosstab(ranking_top["layer"], ranking_top["tag"])
    counts = counts.reindex(index=range(n_layers), columns=list(tag_order), fill_value=0)
    hover = [
        [f"<b>{label(tag)}</b>, layer {layer}<br>{count} key neurons" for tag, count in row.items()]
        for layer, row in counts.iterrows()
    ]
    shown = counts.astype(str).replace("0", "").to_numpy()
    trace = heatmap(counts.to_numpy(), tag_order, list(range(n_layers)), hover, shown, "neurons")
    trace.update(zmin=0, zmax=max(1, counts.to_numpy().max()))
    figure = figure_of(trace, height=170 + 20 * n_layers, x="tag", y="layer")
    return with_layers(figure, n_layers)


SHADES = {
    "delta": "change (nats per word)",
    "delta_category": "category part (nats per word)",
    "z_control": "z against matched controls",
    "q_value": "q-value",
}
"""Columns that a lesion matrix can be coloured by, and the names of their scales."""

LARGEST_Z = 10.0
"""Colours of z end here at the latest, either way: one neuron set beyond all others would leave the rest white."""

Q_TICKS = (1.0, 0.1, 0.05, 0.01, 0.001, 0.0001)
"""q-values named on their scale, which is that of their logarithm and ends with the last of them."""


def lesion_matrix(lesions: pd.DataFrame, ablation: str, tag_order: Sequence[str] | None = None) -> go.Figure:
    """Lesioned tag × measured tag: change of loss in nats per word, white (dark: black) at 0; a dot marks q <= 0.05.

    Buttons choose what the cells are coloured by: that change, its category part, z against the matched controls (to
    ±`LARGEST_Z` at most), or the q-value of a rise on a scale of its logarithm; what the frame does not have has no
    button, and an undefined cell is grey. `lesions` holds one method and one scope, in the columns of lesions.parquet.
    Tags come in `tag_order`, or else in the order of the frame.
    """
    cells = with_controls(lesions, ablation)
    cells = cells[cells["words"] > 0]
    measured, lesioned = (ordered(cells[name], tag_order) for name in ("tag", "lesion"))
    cells = cells.assign(hover=[_cell_text(cell) for cell in cells.to_dict("records")])
    cells = cells.assign(mark=np.where(cells["q_value"] <= ALPHA, "•", ""))
    shades = [name for name in SHADES if name == "delta" or cells[name].notna().any()]
    tables = {
        column: cells.pivot_table(index="lesion", columns="tag", values=column, aggfunc="first", dropna=False)
        .reindex(index=lesioned, columns=measured)
        .to_numpy(dtype=object)
        for column in (*shades, "hover", "mark")
    }
    looks = [_shade(name, tables[name]) for name in shades]
    rows = [label(tag) for tag in lesioned]
    trace = heatmap(tables["delta"], measured, rows, tables["hover"], tables["mark"], SHADES["delta"])
    trace.update(zmin=looks[0]["zmin"], zmax=looks[0]["zmax"])
    figure = figure_of(trace, height=max(340, 150 + 24 * len(lesioned)), x="measured tag", y="lesioned tag")
    figure.update_layout(plot_bgcolor=BAND)
    if len(shades) > 1:
        menu = buttons([SHADES[name] for name in shades], looks)
        figure.update_layout(updatemenus=[menu], margin={"t": 64})
    return as_matrix(figure)


def _shade(name: str, values: Any) -> dict[str, Any]:
    """What a heatmap changes to show one of `SHADES`, white (dark: black) at 0 or at a q of 1."""
    table = np.asarray(values, dtype=np.float64)
    if name == "q_value":
        depth = -np.log10(np.clip(table, Q_TICKS[-1], 1))
        ticks = {"tickvals": (-np.log10(Q_TICKS)).tolist(), "ticktext": [f"{q:g}" for q in Q_TICKS[:-1]]}
        ticks["ticktext"].append(f"≤ {Q_TICKS[-1]:g}")
        low, high = 0.0, float(-np.log10(Q_TICKS[-1]))
        shown = depth
    else:
        ticks = {"tickvals": None, "ticktext": None}
        high = min(reach(table), LARGEST_Z) if name == "z_control" else reach(table)
        low = -high
        shown = table
    return {
        "z": [np.where(np.isfinite(shown), shown, np.nan).tolist()],
        "zmin": low,
        "zmax": high,
        "colorbar.title.text": SHADES[name],
        "colorbar.tickvals": [ticks["tickvals"]],
        "colorbar.ticktext": [ticks["ticktext"]],
    }


def lesion_against_controls(lesions: pd.DataFrame, ablation: str) -> go.Figure:
    """The effect of each tag's own lesion on that tag (diamond, 95 % interval) against every matched control (dots).

    Tags come by the size of the effect, the largest on top.
    """
    cells = with_controls(lesions, ablation)
    own = own_effects(cells)[::-1]
    draws = lesions[(lesions["ablation"] == ablation) & (lesions["set"] == "matched")]
    draws = draws[draws["lesion"] == draws["tag"]]
    dots = _points(draws, "matched controls", marker={"symbol": "circle", "size": 7, "opacity": 0.55})
    triples = zip(draws["tag"], draws["draw"], draws["delta"], strict=True)
    dots.hovertext = [f"<b>{label(tag)}</b>, control {draw}<br>{number(delta)} nats" for tag, draw, delta in triples]
    diamonds = _points(own, "the tag’s own neurons, 95 % interval", marker={"symbol": "diamond", "size": 11})
    diamonds.hovertext = [_cell_text(cell) for cell in own.to_dict("records")]
    diamonds.error_x = error_bars(own["ci_low"], own["delta"], own["ci_high"])
    diamonds.zorder = 1
    height = 150 + 24 * len(own)
    figure = figure_of(diamonds, dots, height=height, x="rise of own loss (nats per word)", y="tag")
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=diamonds.y)
    return figure.update_layout(xaxis={"type": "linear", "zeroline": True, "zerolinewidth": 2})


def probe_bars(probe: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Accuracy and macro-F1 of a probe beside each of its baselines. `probe` has a result for each position."""
    groups = [(result, measure) for result in probe for measure in ("accuracy", "macro_f1")]
    places = [label(f"at {result['at']}") for result, _ in groups]
    measures = [{"accuracy": "accuracy", "macro_f1": "macro-F1"}[measure] for _, measure in groups]
    bars = [go.Bar(name="probe on key neurons", y=[result.get(measure) for result, measure in groups])]
    for name in ordered((name for result in probe for name in result["baselines"]), list(BASELINES)):
        scores = [result["baselines"].get(name, {}).get(measure) for result, measure in groups]
        bars.append(go.Bar(name=label(BASELINES.get(name, name)), y=scores))
    for bar in bars:
        bar.update(x=[places, measures], texttemplate="%{y:.2f}", textangle=0, hovertemplate="%{y:.4f}")
    figure = figure_of(*bars, height=420, x="position read, measure", y="score on test words (0 to 1)")
    figure.update_xaxes(type="multicategory").update_yaxes(range=[0, 1])
    return figure.update_layout(barmode="group", bargap=0.15)


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
    trace = heatmap(shares, tags, [label(tag) for tag in tags], hover, None, "share of the true tag")
    figure = figure_of(
        trace.update(zmin=0, zmax=1), height=150 + 24 * len(tags), x="tag read by the probe", y="true tag"
    )
    return as_matrix(figure)


def _points(rows: pd.DataFrame, name: str, marker: dict[str, Any]) -> go.Scatter:
    """Markers at the delta of each row, on the line of its tag."""
    tags = [label(tag) for tag in rows["tag"]]
    return go.Scatter(x=rows["delta"].tolist(), y=tags, name=name, mode="markers", marker=marker, hoverinfo="text")


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
