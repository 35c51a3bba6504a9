"""How far scores and rankings can be trusted: dots by tag for shares and correlations, and neuron by neuron.

Nothing is computed here; the numbers stand in the tables of `agreement`, `split_halves` and `scoring`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Bool, Float
from numpy import ndarray

from posneurons.errors import PosNeuronsError
from posneurons.run_rows import BASELINES
from posneurons.theme import LIGHT, SYMBOLS, buttons, figure_of, gaps, label, number, ordered

MEASURES = {
    "spearman": "rank correlation (Spearman)",
    "pearson": "correlation (Pearson)",
    "recall": "exact best that are listed (share)",
    "top_recall": "exact best among the best (share)",
}
"""What of a check against exact ablation can be drawn, and its words."""
Columns = Mapping[str, Float[ndarray, " tag"]]


def dots(
    tags: Sequence[str], columns: Columns, x: str, *, notes: Sequence[str] = (), lines: Sequence[float] = ()
) -> go.Figure:
    """One row for each tag, one kind of marker for each column; what is undefined has none.

    Args:
        tags: names of the rows, the first on top.
        columns: name to a value for each tag.
        x: the name of the axis.
        notes: what else the hover text of each tag says.
        lines: values with a dotted line across.
    """
    names = [label(tag) for tag in tags]
    traces = []
    for number_, (name, values) in enumerate(columns.items()):
        hover = [
            f"<b>{tag}</b>, {label(name)}: {number(value, '.3f')}" + (f"<br>{notes[place]}" if notes else "")
            for place, (tag, value) in enumerate(zip(names, values, strict=True))
        ]
        marker = {"size": 9, "symbol": SYMBOLS[number_ % len(SYMBOLS)], "opacity": 0.9}
        trace = go.Scatter(x=gaps(values), y=names, name=label(name), mode="markers", marker=marker)
        traces.append(trace.update(hovertext=hover, hoverinfo="text"))
    figure = figure_of(*traces, height=150 + 24 * len(tags), x=x, y="tag")
    for place in lines:
        figure.add_vline(x=place, line={"dash": "dot", "color": LIGHT["base"][3], "width": 1.5})
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=names[::-1], showgrid=True)
    figure.update_xaxes(type="linear", zeroline=True)
    return figure.update_layout(showlegend=True, margin={"t": 72})


def f1_by_tag(frame: pd.DataFrame) -> go.Figure:
    """The F1 of each tag, of a probe beside its baselines.

    Args:
        frame: as `results.ProbeResult.to_frame` gives it.
    """
    tags = [str(name) for name in frame.columns if name not in ("accuracy", "macro_f1")]
    names = ["probe", *(name for name in BASELINES if name in frame.index)]
    names += [name for name in frame.index if name not in names]
    columns = {BASELINES.get(name, name): frame.loc[name, tags].to_numpy(dtype=np.float64) for name in names}
    return dots(tags, columns, "F1 on test words (0 to 1)").update_xaxes(range=[-0.03, 1.03])


def verified(frame: pd.DataFrame, exact: str = "effect") -> go.Figure:
    """How each estimate agrees with exact ablation, tag by tag; buttons choose the measure.

    Args:
        frame: as `agreement.Verification.to_frame` gives it.
        exact: "effect", or "contrast" (the effect less that on all other words).

    Raises:
        PosNeuronsError: where `exact` is neither, or nothing was compared.
    """
    rows = frame[frame["exact"] == exact] if len(frame) else frame
    if rows.empty:
        raise PosNeuronsError(f"verification: nothing to draw for exact={exact!r}; expected 'effect' or 'contrast'")
    tags, estimates = ordered(rows["tag"], None), ordered(rows["estimate"], None)
    tables = {name: rows.pivot_table(index="tag", columns="estimate", values=name, dropna=False) for name in MEASURES}
    shown = [name for name in MEASURES if rows[name].notna().any()] or ["spearman"]
    columns = {name: tables[name].reindex(index=tags, columns=estimates) for name in shown}
    words = rows.drop_duplicates("tag").set_index("tag")["words"]
    notes = [f"{words[tag]:,} words" for tag in tags]
    first = {name: columns[shown[0]][name].to_numpy(dtype=np.float64) for name in estimates}
    figure = dots(tags, first, MEASURES[shown[0]], notes=notes)
    if len(shown) > 1:
        looks = []
        for name in shown:
            values = [columns[name][each].to_numpy(dtype=np.float64) for each in estimates]
            hover = [
                [f"<b>{label(tag)}</b>, {label(each)}<br>{MEASURES[name]} {number(value, '.3f')}<br>{note}"
                 for tag, value, note in zip(tags, column, notes, strict=True)]
                for each, column in zip(estimates, values, strict=True)
            ]  # fmt: skip
            looks.append({"x": [gaps(column) for column in values], "hovertext": hover})
        menu = buttons([MEASURES[name] for name in shown], looks)
        figure.update_layout(
            updatemenus=[menu], xaxis={"title": "agreement with exact ablation", "range": [-0.05, 1.05]}
        )
        low = min(float(np.nanmin(each.to_numpy(dtype=np.float64))) for each in columns.values())
        figure.update_layout(
            xaxis_range=[min(-0.05, low - 0.05), 1.05], legend={"orientation": "v", "x": 1.02, "y": 1, "yanchor": "top"}
        )
    return figure


def exact_against(
    tag: str,
    estimate: str,
    names: Sequence[str],
    exact: Float[ndarray, " k"],
    scores: Float[ndarray, " k"],
    listed: Bool[ndarray, " k"],
    random: Bool[ndarray, " k"],
    *,
    contrast: bool = False,
) -> go.Figure:
    """Neuron by neuron: the rise of a tag's loss under exact ablation by what an estimate says of the neuron.

    Args:
        tag: whose words are scored.
        estimate: its name.
        names: of the neurons.
        exact: nats per word.
        scores: what the estimate orders them by; neurons without are left out.
        listed: those that it names among its best.
        random: those drawn at random from all that nobody lists.
        contrast: whether the exact values are those of the tag less those of all other words.
    """
    kinds = {
        "listed for another tag or estimate": ~listed & ~random,
        "random, listed by nobody": random & ~listed,
        "listed for the tag": listed,
    }
    traces = []
    for (kind, chosen), symbol in zip(kinds.items(), SYMBOLS, strict=False):
        found = np.flatnonzero(chosen & ~np.isnan(scores) & ~np.isnan(exact)).tolist()
        hover = [
            f"<b>{names[place]}</b>, {kind}<br>exact {number(exact[place], '+.4g')} nats per word"
            f"<br>estimate {number(scores[place], '.4g')}"
            for place in found
        ]
        trace = go.Scatter(x=scores[found].tolist(), y=exact[found].tolist(), mode="markers", name=kind)
        trace.update(marker={"size": 7, "opacity": 0.65, "symbol": symbol}, hovertext=hover, hoverinfo="text")
        traces.append(trace)
    said = f"exact ablation: rise of {label(tag)}’s loss{', less that of others' if contrast else ''} (nats)"
    figure = figure_of(*traces, height=460, x=f"estimate: {label(estimate)}", y=said)
    return figure.update_xaxes(type="linear").update_layout(showlegend=True, margin={"t": 64})


def reliable(frame: pd.DataFrame) -> go.Figure:
    """Do two halves of the corpus agree: correlation of the scores, and overlap of the best beside chance.

    Args:
        frame: as `split_halves.Reliability.to_frame` gives it.
    """
    columns = {
        "correlation of two halves": frame["correlation"],
        "expected of the whole (Spearman–Brown)": frame["corrected"],
        "best k shared by the halves": frame["overlap"],
        "shared by chance": frame["chance"],
    }
    notes = [
        f"{row['words']:,} words, {row['defined']:,} neurons with a score; k = {row['k']}"
        f"<br>{row['exceeding']:,} neurons above all of permuted tags ({number(row['null_max'], '.3g')})"
        for row in frame.to_dict("records")
    ]
    values = {name: column.to_numpy(dtype=np.float64) for name, column in columns.items()}
    figure = dots(frame["tag"].tolist(), values, "correlation (−1 to 1), share (0 to 1)", notes=notes)
    return figure.update_layout(margin={"t": 96})  # a legend of two lines


def found(tags: Sequence[str], columns: Columns, decoys: Columns) -> go.Figure:
    """How a method does on a model with known answers, tag by tag; the dotted line is chance for both AUROCs.

    Args:
        tags: their names.
        columns: what should be 1, by name.
        decoys: by kind, the chance that a decoy comes before a neuron that is nothing special (0.5 is ideal); "all" is
            drawn, the others are told by the hover text.
    """
    shown = dict(columns)
    if "all" in decoys:
        shown["decoys before others"] = decoys["all"]
    notes = [
        "<br>".join(f"decoys, {label(kind)}: {number(each[place], '.3f')}" for kind, each in decoys.items())
        for place in range(len(tags))
    ]
    figure = dots(tags, shown, "share or chance (0 to 1)", notes=notes, lines=[0.5])
    return figure.update_xaxes(range=[-0.05, 1.05])
