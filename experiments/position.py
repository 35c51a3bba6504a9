"""Does it matter where a word is read: before it (predict), on its first token, or on its last?

Command:  python experiments/position.py [--treebank FOLDER] [--k 50]
Cost:     two minutes of one core with the embedded model and treebank: 3 rankings, 3 probes, 3 lesions of each tag.
Expected: a probe knows the tag of a word that the model has read about as well as the word form tells it, and little of
          one that it is about to write; neurons that encode the one are not those that encode the other, and only
          those found before the word do much to its prediction.
Measured: probe 0.45 before the word (random neurons 0.38), 0.86 on its first and 0.90 on its last token (0.80 and
          0.78; the word form alone 0.82). No neuron is among the 50 best both before and on a word (on first and last
          40). Own rise 0.28 nats for those found before the word, 0.08 for those found on it.

Neurons are ranked by correlation with the tag at each position, on the training words. The probe reads the 10 best of
every tag together. Its rivals: as many random neurons of the same layers, the most frequent tag of the word form (which
knows the word also where the model does not yet), the most frequent tag of all, and random tags of word types (control
task; of the token that was read). Lesions (mean ablation) are measured on the prediction of the tag's words, whatever
the position: what neurons found on a word do to the words after it is not asked here.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import setting
from plotly.subplots import make_subplots

import posneurons as pn
from posneurons.agreement import spearman
from posneurons.overlap import overlaps
from posneurons.records import Ranking
from posneurons.results import ProbeResult
from posneurons.run_rows import BASELINES
from posneurons.theme import LIGHT, error_bars

POSITIONS = ("predict", "first", "last")
WHERE = dict(zip(POSITIONS, ("before the word", "on its first token", "on its last token"), strict=True))
COLOURS = dict(zip(POSITIONS, (setting.BLUE, setting.ORANGE, setting.GREEN), strict=True))
RIVALS = {
    "random_neurons": setting.PINK,
    "most_frequent_tag": setting.RED,
    "control_task": setting.SKY,
    "majority": LIGHT["base"][3],
}
PROBED = 10
"""Neurons of each tag that the probe reads."""


def agreement(rankings: dict[str, Ranking], tags: list[str], k: int) -> pd.DataFrame:
    """Each pair of positions: rank correlation of |r| over all neurons, and overlap of the best beside chance."""
    rows = []
    for a, b in combinations(POSITIONS, 2):
        tops = {at: rankings[at].top(k) for at in (a, b)}
        for tag in tags:
            first, second = (np.abs(rankings[at].scores[rankings[at].tags.index(tag)]).ravel() for at in (a, b))
            pair = overlaps({at: tops[at][tag] for at in (a, b)}, *rankings[a].scores.shape[1:]).iloc[0]
            shared = {"shared": pair["shared"], "expected": pair["expected"], "jaccard": pair["jaccard"]}
            rows.append({"positions": f"{a}, {b}", "rank correlation": spearman(first, second)} | shared)
    return pd.DataFrame(rows).groupby("positions", sort=False).median().reset_index()


def probe_table(probes: dict[str, ProbeResult]) -> pd.DataFrame:
    """Accuracy of the probe and of its rivals."""
    rows = []
    for at, found in probes.items():
        rivals = {name: scores.accuracy for name, scores in found.baselines.items()}
        sizes = {"neurons": len(found.neurons), "test words": found.test_words}
        rows.append({"at": at, **sizes, "probe": found.scores.accuracy, **rivals})
    return pd.DataFrame(rows)


def picture(table: pd.DataFrame, effects: dict[str, pd.DataFrame]) -> Any:
    """Left accuracies by position, right the rise of each tag's own loss under the lesions of each position."""
    titles = ["what a probe reads", "what lesions do to the prediction"]
    figure = make_subplots(cols=2, column_widths=[0.48, 0.52], subplot_titles=titles, horizontal_spacing=0.17)
    x = list(range(len(table)))
    for name, colour in {**RIVALS, "probe": setting.INK}.items():
        said_as = "probe on key neurons" if name == "probe" else BASELINES[name].split(" (")[0]
        look = {"color": colour, "width": 3 if name == "probe" else 1.5, "dash": "solid" if name == "probe" else "dot"}
        figure.add_scatter(x=x, y=table[name], line=look, mode="lines+markers", name=said_as, row=1, col=1)
    ticks = ["before<br>the word", "first<br>token", "last<br>token"]
    figure.update_xaxes(
        tickvals=x,
        ticktext=ticks,
        range=[-0.25, 2.25],
        title_text="where the word is read",
        col=1,
        showgrid=False,
        zeroline=False,
    )
    figure.update_yaxes(range=[0, 1], title_text="accuracy on test words (0 to 1)", col=1)
    order = list(effects["predict"].sort_values("delta")["tag"])
    setting.random_ranges(figure, list(effects.values()), order, panel=2)
    for offset, at in zip((0.22, 0, -0.22), POSITIONS, strict=True):
        rows = effects[at].loc[order]
        error = error_bars(rows["ci_low"], rows["delta"], rows["ci_high"], width=0, color=COLOURS[at])
        kind = {"mode": "markers", "marker": {"color": COLOURS[at], "size": 8}, "name": f"found {WHERE[at]}"}
        figure.add_scatter(x=rows["delta"], y=np.arange(len(order)) + offset, error_x=error, **kind, row=1, col=2)
    setting.of_tags(figure, effects["predict"], order, panel=2)
    return figure.update_xaxes(title_text=setting.RISE, col=2)


def main() -> None:
    parser = setting.parser(__doc__, "position", controls=4)
    parser.add_argument("--k", type=int, default=50, help="neurons of each tag that are lesioned")
    options = parser.parse_args()
    model = setting.load_model(options)
    corpus = setting.read(options, model)
    bench = setting.bench_of(model, corpus, options)
    tags = setting.common_tags(bench, options.tags)
    rankings = {at: pn.rank(model, bench.train, "correlation", at=at) for at in POSITIONS}
    probed = setting.shortened(corpus, options.words, options.seed) if options.words else corpus
    probes = {at: pn.fit_probe(model, probed, rankings[at].top(PROBED), at=at, seed=options.seed) for at in POSITIONS}
    effects, rows = {}, pd.DataFrame({"tag": tags})
    for at, ranking in rankings.items():
        best = ranking.top(options.k)
        keys, how = {tag: best[tag] for tag in tags}, {"controls": options.controls, "measures": ()}
        effects[at] = setting.own(pn.lesion(model, corpus, keys, workbench=bench, **how).to_frame()).loc[tags]
        rows[at], rows[f"{at}, random"] = setting.told(effects[at])
    table, several = probe_table(probes), np.mean(corpus.word_last > corpus.word_first)
    means = [{"found at": at, "mean rise": each["delta"].mean()} | setting.passed(each) for at, each in effects.items()]
    lines = [f"{100 * several:.0f} % of the words have more than one token; only there first and last differ."]
    sizes = f"{PROBED} best of every tag ({table['test words'].min():,} test words or more)"
    figure = setting.captioned(
        picture(table, effects),
        "Where a word is read: what neurons encode there, and what they do",
        f"{setting.treebank_of(corpus.name)}; neurons ranked by correlation at each position; probe on the {sizes}; "
        f"lesions set the {options.k} best to their mean, 95 % intervals over {bench.clusters()[0]}s, "
        f"{options.controls} random sets for each.",
        height=500,
        legend=3,
    )
    tables = [table, agreement(rankings, tags, options.k), rows, pd.DataFrame(means)]
    setting.finish(figure, tables, lines, options)


if __name__ == "__main__":
    main()
