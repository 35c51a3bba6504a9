"""Do different ablations of the same neurons tell the same story?

Command:  python experiments/ablation_kind.py [--treebank FOLDER] [--kinds zero mean balanced_mean ...]
Cost:     three minutes of one core with the embedded model and treebank: 8 tags, 4 sets each, 5 kinds of ablation.
Expected: the same tags suffer under all kinds (their matrices correlate above 0.9); zero does most, since it takes away
          what a neuron always writes as well, and resampling is the noisiest.
Measured: own rise 0.45 (zero), 0.28 (mean), 0.25 (balanced), 0.29 and 0.30 nats (resample), above all 3 random sets
          for all 8 tags under each. Matrices correlate 0.91 to 0.97 among all but zero; zero 0.91 with mean, but only
          0.73 to 0.85 with the others, less than was expected.

The 50 best neurons of each tag by attribution are set to 0 (zero), to their mean over training words (mean), to the
mean of the tags' means (balanced_mean), or to what they are at another training word (resample; with donor=other at one
of another tag, so that the tag itself is changed). A claim that holds under one of them only is a claim about that
ablation. Random sets match in layer and in how far that ablation moves the residual.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import setting
from dissociations import agreement
from plotly.subplots import make_subplots

import posneurons as pn
from posneurons.lesion_results import LesionResult
from posneurons.theme import LIGHT, error_bars, label, number

KINDS = ("zero", "mean", "balanced_mean", "resample:draws=2", "resample:donor=other")
COLOURS = (setting.BLUE, setting.ORANGE, setting.GREEN, setting.PINK, setting.RED, setting.SKY, setting.GREY)


def correlations(results: dict[str, LesionResult]) -> np.ndarray:
    """Of the whole matrices (lesioned tag by measured tag), kind by kind."""
    flat = [result.matrix().to_numpy().ravel() for result in results.values()]
    return np.corrcoef([each[~np.isnan(flat).any(0)] for each in flat])


def picture(results: dict[str, LesionResult], effects: dict[str, pd.DataFrame], both: np.ndarray) -> Any:
    """Left the own effects by tag and kind, right how far the matrices of two kinds go together."""
    titles = ["each tag’s loss under its own lesion", "correlation of matrices"]
    figure = make_subplots(cols=2, column_widths=[0.6, 0.4], subplot_titles=titles, horizontal_spacing=0.22)
    first = next(iter(effects.values()))
    order = list(first.sort_values("delta")["tag"])
    setting.random_ranges(figure, list(effects.values()), order, panel=1)
    for offset, (kind, cells), colour in zip(
        np.linspace(0.3, -0.3, len(effects)), effects.items(), COLOURS, strict=False
    ):
        rows = cells.loc[order]
        error = error_bars(rows["ci_low"], rows["delta"], rows["ci_high"], width=0, color=colour)
        look = {"mode": "markers", "marker": {"color": colour, "size": 7}, "name": kind}
        figure.add_scatter(x=rows["delta"], y=np.arange(len(order)) + offset, error_x=error, **look, row=1, col=1)
    setting.of_tags(figure, first, order, panel=1)
    text = [[number(value, ".2f") for value in row] for row in both]
    shades = {"colorscale": LIGHT["sequential"], "autocolorscale": False, "zmin": min(0.7, both.min()), "zmax": 1}
    x = list(range(1, len(both) + 1))
    figure.add_heatmap(x=x, y=x, z=both, text=text, texttemplate="%{text}", showscale=False, **shades, row=1, col=2)
    names = [f"{each} {label(kind).replace(':', '<br>')}" for each, kind in zip(x, results, strict=True)]
    lines = {"tickvals": x, "showgrid": False, "zeroline": False, "ticks": ""}
    figure.update_yaxes(autorange="reversed", ticktext=names, title_text="ablation", **lines, col=2)
    figure.update_xaxes(title_text="ablation (numbers as beside)", **lines, col=2)
    return figure.update_xaxes(title_text=setting.RISE, col=1)


def main() -> None:
    parser = setting.parser(__doc__, "ablation_kind", controls=3, words=2000)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), help="ablations, at most seven")
    parser.add_argument("--method", default="attribution")
    parser.add_argument("--k", type=int, default=50)
    options = parser.parse_args()
    model = setting.load_model(options)
    corpus = setting.read(options, model)
    bench = setting.bench_of(model, corpus, options)
    tags, best = setting.common_tags(bench, options.tags), pn.rank(model, bench.train, options.method).top(options.k)
    keys, how = {tag: best[tag] for tag in tags}, {"controls": options.controls, "measures": ()}
    results = {
        kind: pn.lesion(model, corpus, keys, ablation=kind, workbench=bench, **how)
        for kind in dict.fromkeys(options.kinds)
    }
    effects = {kind: setting.own(found.to_frame()).loc[tags] for kind, found in results.items()}
    means = [
        {
            "ablation": kind,
            "mean own rise": each["delta"].mean(),
            "tags above all random sets": int((each["delta"] > each["control_high"]).sum()),
            "tags with q <= 0.05": int((each["q_value"] <= 0.05).sum()),
        }
        for kind, each in effects.items()
    ]
    figure = setting.captioned(
        picture(results, effects, correlations(results)),
        "The same neurons under different ablations",
        f"{setting.treebank_of(corpus.name)}; {options.k} best neurons of each tag by {options.method}; 95 % intervals "
        f"over {bench.clusters()[0]}s; grey: the range of {options.controls} random sets for each tag and ablation; "
        f"matrices: {len(tags)} lesioned tags by all tags measured.",
        height=500,
        legend=2,
    )
    text = agreement({(options.method, kind): found for kind, found in results.items()}, options.method)
    setting.finish(figure, [pd.DataFrame(means)], [text.strip()], options)


if __name__ == "__main__":
    main()
