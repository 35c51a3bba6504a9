"""Where the best neurons are, and how far they stand above the rest: figures of rankings, sets and outliers.

However large the model is, what is drawn are layers, tags and a few dozen neurons. Nothing is computed here beyond
counts, extremes and quantiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float, Int
from numpy import ndarray

from posneurons.errors import NeuronError
from posneurons.theme import LIGHT, buttons, figure_of, heatmap, label, layer_step, number, reach, with_layers

SHARES = {0.5: "median", 0.95: "95 % below", 0.999: "99.9 % below"}
"""Quantiles of a layer's scores that are drawn."""
MOST = 300
"""Flagged neurons of one kind that are drawn at most, the furthest ones."""
NAMED = 12
"""Neurons of a layer that are named at most."""


def best_by_layer(
    tags: Sequence[str],
    scores: Float[ndarray, "tag layer neuron"],
    best: Mapping[str, Int[ndarray, " k"]],
    *,
    neutral: float = 0.0,
    signed: bool = False,
) -> go.Figure:
    """How many of each tag's best neurons lie in each layer; by the button, the best score of the layer.

    Args:
        tags: names, the first axis of the scores.
        scores: NaN where undefined.
        best: tag to its best neurons, as layer * n_neurons + unit; a tag that is missing is a gap.
        neutral: what says nothing.
        signed: whether the largest scores are best, or those furthest from what says nothing.
    """
    n_layers, n_units = scores.shape[1:]
    counts, peaks = np.full((n_layers, len(tags)), np.nan), np.full((n_layers, len(tags)), np.nan)
    hover = np.full(counts.shape, "", dtype=object)
    for column, tag in enumerate(tags):
        chosen = best.get(tag)
        if chosen is None:
            continue
        counts[:, column] = np.bincount(chosen // n_units, minlength=n_layers)
        merit = scores[column] if signed else np.abs(scores[column] - neutral)
        known = ~np.isnan(merit).all(1)
        units = np.argmax(np.where(np.isnan(merit), -np.inf, merit), axis=1)
        peaks[known, column] = scores[column, np.arange(n_layers), units][known]
        for layer in range(n_layers):
            name = f"best of the layer: L{layer}N{units[layer]}, {number(peaks[layer, column], '.4g')}"
            hover[layer, column] = (
                f"<b>{label(tag)}</b>, layer {layer}<br>{counts[layer, column]:.0f} of its {len(chosen)} best neurons"
                f"<br>{name if known[layer] else 'no neuron with a score'}"
            )
    shown = np.where(counts > 0, np.nan_to_num(counts).astype(int).astype(str), "").astype(object)
    trace = heatmap(counts, tags, list(range(n_layers)), hover, shown, "neurons")
    peaks = peaks - neutral  # colours are centred on what says nothing
    most, furthest = reach(counts), reach(peaks)
    trace.update(zmin=0, zmax=most)
    k = max((len(each) for each in best.values()), default=0)
    looks = [
        {"z": [counts], "text": [shown], "zmin": 0, "zmax": most, "colorbar.title.text": "neurons"},
        {"z": [peaks], "text": [np.full(shown.shape, "")], "zmin": -furthest, "zmax": furthest,
         "colorbar.title.text": f"score − {neutral:g}" if neutral else "score"},
    ]  # fmt: skip
    figure = figure_of(trace, height=190 + max(14, 20 - n_layers // 8) * n_layers, x="tag", y="layer")
    figure.update_layout(updatemenus=[buttons([f"best {k} by layer", "best score of the layer"], looks)])
    return with_layers(figure.update_layout(margin={"t": 64}), n_layers)


def best_of_tag(
    tag: str,
    scores: Float[ndarray, "layer neuron"],
    best: Int[ndarray, " k"],
    *,
    neutral: float = 0.0,
    signed: bool = False,
) -> go.Figure:
    """Above, the scores of a tag's best neurons; below, by layer, the best neuron and quantiles of all.

    Args:
        tag: its name.
        scores: of the tag; NaN where undefined.
        best: its best neurons in order, as layer * n_neurons + unit.
        neutral: what says nothing.
        signed: whether the largest scores are best, or those furthest from what says nothing; then what is drawn below
            is that distance.

    Raises:
        NeuronError: where no neuron has a score.
    """
    if not len(best):
        raise NeuronError(f"ranking: no neuron has a score for {tag}; the tag has no words where the ranking was made")
    n_layers, n_units = scores.shape
    names = [f"L{flat // n_units}N{flat % n_units}" for flat in best.tolist()]
    values = scores.ravel()[best].tolist()
    hover = [
        f"<b>{name}</b>, place {place} for {label(tag)}<br>score {number(value, '.4g')}"
        for place, (name, value) in enumerate(zip(names, values, strict=True), start=1)
    ]
    bar = go.Bar(x=names, y=values, hovertext=hover, hoverinfo="text", showlegend=False, base=neutral or None)
    bar.y = [value - neutral for value in values]
    merit = scores if signed else np.abs(scores - neutral)
    lines = _quantiles(merit)
    figure = figure_of(bar, *lines, height=600, x=f"best {len(names)} neurons for {label(tag)}", y="score")
    figure.update_layout(
        xaxis={"domain": [0, 1], "anchor": "y", "tickangle": -60, "tickfont": {"size": 11}},
        yaxis={"domain": [0.6, 1]},
        xaxis2={
            "anchor": "y2",
            "title": "layer",
            "dtick": layer_step(n_layers),
            "range": [-0.5, n_layers - 0.5],
            "zeroline": False,
        },
        yaxis2={"domain": [0, 0.31], "title": "score" if signed else "size of the score"},
        legend={"y": 0.32, "yanchor": "bottom"},
    )
    return figure


def _quantiles(merit: Float[ndarray, "layer neuron"]) -> list[Any]:
    """The largest of each layer and some quantiles, as lines over the layers."""
    layers = list(range(len(merit)))
    rows = [row[~np.isnan(row)] for row in merit]
    kinds = {"best neuron": 1.0, **{name: share for share, name in reversed(SHARES.items())}}
    lines = []
    for name, share in kinds.items():
        y = [float(np.quantile(row, share)) if len(row) else None for row in rows]
        line = go.Scatter(x=layers, y=y, name=name, mode="lines+markers", xaxis="x2", yaxis="y2", connectgaps=False)
        hover = [
            f"layer {layer}, {name}: {number(value, '.4g')}<br>{len(row):,} neurons with a score"
            for layer, value, row in zip(layers, y, rows, strict=True)
        ]
        lines.append(line.update(hovertext=hover, hoverinfo="text"))
    return lines


def set_profile(layers: Sequence[int], names: Sequence[str], n_layers: int) -> go.Figure:
    """How many neurons of a set lie in each layer; the hover names them.

    Args:
        layers: of each neuron.
        names: of each neuron.
        n_layers: of the model.
    """
    inside: list[list[str]] = [[] for _ in range(n_layers)]
    for layer, name in zip(layers, names, strict=True):
        inside[layer].append(name)
    hover = [
        f"layer {layer}: {len(each)} of {len(names)} neurons<br>{_some(each)}" for layer, each in enumerate(inside)
    ]
    bar = go.Bar(x=list(range(n_layers)), y=[len(each) for each in inside], hovertext=hover, hoverinfo="text")
    figure = figure_of(bar, height=320, x="layer", y="neurons")
    return figure.update_xaxes(type="linear", dtick=layer_step(n_layers), showgrid=False)


UNITS = {
    "loudness": "largest write / median",
    "correlation": "correlation",
    "norm": "norm / median",
}
"""What outliers are measured by: medians are of the layer, the correlation is with log frequency."""


def flagged(
    frames: Mapping[str, pd.DataFrame],
    measured: Mapping[str, str],
    thresholds: Mapping[str, Sequence[float]],
    n_layers: int,
) -> go.Figure:
    """Outliers by layer, a row for each kind: how far each is beyond its threshold (dotted).

    Args:
        frames: kind to its flagged neurons, in the columns of `outliers.Flags.to_frame`.
        measured: kind to the column that is drawn.
        thresholds: kind to where its dotted lines stand.
        n_layers: of the model.
    """
    shown = [kind for kind, frame in frames.items() if len(frame)]
    size = (1 - 0.12 * (len(shown) - 1)) / max(1, len(shown))
    figure = figure_of(height=210 * len(shown) + 80, x="layer", y="")
    for place, kind in enumerate(shown):
        axis, top = "y" if place == 0 else f"y{place + 1}", 1 - place * (size + 0.12)
        figure.add_trace(_outliers(frames[kind], measured[kind]).update(yaxis=axis, name=kind))
        look = {"domain": [max(0.0, top - size), top], "title": UNITS[measured[kind]], "zeroline": False}
        figure.update_layout({axis.replace("y", "yaxis"): look})
        line = {"dash": "dot", "color": LIGHT["base"][3], "width": 1.5}
        for limit in thresholds[kind]:
            figure.add_shape(type="line", x0=-0.5, x1=n_layers - 0.5, y0=limit, y1=limit, yref=axis, line=line)
        _title(figure, f"<b>{label(kind)}</b>: {len(frames[kind]):,} neurons{_furthest(len(frames[kind]))}", top)
    if rest := [kind for kind in frames if kind not in shown]:
        figure.add_annotation(
            text=f"none: {label(', '.join(rest))}", xref="paper", yref="paper", x=1, y=1, yanchor="bottom",
            xanchor="right", showarrow=False,
        )  # fmt: skip
    last = "y" if len(shown) < 2 else f"y{len(shown)}"
    edges = [-0.5, n_layers - 0.5]
    figure.update_xaxes(type="linear", range=edges, dtick=layer_step(n_layers), anchor=last, zeroline=False)
    return figure.update_layout(showlegend=False, margin={"t": 40})


def _title(figure: go.Figure, text: str, top: float) -> None:
    """Text above a panel that ends at `top`."""
    place = {"xref": "paper", "yref": "paper", "x": 0, "xanchor": "left", "yanchor": "bottom"}
    figure.add_annotation(text=text, y=top, showarrow=False, **place)


def _furthest(n: int) -> str:
    return f", the furthest {MOST} drawn" if n > MOST else ""


def _outliers(frame: pd.DataFrame, column: str) -> go.Scatter:
    """The flagged neurons of one kind, the furthest ones where they are many."""
    shown = frame.iloc[np.argsort(-frame[column].abs().to_numpy(), kind="stable")[:MOST]]
    hover = [
        f"<b>L{row['layer']}N{row['neuron']}</b>: {label(row['kinds'])}"
        f"<br>loudness {number(row['loudness'], '.3g')}, correlation {number(row['correlation'], '+.2f')}"
        f"<br>norm {number(row['norm'], '.2f')}, logit variance {number(row['logit_variance'], '.2f')} of the median"
        f"<br>{number(100 * row['null_share'], '.1f')} % of its norm hardly read"
        for row in shown.to_dict("records")
    ]
    dots = go.Scatter(x=shown["layer"].tolist(), y=shown[column].tolist(), mode="markers")
    return dots.update(hovertext=hover, hoverinfo="text", marker={"size": 8, "opacity": 0.7})


def _some(names: Sequence[str]) -> str:
    """The first names, four in a line."""
    rows = [", ".join(names[start : start + 4]) for start in range(0, min(NAMED, len(names)), 4)]
    return "<br>".join(rows) + (", …" if len(names) > NAMED else "")
