"""How many neurons carry a tag: how does the harm grow with the number lesioned, and where is half of it done?

Command:  python experiments/how_many_neurons.py [--treebank FOLDER] [--method attribution] [--k 1 2 5 ...]
Cost:     two minutes of one core with the embedded model and treebank: a lesion and its controls for each tag and k.
Expected: the first ten neurons do much and the curve goes on rising: half of what 200 do is done by a few tens, and no
          tag hangs on a single neuron.
Measured: half of what 200 neurons do is done by 31 (VERB) to 70 (ADJ), median 52; one neuron does 0.02 nats at
          most, ten 0.05 to 0.10; all six curves leave the random sets behind from k = 2 on.

The k best neurons of each tag are set to their mean; k partners of theirs in the same layer, equally large in effect,
make the random sets (the arm "k" of a sweep). k_half is where the curve first reaches half of its end, on a straight
line over log k; so it depends on the largest k, and is no number of neurons that the tag needs. Points of a curve are
not independent, and nothing is corrected.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import setting
from plotly.subplots import make_subplots

import posneurons as pn
from posneurons.carriers import carriers
from posneurons.carriers import lines as sentences
from posneurons.sweep_plan import Plan, best_of
from posneurons.sweeps import sweep
from posneurons.theme import BAND, LIGHT, label

TAGS = ("NOUN", "VERB", "ADJ", "PRON", "DET", "AUX")
COLUMNS = 3


def picture(cells: pd.DataFrame, found: pd.DataFrame, tags: list[str]) -> Any:
    """A panel for each tag: its own curve, the band of the random sets, and k_half."""
    words = dict(zip(cells["tag"], cells["words"], strict=True))
    titles = [f"{label(tag)} (n = {words[tag]:,})" for tag in tags]
    rows = math.ceil(len(tags) / COLUMNS)
    how: dict[str, Any] = {"shared_xaxes": True, "horizontal_spacing": 0.06, "vertical_spacing": 0.17}
    figure = make_subplots(rows=rows, cols=COLUMNS, subplot_titles=titles, **how)
    for number, tag in enumerate(tags):
        place = {"row": number // COLUMNS + 1, "col": number % COLUMNS + 1, "showlegend": number == 0}
        mine = cells[cells["lesion"] == tag].sort_values("k")
        x, ends = mine["k"], [*mine["control_high"], *mine["control_low"][::-1]]
        grey = {"fill": "toself", "fillcolor": BAND, "mode": "none", "name": "random sets, range"}
        figure.add_scatter(x=[*x, *x[::-1]], y=ends, **grey, **place)
        error = {"array": 2 * mine["se"], "thickness": 1.5, "width": 0}
        line = {"line": {"color": setting.BLUE, "width": 2.5}, "name": "the tag’s own k best, ± 2 standard errors"}
        figure.add_scatter(x=x, y=mine["delta"], error_y=error, mode="lines+markers", **line, **place)
        half = float(found.set_index("lesion").loc[tag, "k_half"])
        if half == half:
            name = str(number + 1) if number else ""
            axis = {"xref": f"x{name}", "yref": f"y{name} domain"}
            shape = {"x0": half, "x1": half, "y0": 0, "y1": 0.86, "line": {"dash": "dot", "color": LIGHT["base"][3]}}
            figure.add_shape(type="line", **shape, **axis)
            setting.said(figure, math.log10(half), 0.86, f"half at {half:.0f}", yanchor="bottom", **axis)
    figure.update_xaxes(
        type="log", tickvals=sorted(set(cells["k"]))[::-2], range=[-0.1, math.log10(cells["k"].max()) + 0.1]
    )
    figure.update_xaxes(title_text="neurons lesioned (k, log scale)", row=rows)
    figure.update_xaxes(showticklabels=True, zeroline=False, tickangle=0)
    figure.update_yaxes(title_text="rise of the loss<br>(nats per word)", col=1)
    return figure


def main() -> None:
    parser = setting.parser(__doc__, "how_many_neurons", controls=4, words=1500, tags=TAGS)
    parser.add_argument("--method", default="attribution")
    parser.add_argument("--k", nargs="+", type=int, default=[1, 2, 5, 10, 20, 50, 100, 200])
    options = parser.parse_args()
    model = setting.load_model(options)
    corpus = setting.read(options, model)
    bench = setting.bench_of(model, corpus, options)
    tags = setting.common_tags(bench, options.tags)
    how: dict[str, Any] = {"controls": options.controls, "seed": options.seed}
    plan = Plan(arms=("k",), ks=tuple(options.k), top=1, ablations=("mean",), **how)
    best = {options.method: best_of(pn.rank(model, bench.train, options.method), tags, plan)}
    with tempfile.TemporaryDirectory() as folder:
        frame = sweep(model, corpus, best, plan, Path(folder), workbench=bench)
    cells, found = frame[(frame["set"] == "key") & (frame["lesion"] == frame["tag"])], carriers(frame)
    table = cells[["lesion", "k", "delta", "se", "control_mean", "control_high", "p_controls"]]
    numbers = found.set_index("lesion")[["k_max", "rise", "se", "k_beyond", "k_half"]].reindex(tags).reset_index()
    figure = setting.captioned(
        picture(cells, found, tags),
        "How many neurons carry a tag: harm by the number of neurons lesioned",
        f"{setting.treebank_of(corpus.name)}; best by {options.method}, set to their mean; grey: the range of "
        f"{options.controls} random sets matched in layer and size; dotted: where half of the rise at k = "
        f"{max(options.k)} is reached.",
        height=500,
        legend=1,
    )
    setting.finish(figure, [table, numbers], sentences(found), options)


if __name__ == "__main__":
    main()
