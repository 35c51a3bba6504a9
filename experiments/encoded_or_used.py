"""Are the neurons that encode a tag those that the model uses to predict it?

Command:  python experiments/encoded_or_used.py [--treebank FOLDER] [--tag VERB] [--k 50]
Cost:     two minutes of one core with the embedded model and treebank: 8 tags, 3 sets each, 5 controls for two of them.
Expected: over all neurons the two have little to do with each other; among the best they overlap more than chance; and
          the best of either do more harm than random neurons, those that encode a tag without being used much less.
Measured: rank correlation over the 4,608 neurons 0.03 (with other tags' use -0.02); of the 50 best 8 to 16 are the
          same, by chance 1; own rise 0.28 nats by correlation, 0.29 by attribution, 0.02 for those that encode but are
          not among the 500 used most (VERB 0.16; the others within -0.06 to 0.06).

"Encoded" is how far a neuron's activation before a word goes with the word's tag (correlation, either way), "used" the
estimated effect of the neuron on the loss of the tag's words against others (`attribution`), both on the training
words. Rivals: the same comparison with the attribution to other tags; the overlap of random sets of the same layers;
and lesions of random sets that match in layer and size. The third set holds the neurons that encode the tag
best among those outside the 500 best by attribution. Attribution estimates what a lesion measures, so that its neurons
have an advantage, and neurons that are left out by it a disadvantage.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import setting
from plotly.subplots import make_subplots

import posneurons as pn
from posneurons.agreement import spearman
from posneurons.neurons import NeuronSet
from posneurons.overlap import overlaps
from posneurons.records import Ranking
from posneurons.theme import error_bars, label

NAMES = {"correlation": "encodes it best", "attribution": "used most", "unused": "encodes it, but not used"}
COLOURS = dict(zip(NAMES, (setting.BLUE, setting.ORANGE, setting.GREEN), strict=True))
OUTSIDE = 500
"""Neurons outside so many best by attribution count as not used."""


def sets(encoded: Ranking, used: Ranking, tags: list[str], k: int) -> dict[str, dict[str, NeuronSet]]:
    """For each kind and tag, k neurons."""
    units, best = encoded.scores.shape[2], {"correlation": encoded.top(k), "attribution": used.top(k)}
    found = {name: {tag: each[tag] for tag in tags} for name, each in best.items()}
    found["unused"] = {}
    for tag in tags:
        order = encoded.order(tag)
        rest = order[~np.isin(order, used.order(tag)[:OUTSIDE])]
        found["unused"][tag] = NeuronSet.from_flat(rest[:k], units)
    return found


def agreement(encoded: Ranking, used: Ranking, found: dict[str, dict[str, NeuronSet]], tags: list[str]) -> pd.DataFrame:
    """Rank correlation over all neurons and overlap of the best, each beside its rival."""
    rows, (_, n_layers, units) = [], encoded.scores.shape
    scores = {tag: (np.abs(encoded.scores[i]).ravel(), used.scores[i].ravel()) for i, tag in enumerate(encoded.tags)}
    for tag in tags:
        pair = overlaps({name: found[name][tag] for name in ("correlation", "attribution")}, n_layers, units).iloc[0]
        others = [spearman(scores[other][1], scores[tag][0]) for other in tags if other != tag]
        same = {"tag": tag, "rank correlation": spearman(scores[tag][1], scores[tag][0])}
        shared = {"shared": int(pair["shared"]), "by chance": pair["expected"], "p": f"{pair['p_value']:.1g}"}
        rows.append(same | {"with the use by others": float(np.mean(others))} | shared)
    return pd.DataFrame(rows)


def picture(encoded: Ranking, used: Ranking, found: Any, effects: dict[str, pd.DataFrame], tag: str) -> Any:
    """Left every neuron for one tag, as shades of how many there are, and the best; right the lesions of all tags."""
    number, units = encoded.tags.index(tag), encoded.scores.shape[2]
    x, y = np.abs(encoded.scores[number]).ravel(), used.scores[number].ravel()
    titles = [f"every neuron, for {label(tag)}", "what lesions do, by tag"]
    figure = make_subplots(cols=2, column_widths=[0.5, 0.5], subplot_titles=titles, horizontal_spacing=0.17)
    counts, edges_x, edges_y = np.histogram2d(x[~np.isnan(x + y)], y[~np.isnan(x + y)], bins=(48, 48))
    shade = np.where(counts > 0, np.log10(np.maximum(counts, 1)) + 0.3, np.nan).T
    scale = {"colorscale": [[0, "#e3e6ea"], [1, "#4b525a"]], "autocolorscale": False, "xgap": 0, "ygap": 0}
    middle = [(each[1:] + each[:-1]) / 2 for each in (edges_x, edges_y)]
    figure.add_heatmap(x=middle[0], y=middle[1], z=shade, showscale=False, **scale, row=1, col=1)
    for name, colour in COLOURS.items():
        chosen = found[name][tag].flat(units)
        look = {"size": 9 if name == "correlation" else 5, "color": colour, "line": {"width": 0}}
        kind = {"mode": "markers", "marker": look, "legendgroup": name, "showlegend": False}
        figure.add_scatter(x=x[chosen], y=y[chosen], **kind, row=1, col=1)
    order = list(effects["attribution"].sort_values("delta")["tag"])
    setting.random_ranges(figure, [effects["correlation"], effects["attribution"]], order, panel=2)
    for offset, (name, colour) in zip((0.2, 0, -0.2), COLOURS.items(), strict=True):
        rows = effects[name].loc[order]
        error = error_bars(rows["ci_low"], rows["delta"], rows["ci_high"], width=0, color=colour)
        kind = {"mode": "markers", "marker": {"color": colour, "size": 8}, "name": NAMES[name], "legendgroup": name}
        figure.add_scatter(x=rows["delta"], y=np.arange(len(order)) + offset, error_x=error, **kind, row=1, col=2)
    figure.update_xaxes(title_text="encodes: |correlation| with the tag", col=1, rangemode="tozero", ticks="")
    figure.update_yaxes(title_text="used: attribution to the tag (score)", col=1, ticks="")
    setting.of_tags(figure, effects["attribution"], order, panel=2)
    return figure.update_xaxes(title_text=setting.RISE, zeroline=True, col=2)


def main() -> None:
    parser = setting.parser(__doc__, "encoded_or_used", controls=5)
    parser.add_argument("--tag", default="VERB", help="whose neurons are all shown")
    parser.add_argument("--k", type=int, default=50)
    options = parser.parse_args()
    model = setting.load_model(options)
    corpus = setting.read(options, model)
    bench = setting.bench_of(model, corpus, options)
    tags = setting.common_tags(bench, [*dict.fromkeys([options.tag, *options.tags])])
    encoded, used = (pn.rank(model, bench.train, method) for method in ("correlation", "attribution"))
    found, effects, table = sets(encoded, used, tags, options.k), {}, pd.DataFrame({"tag": tags})
    for name, keys in found.items():
        how: dict[str, Any] = {"controls": 0 if name == "unused" else options.controls, "measures": ()}
        result = pn.lesion(model, corpus, keys, method=name, workbench=bench, **how)
        effects[name] = setting.own(result.to_frame()).loc[tags]
        table[NAMES[name]], random = setting.told(effects[name])
        if name != "unused":
            table[f"{options.controls} random sets like them ({name})"] = random
    both = agreement(encoded, used, found, tags)
    rises = {name: float(frame["delta"].mean()) for name, frame in effects.items()}
    middle = both.drop(columns=["tag", "p"]).median()
    means = ", ".join(f"{NAMES[name]} {rise:+.3f}" for name, rise in rises.items())
    ranks = [f"{middle[name]:.2f}" for name in ("rank correlation", "with the use by others")]
    lines = [
        f"Rank correlation over all neurons: median {ranks[0]}, with the use by other tags {ranks[1]}.",
        f"Shared among the best {options.k}: median {middle['shared']:.0f}, by chance {middle['by chance']:.1f}.",
        f"Mean rise of the own loss: {means} nats.",
    ]
    figure = setting.captioned(
        picture(encoded, used, found, effects, options.tag),
        "Neurons that encode a tag, and neurons that the model uses for it",
        f"{setting.treebank_of(corpus.name)}; {options.k} neurons of each kind; left: the darker, the more neurons, "
        f"those in two sets have a ring; right: set to their mean, 95 % intervals over {bench.clusters()[0]}s; grey: "
        f"the range of {2 * options.controls} random sets matched in layer and size.",
        height=470,
        legend=1,
    )
    setting.finish(figure, [both, table], lines, options)


if __name__ == "__main__":
    main()
