"""In which layers are the neurons that matter for a tag, and do rankings put their best neurons there?

Command:  python experiments/which_layer.py [--treebank FOLDER] [--tags NOUN VERB ...] [--top 25]
Cost:     a minute of one core with the embedded model and treebank: for each tag and layer a lesion and its controls.
Expected: the first and the last layers of a small model do most, the middle ones little; rankings put most of their
          best into the last, though it is not always there that equally many neurons matter most.
Measured: on 1,500 words, layers 0 and 5 of six do most (NOUN 0.11 and 0.09 nats, VERB 0.14 and 0.21, AUX 0.58 and
          0.18) and layers 1 to 3 at most 0.06; the best of layers 0, 4 and 5 are above all 4 random sets for 6 of 6
          tags. Rise and number of the 50 best go together over layers, r 0.66 (attribution) and 0.76 (correlation).

For each tag and layer the 25 best neurons of that layer by `attribution` are set to their mean, and so are random sets
of the same layer and size (the arm "layer" of a sweep). Layers are compared by what equally many neurons do;
what a whole layer does is not asked. p is one-sided, against the random sets only, and not corrected.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import setting
from plotly.subplots import make_subplots

import posneurons as pn
from posneurons.sweep_plan import Plan, best_of
from posneurons.sweeps import sweep
from posneurons.theme import label, number

METHODS = ("attribution", "correlation")
TAGS = ("NOUN", "VERB", "ADJ", "PRON", "DET", "AUX")
BEST = 50


def table(cells: pd.DataFrame) -> pd.DataFrame:
    """A row for each tag, a column for each layer: the rise, two standard errors, and a mark where p <= 0.05."""
    shown = [
        f"{number(row['delta'])} ± {2 * row['se']:.3f}{' *' if row['p_controls'] <= 0.05 else ''}"
        for row in cells.to_dict("records")
    ]
    wide = cells.assign(shown=shown).set_index(["lesion", "layer"])["shown"].unstack(sort=False)  # noqa: PD010
    return wide.rename(columns="layer {}".format).rename_axis(index="tag", columns=None).reset_index()


def picture(cells: pd.DataFrame, profiles: dict[str, Any], tags: list[str], words: dict[str, int]) -> Any:
    """Above what a lesion in each layer does, below how many of the best neurons lie there; a column for each tag."""
    titles = [f"{label(tag)} (n = {words[tag]:,})" for tag in tags]
    how: dict[str, Any] = {"shared_xaxes": True, "shared_yaxes": True, "row_heights": [0.62, 0.38]}
    how |= {"horizontal_spacing": 0.02, "vertical_spacing": 0.07}
    figure = make_subplots(rows=2, cols=len(tags), subplot_titles=titles, **how)
    for panel, tag in enumerate(tags, start=1):
        mine = cells[cells["lesion"] == tag]
        x, place = mine["layer"], {"row": 1, "col": panel, "legendgroup": "rise", "showlegend": panel == 1}
        error = {"array": 2 * mine["se"], "thickness": 1.2, "width": 0}
        look = {"marker_color": setting.BLUE, "name": "best of the layer lesioned, ± 2 SE"}
        figure.add_bar(x=x, y=mine["delta"], error_y=error, **look, **place)
        band = {"y": mine["control_high"] - mine["control_low"], "base": mine["control_low"], "width": 0.5}
        look = {"marker_color": "rgba(60, 66, 73, 0.55)", "name": "random sets of the layer, range"}
        figure.add_bar(x=x, **band, **look, **place | {"legendgroup": "random"})
        for method, colour in zip(METHODS, (setting.ORANGE, setting.GREY), strict=True):
            line = {"color": colour, "width": 2}
            name, place = f"best {BEST} by {method}", {"row": 2, "col": panel, "showlegend": panel == 1}
            figure.add_scatter(x=x, y=profiles[method][tag][x], line=line, name=name, mode="lines+markers", **place)
    figure.update_layout(barmode="overlay", bargap=0.15)
    figure.update_xaxes(dtick=1 if cells["layer"].nunique() < 10 else 8, showgrid=False, zeroline=False)
    figure.update_xaxes(title_text="layer", row=2)
    figure.update_yaxes(title_text="rise of the tag’s loss<br>(nats per word)", row=1, col=1)
    figure.update_yaxes(title_text="neurons<br>in the layer", row=2, col=1, rangemode="tozero")
    return figure


def main() -> None:
    parser = setting.parser(__doc__, "which_layer", controls=4, words=1500, tags=TAGS)
    parser.add_argument("--top", type=int, default=25, help="neurons of each layer (default 25)")
    options = parser.parse_args()
    model = setting.load_model(options)
    corpus = setting.read(options, model)
    bench = setting.bench_of(model, corpus, options)
    tags = setting.common_tags(bench, options.tags)
    plan = Plan(arms=("layer",), top=options.top, ablations=("mean",), controls=options.controls, seed=options.seed)
    rankings = {method: pn.rank(model, bench.train, method) for method in METHODS}
    with tempfile.TemporaryDirectory() as folder:
        best = {METHODS[0]: best_of(rankings[METHODS[0]], tags, plan)}
        frame = sweep(model, corpus, best, plan, Path(folder), workbench=bench)
    cells = frame[(frame["set"] == "key") & (frame["lesion"] == frame["tag"])]
    n_layers = bench.info.n_layers
    tops = {method: ranking.top(BEST) for method, ranking in rankings.items()}
    profiles = {m: {tag: tops[m][tag].layer_profile(n_layers) for tag in tags} for m in METHODS}
    words = dict(zip(cells["tag"], cells["words"], strict=True))
    figure = setting.captioned(
        picture(cells, profiles, tags, words),
        "Lesions by layer, and where rankings put their best neurons",
        f"{setting.treebank_of(corpus.name)}; {options.top} best neurons of each layer by attribution, set to their "
        f"mean; grey: the range of {options.controls} random sets of the same layer and size; below, the "
        f"layers of the {BEST} best of the model.",
        height=480,
        legend=2,
    )
    setting.finish(figure, [table(cells)], lines(cells, profiles, tags, options.controls), options)


def lines(cells: pd.DataFrame, profiles: dict[str, Any], tags: list[str], controls: int) -> list[str]:
    """Where most happens, and whether the rankings' best lie there."""
    rises = cells.set_index(["lesion", "layer"])["delta"].unstack().reindex(tags)  # noqa: PD010
    beyond = (cells["delta"] > cells["control_high"]).groupby(cells["layer"]).sum()
    most = ", ".join(f"{tag} {layer}" for tag, layer in rises.idxmax(axis=1).items())
    counts = ", ".join(f"{layer}: {n}" for layer, n in beyond.items())
    found = [
        f"Layer whose neurons matter most: {most}.",
        f"Lesions above all {controls} random sets, of {len(tags)} tags, by layer: {counts}.",
    ]
    for method in METHODS:
        r = [np.corrcoef(rises.loc[tag], profiles[method][tag][rises.columns])[0, 1] for tag in tags]
        what = f"Correlation over layers of the rise with the number of the best {BEST} by {method}"
        found.append(f"{what}: median {np.nanmedian(r):.2f}.")
    return found


if __name__ == "__main__":
    main()
