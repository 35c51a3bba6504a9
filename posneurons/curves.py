"""The curves of a sweep to figures with control bands: over k, and by layer.

Curves come as the table that `sweeps.sweep` makes. Nothing is computed here beyond means over the other tags; no file
is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from posneurons.errors import RunError
from posneurons.run_rows import check_single
from posneurons.theme import BAND, LIGHT, MENU, label, layer_step, number, template


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
    return figure.update_xaxes(type="linear", dtick=layer_step(span))


def curve(frame: pd.DataFrame, tag: str, arm: str) -> go.Figure:
    """The figure of a tag in an arm: "k", "layer" or "cumulative"."""
    return k_curve(frame, tag) if arm == "k" else layer_curve(frame, tag, arm)


def by_tag(figures: Mapping[str, go.Figure]) -> go.Figure:
    """One figure with a menu of tags, which shows one of several figures of the same axes at a time.

    Raises RunError where no figure is given.
    """
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
    corner = {"x": 0, "xanchor": "left", "y": 1.16, "yanchor": "bottom"}
    return whole.update_layout(
        updatemenus=[{"type": "dropdown", "name": "tag", "buttons": buttons, **corner, **MENU}], margin_t=96
    )


def _curve(frame: pd.DataFrame, tag: str, arm: str, title: str) -> go.Figure:
    check_single(frame, "curves", ("method", "ablation", "scope"))
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
