"""Reading the curves of a sweep: how many neurons carry a tag, and figures with control bands.

Curves come as the table that `sweeps.sweep` makes. `carriers` reads two numbers off each curve over k: from which k on
the neurons do more harm than random ones, and at which k they do half of the harm that the most of them do. Nothing
else is computed here; no file is read.

What it does not know: both numbers depend on which k were measured, and on the order that a ranking gives its neurons;
the smallest set that would do is not looked for. The tests along a curve are not corrected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from posneurons.errors import RunError
from posneurons.theme import BAND, LIGHT, label, number, template
from posneurons.words import ALPHA

CURVE = ["method", "lesion", "ablation", "scope"]


def carriers(frame: pd.DataFrame) -> pd.DataFrame:
    """How many neurons carry each tag, read off the curve over k of its own loss.

    Args:
        frame: a table of `sweeps.sweep`.

    Returns:
        One row per (method, lesion, ablation, scope) with an arm "k" whose tag is measured. `k_max` is the largest k,
        `rise` the rise of the tag's own loss there, in nats per word, and `se` its standard error. `k_beyond` is the
        smallest k from which on, for all larger k measured, the rise is beyond the controls' (one-sided p_controls <=
        0.05, or controls that all do exactly nothing; and above each); NaN where there is none, or fewer than two
        controls. `k_half` is where half of `rise` is first reached, on a straight line over log k between two measured
        k; the smallest k where that reaches half already; NaN where `rise` is not positive. `k_measured` is how many k
        were measured.
    """
    own = frame[(frame["arm"] == "k") & (frame["set"] == "key") & (frame["lesion"] == frame["tag"])]
    rows = []
    for names, points in own[own["words"] > 0].groupby(CURVE, sort=False):
        ordered = points.sort_values("k")
        ks, rise = ordered["k"].to_numpy(np.int64), ordered["delta"].to_numpy(np.float64)
        idle = (ordered["control_sd"] == 0) & (ordered["control_mean"] == 0)
        sure = (ordered["p_controls"] <= ALPHA) | idle
        beyond = (sure & (ordered["delta"] > ordered["control_high"])).to_numpy(bool)
        last = ordered.iloc[-1]
        read = (
            int(last["k"]),
            float(last["delta"]),
            float(last["se"]),
            k_beyond(ks, beyond),
            k_half(ks, rise),
            len(ks),
        )
        rows.append((*names, *read))
    return pd.DataFrame(rows, columns=[*CURVE, "k_max", "rise", "se", "k_beyond", "k_half", "k_measured"])


def k_beyond(ks: Int[ndarray, " k"], beyond: Bool[ndarray, " k"]) -> float:
    """The smallest of ascending k from which on all are beyond the controls; NaN where the last is not.

    >>> k_beyond(np.array([1, 2, 5, 10]), np.array([True, False, True, True]))
    5.0
    """
    from_here = np.logical_and.accumulate(beyond[::-1])[::-1]
    return float(ks[from_here.argmax()]) if from_here.any() else float("nan")


def k_half(ks: Int[ndarray, " k"], rise: Float[ndarray, " k"]) -> float:
    """Where a curve over ascending k first reaches half of its end, linear in log k; NaN where that is not positive.

    >>> round(k_half(np.array([1, 4, 16]), np.array([0.0, 1.0, 4.0])), 3)
    6.35
    """
    half = rise[-1] / 2
    if not half > 0:
        return float("nan")
    place = int(np.argmax(rise >= half))
    if place == 0:
        return float(ks[0])
    share = (half - rise[place - 1]) / (rise[place] - rise[place - 1])
    low, high = np.log(ks[place - 1 : place + 1])
    return float(np.exp(low + share * (high - low)))


def lines(found: pd.DataFrame) -> list[str]:
    """What `carriers` found, a sentence for each method, ablation and scope."""
    said = []
    for (method, ablation, scope), rows in found.groupby(["method", "ablation", "scope"], sort=False):
        where = f"{method}, {ablation} ablation" + ("" if scope == "all" else f", scope {scope}")
        beyond = rows[rows["k_beyond"].notna()].sort_values("k_beyond", kind="stable")
        pairs = [f"{row['lesion']} {row['k_beyond']:.0f}" for row in beyond.to_dict("records")]
        half = rows["k_half"].median()
        said.append(
            f"{where}: {len(beyond)} of {len(rows)} tags lose more than under matched random sets from some k on"
            f" (p <= {ALPHA} at each k, not corrected; by chance about {ALPHA * len(rows):.1f})"
            + (f" ({', '.join(pairs)})" if pairs else "")
            + ("" if np.isnan(half) else f"; half of the full rise is reached at k = {half:.3g} (median of the tags)")
        )
    return said


def k_curve(frame: pd.DataFrame, tag: str) -> go.Figure:
    """Rise of a tag's own loss by the number of its neurons lesioned, with the band of its matched random sets.

    The band is the range of the controls and the dotted line their mean; grey is the mean of the other tags' rises
    under the same lesions. `frame` holds one method, ablation and scope; RunError otherwise, or without the curve.
    """
    figure = _curve(frame, tag, "k", "neurons lesioned (k)")
    ks = sorted({int(k) for trace in figure.data for k in trace.x})
    return figure.update_xaxes(type="log", tickvals=ks, ticktext=[f"{k:,}" for k in ks])


def layer_curve(frame: pd.DataFrame, tag: str, arm: str = "layer") -> go.Figure:
    """The same by layer: bars for the best of each layer alone, or a line for the best up to a layer ("cumulative")."""
    title = "layer lesioned" if arm == "layer" else "layers lesioned (from 0 up to)"
    figure = _curve(frame, tag, arm, title)
    span = max(max(trace.x) for trace in figure.data)
    return figure.update_xaxes(type="linear", dtick=1 if span <= 16 else 4)


def curve(frame: pd.DataFrame, tag: str, arm: str) -> go.Figure:
    """The figure of a tag in an arm: "k", "layer" or "cumulative"."""
    return k_curve(frame, tag) if arm == "k" else layer_curve(frame, tag, arm)


def by_tag(figures: Mapping[str, go.Figure]) -> go.Figure:
    """One figure with a menu of tags, which shows one of several figures of the same axes at a time."""
    if not figures:
        raise RunError("curves: no figure was given; expected one for each tag")
    first, *_ = figures.values()
    whole = go.Figure(layout=first.layout)
    for place, figure in enumerate(figures.values()):
        whole.add_traces([trace.update(visible=not place) for trace in go.Figure(figure).data])
    buttons = []
    for tag in figures:
        shown = [tag == other for other, figure in figures.items() for _ in figure.data]
        buttons.append({"label": label(tag), "method": "restyle", "args": [{"visible": shown}]})
    look = {
        "bgcolor": LIGHT["base"][2],
        "bordercolor": LIGHT["base"][3],
        "font": {"color": LIGHT["base"][0], "size": 12},
    }
    corner = {"x": 0, "xanchor": "left", "y": 1.16, "yanchor": "bottom"}
    return whole.update_layout(
        updatemenus=[{"type": "dropdown", "name": "tag", "buttons": buttons, **corner, **look}], margin_t=96
    )


def _curve(frame: pd.DataFrame, tag: str, arm: str, title: str) -> go.Figure:
    for column in ("method", "ablation", "scope"):
        if len(found := [str(value) for value in frame[column].unique()]) > 1:
            raise RunError(f"curves: {column} is {', '.join(found)}; expected one of them, choose its rows first")
    keys = frame[(frame["arm"] == arm) & (frame["set"] == "key") & (frame["lesion"] == tag) & (frame["words"] > 0)]
    over = "k" if arm == "k" else "layer"
    own = keys[keys["tag"] == tag].sort_values(over)
    if own.empty:
        raise RunError(
            f"curves: no lesion of {tag} in the arm {arm!r} that is measured on {tag}; sweep it with --arm {arm}"
        )
    others = keys[keys["tag"] != tag].groupby(over)["delta"].mean()
    x, traces = own[over].tolist(), []
    if own["control_mean"].notna().any():
        traces += _band(x, own)
    if len(others):
        traces.append(
            go.Scatter(x=others.index.tolist(), y=others.tolist(), name="other tags, mean", mode="lines+markers")
        )
        traces[-1].update(line={"color": LIGHT["base"][3]}, hovertemplate="%{y:.4f} nats")
    traces.append(_own(x, own, tag, bars=arm == "layer"))
    figure = go.Figure(data=traces)
    figure.update_layout(
        template=template(), height=380, xaxis_title=title, yaxis_title="change of loss (nats per word)"
    )
    return figure.update_layout(hovermode="x unified")


def _band(x: list[int], own: pd.DataFrame) -> list[Any]:
    """Range and mean of the controls; the range is closed around, so that hiding it hides both of its ends."""
    low, high = own["control_low"].tolist(), own["control_high"].tolist()
    band = go.Scatter(x=[*x, *x[::-1]], y=[*high, *low[::-1]], name="matched random sets, range", fill="toself")
    band.update(fillcolor=BAND, line={"width": 0}, mode="lines", hoverinfo="skip")
    mean = go.Scatter(x=x, y=own["control_mean"].tolist(), name="matched random sets, mean", mode="lines")
    mean.update(line={"dash": "dot", "color": LIGHT["colorway"][4]}, hovertemplate="%{y:.4f} nats")
    return [band, mean]


def _own(x: list[int], own: pd.DataFrame, tag: str, *, bars: bool) -> Any:
    """The tag's own rises with an interval of two standard errors either way."""
    name, error = (
        f"{label(tag)}, own neurons (± 2 standard errors)",
        {"array": (2 * own["se"]).tolist(), "thickness": 1.5},
    )
    text = [
        f"{number(row['delta'])} nats, {row['neurons']} neurons, z {number(row['z_control'], '.1f')}"
        for row in own.to_dict("records")
    ]
    common: dict[str, Any] = {"x": x, "y": own["delta"].tolist(), "name": name, "hovertext": text, "hoverinfo": "text"}
    if bars:
        return go.Bar(**common, error_y=error, marker_color=LIGHT["colorway"][0])
    return go.Scatter(**common, error_y=error, mode="lines+markers", line={"color": LIGHT["colorway"][0], "width": 2.5})
