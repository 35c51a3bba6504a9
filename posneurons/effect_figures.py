"""What neurons do: effects taken apart, round by round, matched in damage, word by word, and in written text.

Nothing is computed here beyond quantiles and means of what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float
from numpy import ndarray

from posneurons.errors import PosNeuronsError
from posneurons.theme import (
    LIGHT,
    SYMBOLS,
    as_matrix,
    boxes,
    error_bars,
    figure_of,
    gaps,
    heatmap,
    label,
    number,
    ordered,
    reach,
)

NATS = "change of loss (nats per word)"
PARTS = {
    "joint": "all together",
    "sum_of_singles": "one by one, added (95 % interval)",
    "direct": "direct effect",
    "direct_frozen_norm": "direct effect, final norm frozen",
}
"""What an effect is taken apart into, and its words."""
MOST = 40
"""Conditions that are drawn at most."""


def parts(frame: pd.DataFrame, tag: str | None = None) -> go.Figure:
    """For each set: its effect all together, one by one, and directly on the final residual, in nats per word.

    Args:
        frame: as `composition.Composition.to_frame` gives it.
        tag: the measured tag; None for each set's own, by its name.

    Raises:
        PosNeuronsError: where there is no row of that tag, or no set is named after a tag.
    """
    rows = frame[frame["lesion"] == frame["tag"]] if tag is None else frame[frame["tag"] == tag]
    rows = rows[rows["words"] > 0]
    if rows.empty:
        found = ", ".join(map(str, frame["tag"].unique()))
        said = "no set is named after a tag that has words" if tag is None else f"no measured words of {tag!r}"
        raise PosNeuronsError(f"composition: {said}; name the measured tag, one of {found}")
    names = [label(name) for name in rows["lesion"]]
    traces = []
    for (part, words), symbol in zip(PARTS.items(), SYMBOLS, strict=False):
        if not rows[part].notna().any():
            continue
        hover = [_part_text(row, part) for row in rows.to_dict("records")]
        trace = go.Scatter(x=gaps(rows[part]), y=names, name=words, mode="markers", hovertext=hover, hoverinfo="text")
        trace.update(marker={"symbol": symbol, "size": 10, "opacity": 0.9})
        if part == "sum_of_singles":
            trace.error_x = error_bars(rows["sum_low"], rows[part], rows["sum_high"])
        traces.append(trace)
    of = "the set’s own tag" if tag is None else label(tag)
    title = f"change of loss of {of} (nats per word)"
    figure = figure_of(*traces, height=170 + 28 * len(rows), x=title, y="set of neurons")
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=names[::-1])
    figure.update_xaxes(type="linear", zeroline=True, zerolinewidth=2)
    return figure.update_layout(showlegend=True, margin={"t": 84})


def rounds(frame: pd.DataFrame) -> go.Figure:
    """Rise of each tag's own loss by the rounds lesioned together, with its interval; dotted, its random sets' mean.

    Args:
        frame: as `iteration.Iterations.to_frame` gives it.

    Raises:
        PosNeuronsError: where there is no round.
    """
    if frame.empty:
        raise PosNeuronsError("iterations: no round to draw; expected at least one tag with a round")
    colours = LIGHT["colorway"]
    traces = []
    for place, tag in enumerate(ordered(frame["lesion"], None)):
        rows, colour = frame[frame["lesion"] == tag].sort_values("round"), colours[place % len(colours)]
        x = rows["round"].tolist()
        hover = [_round_text(row) for row in rows.to_dict("records")]
        own = go.Scatter(x=x, y=gaps(rows["rise"]), name=label(tag), mode="lines+markers", legendgroup=label(tag))
        own.error_y = error_bars(rows["rise_low"], rows["rise"], rows["rise_high"])
        own.update(line={"color": colour, "width": 2.5}, hovertext=hover, hoverinfo="text")
        mean = go.Scatter(x=x, y=gaps(rows["control_mean"]), mode="lines+markers", legendgroup=label(tag))
        mean.update(line={"color": colour, "dash": "dot"}, hovertext=hover, hoverinfo="text", showlegend=False)
        traces += [own, mean.update(marker={"symbol": "circle-open"}, name=f"{label(tag)}, random sets")]
    figure = figure_of(*traces, height=420, x="round (dotted: matched random sets, mean)", y=NATS)
    figure.update_xaxes(type="linear", dtick=1).update_yaxes(zeroline=True)
    return figure.update_layout(showlegend=True, margin={"t": 64})


def damage(frame: pd.DataFrame) -> go.Figure:
    """How well random sets reach the damage that was wanted; on the dotted line they do as much.

    Args:
        frame: as `controls.DamageControls.to_frame` gives it.

    Raises:
        PosNeuronsError: where there is no set.
    """
    if frame.empty:
        raise PosNeuronsError("damage-matched sets: none was found; the notes say why")
    traces = []
    for place, (tag, rows) in enumerate(frame.groupby("tag", sort=False)):
        hover = [
            f"<b>{label(tag)}</b>, draw {row['draw']}: {row['neurons']} neurons<br>"
            f"wanted {number(row['wanted'], '.4g')}, reached {number(row['reached'], '.4g')} nats"
            for row in rows.to_dict("records")
        ]
        trace = go.Scatter(x=rows["wanted"].tolist(), y=rows["reached"].tolist(), mode="markers", name=label(tag))
        trace.update(marker={"size": 9, "opacity": 0.75, "symbol": SYMBOLS[place % len(SYMBOLS)]})
        traces.append(trace.update(hovertext=hover, hoverinfo="text"))
    ends = [float(frame[["wanted", "reached"]].min().min()), float(frame[["wanted", "reached"]].max().max())]
    line = go.Scatter(x=ends, y=ends, mode="lines", showlegend=False, hoverinfo="skip")
    traces.append(line.update(line={"dash": "dot", "color": LIGHT["base"][3]}))
    figure = figure_of(*traces, height=420, x="wanted rise of the mean loss (nats)", y="reached (nats)")
    return figure.update_xaxes(type="linear").update_layout(showlegend=True, margin={"t": 64})


def by_condition(rises: Float[ndarray, "condition word"], names: Sequence[str]) -> go.Figure:
    """Rise of the words' losses under each condition: mean (diamond), quartiles (box), 5th and 95th percentile.

    Args:
        rises: nats.
        names: of the conditions; the first 40 are drawn.

    Raises:
        PosNeuronsError: where there is no condition or no word, or names are missing.
    """
    if len(names) != len(rises):
        raise PosNeuronsError(f"word losses: {len(names)} names for {len(rises)} conditions; expected one for each")
    if not rises.size:
        raise PosNeuronsError(
            f"word losses: {rises.shape[0]} conditions and {rises.shape[1]} words; expected some of both"
        )
    rises, names = rises[:MOST], list(names[:MOST])
    box = boxes(names, np.quantile(rises, [0.05, 0.25, 0.5, 0.75, 0.95], axis=1).T)
    means = rises.mean(1)
    hover = [
        f"<b>{label(name)}</b>: mean {number(mean, '+.4f')} nats<br>{rises.shape[1]:,} words"
        for name, mean in zip(names, means, strict=True)
    ]
    dots = go.Scatter(x=[label(name) for name in names], y=means.tolist(), mode="markers", name="mean")
    dots.update(marker={"symbol": "diamond", "size": 9}, hovertext=hover, hoverinfo="text", showlegend=False)
    figure = figure_of(box, dots, height=400, x="condition", y="change of a word’s loss (nats)")
    return figure.update_yaxes(zeroline=True, zerolinewidth=2)


def shift(frame: pd.DataFrame) -> go.Figure:
    """How far the share of each tag in the written words moves (diamond), beside random sets (dots), furthest first.

    Args:
        frame: as `steering.TagShift.to_frame` gives it.
    """
    key = frame[frame["set"] == "key"]
    key = key.iloc[np.argsort(-key["difference"].abs().to_numpy(), kind="stable")]
    random = frame[frame["set"] == "matched"]
    intact = frame[frame["set"] == "intact"].set_index("tag")
    names = [label(tag) for tag in key["tag"]]
    hover = [
        f"<b>{label(row['tag'])}</b>: {number(100 * row['difference'], '+.1f')} points<br>"
        f"{row['words']:,} words, {number(100 * row['share'], '.1f')} %; "
        f"intact {intact.loc[row['tag'], 'words']:,}, {number(100 * intact.loc[row['tag'], 'share'], '.1f')} %"
        f"<br>p {number(row['p_value'], '.3g')} ({number(row['controls_as_far'], '.0f')} random sets as far)"
        for row in key.to_dict("records")
    ]
    main = go.Scatter(x=gaps(100 * key["difference"]), y=names, mode="markers", name="the set in question")
    main.update(marker={"symbol": "diamond", "size": 11}, hovertext=hover, hoverinfo="text", zorder=1)
    texts = [
        f"<b>{label(row['tag'])}</b>, random set {row['draw']}<br>{number(100 * row['difference'], '+.1f')} points,"
        f" {row['words']:,} words"
        for row in random.to_dict("records")
    ]
    dots = go.Scatter(x=gaps(100 * random["difference"]), y=[label(tag) for tag in random["tag"]], mode="markers")
    dots.update(name="random sets", hovertext=texts, hoverinfo="text", marker={"size": 7, "opacity": 0.5})
    title = "change of the tag’s share of the written words (percentage points)"
    figure = figure_of(main, dots, height=150 + 24 * len(names), x=title, y="tag")
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=names[::-1])
    figure.update_xaxes(type="linear", zeroline=True, zerolinewidth=2)
    return figure.update_layout(showlegend=True, margin={"t": 64})


def per_character(model: float, unigram: float, words: int, characters: int) -> go.Figure:
    """Loss per character of the model beside that of token frequencies.

    Args:
        model: nats per character.
        unigram: nats per character.
        words: that were read.
        characters: of those words.
    """
    names, values = ["token frequencies", "model"], [unigram, model]
    hover = [
        f"<b>{name}</b>: {number(value, '.4f')} nats per character<br>{words:,} words, {characters:,} characters"
        for name, value in zip(names, values, strict=True)
    ]
    bar = go.Bar(y=names, x=values, orientation="h", texttemplate="%{x:.3f}", hovertext=hover, hoverinfo="text")
    figure = figure_of(bar, height=220, x="loss (nats per character; lower is better)", y="")
    figure.update_layout(height=220)
    return figure.update_xaxes(type="linear", rangemode="tozero").update_yaxes(type="category")


def expected(effect: Float[ndarray, "lesion tag"], lesions: Sequence[str], tags: Sequence[str]) -> go.Figure:
    """Rise of each tag's loss when the neurons of one tag are set to 0, known beforehand; white (dark: black) at 0.

    Args:
        effect: nats per word, NaN for a tag without words.
        lesions: tags of the rows.
        tags: of the columns.
    """
    hover = [
        [
            f"lesion of <b>{label(row)}</b>, <b>{label(tag)}</b>: {number(effect[i, j])} nats per word"
            for j, tag in enumerate(tags)
        ]
        for i, row in enumerate(lesions)
    ]
    limit = reach(effect)
    trace = heatmap(effect, tags, [label(row) for row in lesions], hover, None, NATS)
    trace.update(zmin=-limit, zmax=limit)
    figure = figure_of(trace, height=150 + 26 * len(lesions), x="measured tag", y="lesioned tag")
    return as_matrix(figure)


def _part_text(row: Any, part: str) -> str:
    return (
        f"<b>{label(row['lesion'])}</b>, {PARTS[part]}: {number(row[part])} nats on {label(row['tag'])}"
        f"<br>{row['neurons']} neurons, {row['words']:,} words"
        f"<br>together / added {number(row['ratio'], '.2f')}"
        f" ({number(row['ratio_low'], '.2f')} to {number(row['ratio_high'], '.2f')})"
        f"<br>repaired by later layers {number(row['repaired'])}"
        f" ({number(row['repaired_low'])} to {number(row['repaired_high'])})"
    )


def _round_text(row: Any) -> str:
    return (
        f"<b>{label(row['lesion'])}</b>, round {row['round']}: {row['neurons']} neurons together"
        f"<br>{number(row['rise'])} nats ({number(row['rise_low'])} to {number(row['rise_high'])})"
        f"<br>random sets: mean {number(row['control_mean'])}, sd {number(row['control_sd'], '.3f')};"
        f" p {number(row['p_controls'], '.3g')}<br>other tags {number(row['others'])}"
    )
