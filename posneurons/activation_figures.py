"""What neurons say at the words of each tag: means, densities and spreads of activations.

Nothing is computed here beyond standardised means, quantiles and densities of what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float, Int
from numpy import ndarray

from posneurons.errors import NeuronError
from posneurons.theme import as_matrix, boxes, figure_of, heatmap, label, number, reach, with_layers

FIRST = 6
"""Tags whose density is drawn at once, those with the most words; the others come by a click in the legend."""
GRAIN = 200
"""Bins narrower than this part of the span of a neuron's edges are joined with their neighbours."""


def tag_means(
    name: str,
    tags: Sequence[str],
    count: Int[ndarray, " tag"],
    mean: Float[ndarray, " tag"],
    sd: Float[ndarray, " tag"],
) -> go.Figure:
    """One neuron's mean activation at the words of each tag, with one standard deviation of the words either way.

    Args:
        name: of the neuron.
        tags: their names.
        count: words of each; a tag without words is left out.
        mean: over them.
        sd: over them.
    """
    shown = [place for place in np.argsort(-mean, kind="stable").tolist() if count[place]]
    hover = [
        f"<b>{label(tags[place])}</b>: mean {number(mean[place])}, standard deviation {number(sd[place], '.3f')}"
        f"<br>{count[place]:,} words"
        for place in shown
    ]
    dots = go.Scatter(x=[label(tags[place]) for place in shown], y=mean[shown].tolist(), mode="markers")
    dots.update(hovertext=hover, hoverinfo="text", marker={"size": 10, "symbol": "diamond"})
    dots.error_y = {"array": sd[shown].tolist(), "thickness": 1.5, "width": 4}
    figure = figure_of(dots, height=380, x="tag", y=f"activation of {name} (mean ± 1 sd)")
    return figure.update_yaxes(zeroline=True, zerolinewidth=2)


def separation(
    tags: Sequence[str], count: Int[ndarray, " tag"], distance: Float[ndarray, "tag layer"], n_units: int
) -> go.Figure:
    """How far the neurons of each layer say something else at a tag's words than at all words, in standard deviations.

    Args:
        tags: their names.
        count: words of each.
        distance: root mean square over the layer's neurons of (mean of the tag - mean of all) / sd; NaN without words.
        n_units: neurons of a layer.
    """
    hover = [
        [
            f"<b>{label(tag)}</b>, layer {layer}<br>{number(distance[column, layer], '.3f')} standard deviations"
            f" from the mean of all words<br>(root mean square over {n_units:,} neurons; {count[column]:,} words)"
            for column, tag in enumerate(tags)
        ]
        for layer in range(distance.shape[1])
    ]
    n_layers = distance.shape[1]
    trace = heatmap(distance.T, tags, list(range(n_layers)), hover, None, "standard deviations")
    trace.update(zmin=0, zmax=reach(distance))
    figure = figure_of(trace, height=170 + 20 * n_layers, x="tag", y="layer")
    return with_layers(figure, n_layers)


def densities(
    name: str,
    tags: Sequence[str],
    edges: Float[ndarray, " edge"],
    bins: Int[ndarray, "tag bin"],
) -> go.Figure:
    """Density of one neuron's activation at the words of each tag.

    The density is on a logarithmic scale, as activations of gated MLPs are peaked at 0 with long tails, and has a gap
    where there is no word. What lies below the first edge or above the last has no width and is told by the hover text.
    Very narrow bins are joined.

    Args:
        name: of the neuron.
        tags: their names; those with the most words are drawn, the others by a click in the legend.
        edges: of the inner bins, ascending; infinite ones at the end.
        bins: words of each tag in each bin, the open ones first and last.

    Raises:
        NeuronError: where fewer than two edges are finite and apart.
    """
    known = int(np.isfinite(edges).sum())
    if known < 2:
        raise NeuronError(
            f"neuron {name}: its values were cut at {known} finite edge{'' if known == 1 else 's'}; expected at least 2"
            " for a density: it hardly varies"
        )
    kept = [0]
    span = float(edges[known - 1] - edges[0]) / GRAIN
    for place in range(1, known):
        if edges[place] - edges[kept[-1]] > span:
            kept.append(place)
    kept[-1] = known - 1  # the outermost edge stays, for nothing to be lost
    x = edges[kept].astype(np.float64)
    counts = np.add.reduceat(bins[:, 1:known], np.array(kept[:-1]), axis=1)
    words = bins.sum(1)
    order = [place for place in np.argsort(-words, kind="stable").tolist() if words[place]]
    lines = []
    for nth, place in enumerate(order):
        n = int(words[place])
        heights = [share or None for share in (counts[place] / n / np.diff(x)).tolist()]  # 0 has no logarithm
        below, above = bins[place, 0] / n, bins[place, known:].sum() / n
        tail = f"{number(100 * below, '.1f')} % below {number(x[0], '.3g')}, {number(100 * above, '.1f')} % above "
        text = f"<b>{label(tags[place])}</b>, {n:,} words<br>{tail}{number(x[-1], '.3g')}<extra></extra>"
        line = go.Scatter(x=x.tolist(), y=[*heights, heights[-1]], name=label(tags[place]), mode="lines")
        line.update(line={"shape": "hv"}, hovertemplate="at %{x:.3g}: %{y:.3g}<br>" + text)
        lines.append(line.update(visible=True if nth < FIRST else "legendonly"))
    figure = figure_of(*lines, height=420, x=f"activation of {name}", y="density (share per unit, log scale)")
    figure.update_xaxes(type="linear").update_yaxes(type="log", dtick=1, exponentformat="power")
    return figure.update_layout(showlegend=True, margin={"t": 96})


def spread(names: Sequence[str], values: Float[ndarray, "word neuron"]) -> go.Figure:
    """Quartiles (box), 5th and 95th percentile (whiskers) of each neuron's activations over the words.

    Args:
        names: of the neurons.
        values: their activations.

    Raises:
        NeuronError: where there is no word or no neuron.
    """
    if not values.size:
        raise NeuronError(f"activations: {values.shape[0]} words of {values.shape[1]} neurons; expected some of both")
    quantiles = np.quantile(values.astype(np.float64), [0.05, 0.25, 0.5, 0.75, 0.95], axis=0).T
    title = f"activation at {len(values):,} words"
    figure = figure_of(boxes(names, quantiles), height=420, x="neuron", y=title)
    return figure.update_xaxes(tickangle=-60 if len(names) > 12 else 0)


def means_by_tag(names: Sequence[str], values: Float[ndarray, "word neuron"], tags: Sequence[str]) -> go.Figure:
    """Mean activation of each neuron at each tag's words, in its own standard deviations from its mean.

    Args:
        names: of the neurons.
        values: their activations.
        tags: the tag of each word.

    Raises:
        NeuronError: where there is no word or no neuron.
    """
    if not values.size:
        raise NeuronError(f"activations: {values.shape[0]} words of {values.shape[1]} neurons; expected some of both")
    every, labels = values.astype(np.float64), np.array(tags, dtype=object)
    mean, sd = every.mean(0), every.std(0)
    shown = sorted(set(tags))
    rows = {tag: every[labels == tag] for tag in shown}
    with np.errstate(invalid="ignore", divide="ignore"):
        table = np.array([(rows[tag].mean(0) - mean) / np.where(sd > 0, sd, np.nan) for tag in shown]).T
    hover = [
        [
            f"<b>{name}</b> at <b>{label(tag)}</b>: mean {number(rows[tag][:, place].mean())}"
            f"<br>{number(table[place, column], '+.2f')} standard deviations from its mean; {len(rows[tag]):,} words"
            for column, tag in enumerate(shown)
        ]
        for place, name in enumerate(names)
    ]
    trace = heatmap(table, shown, list(names), hover, None, "standard deviations from the mean")
    limit = reach(table)
    figure = figure_of(trace.update(zmin=-limit, zmax=limit), height=160 + 16 * len(names), x="tag", y="neuron")
    return as_matrix(figure)


def apart(
    count: Int[ndarray, " tag"], mean: Float[ndarray, "tag layer neuron"], m2: Float[ndarray, "tag layer neuron"]
) -> Float[ndarray, "tag layer"]:
    """Root mean square over a layer's neurons of each tag's distance from the mean of all words, in their sd.

    NaN for a tag without words; neurons that never vary are left out.
    """
    weight = (count / max(1, int(count.sum())))[:, None]
    found = np.full(mean.shape[:2], np.nan)
    for layer in range(mean.shape[1]):
        inner: Any = mean[:, layer]
        whole = (weight * inner).sum(0)
        variance = m2[:, layer].sum(0) / max(1, int(count.sum())) + (weight * np.square(inner - whole)).sum(0)
        varies = variance > 0
        if varies.any():
            apart = np.square(inner[:, varies] - whole[varies]) / variance[varies]
            found[:, layer] = np.sqrt(apart.mean(1))
    found[count == 0] = np.nan
    return found
