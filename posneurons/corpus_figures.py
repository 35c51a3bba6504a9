"""Words by tag: how many a treebank has, how many the alignment kept, what its words are like.

Nothing is computed here beyond shares and quartiles of what is drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from posneurons.errors import AlignmentError, TreebankError
from posneurons.theme import boxes, figure_of, label, number, ordered

COVARIATES = {
    "log_frequency": "frequency of the form (ln of its count)",
    "length": "characters of the word",
    "tokens": "tokens of the word",
    "position": "where it is read (tokens after BOS)",
}
"""What can be drawn of the words, and in which unit."""


def words_by_tag(counts: Mapping[str, Mapping[str, int]]) -> go.Figure:
    """Words of each tag, stacked by split; the most frequent tag comes first.

    Args:
        counts: split to words of each tag.

    Raises:
        TreebankError: where there is no word.
    """
    total = _total(counts)
    if not total:
        raise TreebankError("treebank: no word to draw; expected at least one sentence with words")
    tags = sorted(total, key=lambda tag: -total[tag])
    bars = []
    for split, found in counts.items():
        size = sum(found.values())
        hover = [
            f"<b>{label(tag)}</b>, {label(split)}: {found.get(tag, 0):,} words"
            f"<br>{number(100 * found.get(tag, 0) / size if size else None, '.1f')} % of the split"
            for tag in tags
        ]
        bar = go.Bar(x=[label(tag) for tag in tags], y=[found.get(tag, 0) for tag in tags], name=label(split))
        bars.append(bar.update(hovertext=hover, hoverinfo="text"))
    figure = figure_of(*bars, height=380, x="tag", y="words")
    return figure.update_layout(barmode="stack", showlegend=True, legend_traceorder="normal", margin={"t": 48})


def aligned(kept: Mapping[str, int], dropped: Mapping[str, Mapping[str, int]]) -> go.Figure:
    """Above, the words of each tag that are kept; below, the share of its words that is left out, by reason.

    Args:
        kept: words of each tag.
        dropped: reason to words of each tag.

    Raises:
        AlignmentError: where there is no word at all.
    """
    out = _total(dropped)
    everything = {tag: kept.get(tag, 0) + out.get(tag, 0) for tag in dict.fromkeys([*kept, *out])}
    tags = sorted((tag for tag, n in everything.items() if n), key=lambda tag: -everything[tag])
    if not tags:
        raise AlignmentError("corpus: no word to draw, neither kept nor left out; give sentences with words")
    names = [label(tag) for tag in tags]
    bar = go.Bar(x=names, y=[kept.get(tag, 0) for tag in tags], name="kept")
    hover = [f"<b>{label(tag)}</b>: {kept.get(tag, 0):,} of {everything[tag]:,} words kept" for tag in tags]
    bars = [bar.update(hovertext=hover, hoverinfo="text", yaxis="y2")]
    for reason in sorted(dropped, key=lambda reason: -sum(dropped[reason].values())):
        found = dropped[reason]
        shares = [100 * found.get(tag, 0) / everything[tag] for tag in tags]
        hover = [
            f"<b>{label(tag)}</b>, {label(reason)}:<br>{found.get(tag, 0):,} of {everything[tag]:,} words"
            f" ({number(share, '.1f')} %)"
            for tag, share in zip(tags, shares, strict=True)
        ]
        bars.append(go.Bar(x=names, y=shares, name=f"left out: {label(reason)}", hovertext=hover, hoverinfo="text"))
    figure = figure_of(*bars, height=520, x="tag", y="left out (% of the tag)")
    figure.update_layout(barmode="stack", yaxis={"domain": [0, 0.36]}, margin={"t": 64}, showlegend=True)
    figure.update_layout(legend_traceorder="normal")
    return figure.update_layout(yaxis2={"domain": [0.46, 1], "title": "words kept"})


def word_spread(frame: pd.DataFrame, name: str = "log_frequency", tag_order: Sequence[str] | None = None) -> go.Figure:
    """Quartiles (box), 5th and 95th percentile (whiskers) of one covariate over each tag's words.

    Args:
        frame: as `covariates.word_covariates` gives it.
        name: a column: log_frequency, length, tokens or position.
        tag_order: of the tags; else the highest median first.

    Raises:
        AlignmentError: where there is no such covariate, or no word.
    """
    if name not in COVARIATES:
        raise AlignmentError(f"covariates: no column {name!r} to draw; expected one of {', '.join(COVARIATES)}")
    if frame.empty:
        raise AlignmentError("covariates: no word to draw; give a corpus with words")
    values = {str(tag): rows.to_numpy(dtype=np.float64) for tag, rows in frame.groupby("tag", observed=True)[name]}
    table = {tag: np.quantile(found, [0.05, 0.25, 0.5, 0.75, 0.95]) for tag, found in values.items()}
    order = sorted(table, key=lambda tag: -table[tag][2]) if tag_order is None else ordered(table, tag_order)
    box = boxes(order, np.array([table[tag] for tag in order]))
    box.update(name="words")
    figure = figure_of(box, height=400, x="tag", y=COVARIATES[name])
    ticks = [f"{label(tag)}<br>{len(values[tag]):,}" for tag in order]
    figure.update_layout(xaxis_title="tag, words")
    names, angle = [label(tag) for tag in order], 0 if len(order) < 21 else None
    return figure.update_xaxes(ticktext=ticks, tickvals=names, tickangle=angle, tickfont_size=11)


def _total(counts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for found in counts.values():
        for tag, n in found.items():
            total[tag] = total.get(tag, 0) + n
    return total
